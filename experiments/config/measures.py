"""What runs are judged by: the accuracy on images, the loss on text."""

import math
from collections.abc import Collection
from typing import Any, Literal, NamedTuple

from .texts import BYTES, is_text

Direction = Literal["higher", "lower", "same", "open"]
OPPOSITE: dict[Direction, Direction] = {
    "higher": "lower",
    "lower": "higher",
    "same": "same",
    "open": "open",
}


class Measure(NamedTuple):
    """The number in the records that says how good a run is, and how it is written."""

    name: str  # its field in an event of kind "validation"; behind "test_" in the last
    unit: str
    factor: float  # from records to that unit
    digits: int
    differences: str  # the unit of differences
    same_within: float  # in records: so small a difference makes none
    larger: bool  # whether larger is better
    worst: float  # in records: of what has learned nothing
    examples: str  # what the data are made of

    @property
    def title(self) -> str:
        """With its unit."""
        return f"{self.name}, {self.unit}"

    def shown(self, value: float) -> str:
        """As it is written, without the unit."""
        return f"{self.factor * value:.{self.digits}f}"

    def said(self, value: float) -> str:
        """In words: its name, the value and the unit."""
        return f"{self.name} {self.shown(value)} {self.unit}"

    def signed(self, difference: float) -> str:
        """A difference with its sign; a true minus, so that columns align."""
        rounded = round(self.factor * difference, self.digits) + 0.0
        return f"{rounded:+.{self.digits}f}".replace("-", "−")

    def expected(self, direction: Direction) -> Direction:
        """Where this measure is expected, where `direction` is that of the accuracy."""
        return direction if self.larger else OPPOSITE[direction]


ACCURACY = Measure(
    name="accuracy",
    unit="%",
    factor=100,
    digits=1,
    differences="points",
    same_within=0.005,
    larger=True,
    worst=0.0,
    examples="images",
)
LOSS = Measure(
    name="loss",
    unit="nats a byte",
    factor=1,
    digits=3,
    differences="nats",
    same_within=0.01,
    larger=False,
    worst=math.log(BYTES),
    examples="windows",
)


def measure_of(data: Any) -> Measure:
    """What runs on these data are judged by."""
    return LOSS if is_text(data) else ACCURACY


def measure_among(questions: Collection[str]) -> Measure:
    """What the runs of a summary are judged by, from the names of its questions."""
    return LOSS if LOSS.name in questions else ACCURACY
