"""Recipes for language models on transformers of linen and nnx, one step of each."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_llr
from zoo.comparing import leaves_by_path, load

pytestmark = pytest.mark.filterwarnings("ignore")  # of other people's packages

RECIPES = pathlib.Path(__file__).parents[2] / "docs" / "recipes.md"
MODELS = ["linen.scanned", "nnx.transformer", "nnx.scanned"]
every_model = pytest.mark.parametrize("model", MODELS)

# By the first of these that is in a path: the kind of each recipe.
KINDS = {
    "/norm_": ("norm", "biases and norms"),
    "norm/": ("norm", "output biases and norms"),
    "head/bias": ("embedding", "output biases and norms"),
    "head/": ("embedding", "head"),
    "/query/bias": ("query and key", "biases and norms"),
    "/query/": ("query and key", "weights"),
    "/key/bias": ("query and key", "biases and norms"),
    "/key/": ("query and key", "weights"),
    "/attention/value/bias": ("value and output", "biases and norms"),
    "/attention/value/": ("value and output", "weights"),
    "/out/bias": ("value and output", "biases and norms"),
    "/out/": ("value and output", "weights"),
    "/up/bias": ("feed-forward", "biases and norms"),
    "/up/": ("feed-forward", "weights"),
    "/down/bias": ("feed-forward", "biases and norms"),
    "/down/": ("feed-forward", "weights"),
    "": ("embedding", "embedding"),
}
BLOCKWISE = {
    "norm": 1,
    "value and output": 4,
    "feed-forward": 6,
    "query and key": 8,
    "embedding": 10,
}
COMPLETED = {  # rate, ε, decay, for 4 times the width and twice the depth
    "embedding": (1, 1 / 4, 1),
    "weights": (1 / 4, 1 / 8, 4),
    "biases and norms": (1, 1 / 8, 1),
    "output biases and norms": (1, 1, 1),
    "head": (1 / 4, 1, 4),
}


def kind_of(path, recipe):
    return next(kinds[recipe] for words, kinds in KINDS.items() if words in path)


def recipe(start, instead, **given):
    """The names of a recipe, for a model that is given instead of its own."""
    text = RECIPES.read_text(encoding="utf-8")
    section = next(
        s for s in re.split(r"^## ", text, flags=re.M) if s.startswith(start)
    )
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", section, re.M | re.S))
    for old, new in instead.items():
        assert code.count(old) == 1
        code = code.replace(old, new)
    names = {"jnp": jnp, "np": np, "optax": optax, "optax_llr": optax_llr, **given}
    exec(code, names)
    return names


def by_path(tree):
    """As `Layers` has them, without the attribute in which nnx keeps an array."""
    return {p.removesuffix("/value"): leaf for p, leaf in leaves_by_path(tree).items()}


def filled(shapes, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.3, leaf.dtype), shapes
    )


def stepped(optimizer, shapes, steps):
    """Gradient, parameter and last update of each path, all steps from one place."""
    params, gradients = filled(shapes, 0), filled(shapes, 1)

    @jax.jit
    def run(params, gradients):
        state = optimizer.init(params)
        for _ in range(steps):
            updates, state = optimizer.update(gradients, state, params)
        return updates

    trees = map(by_path, (gradients, params, run(params, gradients)))
    gradients, params, updates = trees
    return {path: (gradients[path], params[path], updates[path]) for path in params}


@every_model
def test_blockwise_on_a_transformer(model):
    """In its second step, as the first has a rate of 0."""
    _, shapes, _ = load(model)
    names = recipe(
        "Blockwise",
        {"gpt = {path: jnp.ones(2) for path in [*ends, *blocks]}\n": ""},
        gpt=shapes,
    )
    seen = set()
    for path, (g, w, update) in stepped(names["optimizer"], shapes, 2).items():
        kind = kind_of(path, recipe=0)
        rate = 6e-4 * BLOCKWISE[kind] / 100
        adam = g / (np.abs(g) + 1e-8)
        expected = -rate * (adam + 0.1 * w)
        # Of 1e-5 and more, but for elements in which Adam and decay cancel.
        np.testing.assert_allclose(update, expected, 1e-4, 1e-10, err_msg=path)
        seen.add(kind)
    assert seen == set(BLOCKWISE)


@every_model
def test_completed_p_on_a_transformer(model):
    """Its first step, with an ε that plays a part."""
    _, small, _ = load(model, width=8, blocks=3)
    _, large, _ = load(model, width=32, blocks=6)
    names = recipe(
        "Complete(d)P",
        {
            "large, small = transformer(32, 8), transformer(8, 2)\n": "",
            "eps=1e-8": "eps=0.1",
        },
        large=by_path(large),
        small=by_path(small),
    )
    assert (names["m_N"], names["m_L"]) == (4, 2)
    seen = set()
    for path, (g, w, update) in stepped(names["optimizer"], large, 1).items():
        kind = kind_of(path, recipe=1)
        rate, epsilon, decay = COMPLETED[kind]
        adam = g / (np.abs(g) + 2 * epsilon * 0.1)
        expected = -1e-3 * rate / 2 * (adam + 0.1 * decay / 2 * w)
        # Of 1e-5 and more, but for elements in which Adam and decay cancel.
        np.testing.assert_allclose(update, expected, 1e-4, 1e-10, err_msg=path)
        seen.add(kind)
    assert seen == set(COMPLETED)
