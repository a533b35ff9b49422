"""One writer a format; each escapes what it is given, which may hold anything."""

import base64
import csv
import functools
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import rich.table
import vl_convert
from markupsafe import Markup

from ..terminal.display import legible
from . import charts
from .tables import Table

TEMPLATES = jinja2.FileSystemLoader(Path(__file__).with_name("templates"))
MARKDOWN = {"&": "&amp;", "<": "&lt;", "\n": "<br>", "\r": ""} | {
    mark: f"\\{mark}" for mark in "\\`*_[]|~$#"
}
TESTED = ("p", "p_holm", "p_same", "p_same_holm")
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What begins a cell that a spreadsheet would reckon out, or look behind for one."""


def html(**told: Any) -> str:
    """report.html.

    Args:
        **told: what the template asks for; all of it is escaped.
    """
    drawn: list[dict[str, Any]] = []
    datasets: dict[str, Any] = {}

    def chart(figure: charts.Figure) -> int:
        spec = charts.spec(figure)
        del spec["config"]
        needed = spec.pop("datasets", {})
        datasets.update(needed)
        drawn.append({**spec, "datasets": [*needed]})
        return len(drawn) - 1

    def data() -> Markup:
        held = {"charts": drawn, "datasets": datasets, "config": charts.CONFIG}
        text = json.dumps(held, allow_nan=False, separators=(",", ":"))
        return Markup(text.replace("<", "\\u003c"))  # which would end the element

    pages = jinja2.Environment(
        loader=TEMPLATES,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"unbroken": _unbroken, "shown": _shown, "inline": _inline}
    page = pages.get_template("report.html")
    return page.render(told, chart=chart, data=data, vega=_vega()) + "\n"


@functools.cache
def _vega() -> Markup:
    """Vega, Vega-Lite and Vega-Embed, as one script."""
    script: str = vl_convert.javascript_bundle()  # pyright: ignore[reportCallIssue]
    if "</script" in script.lower():
        raise RuntimeError("report: the bundle of Vega would end its script element")
    return Markup(script)


def markdown(title: str, caveats: Sequence[str], tables: Sequence[Table]) -> str:
    """report.md: the tables as they stand in the page."""
    pages = jinja2.Environment(
        loader=TEMPLATES,
        finalize=lambda text: str(text).translate(str.maketrans(MARKDOWN)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = pages.get_template("report.md")
    return page.render(title=title, caveats=caveats, tables=tables).rstrip() + "\n"


def numbers(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """tables.csv: a line a policy, empty where there is no number.

    Text that a spreadsheet would take for a formula has an apostrophe before it.

    Args:
        summaries: by study, its summary.json.
    """
    lines = [
        _numbers(study, row)
        for study, summary in summaries.items()
        for row in summary["rows"]
    ]
    fields = dict.fromkeys(field for line in lines for field in line)
    file = io.StringIO()
    writer = csv.DictWriter(file, list(fields), lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow({field: _no_formula(value) for field, value in line.items()})
    return file.getvalue()


def terminal(table: Table) -> rich.table.Table:
    """A table for a terminal: words to the left, numbers to the right, nothing cut."""
    shown = rich.table.Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, name in enumerate(table.headings):
        shown.add_column(
            name,
            justify="right" if number else "left",
            style="bold" if number == 0 else None,
            overflow="fold",
        )
    for line in table.lines:
        shown.add_row(*map(legible, line))
    return shown


def _inline(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _unbroken(text: str) -> str:
    """Without a line break beside ± or before %."""
    return text.replace(" ± ", "\xa0±\xa0").replace(" %", "\xa0%")


def _shown(value: Any) -> str:
    match value:
        case None:
            return "–"
        case dict():
            return ", ".join(f"{key} {_shown(item)}" for key, item in value.items())
        case list():
            return ", ".join(map(_shown, value))
        case bool():
            return "yes" if value else "no"
        case _:
            return str(value)


def _no_formula(value: Any) -> Any:
    starts = isinstance(value, str) and value.lstrip(" ").startswith(FORMULA)
    return f"'{value}" if starts else value


def _numbers(study: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """One policy, flat."""
    same = ("policy", "control", "n", "diverged", "interrupted", "seconds")
    found = {"study": study} | {field: row[field] for field in same}
    for question, answer in row["answers"].items():
        difference = answer["difference"] or {}
        low, high = difference.get("interval") or (None, None)
        numbers = {
            **{field: answer[field] for field in ("mean", "deviation")},
            "pairs": difference.get("n"),
            "difference": difference.get("mean"),
            "low": low,
            "high": high,
            **{field: difference.get(field) for field in TESTED},
            **{field: answer[field] for field in ("expected", "verdict")},
        }
        found |= {f"{question}_{field}": value for field, value in numbers.items()}
    for threshold in row["thresholds"]:
        name = f"to_{100 * threshold['threshold']:g}_percent"
        for unit in ("steps", "images", "seconds"):
            found[f"{unit}_{name}"] = threshold[unit]["value"]
            found[f"{unit}_{name}_censored"] = threshold[unit]["censored"]
        found[f"reached_{100 * threshold['threshold']:g}_percent"] = threshold[
            "reached"
        ]
    return found
