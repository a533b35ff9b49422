"""What benchmarks share: numbers they are told, where figures were taken, records."""

import argparse
import json
import math
import os
import pathlib
import platform
import statistics
from typing import Any

import jax
import numpy as np
import optax

import optax_llr


def natural(text: str) -> int:
    """A whole number of a command line, 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a number of 1 or more, got {text}")
    return value


def positive(text: str) -> float:
    """A number of a command line, above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


def environment() -> dict[str, Any]:
    """The device, and the versions of what ran on it."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        **{m.__name__: m.__version__ for m in (jax, optax, np, optax_llr)},
    }


def summary(seconds: list[float], alone: list[float]) -> dict[str, float]:
    """Medians of seconds, and of ratios to those of the same rounds, with range."""
    ratios = [ours / theirs for ours, theirs in zip(seconds, alone, strict=True)]
    return {
        "seconds": statistics.median(seconds),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def write(path: pathlib.Path | None, record: dict[str, Any]) -> None:
    """Writes a record as JSON, if a path was given for it."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")
