"""Text as windows of bytes, each with the bytes that come next."""

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..config.texts import Text, parts, windows
from . import prepared
from .cifar import Split
from .prepared import DataError

LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages"} | {
    *("encodings", "pydoc_data"),  # tables, and no code
}
"""Folders of the standard library that are not read."""
SHARE = 16
"""Of the files of the standard library, one in so many is for validation, and one for
test: never change it."""


class Divided(NamedTuple):
    """Windows of text."""

    train: Split
    validation: Split
    test: Split
    checksum: str  # SHA-256 of the text: its parts, one behind the other


def read(data: str, context: int) -> Divided:
    """Windows of text to train on, for validation and for test.

    Args:
        data: "stdlib", the source of Python's own standard library on this machine, its
            files in an order by their paths' SHA-256, which also says in which part a
            file is; "tiny_shakespeare", prepared by TFDS; or FILE.txt, divided into the
            first 90 %, the next 5 % and the rest.
        context: bytes in a window. Windows follow one another; the last bytes of a
            part, if they make no whole window, are left out.

    Raises:
        DataError: the text is missing, or shorter than it should be.
    """
    texts = dict(zip(Text._fields, _read(data), strict=True))
    return Divided(
        **{name: _windows(text, context, name) for name, text in texts.items()},
        checksum=hashlib.sha256(b"".join(texts.values())).hexdigest(),
    )


def _read(data: str) -> list[bytes]:
    """The three parts, each of its size."""
    sizes = parts(data)
    if data == "stdlib":
        found = stdlib(Path(sysconfig.get_paths()["stdlib"]))
    elif data == "tiny_shakespeare":
        found = _tiny_shakespeare()
    else:
        text = Path(data).read_bytes()
        first, second = sizes.train, sizes.train + sizes.validation
        found = (text[:first], text[first:second], text[second:])
    for name, text, size in zip(Text._fields, found, sizes, strict=True):
        if len(text) < size:
            raise DataError(
                f"data: expected {size:,} bytes in the part {name} of {data!r}; got "
                f"{len(text):,}. Take other text: --data FILE.txt"
            )
    return [text[:size] for text, size in zip(found, sizes, strict=True)]


def stdlib(folder: Path) -> tuple[bytes, bytes, bytes]:
    """All Python source under a folder, each file in one of the three parts."""
    paths = {
        (Path(place) / name).relative_to(folder).as_posix(): Path(place) / name
        for place, names in _walk(folder)
        for name in names
        if name.endswith(".py")
    }
    order = {name: hashlib.sha256(name.encode()).digest() for name in paths}
    divided: tuple[list[bytes], ...] = ([], [], [])
    for name in sorted(paths, key=order.__getitem__):
        # By the last byte, as the order is by the first.
        part = {0: 1, 1: 2}.get(order[name][-1] % SHARE, 0)
        divided[part].append(paths[name].read_bytes())
    train, validation, test = map(b"".join, divided)
    return train, validation, test


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each folder that is read, and the names of its files."""
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in LEFT_OUT]
        yield place, names


def _tiny_shakespeare() -> tuple[bytes, bytes, bytes]:
    otherwise = "take other text: --data stdlib, or --data FILE.txt"
    folder = prepared.find("tiny_shakespeare", "Tiny Shakespeare", otherwise)
    import tensorflow_datasets as tfds  # slow to import

    try:
        sources: Any = tfds.data_source(
            f"tiny_shakespeare:{folder.name}",
            split=["train", "validation", "test"],
            data_dir=folder.parent.parent,
            download=False,
        )
        train, validation, test = (bytes(source[0]["text"]) for source in sources)
    except Exception as error:  # what a damaged file raises differs by the damage
        raise DataError(
            f"{folder}: expected Tiny Shakespeare prepared by TFDS, but it is damaged "
            f"or something else ({error}). Prepare it again; or {otherwise}."
        ) from error
    return train, validation, test


def _windows(text: bytes, context: int, name: str) -> Split:
    count = windows(len(text), context)
    if not count:
        raise DataError(
            f"data: expected more than the {context} bytes of a window in the part "
            f"{name}; got {len(text):,}. Take more text, or a shorter --context"
        )
    values = np.frombuffer(text, np.uint8)
    shape, size = (count, context), count * context
    return Split(
        values[:size].reshape(shape),
        values[1 : size + 1].reshape(shape).astype(np.int32),
    )
