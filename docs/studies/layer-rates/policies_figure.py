"""Draws the multipliers of this study's policies, layer by layer over a run.

    python docs/studies/layer-rates/policies_figure.py

The figure is policies.png beside it, of `resnet8`.
"""

from pathlib import Path

import altair as alt
import numpy as np
from PIL import Image

from experiments.config import files
from experiments.policies.chosen import configured
from experiments.preview import foresee
from experiments.report import charts

HERE = Path(__file__).parent
COLUMNS = (
    ("early-first", "late-first", "three-stage"),
    ("unfreeze-bottom-first", "cascade"),
)


def chart(study):
    """A map of each policy of a configuration, in columns."""
    policies = configured(study)

    def drawn(name):
        shown = foresee(policies[name], study)
        values = np.asarray(shown.tables.multipliers)
        steps = np.arange(1, len(values) + 1)
        figure = charts.multipliers(steps, values, shown.layers.names)
        return figure.properties(title=name, width=300)

    return alt.hconcat(*(alt.vconcat(*map(drawn, names)) for names in COLUMNS))


if __name__ == "__main__":
    drawn = HERE / "policies.png"
    charts.save(chart(files.read(HERE / "resnet8.json")), drawn)
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(128).save(drawn, optimize=True)
