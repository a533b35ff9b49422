"""What all charts share: their look, how they are saved, rows of data."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import altair as alt
import numpy as np
import vl_convert
from altair.utils.schemapi import debug_mode

Scale = Literal["log", "linear"]
Pen = tuple[str, Sequence[float]]
"""A colour and a dash pattern."""
Figure = alt.Chart | alt.LayerChart | alt.FacetChart  # as Altair types its layers

INK = "currentColor"  # that of the page; black in a file
GREY = "#8a9099"
# Okabe and Ito's palette without its yellow, which white swallows; the dash pattern
# changes when the colours are used up. The baseline is drawn in ink.
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9")
DASHES = ([1, 0], [6, 2], [2, 2], [8, 2, 2, 2])
POINTS = 120  # of a curve; more could not be told apart
STEPS = "optimizer steps"
WIDTH = 320
TICKED = alt.Axis(tickCount=5)
CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": "system-ui, 'DejaVu Sans', sans-serif",
    "title": {"anchor": "start", "color": INK, "fontSize": 12, "fontWeight": 600},
    "view": {"stroke": None},
    "axis": {
        "domainColor": INK,
        "gridColor": INK,
        "gridOpacity": 0.1,
        "labelColor": INK,
        "labelLimit": 190,
        "labelOverlap": "greedy",
        "tickColor": INK,
        "titleColor": INK,
        "titleFontWeight": "normal",
    },
    "legend": {
        "labelColor": INK,
        "labelLimit": 190,
        "titleColor": INK,
        "titleFontWeight": "normal",
    },
}


def pens_for(policies: Iterable[str]) -> dict[str, Pen]:
    """A colour and dash for each policy, the same in all charts; ink for "uniform"."""
    others = itertools.cycle((pen, dash) for dash in DASHES for pen in PALETTE)
    return {
        name: (INK, DASHES[0]) if name == "uniform" else next(others)
        for name in policies
    }


def spec(chart: Figure | alt.HConcatChart) -> dict[str, Any]:
    """The chart in Vega-Lite, with the look of the report."""
    with debug_mode(False):  # which would check every number
        found: dict[str, Any] = chart.to_dict()
    return found | {"config": CONFIG}


def save(chart: Figure | alt.HConcatChart, path: Path) -> None:
    """Writes a chart as PNG, SVG or PDF, as the name of the file ends."""
    convert = getattr(vl_convert, f"vegalite_to_{path.suffix[1:]}")
    how = {"ppi": 200} if path.suffix == ".png" else {}
    told = spec(chart)
    found = convert(told | {"config": told["config"] | {"background": "white"}}, **how)
    path.write_bytes(found if isinstance(found, bytes) else found.encode())


def scaled(kind: Scale) -> alt.Scale:
    """Of an axis; a linear one need not begin at 0."""
    return alt.Scale(type="log") if kind == "log" else alt.Scale(zero=False)


def data(rows: Sequence[Mapping[str, Any]]) -> alt.InlineData:
    """Rows that stand in the chart itself."""
    with debug_mode(False):
        return alt.InlineData(values=[*rows])


def rounded(values: Any, digits: int = 5) -> Any:
    """To what a chart can show, in few letters; None for what is not finite."""
    array = np.asarray(values, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        exponent = np.floor(np.log10(np.abs(array)))
        scale = 10 ** np.clip(digits - 1 - exponent, 0, 300)
        short = np.round(array * scale) / scale
    return np.where(np.isfinite(short), short, np.array(None)).tolist()
