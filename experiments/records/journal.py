"""One run's folder while it trains: records, checkpoints, and when to stop."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from . import checksums, records, weights
from .checkpoint import About, Checkpoints

Event = records.Event


class Forgetful:
    """A journal that keeps nothing.

    Attributes:
        start: the state from which a run goes on and the seconds of training up to it;
            None for one that begins.
        step: from which it goes on; 0 for one that begins.
    """

    start: tuple[Any, float] | None = None
    step: int = 0

    def write(self, event: Event) -> None:
        """Forgets it."""

    def late(self) -> bool:
        """Whether it is time for a checkpoint."""
        return False

    def save(self, step: int, state: Any, seconds: float) -> None:
        """Makes no checkpoint."""

    def wait(self) -> None:
        """Returns when every checkpoint is written."""

    def keep(self, params: Any, statistics: Any) -> None:
        """Forgets the weights with which the run ends."""


class Journal(Forgetful):
    """What a run leaves behind, and goes on from its newest good checkpoint."""

    def __init__(
        self, folder: Path, like: Any, every: float, say: Callable[[str], None]
    ):
        """Opens the folder of a run and goes back to its newest good checkpoint.

        Records behind that checkpoint are cut off, as the run makes them again. Those
        before it that are lost stay lost; the run goes on all the same.

        Args:
            folder: of the run; made where it is missing.
            like: the shapes of a state.
            every: seconds between two checkpoints.
            say: is told what is damaged or lost, and what is done about it.
        """
        self._folder, self._every, self._last = folder, every, time.monotonic()
        self._checkpoints = Checkpoints(folder / "checkpoints")
        found = self._checkpoints.newest(like, say)
        about: About = {"step": 0, "lines": 0}
        if found:
            about = found[1]
            self.start = found[0], about["seconds"]
        self.step, self._lines = int(about["step"]), int(about["lines"])
        if not found and (begun := records.read_lines(folder)[0].records):
            say(
                f"the records reach step {begun[-1]['step']:,}, but there is no "
                "checkpoint to go on from: the run begins again at step 0"
            )
        self._timings = _opened(folder / "timings.jsonl", about, say)
        self._metrics = _opened(folder / "metrics.jsonl", about, say)

    def write(self, event: Event) -> None:
        """Records one event.

        Raises:
            ValueError: it is not of the shape that its kind has in the schema.
            OSError: it cannot be written; what was written before is whole.
        """
        line = records.plain({k: v for k, v in event.items() if k != "seconds"})
        timing = records.plain({"step": event["step"], "seconds": event["seconds"]})
        records.check(timing, "timing", "the event to be recorded")
        records.check_event(line, "the event to be recorded")
        # In this order: a line of metrics.jsonl is never without its time.
        self._timings.write(timing)
        self._metrics.write(line)
        self._lines += 1
        if line["kind"] == "end":  # soon there will be no more checkpoint
            self._sync()

    def late(self) -> bool:
        """Whether the last checkpoint is long enough ago."""
        return time.monotonic() - self._last >= self._every

    def save(self, step: int, state: Any, seconds: float) -> None:
        """Begins a checkpoint."""
        self._sync()
        about = {"step": step, "seconds": seconds, "lines": self._lines}
        self._checkpoints.save(step, state, about)
        self._last = time.monotonic()

    def wait(self) -> None:
        """Returns when every checkpoint is written."""
        self._checkpoints.wait()

    def keep(self, params: Any, statistics: Any) -> None:
        """Writes the weights with which the run ends beside its records."""
        weights.keep(self._folder, params, statistics)

    def close(self) -> None:
        """Closes all files, after what is being written."""
        self._checkpoints.close()
        self._metrics.close()
        self._timings.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _sync(self) -> None:
        self._timings.sync()
        self._metrics.sync()


def _opened(path: Path, about: About, say: Callable[[str], None]) -> checksums.Writer:
    """A file of the records, open behind the lines from before the checkpoint."""
    (lines, damaged), count = checksums.read(path), about["lines"]
    kept = lines[:count]
    # Where a newline is lost, two lines are one, and the count takes in a later one.
    while kept and (last := kept[-1]) and last["step"] > about["step"]:
        kept.pop()
    kept += [None] * (count - len(kept))
    if damaged or count > len(lines):
        said = f"{str(path)!r} is damaged; what it lost is made again"
        if lost := [n for n, line in enumerate(kept, start=1) if line is None]:
            said = f"{str(path)!r} has lost {checksums.named(lost)}; going on without, "
            said += f"from step {about['step']:,}"
        if path.exists():
            aside = shutil.copy(path, path.with_suffix(".damaged.jsonl"))
            said += f". The damaged file is kept as {str(aside)!r}"
        say(said)
    return checksums.Writer(path, kept)
