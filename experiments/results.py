"""What a study found, as the tables of its report in HTML."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from . import table, verdicts
from .compare import Row
from .savings import HEADINGS, NOTE, Saving

VERDICTS = {None: "–", "none": "no verdict"}
VERDICT = (
    "Verdict: higher or lower where p is at most 0.05, undecided elsewhere; none "
    "without a p, nor where a run of the policy or of its control diverged, since the "
    "runs left over are a choice."
)
DEMONSTRATION = (
    "Demonstration: no verdict. The numbers show how a study reads; the differences "
    "may as well be chance."
)


def section(config: Mapping[str, Any], rows: Sequence[Row], demonstration: bool) -> str:
    """The two questions, each with its table, and what is true of both.

    Args:
        config: config.json.
        rows: one a policy.
        demonstration: whether there are caveats, so that no verdict is given.
    """

    def answer(row: Row, question: str) -> tuple[str, ...]:
        said = verdicts.verdict(row, question, demonstration)
        return *table.cells(row, question), VERDICTS.get(said, str(said))

    good = {
        row.policy: (
            config["policies"][row.policy]["expectation"],
            *answer(row, "accuracy"),
        )
        for row in rows
    }
    fast = {row.policy: answer(row, "speed") for row in rows}
    pace = {
        row.policy: (
            *("\n".join(table.taken(mark)) for mark in row.marks),
            table.seconds(row),
        )
        for row in rows
    }
    marks = [f"to {100 * mark:g} %" for mark in config["marks"]]
    return (
        "<h2>How good in the end</h2>"
        + _table(("expectation", *table.HEADINGS["accuracy"], "verdict"), good)
        + _notes(*table.NOTES["accuracy"])
        + "<h2>How fast</h2>"
        + _table((*table.HEADINGS["speed"], "verdict"), fast)
        + _notes(*table.NOTES["speed"])
        + "<h3>Differences, in both tables</h3>"
        + _notes(*table.PAIRED, DEMONSTRATION if demonstration else VERDICT)
        + "<h2>How long to an accuracy</h2>"
        + _table((*marks, "seconds a run"), pace)
        + _notes(*table.NOTES["marks"])
    )


def savings_table(rows: Sequence[Saving]) -> str:
    """What frozen layers save, phase by phase."""
    lines = {row.cells[0]: row.cells[1:] for row in rows}
    return _table(HEADINGS[1:], lines, of=HEADINGS[0]) + _notes(NOTE)


def unbroken(text: str) -> str:
    """Escaped, without a line break beside ± or before %."""
    return escape(text).replace(" ± ", "&nbsp;±&nbsp;").replace(" %", "&nbsp;%")


def _table(
    headings: Sequence[str], lines: Mapping[str, Sequence[str]], of: str = "policy"
) -> str:
    """An HTML table: a name, of a policy say, then its cells under these headings."""
    head = "".join(f"<th{_text(name)}>{unbroken(name)}</th>" for name in headings)
    body = ""
    for policy, cells in lines.items():
        body += f"<tr><td>{escape(policy)}</td>" + "".join(
            f'<td{_text(name)} data-label="{escape(name)}">{unbroken(cell)}</td>'
            for name, cell in zip(headings, cells, strict=True)
        )
        body += "</tr>\n"
    return (
        '<div class="scroll"><table class="results"><thead><tr>'
        f"<th>{of}</th>"
        f"{head}</tr></thead><tbody>\n{body}</tbody></table></div>"
    )


def _notes(*notes: str) -> str:
    items = "".join(f"<li>{unbroken(note)}</li>" for note in notes)
    return f'<ul class="soft">{items}</ul>'


def _text(heading: str) -> str:
    return ' class="text"' if heading == "expectation" else ""
