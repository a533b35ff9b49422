"""Manners towards the shell: signals always count, and output may be cut off.

A signal that is ignored when the program starts, as by nohup or in the background of a
script, stays ignored.
"""

import contextlib
import io
import os
import signal
import sys
from collections.abc import Generator
from typing import Any, NoReturn

_asked: int | None = None  # the signal that came, once one did
_patient = False
_unprinted: OSError | None = None  # why not all of the output could be written


class Stop(BaseException):
    """SIGINT (Ctrl-C) or SIGTERM came.

    Attributes:
        status: the exit status of a program that this signal ended, 130 or 143.
    """

    def __init__(self, number: int):
        """Takes the number of the signal."""
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


def prepare() -> None:
    """Sets up the process; for the program itself, once and first of all."""
    sys.unraisablehook = _unraisable
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _on_signal)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            # Not every terminal has a × to print.
            stream.reconfigure(errors="replace")
            if not stream.isatty():
                setattr(sys, name, _while_it_can(stream))


@contextlib.contextmanager
def patience() -> Generator[None]:
    """Inside, a first signal is only noted, for `asked`; a second one raises."""
    global _patient
    check()
    _patient = True
    try:
        yield
    finally:
        _patient = False


def asked() -> bool:
    """Whether a signal came."""
    return _asked is not None


def check() -> None:
    """Raises `Stop` if a signal came.

    For where `Stop` could not be raised, or was dropped: JAX runs Python inside the
    garbage collector, where exceptions are lost.
    """
    if _asked is not None:
        raise Stop(_asked)


def leave(status: int) -> NoReturn:
    """Ends the program; with an error, without waiting for its threads.

    Where a checkpoint could not be begun, Orbax's threads wait for it for minutes.

    Args:
        status: its exit status; in place of 0 it is 2 where output was lost.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    if _unprinted is not None:
        said = f"not all could be printed: {_unprinted.strerror}; give another place"
        print(f"{said} for the output", file=sys.stderr, flush=True)
        status = status or 2
    if status:
        os._exit(status)
    sys.exit()


def _on_signal(number: int, frame: object) -> None:
    del frame
    global _asked
    first, _asked = _asked is None, number
    if not (first and _patient):
        raise Stop(number)


def _unraisable(dropped: Any) -> None:
    # Orbax closes its event loop while other writes are still on their way to it, once
    # one has failed; that failure itself is raised where it belongs.
    closed = str(dropped.exc_value) == "Event loop is closed"
    if dropped.exc_type is not Stop and not closed:
        sys.__unraisablehook__(dropped)


class _Output(io.FileIO):
    """A pipe or file that may not take all: `study | head`, or a disk that is full.

    Training goes on, and prints nowhere.
    """

    def write(self, data: Any) -> int:
        global _unprinted
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)
        except OSError as error:
            _unprinted = error
            return len(data)


def _while_it_can(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
    )
