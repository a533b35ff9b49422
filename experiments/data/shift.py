"""Shifts of the input: the same images, as another camera might have taken them.

Noise and blur are those of CIFAR-10-C at its highest severity (Hendrycks and
Dietterich, arXiv:1903.12261). An image is always shifted in the same way.
"""

import itertools
import statistics
from collections.abc import Callable

import numpy as np

NOISE = 0.1
"""Standard deviation, of the range of a pixel; for each pixel and channel alone."""
BLUR = (1, 14, 62, 102, 62, 14, 1)
"""A normal curve with a standard deviation of one pixel, in parts of 256. In whole
numbers all machines find the same; beyond the border the outermost pixel repeats."""
SEED = 20220228
"""One noise for every study: never change it."""
CHUNK = 2_000  # images that are computed with at once


def shifted(shift: str, images: np.ndarray, part: int) -> np.ndarray:
    """The images as they are seen under a shift.

    Args:
        shift: "none"; "noise", normal, rounded and cut to whole values from 0 to 255;
            "blur", by a normal curve; or "invert", 255 − value.
        images: uint8, (n, height, width, channels).
        part: of the data set, which has a noise of its own; 0, 1, ….

    Returns:
        uint8, of the same shape.

    Raises:
        ValueError: for a name that is no shift.
    """
    make: dict[str, Callable[[], np.ndarray]] = {
        "none": lambda: images,
        "noise": lambda: _noisy(images, part),
        "blur": lambda: _in_chunks(_blurred, images),
        "invert": lambda: 255 - images,
    }
    if shift not in make:
        raise ValueError(f"shift: expected one of {', '.join(make)}; got {shift!r}")
    return make[shift]()


def _noisy(images: np.ndarray, part: int) -> np.ndarray:
    # NumPy promises to keep only the raw bits the same in later versions: each of
    # their bytes chooses one of 256 values that are equally likely.
    normal = statistics.NormalDist(sigma=255 * NOISE)
    values = [round(normal.inv_cdf((byte + 0.5) / 256)) for byte in range(256)]
    table, bits = np.array(values, np.int16), np.random.PCG64(SEED + part)

    def noisy(images: np.ndarray) -> np.ndarray:
        raw = bits.random_raw(-(-images.size // 8)).astype("<u8").view(np.uint8)
        moved = images + table[raw[: images.size].reshape(images.shape)]
        return moved.clip(0, 255).astype(np.uint8)

    return _in_chunks(noisy, images)


def _blurred(images: np.ndarray) -> np.ndarray:
    count, height, width, channels = images.shape
    across = np.kron(_weights(width), np.eye(channels, dtype=np.float32))
    rows = images.reshape(-1, width * channels).astype(np.float32) @ across.T
    found = _weights(height) @ rows.reshape(count, height, -1)
    # All sums are whole and below 2²⁴, so float32 has them exactly.
    return np.floor(found / 2**16 + 0.5).astype(np.uint8).reshape(images.shape)


def _weights(length: int) -> np.ndarray:
    """Of each pixel in each blurred one, along an axis: (length, length)."""
    weights = np.zeros((length, length), np.float32)
    for pixel in range(length):
        for step, part in enumerate(BLUR, start=-(len(BLUR) // 2)):
            weights[pixel, min(max(pixel + step, 0), length - 1)] += part
    return weights


def _in_chunks(
    function: Callable[[np.ndarray], np.ndarray], images: np.ndarray
) -> np.ndarray:
    """In parts that need little memory."""
    bounds = itertools.pairwise([*range(0, len(images), CHUNK), len(images)])
    return np.concatenate([function(images[start:stop]) for start, stop in bounds])
