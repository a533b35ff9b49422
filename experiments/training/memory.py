"""Memory that one step frees is kept for the next."""

import ctypes
import platform

KEPT = {
    -4: 0,  # M_MMAP_MAX: large blocks come from the heap as small ones do
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD: which shrinks only where so much of it is free
}
"""Parameters of `mallopt`, by their numbers in malloc.h of glibc, and their values."""


def keep_freed() -> None:
    """Has glibc keep large blocks that are freed, and hand them out again.

    By itself it returns them to the system, and each step of a training on a CPU gets
    new pages for all that it holds between forward and backward pass: a quarter of the
    time of a step of ResNet-8 (benchmarks/README.md). No result changes. The process
    holds what it ever needed to its end. Without glibc nothing is done.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for parameter, value in KEPT.items():
            libc.mallopt(parameter, value)
