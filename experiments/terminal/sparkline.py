"""Numbers as a row of characters on a terminal."""

import numpy as np

BLOCKS = ".▁▂▃▄▅▆▇█"
DIGITS = ".12345678"  # where the terminal has no blocks


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
