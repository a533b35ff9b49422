"""The two questions that are asked of every policy: how good, and how fast.

Each has one number of a run that answers it, chosen before the runs.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from ..config.measures import Measure

Seed = TypeVar("Seed")
SAME_STEPS = math.log(1.05)
"""5 %: a smaller difference in steps does not matter."""
Value = Callable[["Run", Mapping[int, "Run"]], float | None]
"""Of a run, and the runs of its control by seed."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One policy under one seed.

    Attributes:
        policy: its name.
        seed: its seed.
        status: "finished", "diverged", or "interrupted" for a run without an end.
        step: optimizer steps done.
        images: training images seen.
        seconds: training time, without compilation and evaluation.
        test: "loss" and "accuracy" of the last step; None unless finished.
        train: its "train" events, in order.
        validation: its "validation" events, in order.
        phases: its "phase" events, in order; none if nothing was ever frozen.
        layers: its "layers" events, in order; none if nothing was measured.
    """

    policy: str
    seed: int
    status: str
    step: int
    images: int
    seconds: float
    test: Mapping[str, float | None]
    train: tuple[Mapping[str, Any], ...]
    validation: tuple[Mapping[str, Any], ...]
    phases: tuple[Mapping[str, Any], ...]
    layers: tuple[Mapping[str, Any], ...] = ()


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked of a policy, and the one number of a run that answers it.

    Attributes:
        measure: its name.
        value: of a run.
        heading: of a column of means, with their unit.
        difference: of a column of differences.
        unit: of differences.
        shown: a mean, as it is written.
        spread: a standard deviation; empty where it is not shown.
        signed: a difference to the control.
        drawn: a difference, as a chart has it.
        same_within: a smaller difference does not matter.
        within: the same in words.
        relative: whether values are differences to the control already.
    """

    measure: str
    value: Value
    heading: str
    difference: str
    unit: str
    shown: Callable[[float], str]
    spread: Callable[[float], str]
    signed: Callable[[float], str]
    drawn: Callable[[float], float]
    same_within: float
    within: str
    relative: bool = False

    def compared(
        self, values: Mapping[Seed, float], control: Mapping[Seed, float]
    ) -> Mapping[Seed, float]:
        """What values by seed are compared with: the control's, or 0 if relative."""
        return dict.fromkeys(values, 0.0) if self.relative else control


@functools.cache
def questions(measure: Measure) -> Mapping[str, Question]:
    """How good and how fast, by name, where runs are judged by this measure."""

    def asked(name: str, value: Value, difference: str) -> Question:
        return Question(
            measure=name,
            value=value,
            heading=f"{name}, {measure.unit}",
            difference=difference,
            unit=measure.differences,
            shown=measure.shown,
            spread=measure.shown,
            signed=measure.signed,
            drawn=lambda value: measure.factor * value,
            same_within=measure.same_within,
            within=f"within {measure.factor * measure.same_within:g} "
            f"{measure.differences}",
        )

    final = asked(
        f"test {measure.name}",
        lambda run, _: run.test[measure.name],
        f"difference, {measure.differences}",
    )
    if not measure.larger:
        return {measure.name: final, "speed": STEPS}
    area = asked(
        "learning-curve area",
        lambda run, _: mean_accuracy(run),
        "difference in area",
    )
    return {measure.name: final, "speed": area}


def mean_accuracy(run: Run) -> float | None:
    """Area under the validation accuracy over steps, divided by its width.

    By trapezoids from the first evaluation to the last step. A run that did not finish
    has none: neither the curve that it would have had nor its length is known. It is
    counted, and where it diverged, it forbids a verdict.
    """
    steps = [event["step"] for event in run.validation]
    heights = [event["accuracy"] for event in run.validation]
    if run.status != "finished" or not heights or None in heights:
        return None
    if len(heights) == 1:
        return heights[0]
    return float(np.trapezoid(heights, steps)) / (steps[-1] - steps[0])


def steps_ratio(run: Run, controls: Mapping[int, Run]) -> float | None:
    """The logarithm of the steps to one validation loss, by those of the control.

    The loss is one that both came to: the higher one of their last ones. Where the run
    ends below its control, that is the last of the control, and the ratio the share of
    steps in which the run got there; where it ends above, it is how many times as many
    steps it took as the control did. None unless both have finished.
    """
    pair = (run, controls.get(run.seed))
    curves = [
        [(event["step"], event["loss"]) for event in one.validation]
        for one in pair
        if one is not None and one.status == "finished"
    ]
    if len(curves) < 2 or not all(curves):
        return None
    if any(loss is None for curve in curves for _, loss in curve):
        return None
    goal = max(curve[-1][1] for curve in curves)
    ours, theirs = (steps_to(goal, curve) for curve in curves)
    return math.log(ours / theirs)


def steps_to(goal: float, curve: Sequence[tuple[int, float]]) -> float:
    """When a curve first stood at or below the goal; linear between evaluations."""
    at = next(i for i, (_, loss) in enumerate(curve) if loss <= goal)
    step, loss = curve[at]
    if at == 0 or loss == goal:
        return step
    before, above = curve[at - 1]
    return before + (step - before) * (above - goal) / (above - loss)


def _ratio(logarithm: float) -> str:
    return f"{math.exp(logarithm):.2f}"


STEPS = Question(
    measure="steps to the same loss",
    value=steps_ratio,
    heading="steps to the same loss",
    difference="steps, by the baseline's",
    unit="times as many",
    shown=_ratio,
    spread=lambda deviation: "",
    signed=_ratio,
    drawn=math.exp,
    same_within=SAME_STEPS,
    within="within 5 % of the steps",
    relative=True,
)
