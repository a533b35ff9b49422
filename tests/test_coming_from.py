"""Runs the blocks of docs/coming_from.md and holds them against rates by hand."""

import inspect
import pathlib
import re

import jax
import numpy as np
import optax
import pytest

import optax_llr

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "coming_from.md"
BLOCKS = re.findall(
    r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S
)


@pytest.fixture(scope="module")
def page():
    """All names of the page, whose blocks are run in order."""
    names = {}
    for block in BLOCKS:
        exec(compile(block, str(PAGE), "exec"), names)
    return names


def moved(optimizer, params):
    """By path, how far each parameter comes in a step, its gradients all ones."""
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    leaves = jax.tree_util.tree_leaves_with_path(updates)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): -np.asarray(leaf)
        for path, leaf in leaves
    }


BODY = ("embed", "block0", "block1")
# What each optimizer multiplies the rate of its alone by, by a pattern of the path.
FACTORS = {
    "partition": (optax.adam(1e-3), {"head": 1, "": 0.1}),
    "flax": (optax.sgd(0.1), {"embed": 0.1, "": 1}),
    "torch": (optax.sgd(0.1, momentum=0.9), {"head": 1, "": 0.1}),
    "timm": (
        optax.adamw(1e-3),
        {"embed": 0.75**3, "block0": 0.75**2, "block1": 0.75, "head": 1},
    ),
    "keras": (optax.adam(1e-3), {"head": 1, "": 0}),
    "fastai": (
        optax.adam(1e-3),
        {"embed": 1e-2, "block0": 10 ** (-4 / 3), "block1": 10 ** (-2 / 3), "head": 1},
    ),
    "big_vision": (optax.sgd(0.1), {"head": 1, "bias": 2, "": 0.1}),
    "muon": (optax.contrib.muon(0.02), {"bias": 3e-4 / 0.02, "": 1}),
}


@pytest.mark.parametrize("name", FACTORS)
def test_rates_are_those_of_the_other_library(page, name):
    alone, factors = FACTORS[name]
    ours, plain = (moved(o, page["params"]) for o in (page[name], alone))
    for path, step in plain.items():
        factor = next(value for part, value in factors.items() if part in path)
        np.testing.assert_allclose(ours[path], factor * step, rtol=1e-5, err_msg=path)


def test_partition_is_what_optax_partition_does(page):
    labels = {name: "body" for name in BODY} | {"head": "head"}
    theirs = optax.partition(
        {"body": optax.adam(1e-4), "head": optax.adam(1e-3)}, labels
    )
    ours, plain = (moved(o, page["params"]) for o in (page["partition"], theirs))
    for path, step in plain.items():
        np.testing.assert_allclose(ours[path], step, rtol=1e-5, err_msg=path)


@pytest.mark.skipif(
    "adam_learning_rate" not in inspect.signature(optax.contrib.muon).parameters,
    reason="this Optax has one rate for Muon",
)
def test_muon_is_what_optax_does_with_two_rates(page):
    theirs = optax.contrib.muon(0.02, adam_learning_rate=3e-4)
    ours, plain = (moved(o, page["params"]) for o in (page["muon"], theirs))
    for path, step in plain.items():
        np.testing.assert_allclose(ours[path], step, rtol=1e-5, err_msg=path)


def test_the_rates_of_param_groups_are_read_back(page):
    rates = optax_llr.layer_rates(page["layers"], page["state"], page["rate"])
    assert rates == pytest.approx(page["lr"])


def test_layers_freeze_when_composer_freezes_them(page):
    """It freezes n layers where n / 4 ≤ (t / 100 − ½) / ½."""
    for t in range(120):
        frozen = min(4, max(0, int(4 * (t / 100 - 0.5) / 0.5)))
        meant = [0.0] * frozen + [1.0] * (4 - frozen)
        assert page["freezing"](t).tolist() == meant
    first, *_, last = page["phases"]
    assert (first.start, first.stop, last.stop) == (0, 63, 100)
