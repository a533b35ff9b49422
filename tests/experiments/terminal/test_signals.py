"""Programs of their own, because they change their process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def run(code, **options):
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        **options,
    )


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


def test_a_signal_that_the_shell_ignores_stays_ignored():
    code = """
import os, signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
from experiments.terminal import signals
signals.prepare()
os.kill(os.getpid(), 2)
print(signals.asked())
"""
    assert run(code).stdout == "False\n"


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
