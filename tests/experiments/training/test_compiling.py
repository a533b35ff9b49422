"""What a study compiles, and what the programs are told."""

import dataclasses
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import CONFIG, dataset, made_up

from experiments.policies.catalogue import POLICIES
from experiments.policies.optimizers import scheduled
from experiments.training import compiling
from experiments.training.trainer import Run, Trainer
from optax_llr import Layers, Phase

pytestmark = pytest.mark.usefixtures("smooth")

LAYERS = Layers(("conv", "mid", "head"), np.arange(3), {"c": 0, "m": 1, "h": 2})


@pytest.fixture(scope="module")
def compiler():
    return Trainer(CONFIG, dataset())._compiler


# ----- tables


def test_the_tables_are_rate_and_multipliers_of_every_step():
    config = dataclasses.replace(CONFIG, schedule="constant", rate=0.25)
    policy = made_up(lambda t, n: jnp.arange(1.0, n + 1) * (t + 1))
    tables = compiling.policy_tables(policy, config, LAYERS)
    np.testing.assert_array_equal(tables.rate, np.full(10, 0.25, np.float32))
    expected = np.outer(np.arange(1, 11), [1, 2, 3]).astype(np.float32)
    np.testing.assert_array_equal(tables.multipliers, expected)
    assert {type(part) for part in tables} == {np.ndarray}  # not on the device
    assert {part.dtype for part in tables} == {np.dtype("float32")}


@pytest.mark.parametrize("name", sorted(POLICIES.keys() - {"blockwise"}))
def test_every_policy_has_a_finite_table(name):
    tables = compiling.policy_tables(POLICIES[name], CONFIG, LAYERS)
    assert tables.rate.shape == (10,)
    assert tables.multipliers.shape == (10, 3)
    assert np.isfinite(tables.rate).all()
    assert (tables.multipliers >= 0).all()


def test_a_policy_with_a_rate_and_schedule_of_its_own_has_these():
    policy = dataclasses.replace(POLICIES["uniform"], schedule="constant", rate=0.5)
    tables = compiling.policy_tables(policy, CONFIG, LAYERS)
    assert (tables.rate == 0.5).all()


# ----- what is compiled, and when


def test_a_cpu_is_given_one_step_a_call_and_an_accelerator_all(monkeypatch):
    for backend, expected in [("cpu", 1), ("gpu", 64), ("tpu", 64)]:
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        assert compiling.steps_per_call(64) == expected


def test_phases_cover_the_run_and_rules_have_one(compiler):
    for name in ("uniform", "freezeout", "unfreeze-top-first", "gradient-norm"):
        phases = compiler.phases(POLICIES[name])
        assert phases[0].start == 0
        assert phases[-1].stop == CONFIG.total_steps
        for one, next_one in itertools.pairwise(phases):
            assert one.stop == next_one.start
        frozen = [any(phase.frozen) for phase in phases]
        assert any(frozen) == (name in ("freezeout", "unfreeze-top-first"))


@pytest.mark.parametrize(("shortest", "expected"), [(0.1, 5), (0.5, 1), (1.0, 1)])
def test_phases_that_are_too_short_are_not_made(shortest, expected):
    config = dataclasses.replace(CONFIG, shortest_phase=shortest)
    compiler = Trainer(config, dataset())._compiler
    assert len(compiler.phases(POLICIES["unfreeze-top-first"])) == expected


@pytest.fixture
def counted(monkeypatch):
    """A trainer that compiles nothing, and what it was asked for."""
    asked, made = [], set()

    def compile_(self, *given):
        if self not in made:
            asked.append((self.name, self.size))
        made.add(self)
        self.work = 2.0

    def noted(self, function, size, *axes, **options):
        self.name, self.size = getattr(function, "func", function).__name__, size

    monkeypatch.setattr(compiling.Ahead, "__init__", noted)
    monkeypatch.setattr(compiling.Ahead, "compile", compile_)
    return lambda **changes: (
        Trainer(dataclasses.replace(CONFIG, **changes), dataset()),
        asked,
    )


def begin(trainer, *names):
    return trainer.begin([Run(POLICIES[name], 0) for name in names])


def test_schedules_share_what_is_compiled_and_each_size_has_its_own(counted):
    trainer, asked = counted(stack=4)
    for name in ("uniform", "early-first", "cascade"):
        begin(trainer, name)
    assert asked == [("score", 1), ("step", 1)]
    begin(trainer, "uniform", "early-first")
    begin(trainer, "early-first", "cascade")
    begin(trainer, "uniform")
    assert asked == [(name, size) for size in (1, 2) for name in ("score", "step")]


def test_each_rule_is_a_program_of_its_own(counted):
    trainer, asked = counted()
    for name in ("gradient-norm", "layca", "layca-alpha", "gradient-norm"):
        begin(trainer, name)
    assert asked == [("score", 1), ("step", 1)] * 2


def test_every_phase_is_compiled_and_the_one_that_freezes_nothing_once(counted):
    trainer, asked = counted()
    # Work is predicted from the one that freezes nothing.
    assert len(begin(trainer, "unfreeze-top-first").stages) == 5
    assert asked == [("score", 1), *[("step", 1)] * 5]
    begin(trainer, "uniform")
    assert asked == [("score", 1), *[("step", 1)] * 5]


def test_an_accelerator_has_a_step_and_all_steps_of_an_interval(counted, monkeypatch):
    trainer, asked = counted()
    monkeypatch.setattr(compiling, "steps_per_call", lambda most: 3)
    begin(trainer, "uniform")
    assert asked == [("score", 1), ("step", 1), ("steps", 1)]


def test_the_initial_state_is_that_of_its_seed(compiler):
    compiled = compiler.program(scheduled, 1)
    states = [compiled.initial(np.uint32(seed)) for seed in (0, 0, 1)]
    leaves = [
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(s.params)]) for s in states
    ]
    np.testing.assert_array_equal(leaves[0], leaves[1])
    assert (leaves[0] != leaves[2]).any()
    for state, seed in zip(states, (0, 0, 1), strict=True):
        assert jax.random.key_data(state.key).tolist() == [0, seed]
        assert int(state.step) == 0
    for leaf, like in zip(
        *map(jax.tree.leaves, (states[0], compiler.like(scheduled))), strict=True
    ):
        assert (leaf.shape, leaf.dtype) == (like.shape, like.dtype)


def test_the_work_that_a_frozen_phase_saves_is_told_as_a_share():
    (stage,) = begin(Trainer(CONFIG, dataset()), "uniform").stages
    assert (stage.phase.names, stage.predicted) == ((), 1.0)
    assert stage.step.work > 1e6


def test_the_compilation_cache_stands_in_the_users_cache_folder(monkeypatch, tmp_path):
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    try:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        compiling.use_compilation_cache()
        assert Path(jax.config.jax_compilation_cache_dir).is_relative_to(tmp_path)
        monkeypatch.delenv("XDG_CACHE_HOME")
        compiling.use_compilation_cache()
        expected = Path.home() / ".cache" / "optax_llr"
        assert Path(jax.config.jax_compilation_cache_dir).is_relative_to(expected)
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def test_layers_that_wait_with_random_weights_have_no_statistics_to_keep():
    layers = Layers(("a", "b", "c"), (0, 1, 2), {"a/w": 0, "b/w": 1, "c/w": 2})
    frozen = [(False, True, True), (True, False, True), (True, True, False)]
    phases = [Phase(layers, i, i + 1, of) for i, of in enumerate(frozen)]

    def kept(pretrained):
        return [phase.names for phase in compiling.settled(phases, pretrained)]

    assert kept(False) == [(), ("a",), ("a", "b")]
    assert kept(True) == [phase.names for phase in phases]


def test_a_network_that_waits_in_part_computes_what_the_whole_one_does():
    """It normalises by each batch, and keeps statistics for evaluations."""
    config = dataclasses.replace(CONFIG, norm="batch")
    waits = made_up(lambda step, n: jnp.where(step < 5, jnp.arange(n) == 0, 1.0))
    trainer, found = Trainer(config, dataset(config)), []
    for policy in (POLICIES["uniform"], waits):
        group = trainer.begin([Run(policy, 0)])
        found.append(group.stages[0].step(group.state, trainer._train, group.tables))
    assert any(group.stages[0].phase.frozen)
    whole, part = (jax.tree.leaves((state.loss, state.statistics)) for state in found)
    for one, other in zip(whole, part, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
