"""Several processes at one study: the first leads and records, the others follow.

All processes run the same steps on their parts of the arrays, so they must do the same
things in the same order. What is to be done the first one says: which run, and from
which state; only it has a folder, and all checkpoints, since each process has the whole
state. Signals are obeyed together, where the training metrics are recorded.

A process that is gone ends the others: within `HEARTBEAT` seconds where JAX finds it
out by itself, at once where they were about to exchange numbers.
"""

import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from ..records import checkpoint
from ..records.journal import Journal
from ..terminal import signals
from .running import Forgetful

State = TypeVar("State")

HEARTBEAT = 30
NAMES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


class Order(NamedTuple):
    """A run that all processes are to compile; where it starts is told then."""

    policy: str
    seed: int


class StopTogether(signals.Stop):
    """A signal came to one of the processes, and all end for it."""


def join() -> None:
    """Meets the other processes; before JAX is used.

    Raises:
        ValueError: it is not said who they are, or they cannot be met.
    """
    address, count, number = (os.environ.get(name) for name in NAMES)
    given = [value is not None for value in (address, count, number)]
    if any(given) and not all(given):
        raise ValueError(f"distributed: expected all of {', '.join(NAMES)}, or none")
    if address is not None and ":" not in address:
        raise ValueError(
            f"distributed: {NAMES[0]} must be HOST:PORT, of the first process; got "
            f"{address!r}"
        )
    try:
        jax.distributed.initialize(
            coordinator_address=address,
            num_processes=None if count is None else int(count),
            process_id=None if number is None else int(number),
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"distributed: the processes cannot be joined ({reason}). Set "
            f"{', '.join(NAMES)}, or start them by SLURM, Open MPI, Kubernetes or on a "
            "TPU pod, where JAX finds out by itself"
        ) from error
    # JAX took SIGTERM for a service of its own, and would drop it.
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    any_is(True)  # now, as waiting for one another has a limit the first time only


def part() -> None:
    """Takes leave of the others: else the first to end would end them by force."""
    jax.distributed.shutdown()


def are_many() -> bool:
    """Whether there are other processes."""
    return jax.process_count() > 1


def lead() -> bool:
    """Whether this process is the one that records."""
    return jax.process_index() == 0


def tell(word: Any) -> None:
    """Says something to the other processes, which must be listening."""
    _broadcast(pickle.dumps(word))


def listen() -> Any:
    """What the first process says."""
    return pickle.loads(_broadcast(b""))


def tell_start(start: tuple[Any, float] | None) -> None:
    """Says where a run starts, as its journal has it."""
    tell(start and (checkpoint.to_arrays(start[0]), start[1]))


def listen_for_start(like: State) -> tuple[State, float] | None:
    """Where a run starts, given the shapes of its state."""
    start = listen()
    return start and (checkpoint.from_arrays(start[0], like), start[1])


def any_is(yes: bool) -> bool:
    """Whether any process says yes; all of them wait here for one another."""
    return bool(np.any(multihost_utils.process_allgather(np.array(yes))))


def _broadcast(content: bytes) -> bytes:
    """What the first process has, to all."""
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    room = np.zeros(length, np.uint8)
    if lead():
        room = np.frombuffer(content, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(room)).tobytes()


class Leading(Journal[Any]):
    """The journal of the first of several processes."""

    def __init__(
        self,
        folder: Path,
        like: Any,
        every: float,
        say: Callable[[str], None],
        together: int,
    ):
        """As `Journal`; every so many steps all processes ask whether to go on."""
        super().__init__(folder, like, every, say)
        self._together, self._stop = together, False

    def due(self, step: int) -> bool:
        """As the other processes are asked, and time has come."""
        if step % self._together:
            return False
        self._stop = any_is(signals.asked())
        return self._stop or self.late()

    def rest(self) -> None:
        """Ends the run in all processes, once the checkpoint is written."""
        if self._stop:
            self.wait()
            any_is(True)
            raise StopTogether(signal.SIGTERM)


class Following(Forgetful):
    """The journal of another process: leaves all that to the first one."""

    def __init__(self, start: tuple[Any, float] | None, together: int):
        """Takes where the run starts."""
        self.start = start
        self._together = together

    def due(self, step: int) -> bool:
        """Never; but a signal to any process ends the run here."""
        if step % self._together == 0 and any_is(signals.asked()):
            any_is(True)  # waits until the first process has made its checkpoint
            raise StopTogether(signal.SIGTERM)
        return False
