"""Reads the tables of docs/place_in_the_chain.md."""

import pathlib
import re

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "place_in_the_chain.md"


def table(heading):
    """The rows of the table whose first column has this heading, as dicts."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    cells = [re.split(r"\s*\|\s*", line)[1:-1] for line in lines if line[:1] == "|"]
    width = next(len(row) for row in cells if row[0] == heading)
    head, _, *rows = [row for row in cells if len(row) == width]
    return [dict(zip(head, row, strict=True)) for row in rows]
