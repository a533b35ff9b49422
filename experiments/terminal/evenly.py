"""Some of many: the first, the last, and those between them evenly."""

import numpy as np


def evenly(count: int, most: int) -> np.ndarray:
    """Ascending indices: all of so many, or as many of them as are wanted."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)
