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
import tiny_runs
from tiny_runs import Events

from experiments.config.config import Config
from experiments.data import dataset as data
from experiments.policies.catalogue import POLICIES
from experiments.records import records, run_directory
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
        *("uniform-0", "early-first-0", "files"),
    }
    (session,) = records.read_json(folder / "env.json", "environment")["sessions"]
    assert session["device"]["count"] == 8
    dataset = data.load(CONFIG.data, validation=CONFIG.validation)
    trainer = Trainer(CONFIG, dataset)
    for policy in CONFIG.policies:
        trainer.run(POLICIES[policy], 0, events := Events())
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


def test_a_process_alone_leads_and_hears_itself(monkeypatch):
    assert hosts.lead()
    assert not hosts.are_many()
    assert hosts._broadcast(b"abc") == b"abc"
    assert hosts.any_is(True)
    assert not hosts.any_is(False)
    hosts.tell(("uniform", 3, None))
    monkeypatch.setattr(signals, "_asked", signal.SIGINT)
    assert hosts.asked(together=False)
    with pytest.raises(signals.Stop) as info:
        hosts.stop()
    assert info.value.status == 130


class Others:
    """What the other processes say, once for each time that they are asked."""

    def __init__(self, monkeypatch, *answers):
        self.answers, self.heard = list(answers), []
        monkeypatch.setattr(hosts, "are_many", lambda: True)
        monkeypatch.setattr(hosts, "any_is", self)
        monkeypatch.setattr(signals, "_asked", None)

    def __call__(self, yes):
        self.heard.append(yes)
        return yes or self.answers.pop(0)


def test_processes_ask_one_another_only_where_all_do(monkeypatch):
    others = Others(monkeypatch, False, True)
    monkeypatch.setattr(signals, "_asked", signal.SIGINT)
    assert not hosts.asked(together=False)
    assert others.heard == []
    assert hosts.asked(together=True)  # of its own signal it tells the others
    monkeypatch.setattr(signals, "_asked", None)
    assert not hosts.asked(together=True)
    assert hosts.asked(together=True)  # another one was asked to stop
    assert others.heard == [True, False, False]


class Watched(Events):
    """Notes which checkpoints are made, and waited for."""

    def __init__(self, others):
        self.log = others.heard

    def save(self, step, state, seconds):
        self.log.append(step)

    def wait(self):
        self.log.append("written")


@pytest.mark.usefixtures("smooth")
def test_a_signal_to_another_process_ends_a_run_once_its_checkpoint_is_written(
    monkeypatch,
):
    others = Others(monkeypatch, False, False, True)
    trainer = Trainer(tiny_runs.CONFIG, tiny_runs.dataset())
    with pytest.raises(hosts.StopTogether) as info:
        trainer.run(POLICIES["uniform"], 0, Watched(others))
    assert info.value.status == 143
    # They meet once all is compiled, ask after each record, wait for the checkpoint.
    assert others.heard == [True, False, False, False, 3, "written", True]


def test_a_search_and_a_stack_are_refused_in_several_processes():
    config = dataclasses.replace(CONFIG, distributed=True)
    dataclasses.replace(config, devices="all")
    for field, value in (("stack", 2), ("stack", "auto"), ("devices", 2)):
        with pytest.raises(ValueError, match=rf"^{field} must be .*got {value}$"):
            dataclasses.replace(config, **{field: value})
