"""Runs that start from weights; of ten steps, as in the other tests of training."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny_runs import CONFIG, Events, dataset

from experiments.data import dataset as data
from experiments.policies.catalogue import POLICIES
from experiments.records import checkpoint, weights
from experiments.records.journal import Journal
from experiments.training import transfer
from experiments.training.program import Program
from experiments.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("smooth")

SOURCE = dataclasses.replace(CONFIG, norm="batch", keep_weights=True)
SCRATCH = dataclasses.replace(POLICIES["uniform"], name="scratch", scratch=True)


def loaded(config):
    return data.load(
        config.data,
        classes=config.classes,
        validation=config.validation,
        images_per_class=config.images_per_class,
    )


def initial(config, source=None, seed=0):
    """The weights before the first step, by path, from arrays by path."""
    program = Program(config, loaded(config))
    state = jax.jit(program.initial)(jax.random.key(seed), source)
    return weights.of_model(state.params, state.statistics)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The folder of a run that kept its weights, and its last event."""
    trained, uniform = Trainer(SOURCE, dataset()), POLICIES["uniform"]
    folder = tmp_path_factory.mktemp("study") / "uniform-0"
    with Journal(folder, trained.like(uniform), 60.0, print) as journal:
        end = trained.run(uniform, 0, journal)
    return folder, end


@pytest.fixture(scope="module")
def kept(source):
    """The arrays of that run."""
    return weights.read(source[0])


def target(**fields):
    """Four of the classes, few images."""
    fields = {"classes": (3, 5, 7, 9), "validation": 720, "batch_size": 16, **fields}
    return dataclasses.replace(SOURCE, keep_weights=False, **fields)


def test_a_run_keeps_the_weights_that_its_last_line_has_the_checksum_of(source, kept):
    state = jax.eval_shape(Program(SOURCE, dataset()).initial, jax.random.key(0))
    params = jax.tree_util.tree_map_with_path(
        lambda keys, _: kept[weights.path_of(keys)], state.params
    )
    assert checkpoint.sha256(params) == source[1]["params_sha256"]
    random = initial(SOURCE)
    assert set(kept) == set(random)
    assert {"norm1/mean", "conv1/kernel", "head/bias"} < set(kept)
    assert all((kept[path] != random[path]).any() for path in kept)


def test_the_body_with_its_statistics_comes_from_the_weights_and_the_head_is_new(kept):
    random, found = initial(target()), initial(target(), kept)
    assert found["head/kernel"].shape == (32, 4)
    for path, value in found.items():
        expected = random if path.startswith("head/") else kept
        assert (value == expected[path]).all(), path


def test_the_head_is_new_also_where_the_old_one_would_fit_unless_it_is_kept(kept):
    same = target(classes=tuple(range(10)), validation=1_900)
    old = dataclasses.replace(same, init_from="a", new_head=False)
    heads = [initial(config, kept)["head/bias"] for config in (same, old)]
    assert (heads[0] == 0).all()
    assert (heads[1] == kept["head/bias"]).all()


def without(path):
    return lambda arrays: {p: a for p, a in arrays.items() if p != path}


def having(**changed):
    return lambda arrays: arrays | {p.replace("__", "/"): a for p, a in changed.items()}


@pytest.mark.parametrize(
    ("change", "new_head", "said"),
    [
        (without("conv2/kernel"), True, r"conv2/kernel of 3 × 3 × 8 × 16 is missing"),
        (without("norm2/var"), True, r"norm2/var of 16 is missing"),
        (having(conv1__kernel=np.ones((3, 3, 3, 9))), True, "conv1/.* × 8 is .* × 9"),
        (having(conv1__kernel=np.ones((3, 3, 3, 8), int)), True, "is of int"),
        (
            lambda _: {"a": np.ones(1)},
            True,
            r"missing and \d+ more; only head/bias, head/kernel may be",
        ),
        (
            lambda arrays: arrays,
            False,
            r"head/bias of 4 is 10, head/.*; with --new-head the",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_path_and_shape(
    kept, change, new_head, said
):
    config = target(init_from="a", new_head=new_head)
    with pytest.raises(ValueError, match=said) as refused:
        initial(config, change(kept))
    assert "\n" not in str(refused.value)


def test_what_of_the_weights_is_used_is_said(kept):
    state = jax.eval_shape(
        Program(target(), loaded(target())).initial, jax.random.key(0)
    )
    layers = Program(target(), loaded(target())).layers
    held = kept | {"other": np.ones(3)}
    found = transfer.fit(held, state.params, state.statistics, layers, new_head=True)
    assert transfer.said(found) == (
        f"{len(kept) - 2} arrays are taken; new are head/bias, head/kernel; not used "
        "are head/bias, head/kernel, other"
    )


def test_other_precision_is_converted(kept):
    wide = {path: value.astype(np.float64) for path, value in kept.items()}
    assert initial(target(), wide)["conv1/kernel"].dtype == np.float32


def test_runs_start_from_weights_and_one_from_scratch_does_not(source):
    """Twice each: the first step of a run must leave the weights to the next."""
    config = target(init_from=source[0], measurements=1)
    trained = Trainer(config, loaded(config))
    assert str(source[0]) in trained.start
    losses, rotations = {}, []
    for policy in (POLICIES["uniform"], SCRATCH):
        for seed in (0, 0, 1):
            events = Events()
            trained.run(policy, seed, events)
            losses.setdefault(policy.name, []).append(events[1]["loss"])
            rotations.append(events[0]["rotation"])
    fresh = Trainer(dataclasses.replace(config, init_from=None), loaded(config))
    random = Events()
    fresh.run(POLICIES["uniform"], 0, random)
    assert fresh.start == ""
    tuned, scratch = losses["uniform"], losses["scratch"]
    assert tuned[0] == tuned[1] != tuned[2]  # another head, and other images
    assert scratch[0] == scratch[1] == random[1]["loss"] != tuned[0]
    assert max(map(max, rotations)) < 1e-6  # before the first step, from where it began
