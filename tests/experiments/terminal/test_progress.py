import io
import re
import sys

import pytest
import rich.cells

from experiments.terminal.progress import MOST_LAYERS, Progress

TRAIN = {"kind": "train", "step": 5, "images": 500, "seconds": 0.5, "loss": 1.234}
VALIDATION = {"kind": "validation", "step": 5, "loss": 1.0, "accuracy": 0.456}


class Terminal(io.StringIO):
    encoding = "utf-8"

    def __init__(self, interactive=True):
        super().__init__()
        self._interactive = interactive

    def isatty(self):
        return self._interactive


def shown(monkeypatch, *events, terminal=None, name="1/2 uniform", steps=10):
    terminal = terminal or Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(name, 0, steps) as progress:
        for event in events:
            progress.show(event)
        progress._bar.refresh()
    return terminal.getvalue()


def test_the_line_says_loss_speed_accuracy_and_what_is_left(monkeypatch):
    line = shown(monkeypatch, TRAIN | {"multipliers": [1.0, 1.0]}, VALIDATION)
    for part in ("1/2 uniform", "5/10", "loss 1.23", "1,000 images/s", "val 45.6 %"):
        assert part in line
    assert " left" in line


@pytest.mark.parametrize(
    ("multipliers", "blocks"),
    [([2.0, 1.0, 0.5, 0.0], "█▄▂."), ([0.0, 0.0], ".."), ([1.0] * 110, "█" * 16)],
)
def test_multipliers_stand_in_forward_order_by_the_largest(
    monkeypatch, multipliers, blocks
):
    assert MOST_LAYERS == 16
    line = shown(monkeypatch, TRAIN | {"multipliers": multipliers})
    assert f"loss 1.23, {blocks}, 1,000 images/s" in line


def test_a_terminal_without_blocks_gets_digits(monkeypatch):
    terminal = Terminal()
    terminal.encoding = "ascii"
    line = shown(monkeypatch, TRAIN | {"multipliers": [1.0, 0.5]}, terminal=terminal)
    assert "loss 1.23, 84, 1,000 images/s" in line


def test_nothing_is_printed_where_there_is_no_terminal(monkeypatch):
    quiet = Terminal(interactive=False)
    assert not shown(monkeypatch, TRAIN | {"multipliers": [1.0]}, terminal=quiet)


LONG = "1/12 unfreeze-bottom-first, seed 10 and 3 more"


@pytest.mark.parametrize("columns", [40, 60, 80, 160])
@pytest.mark.parametrize("name", ["1/2 uniform", LONG, "1/2 " + "层" * 30])
def test_a_narrow_line_keeps_the_steps_and_the_time_left(monkeypatch, columns, name):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(name, 0, 100_000) as progress:
        progress._bar.dynamic_ncols = lambda _: (columns - 1, 24)  # as tqdm finds it
        progress.show(TRAIN | {"step": 50_000, "multipliers": [1.0] * 110})
        progress.show(VALIDATION | {"step": 50_000})
        progress._bar.refresh()
    *_, line, _, _ = (part.rstrip() for part in terminal.getvalue().split("\r"))
    assert rich.cells.cell_len(line) < columns
    assert re.search(r" 50000/100000, [\d:]+ left", line)
    assert name[:3] in line or columns == 40
    assert f"{name}, val 45.6 %, loss" in line or columns < 160


def test_a_name_of_control_characters_does_not_move_the_cursor(monkeypatch):
    line = shown(monkeypatch, TRAIN | {"multipliers": [1.0]}, name="a\x1b[2Jb")
    assert r"a\x1b[2Jb" in line
