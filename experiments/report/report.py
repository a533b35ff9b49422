"""report.html, summary.json and the tables in files, from the records alone."""

import re
from collections.abc import Sequence
from pathlib import Path

import rich.console

from ..records.records import Records, write_json, write_text
from ..terminal.display import legible
from . import charts, tables, writers
from .charts import Pen
from .contents import Joined, Study
from .figures import Charts


def build(records: Records, out: Path | None = None, figures: str = "none") -> Path:
    """Writes summary.json, the tables and report.html, and single figures if asked.

    Args:
        records: of one study.
        out: where to write; by default into the folder of the study. Made if missing.
        figures: "pdf", "png" or "svg" for a file of each figure in figures/, or "none".

    Returns:
        The path of report.html.
    """
    folder, study = out or records.folder, Study(records)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "summary.json", study.summary)
    title = f"{study.name}: per-layer learning rates"
    text = writers.markdown(title, study.caveats, study.tables)
    write_text(folder / "report.md", text)
    write_text(folder / "tables.csv", writers.numbers({study.name: study.summary}))
    write_text(folder / "report.html", _html(title, [study]))
    if figures != "none":
        drawn = study.figures(_pens([study]), legend=True)
        _save(drawn.files(), folder / "figures", figures)
    return folder / "report.html"


def join(several: Sequence[Records], folder: Path, figures: str = "none") -> Path:
    """Writes joined.html, .md, .csv and .json: several studies side by side.

    Args:
        several: at least two, each with a name of its own.
        folder: where to write.
        figures: as of `build`.

    Returns:
        The path of joined.html.

    Raises:
        ValueError: two studies share a name.
    """
    studies = {(study := Study(records)).name: study for records in several}
    if len(studies) < len(several):
        names = ", ".join(records.config["name"] for records in several)
        raise ValueError(
            f"expected studies with different names, got {names}; `study --name` "
            "gives them"
        )
    title = f"{', '.join(studies)}: per-layer learning rates"
    joined = Joined(studies)
    told = [*joined.tables, *joined.together]
    summaries = {name: study.summary for name, study in studies.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "joined.json", joined.summary)
    write_text(folder / "joined.md", writers.markdown(title, joined.caveats, told))
    write_text(folder / "joined.csv", writers.numbers(summaries))
    write_text(folder / "joined.html", _html(title, [*studies.values()], joined))
    if figures != "none":
        drawn = joined.figures(_pens([*studies.values()]), legend=True)
        files = {f"joined-{name}": chart for name, chart in drawn.items()}
        _save(files, folder / "figures", figures)
    return folder / "joined.html"


def show(study: Study, page: Path, console: rich.console.Console) -> None:
    """Says how good each policy was, and where to read on.

    Args:
        study: one that came to its end, or a part of it.
        page: the path of its report.
        console: to print on.
    """
    table = tables.short(study.rows, study.measure)
    console.print(writers.terminal(table))
    for note in table.notes:
        console.print(legible(note), soft_wrap=True)
    if study.caveats:
        reasons = "; ".join(study.caveats)
        console.print(f"A demonstration, not evidence: {reasons}.", soft_wrap=True)
    console.print(f"Read on: {page}", soft_wrap=True)


def _html(title: str, studies: Sequence[Study], joined: Joined | None = None) -> str:
    """The page: what lies between the studies if there are several, then each."""
    return writers.html(
        title=title,
        studies=studies,
        joined=joined,
        pens=_pens(studies),
        shades=charts.SHADES,
        savings=tables.savings,
    )


def _save(drawn: Charts, folder: Path, kind: str) -> None:
    """Writes a file for each figure."""
    folder.mkdir(exist_ok=True)
    for name, chart in drawn.items():
        plain = re.sub(r"[^\w.-]+", "-", name)
        charts.save(chart, folder / f"{plain}.{kind}")


def _pens(studies: Sequence[Study]) -> dict[str, Pen]:
    """For each policy the same in all studies."""
    rows = [row for study in studies for row in study.rows]
    return charts.pens_for(dict.fromkeys(row.policy for row in rows))
