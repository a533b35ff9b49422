"""Real studies that are killed, stopped, run out of room, or that are of an older day.

`records/folders` has two studies as commit 4c8373d left them: `finished`, and
`interrupted` at step 45 of its second run, which was begun by `INTERRUPTED`.
"""

import contextlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import __main__ as command
from experiments.analysis import compare
from experiments.records import records

ROOT = Path(__file__).parents[2]
TINY = ("--policies", "uniform", "early-first", "--seeds", "1", "--evaluations", "2")
FOLDERS = Path(__file__).parent / "records" / "folders"
INTERRUPTED = (
    *("--name", "interrupted", "--epochs", "12", "--batch-size", "100"),
    *("--measurements", "1", "--checkpoint-seconds", "1"),
)
KILLS = 20
PATIENCE = 240  # seconds that a loaded machine may take to start


@contextlib.contextmanager
def started(out, *fields):
    """A small study from the command line, ended whatever becomes of the test."""
    # A shell's background job ignores interrupts, and so would what it starts.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    command = [sys.executable, "-m", "experiments", "study", *TINY, *fields]
    with subprocess.Popen(
        [*command, "--out", str(out)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        signal.signal(signal.SIGINT, inherited)
        try:
            yield process
        finally:
            process.kill()


def finished(out, *fields):
    """The same, to its end; what it printed."""
    with started(out, *fields) as process:
        printed, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return printed


def metrics(out):
    """The lines of every run, by its folder."""
    return {p.parent.name: p.read_bytes() for p in out.glob("demo/*/metrics.jsonl")}


def wait_for_progress(process, out):
    """Until more training is recorded than was, or it has ended."""

    def trained():
        return sum(lines.count(b'"kind": "train"') for lines in metrics(out).values())

    before, deadline = trained(), time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        if trained() > before:
            return
        time.sleep(0.01)


@pytest.mark.slow
def test_a_study_runs_from_the_command_line_and_is_not_run_twice(tmp_path):
    printed = finished(tmp_path, "--epochs", "0.5", "--logger", "tensorboard")
    assert "A demonstration, not evidence" in printed
    recorded = records.read(tmp_path / "demo")
    for run in compare.runs(recorded.events):
        assert run.status == "finished"
        assert run.train
        assert run.validation
    assert len(recorded.config["layers"]["names"]) == 5
    assert len(list((tmp_path / "demo").glob("*/events.out.tfevents.*"))) == 2
    assert "All 2 runs were done before" in finished(
        tmp_path, "--epochs", "0.5", "--logger", "tensorboard"
    )


@pytest.mark.slow
def test_a_study_killed_at_any_moment_ends_as_if_it_never_had_been(tmp_path):
    # So many checkpoints that most kills fall into one.
    fields = ("--epochs", "6", "--checkpoint-seconds", "0.02")
    finished(tmp_path / "whole", *fields)
    rng, kills, returncode = random.Random(0), 0, -9
    while kills < KILLS or returncode != 0:
        with started(tmp_path / "cut", *fields) as process:
            if kills % 5:  # while it trains; every fifth time also while it starts
                wait_for_progress(process, tmp_path / "cut")
            if kills < KILLS:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(rng.uniform(0, 0.5 if kills % 5 else 6))
                process.kill()
            _, err = process.communicate(timeout=600)
        returncode = process.returncode
        assert returncode in (0, -9), err
        kills += returncode == -9
    assert kills == KILLS
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_leaves_a_checkpoint_and_its_exit_status(tmp_path, name):
    number = signal.Signals[name]
    with started(tmp_path, "--epochs", "500") as process:
        wait_for_progress(process, tmp_path)
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number, err
    assert "Traceback" not in err
    assert f"Stopped by {name}; the same command goes on from here." in out
    (run,) = compare.runs(records.read(tmp_path / "demo").events)
    assert run.status == "interrupted"
    steps = [int(p.name) for p in tmp_path.glob("demo/uniform-0/checkpoints/*")]
    assert max(steps) >= run.step > 0


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB, where one can be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_with_a_clear_error_and_loses_no_record(small_disk):
    fields = ("--epochs", "60", "--checkpoint-seconds", "0.5")
    with started(small_disk, *fields) as process:
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2, out
    assert err.count("\n") == 1, err
    assert "no space left" in err.lower()
    assert str(small_disk) in err
    (run,) = compare.runs(records.read(small_disk / "demo").events)
    assert run.status == "interrupted"
    assert run.train


@pytest.mark.slow
def test_output_that_cannot_be_printed_ends_no_study(tmp_path):
    line = [sys.executable, "-m", "experiments", "study", *TINY, "--epochs", "0.5"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*line, "--out", str(tmp_path)],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert "not all could be printed: No space left on device" in done.stderr
    assert (tmp_path / "demo" / "report.html").exists()


@pytest.mark.parametrize("name", ["finished", "interrupted"])
def test_a_report_is_made_of_an_older_folder(tmp_path, name):
    assert command.main(["report", str(FOLDERS / name), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").exists()
    recorded = records.read(FOLDERS / name)
    assert recorded.lost == ()
    runs = {run.policy: run for run in compare.runs(recorded.events)}
    if name == "interrupted":
        assert (runs["early-first"].status, runs["early-first"].step) == (
            "interrupted",
            45,
        )
        return
    summary = json.loads((FOLDERS / name / "summary.json").read_text())
    assert {run.policy: run.test["accuracy"] for run in runs.values()} == {
        row["policy"]: row["answers"]["accuracy"]["mean"] for row in summary["rows"]
    }


@pytest.mark.slow
def test_an_older_folder_goes_on_where_it_was_interrupted(tmp_path):
    before, folder = FOLDERS / "interrupted", tmp_path / "interrupted"
    shutil.copytree(before, folder)
    printed = finished(tmp_path, *INTERRUPTED)
    assert "1/2 uniform, seed 0: done before" in printed
    assert "2/2 early-first, seed 0: finished after 192 steps" in printed
    for path in (before / "uniform-0").iterdir():
        assert (folder / "uniform-0" / path.name).read_bytes() == path.read_bytes()
    for old, new in zip(
        records.read_lines(before / "early-first-0"),
        records.read_lines(folder / "early-first-0"),
        strict=True,
    ):
        assert new.records[: len(old.records)] == old.records
    recorded = records.read(folder)
    assert recorded.lost == ()
    uniform, early = compare.runs(recorded.events)
    assert [e["step"] for e in early.train] == [e["step"] for e in uniform.train]
    sessions = json.loads((folder / "early-first-0" / "env.json").read_text())
    assert [session["from_step"] for session in sessions["sessions"]] == [0, 45]
