"""The process that works on a study: versions, device, commit, command line, data."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

import optax_llr

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint")


def environment(command: Sequence[str], checksum: str) -> dict[str, Any]:
    """What one needs to know to run it again: versions, device, commit, command, data.

    Args:
        command: the command line as the user typed it.
        checksum: of the data, as `dataset.Dataset` gives it.
    """
    devices = jax.devices()
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": list(command),
        **_checkout(Path(__file__).resolve().parents[2]),
        "data_checksum": checksum,
        "versions": {
            "python": platform.python_version(),
            "optax_llr": optax_llr.__version__,
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
        "device": {"kind": devices[0].device_kind, "count": len(devices)},
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "load": os.getloadavg()[0],
    }


def _checkout(root: Path) -> dict[str, Any]:
    """Commit and whether files differed from it; both None outside our own checkout."""
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root:
        return {"commit": None, "dirty": None}
    commit = _git(root, "rev-parse", "HEAD")
    status = _git(root, "status", "--porcelain")
    return {"commit": commit, "dirty": None if status is None else bool(status)}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
