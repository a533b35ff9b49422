"""Text to train on: what a configuration must know of it before it is read."""

from pathlib import Path
from typing import Any, NamedTuple

FILE = ".txt"
"""How the name of a file ends that is read as text."""
BYTES = 256
"""Values of a byte, which are the tokens."""


class Text(NamedTuple):
    """How many bytes there are in each part."""

    train: int
    validation: int
    test: int


TEXTS = {
    "stdlib": Text(4_000_000, 100_000, 100_000),
    "tiny_shakespeare": Text(1_003_854, 55_770, 55_770),
}
"""Those that are known by name."""


def is_text(data: Any) -> bool:
    """Whether data are text, and not images."""
    return isinstance(data, str) and (data in TEXTS or data.endswith(FILE))


def parts(data: Any) -> Text:
    """How many bytes there are to train on, for validation and for test.

    Of a file the first 90 %, the next 5 % and the rest.

    Raises:
        ValueError: it is a file that is not there.
    """
    if data in TEXTS:
        return TEXTS[data]
    if not (path := Path(data)).is_file():
        raise ValueError(f"data: expected a file of text; {data!r} does not exist")
    size = path.stat().st_size
    first, second = size * 90 // 100, size * 95 // 100
    return Text(first, second - first, size - second)


def windows(size: int, context: int) -> int:
    """Windows of so many bytes in a part; behind the last stands what comes next."""
    return max(0, size - 1) // context
