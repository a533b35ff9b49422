"""What the runs of the speed run say: means, and differences paired by seed."""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

from speedrun_rates import POLICIES

from experiments.analysis import significance

MEASURES = ("accuracy", "plain", "seconds")
CONTROL = "airbench"
Record = dict[str, Any]


def summary(results: Sequence[Record], policies: Sequence[str]) -> list[Record]:
    """For each policy means and standard deviations, and differences from the control.

    The control is airbench where that was run, else the first policy; it stands first.
    """
    control = CONTROL if CONTROL in policies else policies[0]
    found: list[Record] = []
    for policy in sorted(policies, key=lambda policy: policy != control):
        row: Record = {"policy": policy, "expected": POLICIES[policy].expected}
        for name in MEASURES:
            values = _measures(results, policy, name)
            theirs = _measures(results, control, name)
            difference = significance.paired(values, theirs)
            row["n"] = len(values)
            row[name] = {
                "mean": statistics.fmean(values.values()),
                "sd": statistics.stdev(values.values()) if len(values) > 1 else None,
            }
            if policy != control and difference:
                row[name][f"minus_{control}"] = dataclasses.asdict(difference)
        found.append(row)
    return found


def show(rows: Sequence[Record], steps: int) -> None:
    """Prints a line for each policy, in percent and seconds."""
    print(f"{'policy':<13} n    with TTA       without        seconds       steps")
    for row in rows:
        cells = [
            _cell(row[name], scale)
            for name, scale in zip(MEASURES, (100, 100, 1), strict=True)
        ]
        print(f"{row['policy']:<13} {row['n']:<3}", *cells, steps)
    for row in rows:
        for name, unit, scale in (("accuracy", "points", 100), ("seconds", "s", 1)):
            for key, difference in row[name].items():
                if key.startswith("minus_"):
                    print(_difference(row["policy"], key, difference, unit, scale))


def _cell(measure: Record, scale: float) -> str:
    sd = "" if measure["sd"] is None else f" ± {scale * measure['sd']:.2f}"
    return f"{scale * measure['mean']:.2f}{sd}".ljust(14)


def _difference(
    policy: str, key: str, difference: Record, unit: str, scale: float
) -> str:
    text = f"{policy} {key.replace('_', ' ')}: {scale * difference['mean']:+.3f} {unit}"
    if interval := difference["interval"]:
        low, high = (scale * bound for bound in interval)
        text += f", 95 % interval {low:+.3f} to {high:+.3f}"
    return text


def _measures(results: Sequence[Record], policy: str, name: str) -> dict[int, float]:
    """Of the runs under a policy, by seed."""
    return {run["seed"]: run[name] for run in results if run["policy"] == policy}
