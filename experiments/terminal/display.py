"""What fits a screen, and what it can show: some of many, bars, text, warnings."""

import logging
import unicodedata

import numpy as np
import rich.console

BLOCKS = ".▁▂▃▄▅▆▇█"
DIGITS = ".12345678"  # where the terminal has no blocks
ENDLESS = 1 << 15  # columns, of what is no terminal
UNSEEN = ("Cc", "Cf", "Cs")
"""Unicode's categories of what moves the cursor, turns the text round or is no text."""


def console() -> rich.console.Console:
    """Standard output; where it is no terminal nothing is wrapped."""
    made = rich.console.Console(highlight=False, markup=False, emoji=False)
    if not made.is_terminal:
        made.width = ENDLESS
    return made


def quiet() -> None:
    """Of what other libraries log, errors alone: the rest is not about the study.

    To be called before they are imported. Orbax and TFDS speak through absl.
    """
    logging.getLogger("absl").setLevel(logging.ERROR)


def evenly(count: int, most: int) -> np.ndarray:
    """Some of many: ascending indices, the first and the last among them.

    All of so many, or as many of them as are wanted.
    """
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)


def bar(shares: np.ndarray, blocks: str = BLOCKS) -> str:
    """A character for each share in [0, 1]: the first for exactly 0, then eighths."""
    eighths = np.where(shares > 0, (8 * shares).round().clip(1, 8), 0)
    return "".join(blocks[i] for i in eighths.astype(int))


def known(encoding: str | None) -> str:
    """The characters of a bar that an encoding has."""
    try:
        BLOCKS.encode(encoding or "ascii")
    except UnicodeEncodeError:
        return DIGITS
    return BLOCKS


def legible(text: str) -> str:
    r"""The text with what cannot be seen as Python writes it: ESC as \x1b.

    New lines stay.
    """
    return "".join(
        letter
        if letter == "\n" or unicodedata.category(letter) not in UNSEEN
        else letter.encode("unicode_escape").decode()
        for letter in text
    )
