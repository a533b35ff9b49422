"""Several runs in one program find what they find one by one."""

import contextlib
import dataclasses
import itertools
import signal
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.errors import JaxRuntimeError
from tiny_runs import CONFIG, SAME, Events, assert_alike, dataset, made_up, without_time

from experiments import runner
from experiments.policies.catalogue import POLICIES
from experiments.records import records
from experiments.records.journal import Journal
from experiments.report import contents
from experiments.terminal import signals
from experiments.training import stacking
from experiments.training.program import TrainState
from experiments.training.trainer import Group, Run, Trainer

SCHEDULES = ("uniform", "early-first", "uniform-cosine")
STACKED = dataclasses.replace(CONFIG, stack=3, policies=SCHEDULES, seeds=1)
COMMAND = ["python", "-m", "experiments", "study"]

pytestmark = pytest.mark.usefixtures("smooth")


@pytest.fixture(scope="module")
def single():
    return Trainer(CONFIG, dataset())


@pytest.fixture(scope="module")
def trainer():
    return Trainer(STACKED, dataset())


def members(policies, seeds=(0,)):
    return [
        Run(POLICIES[policy] if isinstance(policy, str) else policy, seed, Events())
        for policy, seed in itertools.product(policies, seeds)
    ]


def at_once(trainer, runs):
    """The events of several runs, trained in one go."""
    ends = trainer.train(trainer.begin(runs))
    assert ends == [run.journal[-1] for run in runs]
    return [run.journal for run in runs]


def one_by_one(trainer, runs):
    return [events for run in runs for events in at_once(trainer, [run])]


# ----- states as one


def state(seed, step=7):
    rng = np.random.default_rng(seed)
    return TrainState(
        params={"w": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32)},
        statistics={},
        average=None,
        opt_state=(jnp.int32(seed), jnp.asarray(rng.normal(size=2), jnp.bfloat16)),
        step=jnp.int32(step),
        key=jax.random.key(seed),
        order=jnp.asarray(rng.permutation(5), jnp.int32),
        loss=jnp.float32(np.nan if seed == 1 else seed),
        correct=jnp.int32(seed),
        diverged=jnp.int32(-1),
    )


def bits(tree):
    leaves, structure = jax.tree.flatten(tree)
    data = [
        jax.random.key_data(x)
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        else x
        for x in leaves
    ]
    return structure, [(x.dtype, x.shape, np.asarray(x).tobytes()) for x in data]


def test_a_member_of_stacked_states_is_its_state_to_the_last_bit():
    states = [state(seed) for seed in range(3)]
    joined = stacking.stacked(states)
    assert joined.step.shape == ()  # one for all
    for index, expected in enumerate(states):
        assert bits(stacking.member(joined, index)) == bits(expected)


def test_a_step_for_stacked_states_is_the_step_of_each():
    def step(state, data, table):
        params = jax.tree.map(lambda w: w * table[state.step] + data, state.params)
        return state._replace(params=params, step=state.step + 1)

    states = [state(seed, step=1) for seed in range(3)]
    tables = jnp.arange(6.0).reshape(3, 2)
    together = jax.vmap(step, (stacking.AXES, None, 0), stacking.AXES)
    found = together(stacking.stacked(states), 10.0, tables)
    assert (found.step.shape, int(found.step)) == ((), 2)
    for index, before in enumerate(states):
        expected = np.asarray(before.params["w"]) * (2 * index + 1) + 10
        one = stacking.member(found, index)
        np.testing.assert_allclose(one.params["w"], expected, rtol=1e-6)
        np.testing.assert_array_equal(one.order, before.order)


def test_each_run_has_its_own_part_while_it_goes_on_and_one_alone_the_whole():
    runs = [Run(name, 0) for name in "abc"]
    stacked = {"loss": np.arange(4), "of": np.arange(8).reshape(4, 2), "by_rule": None}
    of = Group(runs, 4, *[None] * 5, step=2)  # filled up by one

    def found():
        parts = of.each(stacked)
        return {run.policy: (part["loss"], part["of"].tolist()) for run, part in parts}

    assert found() == {"a": (0, [0, 1]), "b": (1, [2, 3]), "c": (2, [4, 5])}
    runs[1].end = {}
    assert found() == {"a": (0, [0, 1]), "c": (2, [4, 5])}
    assert of.going == [runs[0], runs[2]]
    alone = Group(runs[:1], 1, *[None] * 5, step=2)
    assert list(alone.each(stacked)) == [(runs[0], stacked)]


# ----- the size that pays


@pytest.mark.parametrize(
    ("speeds", "most", "smallest", "size", "tried"),
    [
        ({1: 2, 2: 4, 4: 8, 8: 16}, 8, 1, 8, [1, 2, 4, 8]),  # all of them pay
        ({1: 2, 2: 4, 4: 8, 7: 14}, 7, 1, 7, [1, 2, 4, 7]),  # there are no eight
        ({1: 2, 2: 4, 3: 4.1}, 3, 1, 2, [1, 2, 3]),
        ({1: 10, 2: 10.9}, 8, 1, 1, [1, 2]),  # too little
        ({1: 10, 2: 11.1, 4: 12, 8: 99}, 8, 1, 2, [1, 2, 4]),  # no more from there on
        ({1: 10, 2: 5, 4: 40}, 8, 1, 1, [1, 2]),
        ({1: 10, 2: 20, 4: None}, 8, 1, 2, [1, 2]),  # no memory for four
        ({1: 10, 2: None}, 8, 1, 1, [1]),
        ({1: 10}, 1, 1, 1, [1]),  # nothing to stack
        ({1: 1, 4: 4, 8: 8}, 8, 4, 8, [1, 4, 8]),  # on four devices
        ({1: 1, 4: 4, 8: 4.1}, 9, 4, 4, [1, 4, 8]),
        ({1: 1, 3: 3}, 3, 8, 3, [1, 3]),  # fewer than the devices
    ],
)
def test_a_stack_grows_for_as_long_as_that_pays(speeds, most, smallest, size, tried):
    def speed(runs):
        if speeds[runs] is None:
            raise JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return speeds[runs]

    found = stacking.size_that_pays(speed, most, smallest)
    assert found == (size, {runs: speeds[runs] / speeds[1] for runs in tried})


def test_an_error_that_is_not_the_devices_is_not_taken_for_a_full_memory():
    def speed(runs):
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        stacking.size_that_pays(speed, 4)


# ----- trained at once


@pytest.mark.slow
def test_schedules_find_at_once_what_they_find_alone(single, trainer):
    expected = one_by_one(single, members(SCHEDULES))
    assert len({events[-1]["test_loss"] for events in expected}) == 3
    assert_alike(at_once(trainer, members(SCHEDULES)), expected)


def test_one_that_diverges_leaves_the_others_as_they_are(trainer):
    fatal = made_up(lambda t, n: jnp.full(n, jnp.where(t == 3, 1e30, 1.0)))
    without = at_once(trainer, members(SCHEDULES))
    found = at_once(trainer, members(("uniform", fatal, "uniform-cosine")))
    assert [event["step"] for event in found[1]] == [1, 2, 3, 4, 4]
    assert (found[1][-1]["kind"], found[1][-1]["status"]) == ("end", "diverged")
    for index in (0, 2):  # to the last bit, with the checksum of the weights
        assert without_time(found[index]) == without_time(without[index])


def test_a_run_that_has_ended_asks_for_no_checkpoint(trainer):
    runs = members(("uniform", made_up(lambda t, n: jnp.full(n, 1e30))))
    runs[1].journal.late = lambda: runs[1].end is not None
    runs[0].journal.save = lambda *_: pytest.fail("a checkpoint")
    assert trainer.train(trainer.begin(runs))[0]["status"] == "finished"
    assert runs[1].end["status"] == "diverged"


def test_a_stack_in_which_all_diverge_ends_there(trainer):
    fatal = [
        made_up(lambda t, n, at=at: jnp.full(n, jnp.where(t == at, 1e30, 1.0)))
        for at in (1, 3, 2)
    ]
    found = at_once(trainer, members(fatal))
    assert [events[-1]["status"] for events in found] == ["diverged"] * 3
    assert [events[-1]["step"] for events in found] == [2, 4, 3]


def test_the_seconds_of_a_stack_are_shared_out(monkeypatch, trainer):
    group = trainer.begin(members(SCHEDULES))
    now, wait = [0.0], jax.block_until_ready

    def waited(state):
        now[0] += 1  # a second passes whenever a step is waited for
        return wait(state)

    monkeypatch.setattr(jax, "block_until_ready", waited)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    trainer.train(group)
    for run in group.runs:
        for event in run.journal:
            assert event["seconds"] == pytest.approx(event["step"] / 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policies", "changes"),
    [
        (("freezeout",), {"shortest_phase": 0.3}),
        (("gradient-norm",), {}),
        (("uniform",), {"norm": "batch", "ema": 0.9}),
        (("layca",), {"schedule": "cosine"}),
    ],
    ids=["phases", "rule", "batch norm, average", "rotations"],
)
def test_two_seeds_find_at_once_what_they_find_alone(policies, changes):
    config = dataclasses.replace(CONFIG, **changes)
    expected = one_by_one(Trainer(config, dataset()), members(policies, seeds=(0, 1)))
    if policies == ("freezeout",):
        assert sum(event["kind"] == "phase" for event in expected[0]) > 1
    stacked = Trainer(dataclasses.replace(config, stack=2), dataset())
    found = at_once(stacked, members(policies, seeds=(0, 1)))
    assert_alike(found, expected)


@pytest.mark.slow
def test_three_runs_on_two_devices_find_what_they_find_alone(single):
    expected = one_by_one(single, members(SCHEDULES))
    config = dataclasses.replace(CONFIG, stack=1_000, devices=2)
    trainer = Trainer(config, dataset())
    runs = members(SCHEDULES)
    group = trainer.begin(runs)
    assert group.size == 4  # filled up, so that each device has two
    for leaf in jax.tree.leaves(group.state.params):
        assert {shard.data.shape[0] for shard in leaf.addressable_shards} == {2}
        assert len(leaf.sharding.device_set) == 2
    assert_alike(at_once(trainer, runs), expected)
    # One run alone is filled up as well.
    assert_alike(at_once(trainer, members(("uniform",))), expected[:1])


# ----- checkpoints


class Interrupted(Journal):
    """Ends a run behind the checkpoint of its sixth step."""

    done = 0

    def write(self, event):
        if self.done == 6 and event["step"] > 6:
            self.wait()
            raise KeyboardInterrupt
        super().write(event)
        self.done = event["step"]

    def late(self):
        return self.done == 6


def in_folders(trainer, folder, policies, size):
    """Trains so many at once, in journals that may go on from an earlier time."""
    for begin in range(0, len(policies), size):
        names = policies[begin : begin + size]
        with contextlib.ExitStack() as stack:
            runs = []
            for name in names:
                like = trainer.like(POLICIES[name])
                journal = Interrupted(folder / name, like, 0, pytest.fail)
                stack.enter_context(journal)
                runs.append(Run(POLICIES[name], 0, journal))
            with contextlib.suppress(KeyboardInterrupt):
                trainer.train(trainer.begin(runs))
    return [records.read_lines(folder / name)[0].records for name in policies]


@pytest.mark.parametrize(
    "first", ["stacked", pytest.param("single", marks=pytest.mark.slow)]
)
def test_stacked_and_single_runs_go_on_from_each_others_checkpoints(
    first, single, trainer, tmp_path
):
    expected = [records.plain(e) for e in one_by_one(single, members(SCHEDULES))]
    ways = [(trainer, 3), (single, 1)]
    for way, size in ways if first == "stacked" else ways[::-1]:
        lines = in_folders(way, tmp_path, SCHEDULES, size)
    for line in itertools.chain(*lines):
        line["seconds"] = 0.0
    assert_alike(lines, expected)


def test_a_stack_that_goes_on_ends_as_if_it_had_not_stopped(trainer, tmp_path):
    expected = [
        records.plain(without_time(events))
        for events in at_once(trainer, members(SCHEDULES))
    ]
    cut = in_folders(trainer, tmp_path, SCHEDULES, 3)
    assert [len(lines) for lines in cut] == [7] * 3  # six steps and an evaluation
    assert in_folders(trainer, tmp_path, SCHEDULES, 3) == expected


# ----- groups


def test_groups_keep_the_order_and_hold_one_kind_only():
    """Names stand for policies, their first letters for kinds."""
    runs = [
        Run(name, seed, name=f"{name}{seed}")
        for seed in range(3)
        for name in ("s1", "rule", "s2")
    ]
    groups = [
        [run.name for run in group]
        for group in runner._groups(runs, lambda policy: policy[0], 4)
    ]
    assert groups == [
        ["s10", "s20", "s11", "s21"],  # whole pairs first
        ["rule0", "rule1", "rule2"],
        ["s12", "s22"],
    ]


def test_one_at_a_time_is_the_order_of_the_study():
    runs = [Run("ab"[i % 2], i) for i in range(5)]
    groups = list(runner._groups(runs, lambda policy: policy, 1))
    assert groups == [[run] for run in runs]


def test_runs_are_of_one_kind_if_they_share_program_and_phases(single):
    asked = POLICIES.keys() - {"blockwise"}  # which asks for a transformer
    kinds = {name: single.kind(POLICIES[name]) for name in asked}
    assert kinds["uniform"] == kinds["early-first"] == kinds["cascade"]
    others = ["uniform", "freezeout", "unfreeze-top-first", "gradient-norm", "layca"]
    assert len({kinds[name] for name in others}) == len(others)


# ----- whole studies


@pytest.fixture
def no_signal(monkeypatch):
    monkeypatch.setattr(signals, "_asked", None)


def run_study(trainer, out, **changes):
    config = dataclasses.replace(STACKED, out=out, **changes)
    with mock.patch.object(runner, "Trainer", return_value=trainer):
        return runner.run(config, dataset(), COMMAND)


def metrics(out):
    """The lines of every run, by its folder."""
    return {p.parent.name: p.read_bytes() for p in out.glob("demo/*/metrics.jsonl")}


@pytest.fixture
def whole(no_signal, trainer, tmp_path):
    """The records of the study, undisturbed."""
    assert run_study(trainer, tmp_path / "whole") == 0
    return metrics(tmp_path / "whole")


def test_a_stacked_study_is_reported_like_any_other(whole, tmp_path, capsys):
    capsys.readouterr()
    assert whole.keys() == {f"{name}-0" for name in SCHEDULES}
    recorded = records.read(tmp_path / "whole" / "demo")
    rows = contents.Study(recorded).rows
    assert [(row.policy, row.n) for row in rows] == [(name, 1) for name in SCHEDULES]
    assert recorded.config["stack"] == 3
    for path in (tmp_path / "whole").glob("demo/*/env.json"):
        (session,) = records.read_json(path, "environment")["sessions"]
        assert session["at_once"] == 3


def at_line(monkeypatch, policy, step, happens):
    """Lets something happen before a line of a run is recorded."""
    write = Journal.write

    def watched(self, event):
        if (event["policy"], event["step"], event["kind"]) == (policy, step, "train"):
            happens()
        write(self, event)

    monkeypatch.setattr(Journal, "write", watched)


@pytest.mark.parametrize(
    ("name", "status"),
    [("SIGINT", 130), pytest.param("SIGTERM", 143, marks=pytest.mark.slow)],
)
def test_a_signal_leaves_a_checkpoint_of_each_and_all_go_on(
    name, status, whole, trainer, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        ask = lambda: setattr(signals, "_asked", signal.Signals[name])  # noqa: E731
        at_line(patch, "early-first", 4, ask)
        assert run_study(trainer, tmp_path) == status
    for policy in SCHEDULES:
        checkpoints = tmp_path / "demo" / f"{policy}-0" / "checkpoints"
        assert [path.name for path in checkpoints.iterdir()] == ["4"]
    signals._asked = None
    assert run_study(trainer, tmp_path) == 0
    assert metrics(tmp_path) == whole
    assert not list(tmp_path.glob("demo/*/checkpoints"))


@pytest.mark.slow
def test_a_full_disk_in_a_stack_loses_no_record(whole, trainer, tmp_path, monkeypatch):
    def full():
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        at_line(patch, "early-first", 4, full)
        with pytest.raises(OSError, match="No space left"):
            run_study(trainer, tmp_path, checkpoint_seconds=0)
    kept = {name: lines.count(b"\n") for name, lines in metrics(tmp_path).items()}
    assert kept == {"uniform-0": 4, "early-first-0": 3, "uniform-cosine-0": 3}
    assert run_study(trainer, tmp_path) == 0
    assert metrics(tmp_path) == whole


def test_tensorboard_files_of_a_stack_are_those_of_its_runs(
    no_signal, trainer, tmp_path
):
    assert run_study(trainer, tmp_path, logger="tensorboard") == 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for policy in SCHEDULES:
        folder = tmp_path / "demo" / f"{policy}-0"
        lines, _ = records.read_lines(folder)
        board = EventAccumulator(str(folder))
        board.Reload()
        found = [scalar.value for scalar in board.Scalars("train/loss")]
        expected = [e["loss"] for e in lines.records if e["kind"] == "train"]
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.slow
def test_runs_interrupted_at_different_steps_are_all_ended(
    whole, trainer, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        at_line(patch, "early-first", 4, lambda: setattr(signals, "_asked", 15))
        assert run_study(trainer, tmp_path) == 143
    signals._asked = None
    for path in (tmp_path / "demo" / "uniform-0" / "checkpoints").iterdir():
        (path / "state").rename(path / "gone")  # damaged: it begins again
    assert run_study(trainer, tmp_path) == 0
    found = {
        name: [line["loss"] for line in lines if line["kind"] != "end"]
        for name, lines in (
            (p.name, records.read_lines(p)[0].records)
            for p in (tmp_path / "demo").iterdir()
            if (p / "metrics.jsonl").exists()
        )
    }
    for name in whole:
        again = tmp_path / "whole" / "demo" / name
        lines = records.read_lines(again)[0].records
        expected = [line["loss"] for line in lines if line["kind"] != "end"]
        np.testing.assert_allclose(found[name], expected, rtol=SAME)


@pytest.mark.slow
def test_how_many_pay_is_really_tried(trainer):
    size, speeds = trainer.stack_that_pays(2)
    assert size in (1, 2)
    assert list(speeds) == [1, 2]
    assert speeds[1] == 1
    assert 0.3 < speeds[2] < 10
