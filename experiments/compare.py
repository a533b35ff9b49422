"""From the events of a study to the rows of its table. Pure functions."""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

BASELINE = "uniform"
CONFIDENCE = 0.95
FEWEST_FOR_INTERVAL = 3
FEWEST_FOR_EVIDENCE = 5


@dataclasses.dataclass(frozen=True)
class Run:
    """One policy under one seed.

    Attributes:
        policy: its name.
        seed: its seed.
        status: "finished", "diverged" or "interrupted"; a run without an end line,
            as a crash leaves it, counts as interrupted.
        step: optimizer steps done.
        seconds: training time, without compilation and evaluation.
        test_accuracy: in [0, 1]; None unless finished.
        train: its "train" events, in order.
        validation: its "validation" events, in order.
    """

    policy: str
    seed: int
    status: str
    step: int
    seconds: float
    test_accuracy: float | None
    train: tuple[Mapping[str, Any], ...]
    validation: tuple[Mapping[str, Any], ...]


@dataclasses.dataclass(frozen=True)
class Difference:
    """Test accuracy minus the baseline's, paired by seed.

    Attributes:
        n: pairs: seeds that finished under both policies.
        mean: over the pairs.
        interval: 95 % t interval of the mean, (low, high); None for fewer than 3 pairs.
    """

    n: int
    mean: float
    interval: tuple[float, float] | None


@dataclasses.dataclass(frozen=True)
class Mark:
    """Steps until the validation accuracy first stood at or above a mark.

    A run that ended without reaching it took longer than it was watched: it is
    counted in `n` and not in `steps`.

    Attributes:
        mark: the accuracy, in [0, 1].
        n: runs that had their chance: finished, diverged, or interrupted after it.
        steps: of the runs that reached it, ascending.
    """

    mark: float
    n: int
    steps: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Row:
    """A policy's line in the table.

    Attributes:
        policy: its name.
        accuracies: test accuracies of the finished runs, in [0, 1], by seed.
        diverged: how many runs ended in a loss that was not finite.
        interrupted: how many runs were broken off.
        difference: to the baseline; None for the baseline itself and without pairs.
        marks: one for each accuracy mark.
        seconds: mean training time of the finished runs; None without any.
    """

    policy: str
    accuracies: Mapping[int, float]
    diverged: int
    interrupted: int
    difference: Difference | None
    marks: tuple[Mark, ...]
    seconds: float | None

    @property
    def n(self) -> int:
        """How many runs finished."""
        return len(self.accuracies)

    @property
    def mean(self) -> float | None:
        """Mean test accuracy of the finished runs."""
        return statistics.fmean(self.accuracies.values()) if self.n else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation (n − 1) of the test accuracy; None for fewer than two."""
        return statistics.stdev(self.accuracies.values()) if self.n > 1 else None


def runs(events: Iterable[Mapping[str, Any]]) -> list[Run]:
    """Groups events by policy and seed, in the order in which the runs began."""
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for event in events:
        groups.setdefault((event["policy"], event["seed"]), []).append(event)
    return [_run(policy, seed, group) for (policy, seed), group in groups.items()]


def rows(runs: Iterable[Run], marks: Sequence[float]) -> list[Row]:
    """The table: one row a policy, in the order in which they began.

    Args:
        runs: of one study.
        marks: validation accuracies in [0, 1].
    """
    groups = by_policy(runs)
    baseline = _accuracies(groups.get(BASELINE, []))
    return [_row(name, group, baseline, marks) for name, group in groups.items()]


def by_policy(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """The runs of each policy, in the order in which the policies began."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.policy, []).append(run)
    return groups


def paired_difference(
    accuracies: Mapping[int, float], baseline: Mapping[int, float]
) -> Difference | None:
    """The mean difference over the seeds that both have, with its t interval.

    Args:
        accuracies: seed → test accuracy.
        baseline: likewise.
    """
    shared = [seed for seed in accuracies if seed in baseline]
    pairs = [accuracies[seed] - baseline[seed] for seed in shared]
    if not pairs:
        return None
    mean, n, interval = statistics.fmean(pairs), len(pairs), None
    if n >= FEWEST_FOR_INTERVAL:
        error = statistics.stdev(pairs) / math.sqrt(n)
        half = t_quantile((1 + CONFIDENCE) / 2, n - 1) * error
        interval = (mean - half, mean + half)
    return Difference(n, mean, interval)


def steps_to(runs: Iterable[Run], mark: float) -> Mark:
    """When each run first reached a validation accuracy; never is censored."""
    reached: list[int] = []
    n = 0
    for run in runs:
        step = next((e["step"] for e in run.validation if _at_least(e, mark)), None)
        if step is not None:
            reached.append(step)
        n += step is not None or run.status != "interrupted"
    return Mark(mark, n, tuple(sorted(reached)))


def caveats(rows: Sequence[Row], source: str, planned: int) -> list[str]:
    """Why the table is a demonstration and not evidence; empty if it may be evidence.

    Args:
        rows: the table.
        source: the data's name; "sample" is the small bundled one.
        planned: how many runs the study was to have.
    """
    ends = [row.n + row.diverged for row in rows]
    ended, fewest = sum(ends), min(ends, default=0)
    found: list[str] = []
    if ended < planned:
        found.append(f"only {ended} of {planned} runs came to their end")
    if fewest < FEWEST_FOR_EVIDENCE:
        found.append(f"n = {fewest} runs a policy, fewer than {FEWEST_FOR_EVIDENCE}")
    if source == "sample":
        found.append("trained on the small bundled sample, not on the whole data set")
    return found


def verdict(row: Row) -> str:
    """What a policy's paired difference allows to be said if there are no caveats."""
    if row.diverged:
        return "no verdict from the runs left over: some diverged"
    if row.difference is None or row.difference.interval is None:
        return f"no verdict: too few seeds finished under both this and {BASELINE}"
    low, high = row.difference.interval
    if low > 0:
        return f"higher test accuracy than {BASELINE}: the interval lies above 0"
    if high < 0:
        return f"lower test accuracy than {BASELINE}: the interval lies below 0"
    return "undecided: the interval holds 0"


def summary(rows: Sequence[Row], caveats: Sequence[str]) -> dict[str, Any]:
    """summary.json: the table, and why it is no evidence if it is none."""
    return {
        "baseline": BASELINE,
        "confidence": CONFIDENCE,
        "caveats": list(caveats),
        "rows": [
            dataclasses.asdict(row)
            | {"n": row.n, "mean": row.mean, "deviation": row.deviation}
            for row in rows
        ],
    }


def t_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t distribution, by bisection of its angle.

    With tan θ = t / √ν the distribution function is a finite sum of powers of cos θ.

    Args:
        probability: in (0.5, 1).
        freedom: degrees of freedom ν, a whole number from 1 on.

    References:
        Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        if (1 + _two_sided(middle, freedom)) / 2 < probability:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan(low)


def _two_sided(angle: float, freedom: int) -> float:
    """The probability that |t| ≤ √ν·tan(angle)."""
    odd = freedom % 2
    term = math.sin(angle) * (math.cos(angle) if odd else 1.0)
    total = 0.0
    for k in range(2 + odd, freedom + 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (k - 1) / k
    return 2 / math.pi * (angle + total) if odd else total


def _run(policy: str, seed: int, events: Sequence[Mapping[str, Any]]) -> Run:
    last = events[-1]
    ended = last["kind"] == "end"
    return Run(
        policy=policy,
        seed=seed,
        status=last["status"] if ended else "interrupted",
        step=last["step"],
        seconds=last["seconds"],
        test_accuracy=last.get("test_accuracy") if ended else None,
        train=tuple(e for e in events if e["kind"] == "train"),
        validation=tuple(e for e in events if e["kind"] == "validation"),
    )


def _row(
    policy: str,
    runs: Sequence[Run],
    baseline: Mapping[int, float],
    marks: Sequence[float],
) -> Row:
    accuracies = _accuracies(runs)
    finished = [run.seconds for run in runs if run.status == "finished"]
    return Row(
        policy=policy,
        accuracies=accuracies,
        diverged=sum(run.status == "diverged" for run in runs),
        interrupted=sum(run.status == "interrupted" for run in runs),
        difference=(
            None if policy == BASELINE else paired_difference(accuracies, baseline)
        ),
        marks=tuple(steps_to(runs, mark) for mark in marks),
        seconds=statistics.fmean(finished) if finished else None,
    )


def _accuracies(runs: Iterable[Run]) -> dict[int, float]:
    return {
        run.seed: run.test_accuracy
        for run in runs
        if run.status == "finished" and run.test_accuracy is not None
    }


def _at_least(event: Mapping[str, Any], mark: float) -> bool:
    return event["accuracy"] is not None and event["accuracy"] >= mark
