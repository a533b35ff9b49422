"""What pydantic finds wrong with a dataclass, said in one line of plain words."""

import difflib
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import pydantic

Made = TypeVar("Made")

STRICT = pydantic.ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True)
"""No text for a number, no unknown field; and fields are explained where they stand."""
WORDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "string_pattern_mismatch": (
        "a plain folder name of up to 100 letters, digits and . _ -"
    ),
    "path_type": "a path",
    "tuple_type": "a list",
    "dict_type": "an object of names and values",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "greater_than": "above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "below {lt:g}",
    "less_than_equal": "at most {le:,.12g}",
}
"""What pydantic calls an error → what would have been right."""


def unknown(value: Any, choices: Sequence[str]) -> str:
    """Says that a value is none of the choices, with the nearest one."""
    close = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"unknown {value!r}{hint} (known: {', '.join(choices)})"


def must(asked: Any, field: str, wanted: str) -> ValueError:
    """What is wrong with the value of a field, in one line."""
    return ValueError(f"{field} must be {wanted}; got {getattr(asked, field)}")


def said(error: pydantic.ValidationError, known: Sequence[str] = ()) -> str:
    """The first of what is wrong, in one line: the field, what it must be, what came.

    Args:
        error: of one dataclass.
        known: the names of its fields.
    """
    first, *_ = errors = error.errors(include_url=False)
    if not first["loc"]:  # what several fields together must be
        return first["msg"].removeprefix("Value error, ")
    place = first["loc"][0]
    field = known[place] if isinstance(place, int) else place
    if first["type"] == "unexpected_keyword_argument":
        return f"field: {unknown(field, known)}"
    # One that may be of several kinds has an error for each.
    ones = [one for one in errors if one["loc"][0] == place]
    if ours := [one for one in ones if one["type"] == "value_error"]:
        text = ours[0]["msg"].removeprefix("Value error, ")
        return f"{field} {text}" if text.startswith("must") else f"{field}: {text}"
    if first["type"] == "literal_error" and len(ones) == 1:
        choices = re.findall("'([^']*)'", first.get("ctx", {})["expected"])
        return f"{field}: {unknown(first['input'], choices)}"
    wanted = " or ".join(dict.fromkeys(map(_wanted, ones)))
    got = " ".join(str(first["input"]).split())[:80] or "nothing"
    return f"{field} must be {wanted}; got {got}"


def _wanted(error: Mapping[str, Any]) -> str:
    if (words := WORDS.get(error["type"])) is None:
        return error["msg"].removeprefix("Input should be ")
    return words.format(**error.get("ctx", {}))


def checked(kind: type[Made]) -> type[Made]:
    """Has a pydantic dataclass say in one line, as ValueError, what is wrong.

    What stands behind its fields becomes a part of its docstring, which the help of the
    command line shows without the line breaks.
    """
    fields: dict[str, Any] = kind.__pydantic_fields__  # pyright: ignore
    told = [
        f"    {name}: {' '.join(field.description.split())}"
        for name, field in fields.items()
        if field.description
    ]
    kind.__doc__ = "\n".join([f"{kind.__doc__}\n\nAttributes:", *told])
    made, known = kind.__init__, list(fields)

    @functools.wraps(made)
    def __init__(self: Any, *args: Any, **fields: Any) -> None:
        try:
            made(self, *args, **fields)
        except pydantic.ValidationError as error:
            raise ValueError(said(error, known)) from None

    kind.__init__ = __init__
    return kind


def first_of(texts: Sequence[str], most: int) -> str:
    """So many of several texts in a line, and how many more there are."""
    more = len(texts) - most
    return ", ".join(texts[:most]) + (f" and {more} more" if more > 0 else "")
