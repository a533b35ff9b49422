"""Where the user's machine keeps what can be made again."""

import os
import tempfile
from pathlib import Path


def folder() -> Path:
    """Our folder in `XDG_CACHE_HOME`, or in `~/.cache`."""
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError:  # a container's user may have no home
        home = Path(tempfile.gettempdir())
    return home / "optax_llr"
