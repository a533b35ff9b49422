"""One live line for a run on the terminal."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import tqdm

from .display import bar, evenly, known, legible

MOST_LAYERS = 16
"""Of more, some are shown: the first, the last, and between them evenly."""
ORDER = ("accuracy", "loss", "layers", "speed")
"""How numbers stand; a narrow terminal cuts off the end of the line."""


class Progress:
    """One live line for a run; nothing where standard error is no terminal."""

    def __init__(self, name: str, begin: int, total_steps: int):
        """Takes what to call the run, and the steps done and to be done in all."""
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
            self._shown["speed"] = f"{event['images'] / event['seconds']:,.0f} images/s"
            self._shown["layers"] = _layers(event["multipliers"])
        elif event["kind"] == "validation" and event["accuracy"] is not None:
            self._shown["accuracy"] = f"val {100 * event['accuracy']:.1f} %"
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
