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
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ..records import checkpoint
from ..terminal import signals

HEARTBEAT = 30
NAMES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


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


def tell_run(policy: str, seed: int, start: tuple[Any, float] | None) -> None:
    """Says which run is next, and where it starts, as its journal has it."""
    if are_many():
        arrays = start and (checkpoint.to_arrays(start[0]), start[1])
        tell((policy, seed, arrays))


def meet() -> None:
    """Waits for the others before the first sum with them, which waits for 30 s only.

    One may have compiled for longer.
    """
    if are_many():
        any_is(True)


def asked(together: bool) -> bool:
    """Whether a signal came to any process, asked where `together` all of them ask."""
    if not are_many():
        return signals.asked()
    return together and any_is(signals.asked())


def stop() -> None:
    """Ends a run for a signal in all processes, once its checkpoint is written."""
    if not are_many():
        signals.check()
    any_is(True)
    raise StopTogether(signal.SIGTERM)


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
