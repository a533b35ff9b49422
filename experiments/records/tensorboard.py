"""Event files for TensorBoard: the numbers of the records, to watch."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

# Not its SummaryWriter: where a disk is full, the thread of that one ends, and whoever
# writes waits for it for ever.
from tensorboardX.event_file_writer import EventsWriter

# Protobuf makes these when they are imported, which no type checker sees.
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore


class TensorBoard:
    """Writes the events of one run; a context manager.

    Curves over steps: loss and accuracy in training, validation and test, the global
    rate, and the multiplier of each layer. A number that is missing or not finite has
    no point there.
    """

    def __init__(self, folder: Path, step: int, layers: Sequence[str]):
        """Begins an event file; those of earlier sessions stay beside it.

        Args:
            folder: of the run; it must exist.
            step: from which the run goes on, 0 for one that begins. TensorBoard hides
                what earlier sessions wrote for later steps.
            layers: names of the layers, in the order of the multipliers.
        """
        self._layers = tuple(layers)
        # Two sessions may begin in one second, which is the rest of the name.
        self._writer = EventsWriter(str(folder / "events"), f".{step}")
        self._append(step + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, event: Mapping[str, Any]) -> None:
        """Writes the numbers of an event, at its step.

        Raises:
            OSError: they cannot be written.
        """
        values = [
            Summary.Value(tag=tag, simple_value=value)
            for tag, value in self._curves(event).items()
            if value is not None and math.isfinite(value)
        ]
        self._append(event["step"], summary=Summary(value=values))

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, step: int, **content: Any) -> None:
        self._writer.write_event(Event(wall_time=time.time(), step=step, **content))
        self._writer.flush()

    def _curves(self, event: Mapping[str, Any]) -> dict[str, float | None]:
        kind = event["kind"]
        if kind == "phase":
            return {"phase/predicted": event["predicted"]}
        if kind == "end":
            return {
                "test/loss": event["test_loss"],
                "test/accuracy": event["test_accuracy"],
            }
        if kind == "layers":
            return {
                f"{field}/{name}": value
                for field in ("gradient_norm", "update_ratio", "rotation")
                for name, value in zip(self._layers, event[field], strict=True)
            }
        curves = {f"{kind}/{name}": event[name] for name in ("loss", "accuracy")}
        if kind == "train":
            multipliers = zip(self._layers, event["multipliers"], strict=True)
            curves |= {f"multipliers/{name}": value for name, value in multipliers}
            curves["rate"] = event["rate"]
        return curves
