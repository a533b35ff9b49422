"""Manners towards the shell: Ctrl-C always counts, and output may be cut off."""

import io
import sys
from typing import Any

INTERRUPTED = 130  # the exit status of a program that Ctrl-C ended

_lost_interrupt = False


def prepare() -> None:
    """Sets up the process; for the program itself, once and first of all."""
    sys.unraisablehook = _note_interrupt
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Not every terminal has a × to print.
        sys.stdout.reconfigure(errors="replace")
        if not sys.stdout.isatty():
            sys.stdout = _until_closed(sys.stdout)


def check_interrupt() -> None:
    """Raises the KeyboardInterrupt that came where none can be raised.

    JAX runs Python inside the garbage collector, which drops exceptions. So this is
    called now and then.
    """
    if _lost_interrupt:
        raise KeyboardInterrupt


def _note_interrupt(dropped: Any) -> None:
    global _lost_interrupt
    if dropped.exc_type is KeyboardInterrupt:
        _lost_interrupt = True
    else:
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
