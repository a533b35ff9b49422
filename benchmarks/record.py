"""What every benchmark says of where its figures were taken, and how it keeps them."""

import json
import os
import pathlib
import platform
import statistics
from typing import Any

import jax
import numpy as np
import optax

import optax_llr


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
