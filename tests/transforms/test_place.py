"""Builds the chains of docs/place_in_the_chain.md and measures every cell."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from page import table

import optax_llr

RATE, BETA, DECAY, STEPS = 0.1, 0.9, 0.05, 12

PARAMS = {"stem": jnp.array([1.0, -2.0, 0.5]), "head": jnp.array([-0.7, 1.3])}
LAYERS = optax_llr.match_layers(PARAMS, [("stem", "stem"), ("head", "head")])
NOISE = {
    name: np.random.default_rng(i).normal(size=(STEPS, leaf.size)).astype(np.float32)
    for i, (name, leaf) in enumerate(PARAMS.items())
}

# Time runs through 1, other numbers, 0, and back; the two layers disagree.
M = np.array(
    [[1, 1, 2, 2, 0.5, 0, 0, 0, 3, 1, 1, 0.25], [0.5, 0, 1, 1, 64, 1, 0, 2, 0, 0, 1, 1]]
).T
D = np.array([[2, 0.5, 0, 1] * 3, [1, 0, 3, 0.25] * 3]).T
CONSTANT = np.array([0.5, 2.0])
CONSTANT_D = np.array([3.0, 0.25])


PLACES = {row["place"]: row for row in table("place")}


def build(place, m, d=CONSTANT_D, decay=DECAY):
    names = {
        "chain": optax.chain,
        "sgd": optax.sgd,
        "adam": optax.adam,
        "adamw": optax.adamw,
        "scale_by_adam": optax.scale_by_adam,
        "scale_by_learning_rate": optax.scale_by_learning_rate,
        "add_decayed_weights": optax.add_decayed_weights,
        "scale_by_layer": optax_llr.scale_by_layer,
        "add_decayed_weights_by_layer": optax_llr.add_decayed_weights_by_layer,
        "layers": LAYERS,
        **{"η": RATE, "β": BETA, "λ": decay, "m": m, "d": d},
    }
    return eval(PLACES[place]["chain"].strip("`"), names)


def over_time(values):
    values = jnp.asarray(values, jnp.float32)
    return lambda count: values[count]


def gradient(weights, step, layer):
    return 0.3 * weights + NOISE[layer][step]


def trained(optimizer, steps=STEPS):
    """The parameters after each step on the noisy quadratic."""
    params, state = PARAMS, optimizer.init(PARAMS)
    path = []
    for t in range(steps):
        grads = {name: gradient(leaf, t, name) for name, leaf in params.items()}
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        path.append(params)
    return path


def last_update(optimizer, steps=4):
    """The last update and state where neither parameters nor gradients answer."""
    state = optimizer.init(PARAMS)
    for t in range(steps):
        grads = {name: jnp.asarray(noise[t]) for name, noise in NOISE.items()}
        updates, state = optimizer.update(grads, state, PARAMS)
    return np.concatenate([updates["stem"], updates["head"]]), state


# What stands where, told a second time: optimizer and the factors of each step.
FACTORS = {
    "after momentum": ("sgd", lambda m, d: {"out": m}),
    "before momentum": ("sgd", lambda m, d: {"into": m}),
    "after Adam": ("adam", lambda m, d: {"out": m}),
    "before Adam": ("adam", lambda m, d: {"into": m}),
    "between Adam and its rate": ("adam", lambda m, d: {"out": m}),
    "after coupled decay": (
        "sgd",
        lambda m, d: {"out": m, "coupled": lambda t: DECAY},
    ),
    "before coupled decay": (
        "sgd",
        lambda m, d: {"into": m, "coupled": lambda t: DECAY},
    ),
    "after coupled decay in Adam": (
        "adam",
        lambda m, d: {"out": m, "coupled": lambda t: DECAY},
    ),
    "after adamw": ("adam", lambda m, d: {"out": m, "decoupled": decayed_by(m)}),
    "before decoupled decay": (
        "adam",
        lambda m, d: {"out": m, "decoupled": lambda t: DECAY},
    ),
    "before decay behind everything": (
        "sgd",
        lambda m, d: {"out": m, "decoupled": lambda t: DECAY},
    ),
    "before `add_decayed_weights_by_layer`": (
        "adam",
        lambda m, d: {"out": m, "decoupled": decayed_by(d)},
    ),
    "after `add_decayed_weights_by_layer`": (
        "adam",
        lambda m, d: {"out": m, "decoupled": decayed_by(m, d)},
    ),
    "after coupled `add_decayed_weights_by_layer`": (
        "sgd",
        lambda m, d: {"out": m, "coupled": decayed_by(d)},
    ),
}


def decayed_by(*factors):
    return lambda t: DECAY * np.prod([factor(t) for factor in factors])


def test_every_place_of_the_page_is_tested():
    assert set(PLACES) == set(FACTORS)


@pytest.mark.parametrize("place", PLACES)
def test_chain_follows_the_slow_reference(place):
    optimizer, factors = FACTORS[place]
    fast = trained(build(place, over_time(M), over_time(D)))
    for i, layer in enumerate(LAYERS.names):
        memory = {"beta": BETA} if optimizer == "sgd" else {}
        run = reference.momentum_sgd if optimizer == "sgd" else reference.adam
        slow = run(
            PARAMS[layer],
            lambda w, t, layer=layer: gradient(w, t, layer),
            STEPS,
            rate=RATE,
            **memory,
            **factors(lambda t, i=i: M[t, i], lambda t, i=i: D[t, i]),
        )
        np.testing.assert_allclose(
            [step[layer] for step in fast], slow, rtol=2e-4, atol=2e-6
        )


def per_element(values):
    return np.repeat(values, [leaf.size for leaf in PARAMS.values()])


def factor(cell):
    """The number for each element that a cell such as `× m·d` promises."""
    values = {"1": np.ones(2), "m": CONSTANT, "d": CONSTANT_D}
    names = cell.removeprefix("× ").split("·")
    return per_element(np.prod([values[name] for name in names], axis=0))


@pytest.mark.parametrize("place", PLACES)
def test_multiplier_does_to_the_rate_what_its_cell_says(place):
    with_m, _ = last_update(build(place, CONSTANT, decay=0.0))
    without, _ = last_update(build(place, np.ones(2), decay=0.0))
    np.testing.assert_allclose(
        with_m / without, factor(PLACES[place]["rate"]), rtol=1e-4
    )


def moments(state):
    """The memory of momentum or Adam's first moments, in one vector."""
    found = optax.tree.get_all_with_path(state, "trace")
    found += optax.tree.get_all_with_path(state, "mu")
    return np.concatenate([found[0][1]["stem"], found[0][1]["head"]])


@pytest.mark.parametrize("place", PLACES)
def test_memory_holds_what_its_cell_says(place):
    _, with_m = last_update(build(place, CONSTANT))
    _, without = last_update(build(place, np.ones(2)))
    same = np.array_equal(moments(with_m), moments(without))
    assert PLACES[place]["memory"] == ("unscaled" if same else "scaled")


@pytest.mark.parametrize("place", PLACES)
def test_decay_is_what_its_cells_say(place):
    def share_of_decay(m, d):
        update, state = last_update(build(place, m, d))
        bare, bare_state = last_update(build(place, m, d, decay=0.0))
        coupled = not np.array_equal(moments(state), moments(bare_state))
        return update - bare, "coupled decay" if coupled else "decoupled decay"

    share, kind = share_of_decay(CONSTANT, CONSTANT_D)
    plain, _ = share_of_decay(np.ones(2), np.ones(2))
    cells = {key: PLACES[place][key] for key in ("coupled decay", "decoupled decay")}
    if not plain.any():
        assert set(cells.values()) == {"—"}
    else:
        np.testing.assert_allclose(share / plain, factor(cells.pop(kind)), rtol=1e-2)
        assert set(cells.values()) == {"—"}


@pytest.mark.parametrize("place", PLACES)
def test_frozen_layer_does_what_its_cell_says(place):
    def moves(m, decay):
        """Whether the layers move once their gradients are 0, after three steps."""
        optimizer = build(place, over_time(m), np.ones(2), decay)
        state = optimizer.init(PARAMS)
        for t in range(4):
            grads = jax.tree.map(lambda p, t=t: jnp.full_like(p, t < 3), PARAMS)
            updates, state = optimizer.update(grads, state, PARAMS)
        return any(np.any(leaf) for leaf in jax.tree.leaves(updates))

    coasts = moves(np.array([[1, 1]] * 3 + [[0, 0]]), decay=0.0)
    decays = moves(np.zeros((4, 2)), decay=DECAY)
    words = [word for word, so in [("coasts", coasts), ("decays", decays)] if so]
    assert PLACES[place]["m = 0"] == (" and ".join(words) or "stands still")


def test_decay_moves_a_frozen_layer_before_coupled_decay_even_without_momentum():
    frozen = optax.chain(
        optax_llr.scale_by_layer(LAYERS, np.zeros(2)),
        optax.add_decayed_weights(DECAY),
        optax.sgd(RATE),
    )
    last = trained(frozen)[-1]
    np.testing.assert_allclose(
        last["stem"], PARAMS["stem"] * (1 - RATE * DECAY) ** STEPS, rtol=1e-5
    )


def test_constant_multipliers_cancel_before_adam():
    plain = trained(optax.adam(RATE))
    scaled = trained(build("before Adam", np.array([1e-2, 64.0])))
    np.testing.assert_allclose(scaled[-1]["stem"], plain[-1]["stem"], rtol=1e-4)
    np.testing.assert_allclose(scaled[-1]["head"], plain[-1]["head"], rtol=1e-4)


@pytest.mark.parametrize("place", ["before momentum", "before Adam"])
def test_frozen_layer_coasts_where_momentum_comes_later(place):
    freeze = over_time(np.array([[1, 1]] * 4 + [[0, 0]] * 8))
    path = trained(build(place, freeze))
    assert np.abs(path[-1]["stem"] - path[3]["stem"]).min() > RATE / 10
    still = trained(build(place.replace("before", "after"), freeze))
    np.testing.assert_array_equal(still[-1]["stem"], still[3]["stem"])


def test_thawed_layer_goes_on_with_current_momentum_after_momentum():
    thaw = over_time(np.array([[0, 0]] * 11 + [[1, 1]]))
    _, thawed = last_update(build("after momentum", thaw), steps=11)
    _, plain = last_update(optax.sgd(RATE, momentum=BETA), steps=11)
    np.testing.assert_array_equal(
        optax.tree.get(thawed, "trace")["stem"], optax.tree.get(plain, "trace")["stem"]
    )


@pytest.mark.parametrize(
    ("place", "d", "same_as"),
    [
        ("before `add_decayed_weights_by_layer`", CONSTANT, "after adamw"),  # follows
        ("before `add_decayed_weights_by_layer`", np.ones(2), "before decoupled decay"),
        ("after `add_decayed_weights_by_layer`", np.ones(2), "after adamw"),
        (
            "after `add_decayed_weights_by_layer`",
            1 / CONSTANT,
            "before decoupled decay",
        ),
    ],
)
def test_decay_follows_or_ignores_the_multipliers(place, d, same_as):
    ours, theirs = trained(build(place, CONSTANT, d)), trained(build(same_as, CONSTANT))
    for name in PARAMS:
        np.testing.assert_allclose(ours[-1][name], theirs[-1][name], rtol=1e-5)


def test_decay_opposes_the_multipliers():
    """Half the rate, twice the decay."""
    path = trained(
        build("before `add_decayed_weights_by_layer`", CONSTANT, 1 / CONSTANT)
    )
    slow = reference.adam(
        PARAMS["stem"],
        lambda w, t: gradient(w, t, "stem"),
        STEPS,
        rate=RATE,
        out=lambda t: 0.5,
        decoupled=lambda t: 2 * DECAY,
    )
    np.testing.assert_allclose(path[-1]["stem"], slow[-1], rtol=1e-4)


def test_frozen_layer_stands_still_where_its_decay_is_zero_too():
    m = np.array([0.0, 1.0])
    path = trained(build("before `add_decayed_weights_by_layer`", m, m))
    np.testing.assert_array_equal(path[-1]["stem"], PARAMS["stem"])


def test_airbench_biases_learn_at_64_times_the_rate_with_unscaled_decay():
    place, m = "after coupled `add_decayed_weights_by_layer`", np.array([64.0, 1.0])
    small = 1e-3
    with_decay, _ = last_update(build(place, m, 1 / m, small), steps=1)
    bare, _ = last_update(build(place, m, 1 / m, 0.0), steps=1)
    np.testing.assert_allclose(bare[:3], -RATE * 64 * NOISE["stem"][0], rtol=1e-6)
    np.testing.assert_allclose(
        with_decay[:3] - bare[:3], -RATE * small * PARAMS["stem"], rtol=2e-2
    )


@pytest.mark.parametrize("place", PLACES)
def test_updates_keep_every_bit_under_multiplier_1(place, monkeypatch):
    with_layer, _ = last_update(build(place, np.ones(2)))
    monkeypatch.setattr(optax_llr, "scale_by_layer", lambda *_: optax.identity())
    without, _ = last_update(build(place, np.ones(2)))
    np.testing.assert_array_equal(with_layer, without)


def test_compiled_by_itself_an_update_may_differ_in_its_last_bits():
    """What the page says of madgrad, whose last operation is a difference."""
    params = {"a": jnp.float32(0.7), "b": jnp.float32(1.3)}
    layers = optax_llr.match_layers(params, [("a", "a"), ("b", "b")])
    plain = optax.contrib.madgrad(0.1)
    chain = optax.chain(plain, optax_llr.scale_by_layer(layers, np.ones(2)))

    def updates(optimizer, compiled):
        update = jax.jit(optimizer.update) if compiled else optimizer.update
        state = optimizer.init(params)
        for _ in range(5):
            found, state = update(params, state, params)
        return np.array([found["a"], found["b"]])

    np.testing.assert_array_equal(updates(chain, False), updates(plain, False))
    np.testing.assert_allclose(updates(chain, True), updates(plain, True), rtol=1e-5)
