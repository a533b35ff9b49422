"""Manners towards the shell: signals always count, and output may be cut off."""

import contextlib
import io
import os
import signal
import sys
from collections.abc import Generator
from typing import Any, NoReturn

_asked: int | None = None  # the signal that came, once one did
_patient = False


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
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Not every terminal has a × to print.
        sys.stdout.reconfigure(errors="replace")
        if not sys.stdout.isatty():
            sys.stdout = _until_closed(sys.stdout)


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
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
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


class _UntilClosed(io.FileIO):
    """A pipe whose reader may leave: `study | head` trains on, and prints nowhere."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


def _until_closed(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    pipe = _UntilClosed(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(pipe), encoding=stream.encoding, errors=stream.errors
    )
