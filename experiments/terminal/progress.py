"""One live line for a run on the terminal."""

import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import tqdm
from rich.cells import cell_len, set_cell_size

from .display import bar, evenly, known, legible

MOST_LAYERS = 16
"""Of more, some are shown: the first, the last, and between them evenly."""


LEAST_FIRST = ("speed", "layers", "loss", "accuracy")
"""What is left out of a narrow line until there is room for the name."""
NAME = 20
"""As many columns of it are room enough."""


class Progress:
    """One live line for a run; nothing where standard error is no terminal."""

    def __init__(self, name: str, begin: int, total_steps: int):
        """Takes what to call the run, and the steps done and to be done in all."""
        self._bar = _Line(
            desc=legible(name),
            initial=begin,
            total=total_steps,
            disable=None,
            leave=False,
            dynamic_ncols=True,
            bar_format="{desc} {bar:8} {n_fmt}/{total_fmt}{postfix}, {remaining} left",
        )
        self._shown: dict[str, str] = {}
        self._bar.shown = self._shown

    def show(self, event: Mapping[str, Any]) -> None:
        """Moves the line to an event."""
        if event["kind"] == "train" and event["loss"] is not None:
            self._shown["loss"] = f"loss {event['loss']:.2f}"
            self._shown["speed"] = f"{event['images'] / event['seconds']:,.0f} images/s"
            self._shown["layers"] = _layers(event["multipliers"])
        elif event["kind"] == "validation" and event["accuracy"] is not None:
            self._shown["accuracy"] = f"val {100 * event['accuracy']:.1f} %"
        self._bar.update(event["step"] - self._bar.n)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


class _Line(tqdm.tqdm):  # pyright: ignore[reportMissingTypeArgument]: its stubs' own
    """A line that fits the terminal, and keeps the steps and the time left."""

    shown: Mapping[str, str] = MappingProxyType({})
    """The numbers of the run, by what they are."""

    @property
    def format_dict(self) -> dict[str, Any]:
        told: dict[str, Any] = dict(super().format_dict)
        shown = dict(self.shown)
        told["postfix"] = ", ".join(shown.values())
        name, width = told["prefix"], told["ncols"]
        if width is None:
            return told
        room = width - self._taken(told)
        for least in LEAST_FIRST:
            if room < min(NAME, cell_len(name)):
                shown.pop(least, None)
                told["postfix"] = ", ".join(shown.values())
                room = width - self._taken(told)
        if cell_len(name) > room:
            told["prefix"] = set_cell_size(name, max(room, 0))
        return told

    def _taken(self, told: dict[str, Any]) -> int:
        """The columns that all takes but the name."""
        unnamed: dict[str, Any] = {**told, "prefix": "", "ncols": None}
        return cell_len(self.format_meter(**unnamed))


def _layers(multipliers: Sequence[float]) -> str:
    """Multipliers in forward order, as blocks by the largest; a dot for frozen."""
    shown = np.array(multipliers)[evenly(len(multipliers), MOST_LAYERS)]
    return bar(shown / max(shown.max(), 1e-9), known(sys.stderr.encoding))
