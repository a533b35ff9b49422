"""Configurations in files: JSON objects with some fields of `Config`, or all."""

import contextlib
import dataclasses
import difflib
import json
import typing
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union

from .config import PRESETS, Config

WORDS = {
    str: "text",
    Path: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


def read(path: Path) -> Config:
    """Reads a configuration; fields that the file does not name are the demo's.

    Args:
        path: of a JSON file such as {"model": "vgg5", "seeds": 3}.

    Raises:
        ValueError: in one line: it is no such file, names no field, or gives one a
            value of another type.
        OSError: it cannot be read.
    """
    try:
        given = json.loads(path.read_bytes(), object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:  # also of what is not UTF-8
        raise ValueError(f"{str(path)!r} is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise ValueError(
            f"{str(path)!r} must hold an object of fields, such as "
            f'{{"model": "vgg5"}}; got {_short(given)}'
        )
    types = typing.get_type_hints(Config)
    for field, value in given.items():
        if field not in types:
            close = difflib.get_close_matches(field, types, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(
                f"{str(path)!r}: unknown field {field!r}{hint} (known: "
                f"{', '.join(types)})"
            )
        try:
            given[field] = _typed(value, types[field])
        except (TypeError, OverflowError):
            raise ValueError(
                f"{str(path)!r}: {field} must be {_words(types[field])}; "
                f"got {_short(value)}"
            ) from None
    return dataclasses.replace(PRESETS["demo"], **given)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; Python would take the last of two values of one name."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(name for name, _ in pairs if [n for n, _ in pairs].count(name) > 1)
        raise ValueError(f"{twice!r} is given twice")
    return fields


def _typed(value: Any, wanted: Any) -> Any:
    """A value of JSON as what a field holds; a number is no text, and true no number.

    Raises:
        TypeError: it is something else.
        OverflowError: it is a whole number too large for a field of another kind.
    """
    kind, parts = typing.get_origin(wanted) or wanted, typing.get_args(wanted)
    if kind in (Union, UnionType):
        for part in parts:
            with contextlib.suppress(TypeError):
                return _typed(value, part)
    elif kind is Literal:
        if value in parts:
            return value
    elif kind is tuple and type(value) is list:
        return tuple(_typed(item, parts[0]) for item in value)
    elif kind is dict and type(value) is dict:
        return {key: _typed(item, parts[1]) for key, item in value.items()}
    elif kind is Path and type(value) is str:
        return Path(value)
    elif kind is float and type(value) is int:
        return float(value)
    elif type(value) is kind:
        return value
    raise TypeError


def _words(wanted: Any) -> str:
    """What a field holds, in terms of JSON."""
    kind, parts = typing.get_origin(wanted) or wanted, typing.get_args(wanted)
    if kind is tuple:
        return f"a list, each item {_words(parts[0])}"
    if kind is dict:
        return f"an object, each value {_words(parts[1])}"
    if kind is Literal:
        return " or ".join(f'"{choice}"' for choice in parts)
    if parts:
        return " or ".join(map(_words, parts))
    return WORDS[kind]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]} …"
