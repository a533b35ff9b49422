"""What a policy is: how the rates of the layers are to differ, and what is expected."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from optax_llr import Layers

from ..config.measures import Direction
from .optimizers import Layering, scheduled

Multipliers = np.ndarray | jax.Array | optax.Schedule


def uniform(layers: Layers, total_steps: int) -> Multipliers:
    """Multiplier 1 for every layer."""
    del total_steps
    return np.ones(len(layers))


class Range(NamedTuple):
    """Between which values a number may lie: stands in the annotation of a keyword."""

    low: float
    high: float
    log: bool = False  # whether it is a factor, to be searched on a log scale


class Number(NamedTuple):
    """A number of a policy."""

    name: str
    value: float
    low: float
    high: float
    log: bool

    def __str__(self) -> str:
        return f"{self.name} {self.value:g} ({self.low:g} to {self.high:g})"


class Expects(NamedTuple):
    """Where the two measures of a policy are expected, by those of its control.

    As if of accuracy: higher is better, or faster, also where the loss is measured.
    """

    accuracy: Direction = "open"
    speed: Direction = "open"


ANYTHING = Expects()


@dataclasses.dataclass(frozen=True)
class Policy:
    """How the rates of the layers are to differ, and what should come of it."""

    name: str
    summary: str = ""
    """What it does, in a line."""
    expectation: str = ""
    """What should come of it, and why; a study records it before its runs."""
    source: str = ""
    """Whose idea it is."""
    control: str = "uniform"
    """The policy of ours that it is compared with, seed by seed; of uniform, uniform.
    For one that anneals or rotates, the one that does so most alike."""
    expects: Expects = ANYTHING
    """The expectation in two words, read off its sentence."""
    multipliers: Callable[..., Multipliers] = uniform
    """(layers, total_steps) → an array (L,) or a schedule `count -> (L,)`; keywords
    whose annotation has a `Range` are its numbers."""
    schedule: str | None = None
    """The global schedule that belongs to it; None for that of the study."""
    layering: Layering = scheduled
    """How the rates of the layers come about, where not by the multipliers alone."""
    scratch: bool = False
    """Whether its runs start from random weights where others start from trained
    ones."""
    rate: float | None = None
    """The largest global rate; None for that of the study."""

    def numbers(self, rate: float) -> tuple[Number, ...]:
        """What it can be tuned by, in a study of this global rate."""
        made_of = (
            Number(keyword.name, keyword.default, *found)
            for keyword in inspect.signature(self.multipliers).parameters.values()
            for found in getattr(keyword.annotation, "__metadata__", ())
            if isinstance(found, Range)
        )
        own = Number("rate", self.rate or rate, rate / 10, 10 * rate, log=True)
        return (own, *made_of)

    def having(self, values: Mapping[str, float]) -> "Policy":
        """The same policy with other values of the numbers that are named.

        Its summary, which is about its own, says so.
        """
        if not values:
            return self
        others = {name: values[name] for name in values if name != "rate"}
        said = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        return dataclasses.replace(
            self,
            summary=f"{self.summary} Here instead: {said}.",
            rate=values.get("rate", self.rate),
            multipliers=functools.partial(self.multipliers, **others)
            if others
            else self.multipliers,
        )


def described(function: Callable[..., Any]) -> tuple[str, str]:
    """The first paragraph of a docstring and the others, each in one line."""
    first, _, others = inspect.cleandoc(function.__doc__ or "").partition("\n\n")
    return " ".join(first.split()), " ".join(others.split())
