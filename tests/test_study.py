import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from experiments import cifar10, compare, data, records, report, shell, study
from experiments.config import Config
from optax_llr import Layers

LAYERS = Layers(("conv", "head"), np.arange(2), {"conv/w": 0, "head/w": 1})
CONFIG = Config(policies=("uniform", "early-first"), seeds=2, epochs=1, marks=(0.3,))
COMMAND = ["python", "-m", "experiments", "study"]


def empty_dataset():
    nothing = cifar10.Split(np.zeros((0, 32, 32, 3), np.uint8), np.zeros(0, np.int32))
    three = np.zeros(3)
    return data.Dataset(
        *("fake", nothing, nothing, nothing, ("cat", "dog"), three, three, "c0ffee")
    )


class FakeTrainer:
    """Records three lines a run; ends some runs otherwise, by (policy, seed)."""

    layers = LAYERS
    outcomes: ClassVar = {}

    def __init__(self, config, dataset):
        del config, dataset

    def run(self, policy, seed, record):
        outcome = self.outcomes.get((policy.name, seed), "finished")
        at = {"policy": policy.name, "seed": seed, "step": 25, "images": 800}
        at |= {"seconds": 0.5, "loss": 2.0, "accuracy": 0.4}
        record(at | {"kind": "train", "rate": 0.02, "multipliers": [1.0, 1.0]})
        record(at | {"kind": "validation"})
        finished = outcome == "finished"
        record(
            {key: at[key] for key in ("policy", "seed", "step", "images", "seconds")}
            | {"kind": "end", "status": outcome}
            | {"test_loss": 1.5 if finished else None}
            | {"test_accuracy": 0.45 if finished else None}
        )
        if outcome == "interrupted":
            raise KeyboardInterrupt


def run(tmp_path, outcomes=None, **changes):
    config = dataclasses.replace(CONFIG, out=tmp_path, **changes)
    trainer = type("Fake", (FakeTrainer,), {"outcomes": outcomes or {}})
    status = study.run(config, empty_dataset(), COMMAND, make_trainer=trainer)
    (folder,) = tmp_path.iterdir()
    return status, folder


def table(folder):
    return {row.policy: row for row in report.rows(records.read(folder))}


def test_every_policy_runs_under_every_seed(tmp_path):
    status, folder = run(tmp_path)
    assert status == 0
    runs = compare.runs(records.read(folder).events)
    assert {(run.policy, run.seed) for run in runs} == {
        (policy, seed) for policy in CONFIG.policies for seed in (0, 1)
    }


def test_the_folder_holds_all_that_is_promised(tmp_path):
    _, folder = run(tmp_path)
    expected = {"config.json", "env.json", "metrics.jsonl", "summary.json"}
    assert {path.name for path in folder.iterdir()} == expected | {
        "plots",
        "report.html",
    }
    assert folder.name.startswith("demo-")


def test_the_configuration_and_what_it_led_to_are_recorded(tmp_path):
    _, folder = run(tmp_path, rate=0.125)
    config = json.loads((folder / "config.json").read_text())
    assert config["rate"] == 0.125
    assert config["layers"] == {
        "names": ["conv", "head"],
        "level": [0, 1],
        "members": {"conv/w": 0, "head/w": 1},
    }
    assert config["total_steps"] == CONFIG.total_steps
    assert set(config["policies"]) == set(CONFIG.policies)
    assert config["policies"]["early-first"]["expectation"]
    environment = json.loads((folder / "env.json").read_text())
    assert environment["command"] == COMMAND
    assert environment["data_checksum"] == "c0ffee"


def test_expectations_are_on_disk_before_the_first_run(tmp_path):
    seen = []

    class Looking(FakeTrainer):
        def run(self, policy, seed, record):
            (folder,) = tmp_path.iterdir()
            config = json.loads((folder / "config.json").read_text())
            seen.append(config["policies"][policy.name]["expectation"])
            super().run(policy, seed, record)

    config = dataclasses.replace(CONFIG, out=tmp_path)
    study.run(config, empty_dataset(), COMMAND, make_trainer=Looking)
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


def test_ctrl_c_leaves_a_valid_folder_with_what_there_is(tmp_path, capsys):
    status, folder = run(tmp_path, {("early-first", 0): "interrupted"})
    assert status == 130
    rows = table(folder)
    assert (rows["uniform"].n, rows["early-first"].interrupted) == (1, 1)
    assert (folder / "report.html").exists()
    assert json.loads((folder / "summary.json").read_text())["rows"]
    assert "only 1 of 4 runs came to their end" in capsys.readouterr().out


def test_a_study_interrupted_before_the_first_step_has_a_report(tmp_path):
    class Hasty(FakeTrainer):
        def run(self, policy, seed, record):
            raise KeyboardInterrupt

    config = dataclasses.replace(CONFIG, out=tmp_path)
    assert study.run(config, empty_dataset(), COMMAND, make_trainer=Hasty) == 130
    (folder,) = tmp_path.iterdir()
    assert records.read(folder).events == ()
    assert (folder / "report.html").exists()


def test_an_interrupt_that_was_lost_ends_the_study_at_the_next_event(
    tmp_path, monkeypatch
):
    class Losing(FakeTrainer):
        def run(self, policy, seed, record):
            monkeypatch.setattr(shell, "_lost_interrupt", True)
            super().run(policy, seed, record)

    config = dataclasses.replace(CONFIG, out=tmp_path)
    assert study.run(config, empty_dataset(), COMMAND, make_trainer=Losing) == 130
    (folder,) = tmp_path.iterdir()
    assert len(records.read(folder).events) == 1


@pytest.mark.parametrize("reason", [KeyboardInterrupt, cifar10.DataError, "lost"])
def test_a_study_that_never_began_leaves_no_folder(tmp_path, monkeypatch, reason):
    def make_trainer(config, dataset):
        assert len(list(tmp_path.iterdir())) == 1  # the place was tried first
        if reason == "lost":
            monkeypatch.setattr(shell, "_lost_interrupt", True)
        else:
            raise reason

    config = dataclasses.replace(CONFIG, out=tmp_path)
    with pytest.raises(KeyboardInterrupt if reason == "lost" else reason):
        study.run(config, empty_dataset(), COMMAND, make_trainer=make_trainer)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_in_the_report_says_how_to_make_it_later(tmp_path, monkeypatch, capsys):
    def interrupted(recorded):
        raise KeyboardInterrupt

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


def test_an_earlier_study_is_never_overwritten(tmp_path):
    _, folder = run(tmp_path)
    before = (folder / "metrics.jsonl").read_bytes()
    config = dataclasses.replace(CONFIG, out=tmp_path)
    trainer = type("Fake", (FakeTrainer,), {"outcomes": {}})
    study.run(config, empty_dataset(), COMMAND, make_trainer=trainer)
    assert len(list(tmp_path.iterdir())) == 2
    assert (folder / "metrics.jsonl").read_bytes() == before


TINY = ("--policies", "uniform", "early-first", "--seeds", "2", "--evaluations", "2")


@contextlib.contextmanager
def started(tmp_path, *fields):
    """A small study from the command line, ended whatever becomes of the test."""
    # A shell's background job ignores interrupts, and so would what it starts.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    command = [sys.executable, "-m", "experiments", "study", *TINY, *fields]
    with subprocess.Popen(
        [*command, "--out", str(tmp_path)],
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        signal.signal(signal.SIGINT, inherited)
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_a_real_study_runs_from_the_command_line(tmp_path):
    with started(tmp_path, "--epochs", "0.5") as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    (folder,) = tmp_path.iterdir()
    rows = table(folder)
    assert {name: row.n for name, row in rows.items()} == {
        "uniform": 2,
        "early-first": 2,
    }
    assert "A demonstration, not evidence" in out
    for run in compare.runs(records.read(folder).events):
        assert run.train
        assert run.validation
        assert len(run.train[0]["multipliers"]) == len(
            records.read(folder).config["layers"]["names"]
        )


@pytest.mark.slow
def test_a_real_interrupt_leaves_a_valid_folder_and_status_130(tmp_path):
    with started(tmp_path, "--epochs", "500") as process:
        deadline = time.monotonic() + 240
        while not any(file.stat().st_size for file in tmp_path.glob("*/metrics.jsonl")):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    (folder,) = tmp_path.iterdir()
    (run,) = compare.runs(records.read(folder).events)
    assert run.status == "interrupted"
    assert records.read(folder).events[-1]["kind"] == "end"
    assert (folder / "report.html").exists()
    assert "only 0 of 4 runs came to their end" in out
