import os
import shutil
import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest
import written
from written import TRAIN

from experiments.records import records
from experiments.records.journal import Journal


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
        said.clear()
        journals[:] = [Journal(tmp_path / "run", like, every, said.append)]
        return journals[0]

    open_.told = said
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
    assert opened.told == []


@pytest.fixture
def saved(opened):
    """The folder of a run of three steps with a checkpoint at each, closed."""
    journal = opened()
    for step in (1, 2, 3):
        write(journal, step)
        save(journal, step)
    write(journal, 4)
    journal.close()
    return opened.folder


def lines(path):
    return path.read_bytes().splitlines(keepends=True)


def flipped(line):
    """A line with a bit of a number flipped."""
    return line.replace(b"0.", b"1.")


DAMAGES = {
    "a flipped bit": (lambda ls: [ls[0], flipped(ls[1]), *ls[2:]], "line 2", [1, 3]),
    "a flipped newline": (lambda ls: [ls[0], ls[1][:-1], *ls[2:]], "lines 2–3", [1]),
    "a lost end": (lambda ls: ls[:1], "lines 2–3", [1]),
    "a lost file": (lambda ls: [], "lines 1–3", []),
}


@pytest.mark.parametrize("name", ["metrics", "timings"])
@pytest.mark.parametrize("how", DAMAGES)
def test_lost_lines_cost_no_checkpoint_and_are_said(opened, saved, name, how):
    damage, lost, left = DAMAGES[how]
    path, index = saved / f"{name}.jsonl", ["metrics", "timings"].index(name)
    path.write_bytes(b"".join(damage(lines(path))))
    damaged = path.read_bytes()
    journal = opened()
    assert (journal.step, float(journal.start[0].value[0])) == (3, 3.0)
    assert steps(saved)[index] == left
    assert steps(saved)[1 - index] == [1, 2, 3]
    (said,) = opened.told
    assert f"{str(path)!r} has lost {lost}; going on without, from step 3" in said
    kept = path.with_suffix(".damaged.jsonl")
    assert f"kept as {str(kept)!r}" in said
    assert kept.read_bytes() == damaged
    write(journal, 4)
    assert opened().step == 3  # and nothing is new
    assert opened.told == []
    assert len(lines(path)) == 3  # a lost line is an empty one


def test_a_file_that_is_gone_is_said_and_costs_no_checkpoint(opened, saved):
    (saved / "metrics.jsonl").unlink()
    assert opened().step == 3
    (said,) = opened.told
    assert said.endswith("has lost lines 1–3; going on without, from step 3")


def test_old_lines_are_written_anew_so_that_what_is_lost_costs_no_other(opened, saved):
    path = saved / "metrics.jsonl"
    whole, crc, old = path.read_bytes(), 0, []
    for line in path.read_bytes().splitlines():
        body = line[: line.index(b', "crc32"')]
        crc = zlib.crc32(body, crc)  # as older versions had it
        old.append(body + f', "crc32": "{crc:08x}"}}\n'.encode())
    path.write_bytes(b"".join([old[0], flipped(old[1]), *old[2:]]))
    write(opened(), 4)
    kept = path.read_bytes().splitlines(keepends=True)
    assert [kept[0], kept[2], kept[3]] == [
        line for n, line in enumerate(whole.splitlines(keepends=True)) if n != 1
    ]
    assert steps(saved)[0] == [1, 3, 4]


def test_damage_behind_the_checkpoint_costs_nothing(opened, saved):
    path = saved / "metrics.jsonl"
    path.write_bytes(b"".join([*lines(path)[:3], flipped(lines(path)[3])]))
    assert opened().step == 3
    (said,) = opened.told
    assert "is damaged; what it lost is made again. The damaged file is kept" in said
    assert steps(saved)[0] == [1, 2, 3]


def test_a_line_cut_short_by_a_crash_is_no_damage(opened, saved):
    path = saved / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    assert opened().step == 3
    assert opened.told == []


def test_lost_checkpoints_are_said_before_the_run_begins_again(opened, saved):
    shutil.rmtree(saved / "checkpoints")
    assert opened().start is None
    (said,) = opened.told
    assert said.startswith("the records reach step 4, but there is no checkpoint")
    assert said.endswith("the run begins again at step 0")
    assert steps(saved) == [[], []]


def test_the_end_is_on_the_disk_before_its_checkpoints_may_go(opened, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    journal = opened()
    write(journal, 1)
    assert synced == []
    journal.write(written.END)
    assert len(synced) == 2


def test_a_checkpoint_is_late_when_its_time_has_come(opened):
    assert not opened(every=1e9).late()
    assert opened(every=0).late()


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
