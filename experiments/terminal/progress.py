"""One live line for a run on the terminal."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import tqdm

from ..config.measures import ACCURACY, Measure
from .display import bar, evenly, known, legible

MOST_LAYERS = 16
"""Of more, some are shown: the first, the last, and between them evenly."""
ORDER = ("validation", "loss", "layers", "speed")
"""How numbers stand; a narrow terminal cuts off the end of the line."""


class Progress:
    """One live line for a run; nothing where standard error is no terminal."""

    def __init__(
        self, name: str, begin: int, total_steps: int, measure: Measure = ACCURACY
    ):
        """Takes a name for the run, the steps done and to be done, and its measure."""
        self._measure = measure
        self._bar = tqdm.tqdm(
            desc=legible(name),
            initial=begin,
            total=total_steps,
            disable=None,
            leave=False,
            dynamic_ncols=True,
            bar_format="{bar:8} {n_fmt}/{total_fmt}, {remaining} left, {desc}{postfix}",
        )
        self._shown: dict[str, str] = {}

    def show(self, event: Mapping[str, Any]) -> None:
        """Moves the line to an event."""
        if event["kind"] == "train" and event["loss"] is not None:
            self._shown["loss"] = f"loss {event['loss']:.2f}"
            speed = event["images"] / event["seconds"]
            self._shown["speed"] = f"{speed:,.0f} {self._measure.examples}/s"
            self._shown["layers"] = _layers(event["multipliers"])
        elif event["kind"] == "validation" and event[self._measure.name] is not None:
            value = self._measure.shown(event[self._measure.name])
            unit = " %" if self._measure.larger else ""
            self._shown["validation"] = f"val {value}{unit}"
        numbers = (self._shown[name] for name in ORDER if name in self._shown)
        self._bar.set_postfix_str(", ".join(numbers), refresh=False)
        self._bar.update(event["step"] - self._bar.n)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def _layers(multipliers: Sequence[float]) -> str:
    """Multipliers in forward order, as blocks by the largest; a dot for frozen."""
    shown = np.array(multipliers)[evenly(len(multipliers), MOST_LAYERS)]
    return bar(shown / max(shown.max(), 1e-9), known(sys.stderr.encoding))
