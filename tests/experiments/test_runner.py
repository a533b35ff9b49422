import dataclasses
import signal
from types import SimpleNamespace
from typing import ClassVar, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console

from experiments import asked, runner
from experiments.analysis import compare
from experiments.config.config import Config
from experiments.data import cifar
from experiments.data import dataset as data
from experiments.records import checksums, records, run_directory, weights
from experiments.report import contents, report
from experiments.terminal import signals
from optax_llr import Layers


class State(NamedTuple):
    value: jax.Array


LAYERS = Layers(("conv", "head"), np.arange(2), {"conv/w": 0, "head/w": 1})
CONFIG = Config(
    policies=("uniform", "early-first"), seeds=2, epochs=1, thresholds=(0.3,)
)
COMMAND = ["python", "-m", "experiments", "study"]


def empty_dataset():
    nothing = cifar.Split(np.zeros((0, 32, 32, 3), np.uint8), np.zeros(0, np.int32))
    three = np.zeros(3)
    return data.Dataset(*("fake", nothing, nothing, nothing, 2, three, three, "c0ffee"))


class FakeTrainer:
    """Records three lines a run; ends some runs otherwise, by (policy, seed)."""

    layers = LAYERS
    start = ""
    outcomes: ClassVar = {}

    def __init__(self, config, dataset):
        del config, dataset

    def like(self, policy):
        del policy
        return State(jax.ShapeDtypeStruct((3,), np.float32))

    def kind(self, policy):
        return len(policy.name)

    def stack_that_pays(self, most):
        return 2, {1: 1.0, 2: 1.5}

    def begin(self, runs):
        return runs

    def train(self, runs):
        return [self.run(run.policy, run.seed, run.journal) for run in runs]

    def run(self, policy, seed, journal):
        outcome = self.outcomes.get((policy.name, seed), "finished")
        at = {"policy": policy.name, "seed": seed, "step": 25, "images": 800}
        at |= {"seconds": 0.5}
        measured = {"loss": 2.0, "accuracy": 0.4}
        journal.write(
            at | measured | {"kind": "train", "rate": 0.02, "multipliers": [1.0, 1.0]}
        )
        if outcome in ("SIGINT", "SIGTERM"):
            signals._asked = signal.Signals[outcome]
            journal.save(25, State(jnp.arange(3.0)), 0.5)
            journal.wait()
            signals.check()
        journal.write(at | measured | {"kind": "validation"})
        finished = outcome == "finished"
        end = at | {
            "kind": "end",
            "status": outcome,
            "test_loss": 1.5 if finished else None,
            "test_accuracy": 0.45 if finished else None,
            "params_sha256": "c0ffee" if finished else None,
        }
        journal.write(end)
        return end


@pytest.fixture(autouse=True)
def no_signal(monkeypatch):
    monkeypatch.setattr(signals, "_asked", None)


@pytest.fixture(autouse=True)
def no_model(monkeypatch):
    found = SimpleNamespace(layers=LAYERS)
    monkeypatch.setattr(asked, "abstract", lambda *_: found)


def run(tmp_path, outcomes=None, make_trainer=None, **changes):
    config = dataclasses.replace(CONFIG, out=tmp_path, **changes)
    trainer = type("Fake", (FakeTrainer,), {"outcomes": outcomes or {}})
    with mock.patch.object(runner, "Trainer", make_trainer or trainer):
        status = runner.run(config, empty_dataset(), COMMAND)
    return status, tmp_path / "demo"


def table(folder):
    return {row.policy: row for row in contents.Study(records.read(folder)).rows}


def test_every_policy_runs_under_every_seed(tmp_path):
    status, folder = run(tmp_path)
    assert status == 0
    runs = compare.runs(records.read(folder).events)
    assert {(run.policy, run.seed) for run in runs} == {
        (policy, seed) for policy in CONFIG.policies for seed in (0, 1)
    }


def test_the_folder_holds_all_that_is_promised(tmp_path):
    _, folder = run(tmp_path)
    runs = {f"{policy}-{seed}" for policy in CONFIG.policies for seed in (0, 1)}
    assert {path.name for path in folder.iterdir()} - {".lock"} == runs | {
        *("config.json", "env.json", "summary.json", "report.html"),
        *("report.md", "tables.csv"),
    }
    for name in runs:
        assert {path.name for path in (folder / name).iterdir()} == {
            *("config.json", "env.json", "metrics.jsonl", "timings.jsonl")
        }


def test_the_configuration_and_what_it_led_to_are_recorded(tmp_path):
    _, folder = run(tmp_path, rate=0.125)
    config = records.read_json(folder / "config.json", "study")
    assert config["rate"] == 0.125
    assert config["layers"] == {
        "names": ["conv", "head"],
        "level": [0, 1],
        "members": {"conv/w": 0, "head/w": 1},
    }
    assert config["total_steps"] == CONFIG.total_steps
    assert set(config["policies"]) == set(CONFIG.policies)
    assert config["policies"]["early-first"]["expectation"]
    (session,) = records.read_json(folder / "env.json", "environment")["sessions"]
    assert session["command"] == COMMAND
    assert session["data_checksum"] == "c0ffee"


def test_a_study_goes_on_from_the_same_weights_wherever_they_are(tmp_path):
    first, moved, other = (tmp_path / f"{name}.npz" for name in "abc")
    for path, value in ((first, 1.0), (moved, 1.0), (other, 2.0)):
        np.savez(path, kernel=np.full(3, value))
    _, folder = run(tmp_path, init_from=first)
    begun = records.read_json(folder / "config.json", "study")
    assert begun["init_from"] == first.as_posix()
    assert begun["files"] == {"init_from": weights.hashes(first)["init_from"]}
    assert run(tmp_path, init_from=moved)[0] == 0
    for changed in (other, None):
        with pytest.raises(
            ValueError, match="another configuration: files: init_from "
        ):
            run(tmp_path, init_from=changed)


def test_what_runs_start_from_is_said(tmp_path, capsys):
    started = type("Started", (FakeTrainer,), {"start": "from weights: all"})
    run(tmp_path, make_trainer=started)
    assert "from weights: all" in capsys.readouterr().out


def test_the_folder_of_a_run_suffices_to_do_it_again(tmp_path):
    _, folder = run(tmp_path)
    whole = records.read_json(folder / "config.json", "study")
    (session,) = records.read_json(folder / "env.json", "environment")["sessions"]
    alone = folder / "early-first-1"
    config = records.read_json(alone / "config.json", "run")
    assert config == whole | {"policy": "early-first", "seed": 1}
    (of_run,) = records.read_json(alone / "env.json", "environment")["sessions"]
    assert of_run == session | {"from_step": 0, "at_once": 1}


def test_expectations_are_on_disk_before_the_first_run(tmp_path):
    seen = []

    class Looking(FakeTrainer):
        def run(self, policy, seed, journal):
            config = records.read_json(tmp_path / "demo" / "config.json", "study")
            seen.append(config["policies"][policy.name]["expectation"])
            return super().run(policy, seed, journal)

    run(tmp_path, make_trainer=Looking)
    assert len(seen) == 4
    assert all(seen)


def test_a_diverged_run_is_shown_and_the_study_goes_on(tmp_path, capsys):
    status, folder = run(tmp_path, {("uniform", 0): "diverged"})
    assert status == 0
    assert table(folder)["uniform"].diverged == 1
    assert table(folder)["early-first"].n == 2
    printed = capsys.readouterr().out
    assert "1/4 uniform, seed 0: diverged after 25 steps" in printed
    assert "4/4 early-first, seed 1: finished after 25 steps" in printed


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_leaves_a_checkpoint_and_the_same_command_goes_on(
    tmp_path, capsys, monkeypatch, name, status
):
    whole, folder = run(tmp_path / "whole")
    stopped, _ = run(tmp_path, {("early-first", 0): name})
    assert (whole, stopped) == (0, status)
    printed = capsys.readouterr().out
    assert f"Stopped by {name}; the same command goes on from here." in printed
    assert table(tmp_path / "demo")["early-first"].interrupted == 1
    monkeypatch.setattr(signals, "_asked", None)

    class GoingOn(FakeTrainer):
        def run(self, policy, seed, journal):
            if journal.start is None:
                return super().run(policy, seed, journal)
            state, seconds = journal.start
            assert (policy.name, seed) == ("early-first", 0)
            assert (state.value.tolist(), seconds) == ([0.0, 1.0, 2.0], 0.5)
            journal.write = skip_first(journal.write)
            return super().run(policy, seed, journal)

    assert run(tmp_path, make_trainer=GoingOn)[0] == 0
    printed = capsys.readouterr().out
    assert "1/4 uniform, seed 0: done before" in printed
    assert "2/4 early-first, seed 0: finished after 25 steps" in printed
    for path in folder.glob("*/metrics.jsonl"):
        again = tmp_path / "demo" / path.relative_to(folder)
        assert again.read_bytes() == path.read_bytes()
    sessions = records.read_json(
        tmp_path / "demo" / "early-first-0" / "env.json", "environment"
    )["sessions"]
    assert [session["from_step"] for session in sessions] == [0, 25]


def skip_first(write):
    skipped = []
    return lambda event: write(event) if skipped else skipped.append(event)


def test_a_study_that_is_done_is_shown_again_and_nothing_is_run(tmp_path, capsys):
    _, folder = run(tmp_path)
    before = {path: path.read_bytes() for path in folder.rglob("*.json*")}
    capsys.readouterr()
    status, _ = run(tmp_path, make_trainer=lambda *_: pytest.fail("nothing to train"))
    assert status == 0
    printed = capsys.readouterr().out
    assert "All 4 runs were done before" in printed
    assert "45.0 ± 0.0" in printed
    assert {path: path.read_bytes() for path in before} == before


def test_a_damaged_line_of_a_run_that_is_done_is_said_and_costs_itself(
    tmp_path, capsys
):
    _, folder = run(tmp_path)
    path = folder / "early-first-0" / "metrics.jsonl"
    path.write_bytes(path.read_bytes().replace(b"0.4", b"0.5", 1))
    run(tmp_path, make_trainer=lambda *_: pytest.fail("nothing to train"))
    printed = capsys.readouterr().out.replace("\n", " ")
    assert "early-first-0/metrics.jsonl has lost line 1." in printed


def test_another_configuration_in_the_same_folder_is_refused_before_compiling(tmp_path):
    run(tmp_path)
    with pytest.raises(ValueError, match=r"rate is 0\.5, was 0\.02\. Give the same"):
        run(tmp_path, make_trainer=lambda *_: pytest.fail("compiled"), rate=0.5)


def test_a_second_process_in_the_same_folder_is_refused(tmp_path):
    with (
        run_directory.claimed(tmp_path / "demo"),
        pytest.raises(ValueError, match="is in use by process"),
    ):
        run(tmp_path)


@pytest.mark.parametrize("outcome", ["SIGTERM", "finished"])
def test_a_model_whose_layers_have_changed_is_refused(tmp_path, monkeypatch, outcome):
    run(tmp_path, {("uniform", 0): outcome})
    signals._asked = None
    other = SimpleNamespace(layers=Layers(("conv",), np.arange(1), {"conv/w": 0}))
    monkeypatch.setattr(asked, "abstract", lambda *_: other)
    with pytest.raises(ValueError, match="layers is"):
        run(tmp_path)


def test_a_policy_that_computes_otherwise_is_refused_also_where_all_is_done(
    tmp_path, monkeypatch
):
    run(tmp_path)
    monkeypatch.setattr(asked, "moments", lambda *_: {"rates": [0.0]})
    with pytest.raises(ValueError, match="the rates of 'uniform' are others"):
        run(tmp_path, make_trainer=lambda *_: pytest.fail("nothing to train"))


def test_other_data_are_refused_also_where_all_is_done(tmp_path):
    run(tmp_path)
    other = dataclasses.replace(empty_dataset(), checksum="beef")
    config = dataclasses.replace(CONFIG, out=tmp_path)
    with pytest.raises(ValueError, match="was begun with other data"):
        runner.run(config, other, COMMAND)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_is_told_of_unusual_runs_and_a_file_of_every_run(
    tmp_path, capsys, monkeypatch, terminal
):
    monkeypatch.setattr(rich.console.Console, "is_terminal", terminal)
    run(tmp_path, {("uniform", 0): "diverged", ("early-first", 0): "SIGTERM"})
    signals._asked = None
    run(tmp_path)
    printed = capsys.readouterr().out
    assert "1/4 uniform, seed 0: diverged after 25 steps" in printed
    resumed = "2/4 early-first, seed 0: finished after 25 steps, 0.5 s, test accuracy "
    assert f"{resumed}45.0 %, from step 25\n" in printed
    assert ("1/4 uniform, seed 0: done before" in printed) is not terminal
    assert ("3/4 uniform, seed 1: finished" in printed) is not terminal


def test_what_differs_from_the_beginning_is_said(tmp_path, capsys, monkeypatch):
    run(tmp_path, {("uniform", 0): "SIGTERM"})
    signals._asked = None
    here = runner.environment
    monkeypatch.setattr(
        runner, "environment", lambda *args: here(*args) | {"commit": "abc"}
    )
    run(tmp_path)
    assert 'now "abc"' in capsys.readouterr().out


def test_a_disk_that_is_full_loses_no_earlier_record(tmp_path):
    write = checksums.Writer.write

    def filling(self, record):
        if record.get("seed") == 1:
            raise OSError(28, "No space left on device", "metrics.jsonl")
        write(self, record)

    with (
        mock.patch.object(checksums.Writer, "write", filling),
        pytest.raises(OSError, match="No space left"),
    ):
        run(tmp_path)
    rows = table(tmp_path / "demo")
    assert {name: row.n for name, row in rows.items()} == {
        "uniform": 1,
        "early-first": 1,
    }
    assert run(tmp_path)[0] == 0
    assert table(tmp_path / "demo")["uniform"].n == 2


@pytest.mark.parametrize("reason", [signals.Stop(2), cifar.DataError("x"), None])
def test_a_study_that_never_began_leaves_no_folder(tmp_path, reason):
    def make_trainer(config, dataset):
        assert len(list(tmp_path.iterdir())) == 1  # the place was tried first
        if reason is not None:
            raise reason
        signals._asked = 2  # a signal that was lost

    with pytest.raises(signals.Stop if reason is None else type(reason)):
        run(tmp_path, make_trainer=make_trainer)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_in_the_report_says_how_to_make_it_later(tmp_path, monkeypatch, capsys):
    def interrupted(recorded):
        raise signals.Stop(2)

    monkeypatch.setattr(report, "build", interrupted)
    status, folder = run(tmp_path)
    assert status == 130
    assert len(records.read(folder).events) == 12
    assert f"`python -m experiments report {folder}`" in capsys.readouterr().out


def test_the_terminal_shows_table_caveat_and_where_to_read_on(tmp_path, capsys):
    _, folder = run(tmp_path)
    printed = capsys.readouterr()
    assert "45.0 ± 0.0" in printed.out
    assert "A demonstration, not evidence:" in printed.out
    assert str(folder / "report.html") in printed.out.replace("\n", "")
    assert printed.err == ""
