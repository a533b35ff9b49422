"""What a policy is: how the rates of the layers are to differ, and what is expected."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import jax
import numpy as np
import optax

from optax_llr import Layers

from .optimizers import Layering, scheduled

Multipliers = np.ndarray | jax.Array | optax.Schedule


def uniform(layers: Layers, total_steps: int) -> Multipliers:
    """Multiplier 1 for every layer."""
    del total_steps
    return np.ones(len(layers))


@dataclasses.dataclass(frozen=True)
class Number:
    """A number of a policy, and between which values it may lie."""

    name: str
    value: float
    low: float
    high: float
    log: bool = False
    """Whether it is a factor, to be searched on a log scale."""

    def __str__(self) -> str:
        return f"{self.name} {self.value:g} ({self.low:g} to {self.high:g})"

    def at(self, value: float) -> "Number":
        """The same number with another value."""
        return dataclasses.replace(self, value=value)


@dataclasses.dataclass(frozen=True)
class Numbered:
    """Multipliers that are made of numbers."""

    make: Callable[..., Multipliers]
    """(layers, total_steps, **numbers) → an array (L,) or a schedule `count -> (L,)`"""
    numbers: tuple[Number, ...]

    def __call__(self, layers: Layers, total_steps: int) -> Multipliers:
        """The multipliers with these numbers."""
        values = {number.name: number.value for number in self.numbers}
        return self.make(layers, total_steps, **values)


Direction = Literal["higher", "lower", "same", "open"]


class Expects(NamedTuple):
    """Where the two measures of a policy are expected, by those of its control."""

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
    """What should come of it, and why; written before any run."""
    source: str = ""
    """Whose idea it is."""
    control: str = "uniform"
    """The policy of ours that it is compared with, seed by seed; of uniform, uniform.
    For one that anneals or rotates, the one that does so most alike."""
    expects: Expects = ANYTHING
    """The expectation in two words, read off its sentence."""
    multipliers: Callable[[Layers, int], Multipliers] = uniform
    """(layers, total_steps) → an array (L,) or a schedule `count -> (L,)`."""
    schedule: str | None = None
    """The global schedule that belongs to it; None for that of the study."""
    layering: Layering = scheduled
    """How the rates of the layers come about, where not by the multipliers alone."""
    rate: float | None = None
    """The largest global rate; None for that of the study."""

    def numbers(self, rate: float) -> tuple[Number, ...]:
        """What it can be tuned by, in a study of this global rate."""
        own = Number("rate", self.rate or rate, rate / 10, 10 * rate, log=True)
        made_of = self.multipliers
        return (own, *(made_of.numbers if isinstance(made_of, Numbered) else ()))

    def having(self, values: Mapping[str, float]) -> "Policy":
        """The same policy with other values of the numbers that are named.

        Its summary, which is about its own, says so.
        """
        made_of = self.multipliers
        if isinstance(made_of, Numbered):
            numbers = (n.at(values.get(n.name, n.value)) for n in made_of.numbers)
            made_of = dataclasses.replace(made_of, numbers=tuple(numbers))
        said = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        return dataclasses.replace(
            self,
            summary=f"{self.summary} Here instead: {said}." if said else self.summary,
            rate=values.get("rate", self.rate),
            multipliers=made_of,
        )
