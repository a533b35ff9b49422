"""Programs of their own, because they change their process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def not_ignored():
    """As where it runs in the background of a script, SIGINT may be ignored here."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, inherited)


def run(code, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, **options)


LOST = """
import gc
from experiments.terminal import signals

def callback(*args):
    gc.callbacks.remove(callback)
    {does}

signals.prepare()
signals.check()
gc.callbacks.append(callback)
gc.collect()
print("went on")
try:
    signals.check()
except signals.Stop as stop:
    print(stop, stop.status)
"""


def test_a_signal_that_was_lost_is_raised_at_the_next_check():
    done = run(LOST.format(does="import os; os.kill(os.getpid(), 2)"))
    assert (done.stdout, done.stderr) == ("went on\nSIGINT 130\n", "")


def test_another_error_that_was_lost_is_still_shown():
    done = run(LOST.format(does="raise ValueError"))
    assert done.stdout == "went on\n"
    assert "ValueError" in done.stderr


@pytest.mark.parametrize(("number", "status"), [(2, 130), (15, 143)])
def test_a_signal_ends_the_program_at_once(number, status):
    code = f"""
import os
from experiments.terminal import signals
signals.prepare()
try:
    os.kill(os.getpid(), {number})
    print("went on")
except signals.Stop as stop:
    print(stop.status)
"""
    assert run(code).stdout == f"{status}\n"


PATIENCE = """
import os
from experiments.terminal import signals
signals.prepare()
try:
    with signals.patience():
        os.kill(os.getpid(), 15)
        print("noted", signals.asked())
        {then}
    print("went on")
    with signals.patience():
        print("never")
except signals.Stop as stop:
    print(stop.status)
"""


def test_with_patience_a_signal_is_noted_and_counts_at_the_next_chance():
    done = run(PATIENCE.format(then="pass"))
    assert done.stdout == "noted True\nwent on\n143\n", done.stderr


def test_a_second_signal_ends_the_program_at_once():
    done = run(PATIENCE.format(then="os.kill(os.getpid(), 2)"))
    assert done.stdout == "noted True\n130\n", done.stderr


def test_a_signal_that_the_shell_ignores_stays_ignored_and_the_other_counts():
    code = """
import os
from experiments.terminal import signals
signals.prepare()
os.kill(os.getpid(), 2)
print(signals.asked())
try:
    os.kill(os.getpid(), 15)
except signals.Stop as stop:
    print(stop.status)
"""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup hands it on
    assert run(code).stdout == "False\n143\n"


PRINTING = """
import sys
from experiments.terminal import signals
signals.prepare()
for _ in range(100):
    print("x" * 1000)
print("done", file=sys.stderr)
signals.leave({status})
"""


@pytest.mark.parametrize(("status", "left"), [(0, 2), (130, 130)])
def test_output_to_a_full_device_is_said_in_a_line_and_in_the_status(status, left):
    with open("/dev/full", "w") as full:
        done = run(PRINTING.format(status=status), stdout=full)
        assert done.stderr.startswith("done\nnot all could be printed: No space left")
        assert (done.stderr.count("\n"), done.returncode) == (2, left)
        nowhere = run(PRINTING.format(status=status), stdout=full, stderr=full)
        assert nowhere.returncode == left


def test_what_the_terminal_cannot_show_is_replaced():
    code = "from experiments.terminal import signals; signals.prepare(); print('2 × 3')"
    done = run(code, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout) == (0, "2 ? 3\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_program_outlives_the_reader_of_its_output(unbuffered):
    code = """
import sys
from experiments.terminal import signals
signals.prepare()
for line in range(100_000):
    print(line)
sys.stderr.write("done")
"""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "0\n"
        process.stdout.close()
        assert process.stderr.read() == "done"
    assert process.returncode == 0


def test_a_program_without_output_is_prepared_too():
    done = run(
        "import sys; sys.stdout = None\n"
        "from experiments.terminal import signals; signals.prepare()"
    )
    assert done.returncode == 0
