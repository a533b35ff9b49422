"""One run's folder while it trains: records, checkpoints, and when to stop."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, Self, TypeVar

from ..terminal import signals
from . import checksums, records
from .checkpoint import About, Checkpoints

State = TypeVar("State")
Event = records.Event


class Journal(Generic[State]):
    """What a run leaves behind, and goes on from.

    Attributes:
        folder: of the run.
        step: from which the run goes on; 0 for one that begins.
        start: the state of the newest good checkpoint and the seconds of training up to
            it; None where there is none.
        watchers: are shown every event once it is recorded.
    """

    def __init__(
        self, folder: Path, like: State, every: float, say: Callable[[str], None]
    ):
        """Opens the folder of a run and goes back to its newest good checkpoint.

        Records behind that checkpoint are cut off, as the run makes them again.

        Args:
            folder: of the run; made where it is missing.
            like: the shapes of a state.
            every: seconds between two checkpoints.
            say: is told what was damaged, and what is done about it.
        """
        self.folder = folder
        self._every, self._last = every, time.monotonic()
        self._checkpoints = Checkpoints(folder / "checkpoints")
        metrics, timings = records.read_lines(folder)
        for damage, path in [
            (metrics.damage, folder / "metrics.jsonl"),
            (timings.damage, folder / "timings.jsonl"),
        ]:
            if damage:
                kept = shutil.copy(path, path.with_suffix(".damaged.jsonl"))
                say(f"{damage}; the damaged file is kept as {kept}")
        good = min(len(metrics.records), len(timings.records))

        def check(about: About) -> None:
            if about["lines"] > good or about["crc"] != metrics.crcs[about["lines"]]:
                raise ValueError("it does not belong to the good lines of the records")

        found = self._checkpoints.newest(like, check, say)
        keep = found[1]["lines"] if found else 0
        self.start = (found[0], found[1]["seconds"]) if found else None
        self.step: int = found[1]["step"] if found else 0
        if metrics.damage or timings.damage:
            say(
                f"going on from step {self.step:,}" if found else "the run begins again"
            )
        self._metrics = checksums.Writer(folder / "metrics.jsonl", metrics, keep)
        self._timings = checksums.Writer(folder / "timings.jsonl", timings, keep)
        self._lines = keep
        self.watchers: list[Callable[[Event], None]] = []

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
        for watch in self.watchers:
            watch(event)

    def due(self, step: int) -> bool:
        """Whether it is time for a checkpoint, as a signal makes it at once."""
        del step
        return signals.asked() or self.late()

    def late(self) -> bool:
        """Whether the last checkpoint is long enough ago."""
        return time.monotonic() - self._last >= self._every

    def save(self, step: int, state: State, seconds: float) -> None:
        """Begins a checkpoint."""
        self._metrics.sync()
        self._timings.sync()
        about = {
            "step": step,
            "seconds": seconds,
            "lines": self._lines,
            "crc": self._metrics.crc,
        }
        self._checkpoints.save(step, state, about)
        self._last = time.monotonic()

    def rest(self) -> None:
        """If a signal asked for the checkpoint, waits for its end and raises `Stop`."""
        if signals.asked():
            self.wait()
            signals.check()

    def wait(self) -> None:
        """Returns when every checkpoint is written."""
        self._checkpoints.wait()

    def close(self) -> None:
        """Closes all files, after what is being written."""
        self._checkpoints.close()
        self._metrics.close()
        self._timings.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
