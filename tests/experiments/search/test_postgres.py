import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
import sqlalchemy

ROOT = Path(__file__).parents[3]
POLICIES = ("uniform", "early-first")
TRIALS = 6
PATIENCE = 600  # seconds that a loaded machine may take to start, or to end
FOUND = sqlalchemy.text(
    "SELECT split_part(study_name, '/', 2), number, CAST(state AS text) FROM trials "
    "JOIN studies USING (study_id) WHERE study_name LIKE :studies ORDER BY number"
)


@pytest.fixture
def database():
    """A PostgreSQL database, such as `python .ci/postgres.py COMMAND` makes."""
    if not (url := os.environ.get("TEST_POSTGRES")):
        pytest.skip("TEST_POSTGRES is not set to the URL of a PostgreSQL database")
    engine = sqlalchemy.create_engine(url)
    yield engine
    engine.dispose()


@pytest.fixture
def search(database, tmp_path):
    """Three workers begun at once, without a common folder; ended in any case."""
    name = f"test-{uuid.uuid4()}"
    command = [sys.executable, "-m", "experiments", "tune", "demo", "--name", name]
    command += ["--storage", os.environ["TEST_POSTGRES"], "--trials", str(TRIALS)]
    command += ["--policies", *POLICIES, "--epochs", "0.5", "--batch-size", "100"]
    workers = [
        subprocess.Popen(
            [*command, "--out", str(tmp_path / str(number))],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    yield name, workers
    for worker in workers:
        worker.kill()
        worker.communicate()


def trials(database, name):
    """(policy, number, state) of each, none until the workers have made the tables."""
    with database.connect() as connection:
        if not sqlalchemy.inspect(connection).has_table("trials"):
            return []
        return list(connection.execute(FOUND, {"studies": f"{name}/%"}))


def running(database, name):
    return sum(state == "RUNNING" for _, _, state in trials(database, name))


@pytest.mark.slow
def test_workers_on_postgresql_lose_no_trial_though_one_is_killed(database, search):
    name, (killed, *others) = search
    deadline = time.monotonic() + PATIENCE
    while running(database, name) < 3:  # each compiles first, which takes seconds
        for worker in (killed, *others):
            assert worker.poll() is None, worker.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    killed.kill()
    printed = [worker.communicate(timeout=PATIENCE) for worker in others]
    assert [worker.returncode for worker in others] == [0, 0], printed
    assert [err for _, err in printed] == ["", ""]
    assert running(database, name) == 1  # that of the killed one: it does not count
    lines = [line for out, _ in printed for line in out.splitlines()]
    for policy in POLICIES:
        numbers, states = zip(
            *(row[1:] for row in trials(database, name) if row[0] == policy),
            strict=True,
        )
        assert numbers == tuple(range(len(numbers)))
        assert set(states) <= {"COMPLETE", "PRUNED", "RUNNING"}
        finished = len(states) - states.count("RUNNING")
        assert TRIALS <= finished <= TRIALS + 2
        said = sum(line.startswith(f"{policy}, trial") for line in lines)
        assert said == finished  # each by the worker that made it
