"""What frozen layers save: the work that XLA predicts, beside the time that was taken.

Pure functions of recorded runs.
"""

import dataclasses
import statistics
from collections.abc import Sequence

from .compare import Run

NOTE = (
    "Predicted: operations of a step, by XLA's count, as a share of those of a step in "
    "which every layer trains. Measured: the time of a step, by that of the control "
    "under the same seed; medians. Compiling is in neither."
)
HEADINGS = ("steps", "layers frozen", "predicted", "measured")


@dataclasses.dataclass(frozen=True)
class Saving:
    """One phase of a policy.

    Attributes:
        start: its first step.
        stop: the step behind its last one, as far as the runs came.
        frozen: how many layers are frozen.
        predicted: work of a step, as a share of one with all layers; None if unknown.
        measured: time of a step, by that of the control; None without a pair.
    """

    start: int
    stop: int
    frozen: int
    predicted: float | None
    measured: float | None

    @property
    def cells(self) -> tuple[str, ...]:
        """Under `HEADINGS`."""
        shares = self.predicted, self.measured
        return (
            f"{self.start:,} – {self.stop - 1:,}",
            str(self.frozen),
            *("–" if share is None else f"{share:.2f}" for share in shares),
        )


def savings(runs: Sequence[Run], controls: Sequence[Run]) -> list[Saving]:
    """The phases of a policy, from its runs and those of its control.

    Returns:
        A row for each phase that a run came to; none where nothing is ever frozen.
    """
    pace = {run.seed: run.seconds / run.step for run in controls if run.step}
    found: dict[int, list[tuple[int, Run]]] = {}
    for run in runs:
        for number, phase in enumerate(run.phases):
            found.setdefault(phase["step"], []).append((number, run))
    rows: list[Saving] = []
    for start, pairs in sorted(found.items()):
        spans = [(_span(run, number), run.seed) for number, run in pairs]
        ratios = [
            seconds / (stop - start) / pace[seed]
            for (stop, seconds), seed in spans
            if stop > start and seed in pace
        ]
        first = pairs[0][1].phases[pairs[0][0]]
        rows.append(
            Saving(
                start=start,
                stop=max(stop for (stop, _), _ in spans),
                frozen=len(first["frozen"]),
                predicted=first["predicted"],
                measured=statistics.median(ratios) if ratios else None,
            )
        )
    return rows


def _span(run: Run, number: int) -> tuple[int, float]:
    """Where a phase of a run ended, and how many seconds it took."""
    begun = run.phases[number]
    if number + 1 < len(run.phases):
        after = run.phases[number + 1]
        return after["step"], after["seconds"] - begun["seconds"]
    return run.step, run.seconds - begun["seconds"]
