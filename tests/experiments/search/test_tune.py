import dataclasses
import fcntl
import json
import math
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import ClassVar

import numpy as np
import optuna
import pytest
import sqlalchemy.exc
from optuna.trial import TrialState

from experiments.config import files
from experiments.config.config import Config
from experiments.config.measures import ACCURACY
from experiments.data import cifar
from experiments.data import dataset as data
from experiments.policies import chosen
from experiments.search import figures as tune_figures
from experiments.search import trials, tune
from experiments.search.search import Search
from experiments.terminal import signals
from experiments.terminal.progress import Progress

ROOT = Path(__file__).parents[3]
CONFIG = Config(
    name="t", policies=("uniform", "early-first"), epochs=1, evaluations=5, rate=0.02
)
COMMAND = ["python", "-m", "experiments", "tune"]


def split(label):
    return cifar.Split(np.full((1, 32, 32, 3), label, np.uint8), np.array([label]))


def dataset():
    three = np.zeros(3)
    splits = split(0), split(1), split(2)
    return data.Dataset("fake", *splits, 2, three, three, "c0ffee")


class FakeTrainer:
    """Finds the numbers of a policy better the closer they are to a hidden optimum."""

    made: ClassVar[list] = []
    runs: ClassVar[list] = []
    before: ClassVar = staticmethod(lambda number: None)
    diverging: ClassVar = staticmethod(lambda number: False)

    def __init__(self, config, given):
        self.config = config
        self.made.append(given)

    def run(self, policy, seed, journal):
        number = len(self.runs)
        numbers = {n.name: n.value for n in policy.numbers(self.config.rate)}
        self.runs.append((policy.name, seed, numbers))
        self.before(number)
        distance = sum(abs(math.log(value)) for value in numbers.values())
        at = {"policy": policy.name, "seed": seed, "seconds": 1.0}
        for step in range(10, 51, 10):
            signals.check()
            at |= {"step": step, "images": 32 * step}
            accuracy = step / 50 / (1 + distance)
            found = {"kind": "validation", "loss": 4 - accuracy, "accuracy": accuracy}
            journal.write(at | found)
        status = "diverged" if self.diverging(number) else "finished"
        tested = {"test_loss": 1.0, "test_accuracy": 1.0, "params_sha256": ""}
        end = at | tested | {"kind": "end", "status": status}
        journal.write(end)
        return end


@pytest.fixture(autouse=True)
def no_signal(monkeypatch):
    monkeypatch.setattr(signals, "_asked", None)


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """Whether plots are drawn, which takes longer than all the rest."""
    seen = []
    monkeypatch.setattr(tune_figures, "write", lambda *given: seen.append(given) or [])
    return seen


def searched(
    out, number_of_trials=6, *, rates=(), search_seed=0, storage=None, **changes
):
    config = dataclasses.replace(CONFIG, out=out, **changes)
    return Search(config, number_of_trials, rates, search_seed, storage)


def run(asked, **doings):
    """Runs a search; returns the exit status, and what was trained in which order."""
    fake = type("Fake", (FakeTrainer,), {"runs": [], "made": [], **doings})
    return tune.run(asked, dataset(), COMMAND, make_trainer=fake), fake.runs


def study(asked, policy):
    path = str(asked.folder / "journal.log")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        backend = optuna.storages.journal.JournalFileBackend(path)
        storage = optuna.storages.JournalStorage(backend)
        name = f"{asked.config.name}/{policy}"
        return optuna.load_study(study_name=name, storage=storage)


def best(asked):
    return json.loads((asked.folder / "best.json").read_text())["numbers"]


def test_every_policy_gets_as_many_trials_in_turn(tmp_path):
    status, runs = run(searched(tmp_path))
    assert status == 0
    assert [policy for policy, _, _ in runs] == ["uniform", "early-first"] * 6


def test_the_first_trial_has_the_numbers_of_the_study_itself(tmp_path):
    _, runs = run(searched(tmp_path, 2, numbers={"early-first.last_end": 2.0}))
    assert runs[0][2] == {"rate": 0.02}
    assert runs[1][2] == {
        "rate": 0.02,
        "first_start": 1.5,
        "first_end": 0.5,
        "last_start": 0.5,
        "last_end": 2.0,
    }
    assert runs[3][2] != runs[1][2]


def test_a_grid_tries_the_same_rates_for_every_policy_and_nothing_else(
    tmp_path, capsys
):
    def failing(number):
        if number == 2:
            raise ValueError("no device")

    grid = {"rates": (0.04, 0.01, 0.02), "numbers": {"early-first.last_end": 2.0}}
    asked = searched(tmp_path, None, **grid)
    with pytest.raises(ValueError, match="no device"):  # of the first's second rate
        run(asked, before=staticmethod(failing))
    _, runs = run(asked)
    tried = [(policy, numbers.pop("rate"), numbers) for policy, _, numbers in runs]
    own = {"first_start": 1.5, "first_end": 0.5, "last_start": 0.5, "last_end": 2.0}
    assert sorted(tried, key=str) == [
        *(("early-first", rate, own) for rate in (0.01, 0.02)),
        *(("uniform", rate, {}) for rate in (0.01, 0.02)),
    ]
    assert best(asked)["uniform.rate"] == 0.04  # of these the nearest to 1
    found = json.loads((asked.folder / "trials.json").read_text())
    assert [trial["rate"] for trial in found["uniform"]] == [0.01, 0.02, 0.04]
    assert {trial["status"] for trial in found["uniform"]} == {"finished"}
    run(searched(tmp_path, None, **grid | {"rates": (0.04, 0.01, 0.02, 0.08)}))
    assert best(asked)["early-first.rate"] == 0.08
    assert "0.01  0.02  0.04  0.08  best rate" in capsys.readouterr().out


def test_all_trials_have_one_seed_that_no_study_can_have(tmp_path):
    _, runs = run(searched(tmp_path))
    (seed,) = {seed for _, seed, _ in runs}
    searched(tmp_path, seeds=(seed - 1,))
    with pytest.raises(ValueError, match="seeds"):
        searched(tmp_path, seeds=(seed,))


def test_the_trainer_is_not_given_the_test_images(tmp_path):
    given = []
    run(searched(tmp_path, 1), made=given)
    (blind,) = given
    assert blind.test is blind.validation
    assert blind.validation.labels.tolist() == [1]
    assert blind.train.labels.tolist() == [0]


def test_the_search_finds_better_numbers_and_never_worse_ones(tmp_path):
    asked = searched(tmp_path, 30)
    _, runs = run(asked)
    found = best(asked)
    assert found["uniform.rate"] > 0.15  # of at most 0.2; the optimum is beyond
    for policy in CONFIG.policies:
        trials_of_it = study(asked, policy).trials
        assert max(t.value for t in trials_of_it) > trials_of_it[0].value
    assert len(runs) == 60


def test_one_worker_searches_alike_each_time_but_not_with_another_seed(tmp_path):
    runs = [
        run(searched(tmp_path / str(i), 12, search_seed=seed))[1]
        for i, seed in enumerate((0, 0, 1))
    ]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.parametrize(
    ("at", "number", "status"), [(0, 2, 130), (3, 15, 143), (23, 2, 130)]
)
def test_a_stopped_search_goes_on_as_if_it_had_not_been(
    tmp_path, monkeypatch, capsys, at, number, status
):
    def before(done):
        if done == at:
            signals._asked = number

    whole = run(searched(tmp_path / "whole", 12))[1]
    asked = searched(tmp_path / "cut", 12)
    stopped, begun = run(asked, before=staticmethod(before))
    assert stopped == status
    out = capsys.readouterr().out
    assert "the same command goes on from here.\n" in out
    assert ("shows what the first 11 of each" in out) == (at == 23)
    assert ("--trials" in out) == (at > 1)
    monkeypatch.setattr(signals, "_asked", None)
    failed = [
        trial
        for policy in CONFIG.policies
        for trial in study(asked, policy).trials
        if trial.state == TrialState.FAIL
    ]
    assert len(failed) == 1
    status, rest = run(asked)
    assert status == 0
    assert begun[:-1] + rest == whole  # what was stopped begins again


def test_what_fails_counts_for_nothing_and_ends_the_search(tmp_path):
    def before(done):
        if done == 1:
            raise RuntimeError("out of memory")

    asked = searched(tmp_path)
    with pytest.raises(RuntimeError, match="out of memory"):
        run(asked, before=staticmethod(before))
    assert len(run(asked)[1]) == 11


def test_a_search_that_is_done_trains_nothing_and_shows_its_table_again(
    tmp_path, capsys
):
    asked = searched(tmp_path)
    run(asked)
    written = best(asked)
    before = capsys.readouterr().out

    def make_trainer(*_):
        pytest.fail("nothing to train")

    assert tune.run(asked, dataset(), COMMAND, make_trainer=make_trainer) == 0
    assert best(asked) == written
    table = capsys.readouterr().out
    assert table in before


def test_more_trials_go_on_where_fewer_ended(tmp_path):
    whole = run(searched(tmp_path / "whole", 12))[1]
    few = run(searched(tmp_path / "cut", 6))[1]
    assert few + run(searched(tmp_path / "cut", 12))[1] == whole


def test_a_new_policy_joins_a_search_and_the_others_wait(tmp_path):
    run(searched(tmp_path))
    _, runs = run(searched(tmp_path, policies=(*CONFIG.policies, "late-first")))
    assert {policy for policy, _, _ in runs} == {"late-first"}


def test_a_trial_that_is_behind_is_pruned_and_counts(tmp_path, capsys):
    asked = searched(tmp_path, 30)
    _, runs = run(asked)
    assert len(runs) == 60
    trials_of_it = study(asked, "early-first").trials
    pruned = [t for t in trials_of_it if t.state == TrialState.PRUNED]
    assert pruned
    assert all(t.user_attrs["steps"] < 50 for t in pruned)
    spent = sum(t.user_attrs["steps"] for t in trials_of_it)
    out = capsys.readouterr().out
    assert f"{len(pruned)} pruned" in out
    assert f"{spent:,}" in out
    assert min(t.last_step for t in pruned) >= trials.WARMUP * CONFIG.total_steps


def test_a_diverged_trial_counts_as_zero_and_is_said(tmp_path, capsys):
    asked = searched(tmp_path, 4)
    run(asked, diverging=staticmethod(lambda number: number < 3))
    assert [t.value for t in study(asked, "uniform").trials[:2]] == [0.0, 0.0]
    out = capsys.readouterr().out
    assert "2 diverged" in out
    assert "diverged after 50 steps" in out
    assert (asked.folder / "best.json").exists()


def test_where_all_diverges_the_policy_keeps_its_own_numbers(tmp_path):
    asked = searched(tmp_path, 4)
    run(asked, diverging=staticmethod(lambda number: True))
    assert best(asked)["uniform.rate"] == 0.02


def begun_elsewhere(asked, number_of_trials):
    """Trials that another worker has begun, and will not end: it was killed."""
    running = study(asked, "uniform")
    rates = optuna.distributions.FloatDistribution(0.002, 0.2, log=True)
    for _ in range(number_of_trials):
        running.ask({"rate": rates})


def test_a_worker_that_was_killed_holds_nobody_up(tmp_path):
    run(searched(tmp_path, 2, policies=("uniform",)))
    asked = searched(tmp_path, 6, policies=("uniform",))
    begun_elsewhere(asked, 3)
    assert len(run(asked)[1]) == 4


def test_own_numbers_are_tried_again_where_their_worker_was_killed(
    tmp_path, monkeypatch
):
    class Killed(BaseException):
        pass

    def before(number):
        raise Killed

    poor = {"uniform.rate": 0.003}
    asked = searched(tmp_path, 9, policies=("uniform",), numbers=poor)
    monkeypatch.setattr(optuna.Study, "tell", lambda *_, **__: None)
    with pytest.raises(Killed):
        run(asked, before=staticmethod(before))
    monkeypatch.undo()
    monkeypatch.setattr(tune_figures, "write", lambda *_: [])
    assert [t.state for t in study(asked, "uniform").trials] == [TrialState.RUNNING]
    _, runs = run(asked)
    own = [numbers["rate"] == 0.003 for _, _, numbers in runs]
    assert own == [False] * 8 + [True]  # at last, as the other may yet end
    last = study(asked, "uniform").trials[-1]
    assert last.state == TrialState.COMPLETE  # though it was behind from the start


def test_a_trial_is_not_pruned_at_its_last_evaluation():
    study = optuna.create_study(pruner=optuna.pruners.MedianPruner())
    for _ in range(5):
        trial = study.ask()
        trial.report(0.0, 50)
        study.tell(trial, 0.0)
    event = {"kind": "validation", "loss": 1.0, "accuracy": 0.9, "step": 50}
    with Progress("t", 0, 50) as progress:
        trials._Watched(study.ask(), 50, progress, ACCURACY).write(event)
        with pytest.raises(optuna.TrialPruned):
            trials._Watched(study.ask(), 60, progress, ACCURACY).write(event)


def test_workers_at_once_propose_different_numbers(tmp_path):
    asked = searched(tmp_path, 9, policies=("uniform",))
    run(searched(tmp_path, 1, policies=("uniform",)))

    def before(number):
        if number == 0:  # a second worker begins while the first is at its trial
            runs.extend(run(asked)[1])

    runs = []
    _, of_first = run(asked, before=staticmethod(before))
    rates = [numbers["rate"] for _, _, numbers in (*runs, *of_first)]
    assert len(rates) == 9
    assert len(set(rates)) == 9


def test_what_is_finished_beyond_the_budget_is_not_compared(tmp_path, capsys):
    asked = searched(tmp_path, 5, policies=("uniform",))
    run(searched(tmp_path, 12, policies=("uniform",)))
    first = study(asked, "uniform").trials[:5]
    capsys.readouterr()
    assert run(asked)[1] == []
    assert (
        best(asked)["uniform.rate"] == max(first, key=lambda t: t.value).params["rate"]
    )
    assert f"{sum(t.user_attrs['steps'] for t in first)}" in capsys.readouterr().out


def test_who_writes_the_best_last_has_looked_last(tmp_path, monkeypatch):
    asked, counted, held = searched(tmp_path, 2), trials.PolicySearch.counted, []

    def locked(policy):
        with (asked.folder / ".lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held.append(False)
            except BlockingIOError:
                held.append(True)
        return counted(policy)

    monkeypatch.setattr(trials.PolicySearch, "counted", locked)
    run(asked)
    assert held[-2:] == [True, True]


def test_the_configuration_that_was_found_is_taken_by_a_study(tmp_path):
    asked = searched(tmp_path, numbers={"late-first.last_end": 1.0})
    run(asked)
    config = files.read(asked.folder / "best.json")
    expected = dataclasses.replace(asked.config, name="t-tuned", numbers=config.numbers)
    assert config == expected
    assert config.numbers["late-first.last_end"] == 1.0
    found = chosen.configured(config)["early-first"]
    values = {n.name: n.value for n in found.numbers(config.rate)}
    tried = [t.params for t in study(asked, "early-first").trials]
    assert values in tried


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rate": 0.05}, "rate is 0.05, was 0.02"),
        ({"search_seed": 1}, "search_seed is 1, was 0"),
        ({"model": "vgg5", "epochs": 2}, 'model is "vgg5", was "cnn-shallow"; epochs'),
        ({"numbers": {"uniform.rate": 0.05}}, 'numbers is {"uniform.rate": 0.05}, was'),
    ],
)
def test_a_search_that_was_begun_otherwise_is_refused(tmp_path, changes, said):
    run(searched(tmp_path, 1))
    with pytest.raises(ValueError, match=said) as refused:
        run(searched(tmp_path, 1, **changes))
    assert "another --name" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_other_data_are_refused(tmp_path):
    asked = searched(tmp_path, 1)
    run(asked)
    other = dataclasses.replace(dataset(), checksum="decaf")
    with pytest.raises(ValueError, match='data_checksum is "decaf", was "c0ffee"'):
        tune.run(asked, other, COMMAND, make_trainer=FakeTrainer)


def test_what_a_search_does_not_depend_on_may_change(tmp_path):
    run(searched(tmp_path, 2))
    asked = searched(tmp_path, 3, seeds=5, thresholds=(0.9,), logger="tensorboard")
    assert len(run(asked)[1]) == 2


def test_other_versions_are_said(tmp_path, capsys, monkeypatch):
    run(searched(tmp_path, 1))
    here = tune.environment
    monkeypatch.setattr(
        tune, "environment", lambda *args: here(*args) | {"versions": {"jax": "0.0.1"}}
    )
    capsys.readouterr()
    run(searched(tmp_path, 1))
    assert "now {'jax': '0.0.1'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"number_of_trials": 0}, "trials must be at least 1; got 0"),
        ({"rates": (0.02,)}, "trials must be left out where rates says .*; got 6"),
        (
            {"number_of_trials": None, "rates": (0.02, 0.3)},
            r"rates must be between 0.002 and 0.2, .*; got \(0.02, 0.3\)",
        ),
        ({"search_seed": -1}, "search_seed must be at least 0; got -1"),
        ({"stack": 4}, "stack must be 1 .*for each worker; got 4"),
        ({"distributed": True}, "distributed must be False in a search"),
        ({"rate": -1.0}, "rate must be"),
        ({"name": "a" * 95}, "name must be a plain folder name"),
    ],
)
def test_a_bad_search_is_refused_in_one_line(tmp_path, asked, said):
    with pytest.raises(ValueError, match=said) as refused:
        searched(tmp_path, **asked).check()
    assert "\n" not in str(refused.value)


def test_a_database_keeps_the_search_as_well(tmp_path):
    url = f"sqlite:///{tmp_path / 'search.db'}"
    whole = run(searched(tmp_path / "file", 8))[1]
    _, first = run(searched(tmp_path / "a", 4, storage=url))
    _, second = run(searched(tmp_path / "b", 8, storage=url))
    assert first + second == whole
    assert not (tmp_path / "a" / "t.tune" / "journal.log").exists()


def test_a_worker_goes_on_where_another_makes_the_tables_at_once(tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path / 'search.db'}"
    open_database, exists = optuna.storages.get_storage, "table studies already exists"

    def late(given):
        monkeypatch.setattr(optuna.storages, "get_storage", open_database)
        raise sqlalchemy.exc.OperationalError("CREATE", {}, Exception(exists))

    monkeypatch.setattr(optuna.storages, "get_storage", late)
    status, runs = run(searched(tmp_path, 2, storage=url))
    assert (status, len(runs)) == (0, 4)


def test_a_damaged_file_is_refused_in_one_line(tmp_path):
    asked = searched(tmp_path, 1)
    run(asked)
    journal = asked.folder / "journal.log"
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3][:20] + b"\n"
    journal.write_bytes(b"".join(lines))
    with pytest.raises(ValueError, match=r"journal\.log' is damaged: ") as refused:
        run(asked)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["nonsense", "nosuchdatabase://host/db", "sqlite:////nowhere/at/all.db"]
)
def test_a_storage_that_cannot_be_opened_is_refused_in_one_line(tmp_path, url):
    with pytest.raises(ValueError, match="storage must be the URL") as refused:
        run(searched(tmp_path, storage=url))
    assert "\n" not in str(refused.value)


def test_plots_are_drawn_for_every_policy(tmp_path, drawn):
    asked = searched(tmp_path, 2)
    run(asked)
    assert [study.study_name for study, *_ in drawn] == ["t/uniform", "t/early-first"]
    assert {folder for _, folder, _ in drawn} == {asked.folder / "plots"}


def made_study(name, accuracies, numbers=("rate", "last")):
    study = optuna.create_study(study_name=f"t/{name}", direction="maximize")
    ranges = optuna.distributions.FloatDistribution(0.01, 1.0, log=True)
    for accuracy in accuracies:
        study.tell(study.ask(dict.fromkeys(numbers, ranges)), accuracy)
    return study


class TestPlots:
    """Of the real module, which the others are spared."""

    @pytest.fixture(autouse=True)
    def drawn(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.logging.set_verbosity(optuna.logging.ERROR)
            yield

    @pytest.mark.parametrize("others", [range(11), [0.0] * 11, [1.0] * 11])
    def test_importance_and_trials_of_a_policy(self, tmp_path, others):
        study = made_study("cascade", [0.5, *others])
        assert tune_figures.write(study, tmp_path / "plots", ACCURACY) == []
        drawn = {path.name for path in (tmp_path / "plots").iterdir()}
        assert drawn == {"cascade.png"}

    @pytest.mark.parametrize(
        ("accuracies", "numbers", "said"),
        [
            ([0.5] * 9, ("rate", "last"), ["9 trials came to an end, of 10 needed"]),
            ([0.5] * 12, ("rate", "last"), ["all trials were equally good"]),
            (range(20), ("rate",), []),
        ],
    )
    def test_what_cannot_be_drawn_is_said(self, tmp_path, accuracies, numbers, said):
        study = made_study("cascade", accuracies, numbers)
        lines = tune_figures.write(study, tmp_path / "plots", ACCURACY)
        assert lines == [f"no plots, as {reason}" for reason in said]
        assert not (tmp_path / "plots").exists()


TINY = (
    *("--policies", "uniform", "early-first", "--epochs", "0.5", "--batch-size", "100"),
    *("--evaluations", "4"),
)


def started(command, preset, out, *fields):
    line = [sys.executable, "-m", "experiments", command, preset, "--out", str(out)]
    return subprocess.Popen(
        [*line, *fields],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process):
    out, err = process.communicate(timeout=600)
    assert (process.returncode, err) == (0, "")
    return out


@pytest.mark.slow
def test_a_search_from_the_command_line_and_the_study_after_it(tmp_path):
    out = finished(started("tune", "demo", tmp_path, *TINY, "--trials", "2"))
    assert "is optimistic" in out
    found = tmp_path / "demo.tune" / "best.json"
    assert f"study {found}" in out
    out = finished(started("study", str(found), tmp_path, "--seeds", "1"))
    assert "demo-tuned: cnn-shallow" in out
    config = json.loads((tmp_path / "demo-tuned" / "config.json").read_text())
    assert config["numbers"] == json.loads(found.read_text())["numbers"]
    assert config["seeds"] == [0]


def test_a_signal_while_the_journal_is_written_is_no_error(tmp_path, monkeypatch):
    """Optuna's lock turns what is raised inside it into a file that is not there."""
    written, unlink, nth = [], os.unlink, 0

    def unlinked(path):
        unlink(path)
        if str(path).endswith(".rename"):
            written.append(path)
            if len(written) == nth:
                signals._on_signal(signal.SIGTERM, None)

    monkeypatch.setattr(os, "unlink", unlinked)
    _, expected = run(searched(tmp_path / "whole", 2))
    for nth in (1, len(written) // 2, len(written)):
        asked = searched(tmp_path / str(nth), 2)
        written.clear()
        monkeypatch.setattr(signals, "_asked", None)
        status, before = run(asked)
        assert status == 143 or before == expected
        monkeypatch.setattr(signals, "_asked", None)
        status, after = run(asked)
        assert status == 0
        assert len(before) + len(after) - len(expected) in (0, 1)
        assert not list(asked.folder.glob("*.rename"))


@pytest.mark.slow
def test_workers_share_a_search_though_one_is_killed_and_one_is_stopped(tmp_path):
    """Three end by themselves; every policy has its trials, and none is lost.

    Each policy needs 7 trials of numbers that are proposed, and 1 of its own. Where one
    is left, each of the three may begin it. Both may have two to spare, as the worker
    that was to try a policy's own numbers may be the one that is killed.
    """
    fields = (*TINY, "--trials", "8")
    journal = tmp_path / "demo.tune" / "journal.log"
    workers = [started("tune", "demo", tmp_path, *fields) for _ in range(5)]
    try:
        while not journal.exists() or b'"values"' not in journal.read_bytes():
            assert all(worker.poll() is None for worker in workers)
            time.sleep(0.1)
        workers[0].kill()
        workers[1].send_signal(signal.SIGTERM)
        stopped, err = workers[1].communicate(timeout=600)
        assert (workers[1].returncode, err) == (143, "")
        assert "Stopped by SIGTERM" in stopped or not stopped  # it was still starting
        printed = [finished(worker) for worker in workers[2:]]
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    asked = Search(dataclasses.replace(CONFIG, name="demo", out=tmp_path), 8)
    for policy in CONFIG.policies:
        of_it = study(asked, policy).trials
        states = [trial.state for trial in of_it]
        done = [t for t in of_it if t.state in trials.FINISHED]
        with_own = sum(trials.OWN in trial.user_attrs for trial in done)
        assert 1 <= with_own <= 1 + 2
        assert 7 <= len(done) - with_own <= 7 + 2
        assert states.count(TrialState.RUNNING) + states.count(TrialState.FAIL) <= 2
        assert [t.number for t in of_it] == list(range(len(of_it)))
        said = sum(
            line.startswith(f"{policy}, trial")
            for out in (stopped, *printed)
            for line in out.splitlines()
        )
        assert len(done) - 8 <= said <= len(done)
    for out in printed:
        assert "is optimistic" in out
    # Who ends while others finish a trial cannot know of it; the last one knows of all.
    again = finished(started("tune", "demo", tmp_path, *fields))
    assert ", trial" not in again
    assert again[again.index("policy  ") :] in [
        out[out.index("policy  ") :] for out in printed
    ]
    assert len(best(asked)) == 6


@pytest.mark.parametrize("diverging", [False, True])
def test_a_search_on_text_makes_the_loss_small(tmp_path, capsys, diverging):
    """The hidden optimum is at rate 1; where the trial next to it diverges, below."""
    rates = (0.02, 0.05, 0.2)
    text = {"model": "gpt-small", "data": "stdlib", "epochs": 50 / 976}
    asked = searched(tmp_path, None, rates=rates, policies=("uniform",), **text)
    assert asked.config.total_steps == 50
    last = staticmethod(lambda number: diverging and number == 2)
    assert run(asked, diverging=last)[0] == 0
    found = json.loads((asked.folder / "trials.json").read_text())["uniform"]
    expected = [4 - 1 / (1 + abs(math.log(rate))) for rate in rates]
    if diverging:
        expected[2] = math.log(256)
    assert [trial["loss"] for trial in found] == pytest.approx(expected)
    best = files.read(asked.folder / "best.json").numbers["uniform.rate"]
    assert best == (0.05 if diverging else 0.2)
    told = capsys.readouterr().out
    assert f"validation loss {expected[1]:.3f} nats a byte" in told
    assert "Validation loss at the end, in nats a byte" in told
    assert "found by the windows that judge it" in told
