"""The tables of studies beside their page: Markdown to read, CSV to reckon with."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from .sheets import Sheet


def markdown(title: str, caveats: Sequence[str], sheets: Sequence[Sheet]) -> str:
    """report.md: the tables as they stand in the page."""
    parts = [f"# {title}"]
    if caveats:
        parts.append(f"**A demonstration, not evidence:** {'; '.join(caveats)}.")
    for sheet in sheets:
        rule = ["---"] * len(sheet.headings)
        lines = [sheet.headings, rule, *sheet.lines]
        parts.append(f"## {sheet.title}")
        parts.append("\n".join(map(_line, lines)))
        parts.append("\n".join(f"- {note}" for note in sheet.notes))
    return "\n\n".join(parts) + "\n"


def table(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """tables.csv: a line a policy, empty where there is no number.

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
    writer.writerows(lines)
    return file.getvalue()


def _line(cells: Sequence[str]) -> str:
    safe = (cell.replace("|", "\\|").replace("\n", "<br>") for cell in cells)
    return f"| {' | '.join(safe)} |"


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
            **{field: difference.get(field) for field in ("p", "p_holm")},
            **{field: answer[field] for field in ("expected", "verdict")},
        }
        found |= {f"{question}_{field}": value for field, value in numbers.items()}
    for mark in row["marks"]:
        name = f"to_{100 * mark['mark']:g}_percent"
        for unit in ("steps", "images", "seconds"):
            found[f"{unit}_{name}"] = mark[unit]["value"]
            found[f"{unit}_{name}_censored"] = mark[unit]["censored"]
        found[f"reached_{100 * mark['mark']:g}_percent"] = mark["reached"]
    return found
