import io
import logging
import sys

import numpy as np
import pytest

from experiments.terminal import display


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_bars_are_eighths_of_the_largest_and_a_dot_is_frozen():
    shares = np.array([0, 0.001, 0.125, 0.5, 0.999, 1])
    assert display.bar(shares, display.BLOCKS) == ".▁▁▄██"
    assert display.bar(shares, display.DIGITS) == ".11488"


def test_blocks_are_for_terminals_that_can_show_them():
    assert display.known("utf-8") == display.BLOCKS
    assert display.known("ascii") == display.known(None) == display.DIGITS


@pytest.mark.parametrize(("file", "lines"), [(Terminal, 3), (io.StringIO, 1)])
def test_a_terminal_gets_wrapped_lines_and_a_pipe_whole_ones(monkeypatch, file, lines):
    monkeypatch.setattr(sys, "stdout", file())
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    display.console().print("word " * 40 + ":dog: [b]")
    said = sys.stdout.getvalue()
    assert len(said.splitlines()) == lines
    assert said.endswith(":dog: [b]\n")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2J\r", r"a\x1b[2J\r"),
        ("\ud800\x00", r"\ud800\x00"),
        ("\u202eabc", r"\u202eabc"),
        ("层 – ×\n😀 \\x1b", "层 – ×\n😀 \\x1b"),
    ],
)
def test_what_cannot_be_seen_is_shown_as_python_writes_it(text, shown):
    assert display.legible(text) == shown
    assert display.legible(shown) == shown


def test_warnings_of_other_libraries_stay_off_the_terminal(monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("absl"), "level", logging.WARNING)
    display.quiet()
    for name in ("absl", "experiments"):
        logging.getLogger(name).warning("of %s", name)
        logging.getLogger(name).error("error of %s", name)
    assert "of experiments" in caplog.messages
    assert "of absl" not in caplog.messages
    assert "error of absl" in caplog.messages
