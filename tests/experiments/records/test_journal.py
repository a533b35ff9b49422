from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest
import written
from written import TRAIN

from experiments.records import records
from experiments.records.journal import Journal
from experiments.terminal import signals


class State(NamedTuple):
    value: jax.Array


@pytest.fixture
def opened(tmp_path):
    """Opens the journal of one run anew; closes it at the end."""
    journals, said = [], []

    def open_(every=1e9):
        for journal in journals:
            journal.close()
        like = jax.eval_shape(lambda: State(jnp.zeros(3)))
        (tmp_path / "run").mkdir(exist_ok=True)
        journals[:] = [Journal(tmp_path / "run", like, every, said.append)]
        said.clear()
        return journals[0]

    open_.said = said
    open_.folder = tmp_path / "run"
    yield open_
    for journal in journals:
        journal.close()


def write(journal, *steps):
    for step in steps:
        journal.write(TRAIN | {"step": step, "seconds": step / 4})


def save(journal, step):
    journal.save(step, State(jnp.full(3, step)), seconds=step / 4)
    journal.wait()


def steps(folder):
    return [[r["step"] for r in lines.records] for lines in records.read_lines(folder)]


def test_a_run_that_begins_starts_from_nothing(opened):
    journal = opened()
    assert (journal.start, journal.step) == (None, 0)


def test_every_line_reaches_its_file_at_once_and_times_stand_apart(opened):
    write(opened(), 8, 16)
    metrics, timings = records.read_lines(opened.folder)
    assert metrics.records == [
        written.without_seconds(TRAIN) | {"step": step} for step in (8, 16)
    ]
    assert timings.records == [
        {"step": 8, "seconds": 2.0},
        {"step": 16, "seconds": 4.0},
    ]


def test_it_goes_on_from_the_newest_checkpoint_and_cuts_off_what_came_after(opened):
    journal = opened()
    write(journal, 1, 2)
    save(journal, 2)
    write(journal, 3, 4, 5)
    journal = opened()
    (state, seconds) = journal.start
    assert (float(state.value[0]), seconds, journal.step) == (2.0, 0.5, 2)
    assert steps(opened.folder) == [[1, 2], [1, 2]]
    write(journal, 3)
    assert steps(opened.folder) == [[1, 2, 3], [1, 2, 3]]
    assert opened.said == []


def test_without_a_checkpoint_it_begins_anew(opened):
    write(opened(), 1, 2)
    assert opened().start is None
    assert steps(opened.folder) == [[], []]


@pytest.mark.parametrize("name", ["metrics", "timings"])
def test_damaged_lines_are_said_kept_and_made_again(opened, name):
    journal = opened()
    write(journal, 1)
    save(journal, 1)
    write(journal, 2)
    save(journal, 2)
    path = opened.folder / f"{name}.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1].replace(b"2", b"3", 1))
    damaged = path.read_bytes()
    journal = opened()
    assert journal.step == 1
    assert steps(opened.folder) == [[1], [1]]
    kept = opened.folder / f"{name}.damaged.jsonl"
    assert kept.read_bytes() == damaged


def test_what_is_done_about_damage_is_said(opened, tmp_path):
    journal = opened()
    write(journal, 1)
    save(journal, 1)
    path = opened.folder / "metrics.jsonl"
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1))
    said = []
    journal.close()
    with Journal(opened.folder, journal.start or State(jnp.zeros(3)), 1, said.append):
        pass
    assert len(said) == 3
    assert "line 1: its checksum does not fit; the damaged file is kept as" in said[0]
    assert "checkpoint of step 1 is not used: it does not belong to" in said[1]
    assert said[2] == "the run begins again"


def test_records_that_lost_their_end_take_an_older_checkpoint(opened):
    journal = opened()
    for step in (1, 2, 3):
        write(journal, step)
        save(journal, step)
    path = opened.folder / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]))
    assert opened().step == 2


def test_a_checkpoint_of_other_records_is_not_used(opened):
    journal = opened()
    write(journal, 1)
    save(journal, 1)
    journal.close()
    for name in ("metrics", "timings"):
        (opened.folder / f"{name}.jsonl").unlink()
    written.write(opened.folder / "metrics.jsonl", [TRAIN])
    written.write(opened.folder / "timings.jsonl", [written.timing(TRAIN)])
    assert opened().start is None


def test_a_checkpoint_is_due_when_its_time_has_come_or_a_signal(opened, monkeypatch):
    assert not opened(every=1e9).due(0)
    journal = opened(every=0)
    assert journal.due(0)
    journal = opened(every=1e9)
    monkeypatch.setattr(signals, "_asked", 15)
    assert journal.due(0)


def test_a_signal_is_obeyed_once_the_checkpoint_is_written(opened, monkeypatch):
    journal = opened()
    write(journal, 1)
    monkeypatch.setattr(signals, "_asked", 15)
    save(journal, 1)
    with pytest.raises(signals.Stop) as stop:
        journal.rest()
    assert stop.value.status == 143
    monkeypatch.setattr(signals, "_asked", None)
    assert opened().step == 1


def test_watchers_see_every_event_after_it_is_recorded(opened):
    journal = opened()
    seen = []
    journal.watchers.append(lambda event: seen.append((event, steps(opened.folder))))
    write(journal, 1)
    assert seen == [(TRAIN | {"step": 1, "seconds": 0.25}, [[1], [1]])]


def test_an_event_of_no_known_shape_is_refused_and_not_written(opened):
    journal = opened()
    for change in ({"kind": "trian"}, {"step": None}, {"seconds": -1.0}):
        with pytest.raises(ValueError, match="the event to be recorded"):
            journal.write(TRAIN | change)
    assert steps(opened.folder) == [[], []]


def test_numbers_that_are_not_finite_become_null(opened):
    opened().write(TRAIN | {"loss": float("nan"), "multipliers": [float("inf"), 1.0]})
    (line,) = records.read_lines(opened.folder)[0].records
    assert line["loss"] is None
    assert line["multipliers"] == [None, 1.0]
