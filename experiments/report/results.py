"""What a study found, as the tables of its report in HTML."""

from collections.abc import Sequence
from html import escape

from ..analysis.savings import HEADINGS, NOTE, Saving
from .sheets import Sheet

WORDS = ("expectation", "study")  # headings of columns that hold text


def section(sheets: Sequence[Sheet]) -> str:
    """Tables, each under its heading, sortable and with its notes."""
    return "".join(
        f"<h2>{escape(sheet.title)}</h2>{_table(sheet)}{_notes(*sheet.notes)}"
        for sheet in sheets
    )


def savings_table(rows: Sequence[Saving]) -> str:
    """What frozen layers save, phase by phase."""
    sheet = Sheet("", HEADINGS, tuple(row.cells for row in rows), ())
    return _table(sheet, of="phase") + _notes(NOTE)


def unbroken(text: str) -> str:
    """Escaped, without a line break beside ± or before %."""
    return escape(text).replace(" ± ", "&nbsp;±&nbsp;").replace(" %", "&nbsp;%")


def _table(sheet: Sheet, of: str = "policy") -> str:
    """An HTML table whose lines say of which policy, or phase, they are."""
    head = "".join(
        f'<th scope="col"{_text(name)}>{unbroken(name)}</th>' for name in sheet.headings
    )
    body = ""
    for line in sheet.lines:
        first, *cells = line
        body += f'<tr data-{of}="{escape(first)}"><td>{escape(first)}</td>' + "".join(
            f'<td{_text(name)} data-label="{escape(name)}">{unbroken(cell)}</td>'
            for name, cell in zip(sheet.headings[1:], cells, strict=True)
        )
        body += "</tr>\n"
    return (
        f'<div class="scroll"><table class="results"><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{body}</tbody></table></div>"
    )


def _notes(*notes: str) -> str:
    items = "".join(f"<li>{unbroken(note)}</li>" for note in notes)
    return f'<ul class="soft">{items}</ul>'


def _text(heading: str) -> str:
    return ' class="text"' if heading in WORDS else ""
