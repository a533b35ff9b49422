"""Programs of their own, because they change their process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


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
from experiments import shell

def callback(*args):
    gc.callbacks.remove(callback)
    raise {error}

shell.prepare()
shell.check_interrupt()
gc.callbacks.append(callback)
gc.collect()
print("went on")
try:
    shell.check_interrupt()
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interrupt_that_was_lost_is_raised_at_the_next_check():
    done = run(LOST.format(error="KeyboardInterrupt"))
    assert (done.stdout, done.stderr) == ("went on\ninterrupted\n", "")


def test_another_error_that_was_lost_is_still_shown():
    done = run(LOST.format(error="ValueError"))
    assert done.stdout == "went on\n"
    assert "ValueError" in done.stderr


def test_what_the_terminal_cannot_show_is_replaced():
    code = "from experiments import shell; shell.prepare(); print('2 × 3')"
    done = run(code, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout) == (0, "2 ? 3\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_program_outlives_the_reader_of_its_output(unbuffered):
    code = """
import sys
from experiments import shell
shell.prepare()
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
        "import sys; sys.stdout = None\nfrom experiments import shell; shell.prepare()"
    )
    assert done.returncode == 0
