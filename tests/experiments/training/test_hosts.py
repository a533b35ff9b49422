"""Two processes of four simulated devices at one study, as from two command lines."""

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.config.config import Config
from experiments.data import dataset as data
from experiments.policies.catalogue import POLICIES
from experiments.records import records, run_directory
from experiments.records.journal import Journal
from experiments.terminal import signals
from experiments.training import hosts
from experiments.training.trainer import Trainer

ROOT = Path(__file__).parents[3]
# 20 steps of eighty images, ten on each of the eight devices.
CONFIG = Config(
    policies=("uniform", "early-first"),
    seeds=1,
    epochs=1,
    batch_size=80,
    evaluations=2,
    measurements=2,
    model=f"{ROOT / 'tests' / 'tiny_runs.py'}:smooth",
)
FIELDS = (
    *("--model", str(CONFIG.model)),
    *("--policies", *CONFIG.policies, "--seeds", "1", "--epochs", "1"),
    *("--batch-size", "80", "--evaluations", "2", "--measurements", "2"),
    *("--checkpoint-seconds", "0.2"),
)
COMPARED = {"loss", "test_loss", "gradient_norm", "update_ratio"}
# Sums are taken in another order.
SAME = 1e-4
PATIENCE = 600  # seconds that a loaded machine may take to start
ENDED = 60  # within which a process that is left alone ends


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Pair:
    """Both processes, and what they print."""

    def __init__(self, out, *fields):
        self.out, self.printed, self.processes = out, [], []
        port, out_fields = free_port(), ("--out", str(out))
        for index in (0, 1):
            self.printed.append(out.parent / f"{out.name}-{index}.txt")
            environment = os.environ | {
                "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
                "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": str(index),
            }
            command = [sys.executable, "-m", "experiments", "study", "--distributed"]
            with self.printed[index].open("w") as file:
                self.processes.append(
                    subprocess.Popen(
                        [*command, *FIELDS, *fields, *out_fields],
                        cwd=ROOT,
                        env=environment,
                        stdout=file,
                        stderr=subprocess.STDOUT,
                    )
                )

    def ended(self, within=PATIENCE):
        """The exit statuses; fails where one does not end in time."""
        deadline = time.monotonic() + within
        for process in self.processes:
            process.wait(deadline - time.monotonic())
        return [process.returncode for process in self.processes]

    def wait_for_checkpoint(self):
        """Until a run is under way and has made a checkpoint."""
        deadline = time.monotonic() + PATIENCE
        while not any(
            path.name.isdigit() for path in self.out.glob("demo/*/checkpoints/*")
        ):
            assert time.monotonic() < deadline
            assert None in [p.poll() for p in self.processes], self.text()
            time.sleep(0.02)

    def text(self):
        return "\n".join(path.read_text() for path in self.printed)


@contextlib.contextmanager
def two(out, *fields):
    """Two processes at one study, ended whatever becomes of the test."""
    pair = Pair(out, *fields)
    try:
        yield pair
    finally:
        for process in pair.processes:
            process.kill()
            process.wait()


def metrics(out):
    """The lines of every run, by its folder."""
    return {p.parent.name: p.read_bytes() for p in out.glob("demo/*/metrics.jsonl")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a study that two processes did from begin to end."""
    out = tmp_path_factory.mktemp("two") / "runs"
    with two(out) as pair:
        assert pair.ended() == [0, 0], pair.text()
    return out


@pytest.mark.slow
def test_two_processes_find_what_one_device_finds_and_one_records(undisturbed):
    folder = undisturbed / "demo"
    assert {p.name for p in folder.iterdir() if p.is_dir()} == {
        *("uniform-0", "early-first-0", "plots", "files"),
    }
    (session,) = records.read_json(folder / "env.json", "environment")["sessions"]
    assert session["device"]["count"] == 8
    events = []
    alone = type("Events", (list,), {"start": None, "write": list.append})
    alone.due = lambda self, step: False
    dataset = data.load(CONFIG.data, validation=CONFIG.validation)
    trainer = Trainer(CONFIG, dataset)
    for policy in CONFIG.policies:
        trainer.run(POLICIES[policy], 0, events := alone())
        lines = records.read_lines(folder / f"{policy}-0")[0].records
        for line, event in zip(lines, events, strict=True):
            assert (line["kind"], line["step"]) == (event["kind"], event["step"])
            for field in COMPARED & line.keys():
                np.testing.assert_allclose(line[field], event[field], rtol=SAME)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_that_is_killed_ends_the_other_and_both_go_on(
    killed, undisturbed, tmp_path
):
    out = tmp_path / "runs"
    with two(out) as pair:
        pair.wait_for_checkpoint()
        pair.processes[killed].kill()
        statuses = pair.ended(ENDED)
        assert statuses[killed] == -signal.SIGKILL, pair.text()
        assert statuses[1 - killed] not in (0, 130, 143), pair.text()
    assert metrics(out) != metrics(undisturbed)
    with two(out) as pair:
        assert pair.ended() == [0, 0], pair.text()
    assert metrics(out) == metrics(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("asked", [0, 1])
def test_a_signal_to_one_ends_both_with_a_checkpoint(asked, tmp_path):
    out = tmp_path / "runs"
    with two(out, "--checkpoint-seconds", "1000", "--epochs", "30") as pair:
        while not any(metrics(out).values()):
            assert None in [p.poll() for p in pair.processes], pair.text()
            time.sleep(0.02)
        pair.processes[asked].terminate()
        assert pair.ended(ENDED) == [143, 143], pair.text()
    assert "Stopped by SIGTERM; the same command goes on" in pair.text()
    assert "Traceback" not in pair.text()
    (checkpoint,) = out.glob("demo/*/checkpoints/*")
    lines = records.read_lines(out / "demo" / "uniform-0")[0].records
    assert lines[-1]["step"] == int(checkpoint.name) > 0


@pytest.mark.slow
def test_a_study_that_the_first_refuses_ends_the_other(tmp_path):
    out = tmp_path / "runs"
    with run_directory.claimed(out / "demo"), two(out) as pair:
        first, second = pair.ended(PATIENCE + ENDED)
    assert first == 2, pair.text()
    assert second not in (0, None), pair.text()
    assert "is in use by process" in pair.printed[0].read_text()


@pytest.mark.slow
def test_a_batch_that_cannot_be_divided_is_refused_by_both(tmp_path):
    with two(tmp_path / "runs", "--batch-size", "84") as pair:
        statuses = pair.ended()
    assert statuses[0] == 2, pair.text()
    assert statuses[1] != 0, pair.text()
    assert "batch_size must be divisible by the number of devices, 8; got 84" in (
        pair.printed[0].read_text()
    )
    assert not (tmp_path / "runs" / "demo").exists()


# ----- in one process


@pytest.mark.parametrize("missing", hosts.NAMES)
def test_a_missing_variable_is_refused_in_one_line(missing, monkeypatch):
    for name, value in zip(hosts.NAMES, ("127.0.0.1:1", "2", "1"), strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(missing)
    with pytest.raises(ValueError, match=r"^distributed: expected all of JAX_") as info:
        hosts.join()
    assert "\n" not in str(info.value)
    assert missing in str(info.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JAX_NUM_PROCESSES", "two"),
        ("JAX_PROCESS_ID", "first"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(name, value, monkeypatch):
    for key, good in zip(hosts.NAMES, ("127.0.0.1:1", "2", "1"), strict=True):
        monkeypatch.setenv(key, good)
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"distributed: .*{value}") as info:
        hosts.join()
    assert "\n" not in str(info.value)


def test_a_process_alone_leads_and_hears_itself():
    assert hosts.lead()
    assert not hosts.are_many()
    word = hosts.Order("uniform", 3)
    assert hosts._broadcast(b"abc") == b"abc"
    assert hosts.any_is(True)
    assert not hosts.any_is(False)
    hosts.tell(word)


class Others:
    """What the other processes say, once for each time that they are asked."""

    def __init__(self, *answers):
        self.answers, self.heard = list(answers), []

    def __call__(self, yes):
        self.heard.append(yes)
        return yes or self.answers.pop(0)


def leading(folder, monkeypatch, others, every=1000.0):
    monkeypatch.setattr(hosts, "any_is", others)
    monkeypatch.setattr(signals, "_asked", None)
    return hosts.Leading(folder, {}, every, pytest.fail, 5)


def test_the_first_asks_the_others_every_so_many_steps(tmp_path, monkeypatch):
    others = Others(False, True)
    with leading(tmp_path, monkeypatch, others) as journal:
        assert [journal.due(step) for step in range(1, 10)] == [False] * 9
        assert others.heard == [False]
        journal.rest()  # nothing happened
        assert journal.due(10)  # another one was asked to stop
        with pytest.raises(signals.Stop) as info:
            journal.rest()
    assert info.value.status == 143
    assert others.heard == [False, False, True]


def test_the_first_makes_a_checkpoint_where_it_is_late_and_goes_on(
    tmp_path, monkeypatch
):
    with leading(tmp_path, monkeypatch, Others(False), every=0.0) as journal:
        assert not journal.due(4)
        assert journal.due(5)
        journal.rest()


def test_the_first_tells_the_others_of_its_own_signal(tmp_path, monkeypatch):
    others = Others()
    with leading(tmp_path, monkeypatch, others) as journal:
        monkeypatch.setattr(signals, "_asked", signal.SIGINT)
        assert not journal.due(3)
        assert journal.due(5)
        with pytest.raises(signals.Stop):
            journal.rest()
    assert others.heard == [True, True]


def test_the_first_stops_once_its_checkpoint_is_written(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(Journal, "wait", lambda self: said.append("written"))
    with leading(tmp_path, monkeypatch, Others(True)) as journal:
        journal.due(5)
        monkeypatch.setattr(hosts, "any_is", lambda yes: said.append("told"))
        with pytest.raises(signals.Stop):
            journal.rest()
    assert said == ["written", "told"]


def test_another_process_asks_at_the_same_steps_and_stops_with_the_first(monkeypatch):
    others = Others(False, True, True)
    monkeypatch.setattr(hosts, "any_is", others)
    monkeypatch.setattr(signals, "_asked", None)
    journal = hosts.Following(start := ({}, 1.0), 5)
    assert journal.start is start
    assert not any(journal.due(step) for step in range(1, 10))
    assert others.heard == [False]
    journal.write({})
    journal.save(5, {}, 1.0)
    journal.rest()
    with pytest.raises(signals.Stop) as info:
        journal.due(10)
    assert info.value.status == 143
    assert others.heard == [False, False, True]  # it waits for the checkpoint


def test_a_search_and_a_stack_are_refused_in_several_processes():
    config = dataclasses.replace(CONFIG, distributed=True)
    dataclasses.replace(config, devices="all")
    for field, value in (("stack", 2), ("stack", "auto"), ("devices", 2)):
        with pytest.raises(ValueError, match=rf"^{field} must be .*got {value}$"):
            dataclasses.replace(config, **{field: value})
