"""Configurations in files: JSON objects with some fields of `Config`, or all."""

import json
from pathlib import Path
from typing import Any

import pydantic

from .checks import said
from .config import PRESETS, Config

_CONFIG = pydantic.TypeAdapter(Config)


def read(path: Path) -> Config:
    """Reads a configuration; fields that the file does not name are the demo's.

    Args:
        path: of a JSON file such as {"model": "vgg5", "seeds": 3}.

    Raises:
        ValueError: in one line: it is no such file, names no field, or gives one a
            value of another type or one that cannot be.
        OSError: it cannot be read.
    """
    try:
        given = json.loads(path.read_bytes(), object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:  # also of what is not UTF-8
        raise ValueError(f"{str(path)!r} is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise ValueError(
            f"{str(path)!r} must hold an object of fields, such as "
            f'{{"model": "vgg5"}}; got {json.dumps(given):.60}'
        )
    demo = vars(PRESETS["demo"])
    try:
        text = json.dumps(demo | given, default=str)
        return _CONFIG.validate_json(text)
    except pydantic.ValidationError as error:
        raise ValueError(f"{str(path)!r}: {said(error, list(demo))}") from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; Python would take the last of two values of one name."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(name for name, _ in pairs if [n for n, _ in pairs].count(name) > 1)
        raise ValueError(f"{twice!r} is given twice")
    return fields
