import dataclasses
import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from optax.contrib import MuonDimensionNumbers as Axes

import optax_llr
from experiments.config.choices import Decay, Optimizer
from experiments.config.config import Config
from experiments.models import make
from experiments.policies import optimizers
from experiments.policies.catalogue import POLICIES

STEPS = 24
OPTIMIZERS, DECAYS = typing.get_args(Optimizer), typing.get_args(Decay)
CONFIG = Config(momentum=0.75, weight_decay=0.25)  # decay that shows
SHAPES = {
    "stem": {"kernel": (3, 4)},
    "conv": {"kernel": (2, 2, 4, 3)},
    "attention": {"query": {"kernel": (3, 2, 2)}},
    "head": {"bias": (2,)},
}
MATRICES = {"conv/kernel": (16, 3), "attention/query/kernel": (3, 4)}
"""The kernels of hidden layers, as Muon is to see them."""
SETTINGS = [
    (name, decay)
    for name in OPTIMIZERS
    for decay in DECAYS
    if (name, decay) != ("adamw", "coupled")  # which is refused
]


def drawn(seed, *leading):
    """Random numbers in these leading axes and the shapes of the weights."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: rng.normal(size=(*leading, *shape)).astype(np.float32),
        SHAPES,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def flat(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


INITIAL = drawn(0)
INITIAL["head"]["bias"][:] = 0  # as biases start, and no trust ratio can be formed
NOISE = drawn(1, STEPS)
LAYERS = optax_llr.match_layers(INITIAL, [(f"{name}/.*", name) for name in SHAPES])
RATES = np.linspace(0.05, 0.01, STEPS, dtype=np.float32)


def gradient(weights, noise):
    return 0.5 * weights + noise


def uneven():
    """Multipliers (T, L) that differ and change; some are 0."""
    multipliers = np.random.default_rng(2).uniform(0.2, 2, (STEPS, len(LAYERS)))
    multipliers[5:12, 1] = 0  # frozen for a while
    multipliers[15:, 0] = 0  # frozen for good
    multipliers[3] = 0
    multipliers[7, 3] = 1
    return multipliers.astype(np.float32)


def made(name, decay, **changes):
    config = dataclasses.replace(CONFIG, optimizer=name, decay=decay, **changes)
    return optimizers.optimizer(config, LAYERS)


@functools.cache
def trainer(name, decay):
    """A jitted function: multipliers → weights before, between and after the steps."""
    optimizer = made(name, decay)

    def step(carry, told):
        params, state = carry
        noise, rate, multipliers = told
        state = state._replace(hyperparams={"rate": rate, "multipliers": multipliers})
        gradients = jax.tree.map(gradient, params, noise)
        updates, state = optimizer.update(gradients, state, params)
        after = optax.apply_updates(params, updates)
        return (after, state), params

    @jax.jit
    def train(multipliers):
        told = NOISE, jnp.asarray(RATES), multipliers
        start = INITIAL, optimizer.init(INITIAL)
        (last, _), path = jax.lax.scan(step, start, told)
        return jax.tree.map(
            lambda before, after: jnp.concatenate([before, after[None]]), path, last
        )

    return lambda multipliers: flat(train(multipliers))


# The same in NumPy: each is told one array's gradient with its coupled decay apart,
# remembers in `memory`, and returns the update.


def sgd(memory, g, w, decay, rate, t):
    del t
    memory["v"] = CONFIG.momentum * memory.get("v", 0) + g + decay * w
    return -rate * memory["v"]


def nesterov(memory, g, w, decay, rate, t):
    sgd(memory, g, w, decay, rate, t)
    return -rate * (CONFIG.momentum * memory["v"] + g + decay * w)


def adam(memory, g, t, b1, eps=1e-8, ahead=False):
    first = memory["first"] = b1 * memory.get("first", 0) + (1 - b1) * g
    second = memory["second"] = 0.999 * memory.get("second", 0) + 0.001 * g**2
    if ahead:
        first = b1 * first / (1 - b1 ** (t + 2)) + (1 - b1) * g / (1 - b1 ** (t + 1))
    else:
        first = first / (1 - b1 ** (t + 1))
    return first / (np.sqrt(second / (1 - 0.999 ** (t + 1))) + eps)


def adamw(memory, g, w, decay, rate, t):
    return -rate * adam(memory, g + decay * w, t, CONFIG.momentum)


def ratio(w, d):
    norms = np.sqrt((w**2).sum()), np.sqrt((d**2).sum())
    return norms[0] / norms[1] if all(norms) else None


def lars(memory, g, w, decay, rate, t):
    del t
    d = g + decay * w
    trust = ratio(w, d)
    scaled = rate * d * (1 if trust is None else 0.001 * trust)
    memory["v"] = CONFIG.momentum * memory.get("v", 0) - scaled
    return memory["v"]


def lamb(memory, g, w, decay, rate, t):
    d = adam(memory, g, t, CONFIG.momentum, eps=1e-6) + decay * w
    return -rate * d * (ratio(w, d) or 1)


def newton_schulz(x):
    x = x / np.linalg.norm(x)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def muon(memory, g, w, decay, rate, t, *, shape=None):
    beta, g = CONFIG.momentum, g + decay * w
    if shape is None:
        return -rate * adam(memory, g, t, 0.9, ahead=True)
    mean = memory["mean"] = beta * memory.get("mean", 0) + (1 - beta) * g
    ahead = beta * mean / (1 - beta ** (t + 2))
    ahead = ahead + (1 - beta) * g / (1 - beta ** (t + 1))
    direction = newton_schulz(ahead.reshape(shape)).reshape(w.shape)
    return -0.2 * rate * np.sqrt(max(shape)) * direction


REFERENCE = dict(zip(OPTIMIZERS, [sgd, nesterov, adamw, lars, lamb, muon], strict=True))


def expected(name, decay, path, multipliers):
    """The weights of one array before, between and after the steps, in float64."""
    w, noise = flat(INITIAL)[path].astype(float), flat(NOISE)[path].astype(float)
    update = REFERENCE[name]
    if name == "muon" and path in MATRICES:
        update = functools.partial(muon, shape=MATRICES[path])
    strength, memory, weights = CONFIG.weight_decay, {}, [w]
    for t, (rate, m) in enumerate(
        zip(RATES.tolist(), multipliers[:, LAYERS.members[path]].tolist(), strict=True)
    ):
        coupled = strength if decay == "coupled" else 0
        u = update(memory, gradient(w, noise[t]), w, coupled, rate, t)
        followed = {"coupled": m * u, "following": m * (u - rate * strength * w)}
        w = w + followed.get(decay, m * u - rate * strength * w)
        weights.append(w)
    return np.array(weights)


@pytest.mark.parametrize(("name", "decay"), SETTINGS)
def test_training_agrees_with_numpy(name, decay):
    multipliers = uneven()
    for path, weights in trainer(name, decay)(multipliers).items():
        reference = expected(name, decay, path, multipliers)
        np.testing.assert_allclose(weights, reference, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(("name", "decay"), SETTINGS)
def test_every_policy_keeps_weights_finite_and_frozen_layers_still(name, decay):
    shrink = 1 - CONFIG.weight_decay * RATES
    for policy in POLICIES.values():
        if policy.name == "blockwise":  # which asks for the layers of a transformer
            continue
        values = policy.multipliers(LAYERS, STEPS)
        if callable(values):
            values = jax.vmap(values)(jnp.arange(STEPS))
        multipliers = np.broadcast_to(np.float32(values), (STEPS, len(LAYERS)))
        for path, weights in trainer(name, decay)(multipliers).items():
            assert np.isfinite(weights).all(), policy.name
            of_layer = multipliers[:, LAYERS.members[path]]
            before, after = weights[:-1], weights[1:]
            moved = (before != after).reshape(STEPS, -1).any(1)
            assert moved[of_layer > 0.1].all(), policy.name
            frozen = of_layer == 0
            if decay == "ignoring":
                decayed = np.array([s * w for s, w in zip(shrink, before, strict=True)])
                np.testing.assert_allclose(after[frozen], decayed[frozen], rtol=1e-6)
            else:
                assert not moved[frozen].any(), policy.name


def plain(name, rate):
    """What Optax calls by this name."""
    beta, strength = CONFIG.momentum, CONFIG.weight_decay
    before = optax.add_decayed_weights(strength)
    match name:
        case "sgd":
            return optax.chain(before, optax.sgd(rate, beta))
        case "nesterov":
            return optax.chain(before, optax.sgd(rate, beta, nesterov=True))
        case "adamw":
            return optax.adamw(rate, beta, weight_decay=strength)
        case "lars":
            return optax.lars(rate, strength, momentum=beta)
        case "lamb":
            return optax.lamb(rate, beta, weight_decay=strength)
        case "muon":
            return optax.contrib.muon(
                rate,
                beta=beta,
                weight_decay=strength,
                adam_weight_decay=strength,
                muon_weight_dimension_numbers={
                    "stem": {"kernel": None},
                    "conv": {"kernel": Axes((0, 1, 2), 3)},
                    "attention": {"query": {"kernel": Axes(0, (1, 2))}},
                    "head": {"bias": None},
                },
                consistent_rms=0.2,
            )


@functools.cache
def jitted(name):
    """Its `init` and `update`, with the decay that Optax has by this name."""
    apart = name in ("adamw", "muon")
    optimizer = made(name, "following" if apart else "coupled")
    return optimizer.init, jax.jit(optimizer.update)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_under_multipliers_of_1_updates_are_those_of_optax(name):
    init, update = jitted(name)
    reference = jax.jit(lambda rate, *args: plain(name, rate).update(*args))
    # Decay that is apart is multiplied by η λ here, by λ and then by η there.
    tolerance = 1e-8 if name in ("adamw", "muon") else 0
    state, plain_state = init(INITIAL), plain(name, 0.0).init(INITIAL)
    for t in range(3):
        gradients = jax.tree.map(lambda noise, t=t: noise[t], NOISE)
        told = {"rate": RATES[t], "multipliers": np.ones(len(LAYERS), np.float32)}
        state = state._replace(hyperparams=told)
        updates, state = update(gradients, state, INITIAL)
        wanted, plain_state = reference(RATES[t], gradients, plain_state, INITIAL)
        for ours, theirs in zip(*map(jax.tree.leaves, (updates, wanted)), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_that_was_stored_as_arrays_goes_on(name):
    init, update = jitted(name)
    state = init(INITIAL)
    kinds = [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(state)]
    told = {"rate": jnp.float32(0.5), "multipliers": jnp.full(len(LAYERS), 0.5)}
    for _ in range(2):
        state = state._replace(hyperparams=told)
        _, state = update(INITIAL, state, INITIAL)
    assert kinds == [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(state)]
    stored = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
    restored = jax.tree.unflatten(jax.tree.structure(init(INITIAL)), stored)
    on, again = (update(INITIAL, s, INITIAL) for s in (state, restored))
    for one, other in zip(*map(jax.tree.leaves, (on, again)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("model", "hidden"),
    [
        ("cnn-shallow", ["conv2", "conv3", "hidden"]),
        ("lstm-rows", ["second/dense_h", "second/dense_i"]),
        (
            "transformer-rows",
            [
                f"blocks/{block}/{part}"
                for block in range(4)
                for part in (
                    *(f"attention/{part}" for part in ("key", "out", "query", "value")),
                    "down",
                    "up",
                )
            ],
        ),
    ],
)
def test_muon_takes_the_kernels_of_hidden_layers_and_nothing_else(model, hidden):
    model = nnx.eval_shape(lambda: make(model, 10, nnx.Rngs(0)))
    graph, params = nnx.split(model, nnx.Param)
    layers = optax_llr.trace_layers(
        lambda params, images: nnx.merge(graph, params)(images),
        params,
        jax.ShapeDtypeStruct((2, 32, 32, 3), np.float32),
    )
    config = dataclasses.replace(CONFIG, optimizer="muon", decay="following")
    state = jax.eval_shape(optimizers.optimizer(config, layers).init, params)
    momentum = optax.tree.get(
        state, "mu", filtering=lambda path, _: "muon" in str(path)
    )
    assert list(flat(momentum)) == [f"{path}/kernel/value" for path in hidden]


def test_layca_turns_kernels_by_a_share_of_the_rate_times_the_multiplier():
    optimizer = optimizers.optimizer(CONFIG, LAYERS, optimizers.rotating)
    multipliers = np.array([0.5, 0.0, 2.0, 1.0], np.float32)
    told = {"rate": np.float32(0.1), "multipliers": multipliers}
    state = optimizer.init(INITIAL)._replace(hyperparams=told)
    gradients = jax.tree.map(lambda noise: noise[0], NOISE)
    updates, _ = optimizer.update(gradients, state, INITIAL)
    after = flat(optax.apply_updates(INITIAL, updates))
    for path, before in flat(INITIAL).items():
        if path.endswith("kernel"):
            m = multipliers[LAYERS.members[path]]
            dot = (before * after[path]).sum(dtype=float)
            norms = [np.linalg.norm(w.astype(float)) for w in (before, after[path])]
            assert np.arccos(dot / np.prod(norms)) == pytest.approx(
                np.arctan(optimizers.ROTATION * 0.1 * m), abs=1e-3
            )
            assert norms[0] == pytest.approx(norms[1], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "decay"), SETTINGS)
def test_a_rule_multiplies_what_the_optimizer_makes_of_the_rate(name, decay):
    """Measured multipliers, replayed as known ones, give the same weights."""

    def by_weight(step, state):
        return step.layers.depth + 0.5, state

    config = dataclasses.replace(CONFIG, optimizer=name, decay=decay)
    rule = optax_llr.Rule(lambda layers, params: (), by_weight)
    ours = optimizers.optimizer(
        config, LAYERS, optimizers.measuring(lambda config, layers: rule)
    )
    known = optimizers.optimizer(config, LAYERS)
    multipliers = (LAYERS.depth + 0.5) / (LAYERS.depth + 0.5).mean()
    told = {"rate": np.float32(0.1), "multipliers": multipliers.astype(np.float32)}
    gradients = jax.tree.map(lambda noise: noise[0], NOISE)
    results = []
    for optimizer in (ours, known):
        state = optimizer.init(INITIAL)._replace(hyperparams=told)
        updates, state = jax.jit(optimizer.update)(gradients, state, INITIAL)
        results.append(flat(updates))
        used = optax_llr.layer_multipliers(LAYERS, state)
        np.testing.assert_allclose(list(used.values()), multipliers, rtol=1e-6)
        found = optimizers.measured(state)
        assert (found is None) == (optimizer is known)
    for path in results[0]:
        np.testing.assert_allclose(results[0][path], results[1][path], rtol=2e-6)
