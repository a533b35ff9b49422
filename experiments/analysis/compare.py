"""From the events of a study to the rows of its tables. Pure functions.

Two questions are asked of every policy, each with one measure that was chosen before
the runs: how good the network is in the end, and how fast it got there.
"""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..config.measures import ACCURACY, Measure
from . import significance
from .questions import Question, Run, questions
from .significance import Difference, Time

BASELINE = "uniform"
TEST = ("loss", "accuracy")
"""What the last event of a run has of the test set."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the runs of a policy say to one question.

    Attributes:
        values: the measure of each run that has one, by seed.
        difference: to the control; None for a policy that is its own, and without
            pairs.
    """

    values: Mapping[int, float]
    difference: Difference | None

    @property
    def mean(self) -> float | None:
        """Mean over the seeds."""
        return statistics.fmean(self.values.values()) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation (n − 1) over the seeds; None for fewer than two."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None


@dataclasses.dataclass(frozen=True)
class Threshold:
    """What it took until the validation accuracy first stood at or above a threshold.

    Attributes:
        threshold: the accuracy, in [0, 1].
        n: all runs.
        reached: how many of them came to it, be it before they diverged.
        steps: median of the optimizer steps.
        images: median of the training images.
        seconds: median of the training time.
    """

    threshold: float
    n: int
    reached: int
    steps: Time
    images: Time
    seconds: Time


@dataclasses.dataclass(frozen=True)
class Row:
    """All about one policy.

    Attributes:
        policy: its name.
        control: the policy it is compared with; its own name for the baseline.
        n: how many runs finished.
        diverged: how many ended in a loss that was not finite.
        interrupted: how many have not ended.
        broken_pairs: seeds under which this policy or its control diverged.
        answers: by the names of `questions`.
        thresholds: one for each accuracy threshold.
        seconds: mean training time of the finished runs; None without any.
    """

    policy: str
    control: str
    n: int
    diverged: int
    interrupted: int
    broken_pairs: int
    answers: Mapping[str, Answer]
    thresholds: tuple[Threshold, ...]
    seconds: float | None


def runs(events: Iterable[Mapping[str, Any]]) -> list[Run]:
    """Groups events by policy and seed, in the order in which the runs began."""
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for event in events:
        groups.setdefault((event["policy"], event["seed"]), []).append(event)
    return [_run(policy, seed, group) for (policy, seed), group in groups.items()]


def by_policy(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """The runs of each policy, in the order in which the policies began."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.policy, []).append(run)
    return groups


def rows(
    runs: Iterable[Run],
    thresholds: Sequence[float],
    controls: Mapping[str, str],
    measure: Measure = ACCURACY,
) -> list[Row]:
    """One row a policy, in the order in which they began.

    Args:
        runs: of one study.
        thresholds: validation accuracies in [0, 1].
        controls: policy → the policy it is compared with; itself for the baseline.
        measure: what the runs are judged by.
    """
    groups = by_policy(runs)
    answers = {
        name: _answers(groups, controls, question)
        for name, question in questions(measure).items()
    }
    return [
        _row(
            controls[policy],
            group,
            groups.get(controls[policy], []),
            {name: of[policy] for name, of in answers.items()},
            thresholds,
        )
        for policy, group in groups.items()
    ]


def differences(
    rows: Sequence[Row], name: str, measure: Measure = ACCURACY
) -> dict[str, dict[int, float]]:
    """Of each policy that has pairs: by seed, its measure minus that of its control.

    Args:
        rows: one a policy.
        name: of one of `questions`.
        measure: what the runs are judged by.
    """
    question = questions(measure)[name]
    values = {row.policy: row.answers[name].values for row in rows}
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        if row.answers[name].difference:
            ours = values[row.policy]
            theirs = question.compared(ours, values.get(row.control, {}))
            found[row.policy] = {
                seed: ours[seed] - theirs[seed] for seed in ours if seed in theirs
            }
    return found


def time_to(runs: Sequence[Run], threshold: float) -> Threshold:
    """When half of the runs had first reached a validation accuracy.

    A run that finished without it counts as slower than those that reached it, one that
    diverged before as never; one that has not ended was watched for so long.
    """
    firsts = [
        next((event for event in run.validation if _at_least(event, threshold)), None)
        for run in runs
    ]
    without = [run for run, first in zip(runs, firsts, strict=True) if first is None]
    reached = [first for first in firsts if first is not None]

    def median(unit: str) -> Time:
        return significance.median_time(
            [event[unit] for event in reached],
            [
                math.inf if run.status == "diverged" else getattr(run, unit)
                for run in without
                if run.status != "interrupted"
            ],
            [getattr(run, unit) for run in without if run.status == "interrupted"],
        )

    units = median("step"), median("images"), median("seconds")
    return Threshold(threshold, len(runs), len(reached), *units)


def _run(policy: str, seed: int, events: Sequence[Mapping[str, Any]]) -> Run:
    last = events[-1]
    ended = last["kind"] == "end"
    return Run(
        policy=policy,
        seed=seed,
        status=last["status"] if ended else "interrupted",
        step=last["step"],
        images=last["images"],
        seconds=last["seconds"],
        test={name: last[f"test_{name}"] if ended else None for name in TEST},
        train=tuple(e for e in events if e["kind"] == "train"),
        validation=tuple(e for e in events if e["kind"] == "validation"),
        phases=tuple(e for e in events if e["kind"] == "phase"),
        layers=tuple(e for e in events if e["kind"] == "layers"),
    )


def _row(
    control: str,
    runs: Sequence[Run],
    controls: Sequence[Run],
    answers: Mapping[str, Answer],
    thresholds: Sequence[float],
) -> Row:
    finished = [run.seconds for run in runs if run.status == "finished"]
    return Row(
        policy=runs[0].policy,
        control=control,
        n=len(finished),
        diverged=len(_diverged(runs)),
        interrupted=sum(run.status == "interrupted" for run in runs),
        broken_pairs=len(_diverged(runs) | _diverged(controls)),
        answers=answers,
        thresholds=tuple(time_to(runs, threshold) for threshold in thresholds),
        seconds=statistics.fmean(finished) if finished else None,
    )


def _answers(
    groups: Mapping[str, Sequence[Run]],
    controls: Mapping[str, str],
    question: Question,
) -> dict[str, Answer]:
    """What each policy says to one question, with p corrected over all policies."""
    seeds = {name: {run.seed: run for run in group} for name, group in groups.items()}
    values = {
        policy: {
            run.seed: value
            for run in group
            if (value := question.value(run, seeds.get(controls[policy], {})))
            is not None
        }
        for policy, group in groups.items()
    }
    found = {
        policy: significance.paired(
            values[policy],
            question.compared(values[policy], values.get(controls[policy], {})),
            margin=question.same_within,
        )
        for policy in groups
        if controls[policy] != policy
    }
    differences = significance.corrected(found)
    return {
        policy: Answer(values[policy], differences.get(policy)) for policy in groups
    }


def _diverged(runs: Iterable[Run]) -> set[int]:
    """The seeds under which runs diverged."""
    return {run.seed for run in runs if run.status == "diverged"}


def _at_least(event: Mapping[str, Any], threshold: float) -> bool:
    return event["accuracy"] is not None and event["accuracy"] >= threshold
