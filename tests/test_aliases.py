"""Every optimizer of Optax in front of `scale_by_layer`, found in Optax's namespace."""

import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from page import table

import optax_llr

# Old Optax uses, within its contributed optimizers, what it has renamed since.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:optax")

PARAMS = {
    "stem": {
        "kernel": jnp.linspace(-1.0, 1.0, 16).reshape(4, 4),
        "bias": jnp.array([0.3, -0.2, 0.5, 0.1]),
    },
    "head": {"kernel": jnp.linspace(0.5, 1.5, 16).reshape(4, 4)},
}
LAYERS = optax_llr.match_layers(PARAMS, [("stem/.*", "stem"), ("head/.*", "head")])
SLOPE = jax.tree.map(lambda p: jnp.cos(7.0 * p) + 0.1, PARAMS)
REQUIRED = {
    "dpsgd": {"l2_norm_clip": 1.0, "noise_multiplier": 0.1, "seed": 0},
    "noisy_sgd": {"key": 0},
    "lookahead": {"sync_period": 2, "slow_step_size": 0.5},
    "sam": {"adv_optimizer": optax.sgd(0.05)},
    "selective_transform": {"freeze_mask": jax.tree.map(lambda p: False, PARAMS)},
}
FEWER_STEPS = {"lbfgs": 1, "muon": 2, "sophia": 2}  # slow without jit


def loss(params):
    """Linear: its gradient is the same everywhere, whatever the multipliers do."""
    return 10.0 + optax.tree.vdot(SLOPE, params)


def optimizers():
    """All that takes a learning rate or an optimizer, `scale_by_*` left out."""
    for module in (optax, optax.contrib):
        for name, value in sorted(vars(module).items()):
            if name.startswith(("_", "scale_by_")) or inspect.isclass(value):
                continue
            if not (inspect.isfunction(value) or isinstance(value, functools.partial)):
                continue
            takes = " ".join(inspect.signature(value).parameters)
            if re.search(r"learning_rate|optimizer", takes):
                yield name, value


OPTIMIZERS = dict(optimizers())
ELSEWHERE = {
    name: row
    for row in table("optimizers")
    for name in re.findall(r"`(\w+)`", row["optimizers"])
}


def make(name, rate=0.01):
    """The optimizer with this rate, otherwise with its own defaults if it can be."""
    parameters = inspect.signature(OPTIMIZERS[name]).parameters
    given = {k: v for k, v in REQUIRED.get(name, {}).items() if k in parameters}
    for key, parameter in parameters.items():
        if "learning_rate" in key and parameter.default is not None:
            given[key] = rate
        elif parameter.default is parameter.empty and "optimizer" in key:
            given.setdefault(key, optax.sgd(0.1))
    return OPTIMIZERS[name](**given)


def trained(optimizer, steps, slope=SLOPE, needs=("value",)):
    """Updates and parameters of each step, and the last state; all eager."""
    optimizer = optax.with_extra_args_support(optimizer)
    params, state = PARAMS, optimizer.init(PARAMS)
    updates, path = [], []
    for _ in range(steps):
        known = {"grad": slope, "value_fn": loss, "obj_fn": loss}
        known["value"] = loss(params)
        update, state = optimizer.update(
            slope, state, params, **{key: known[key] for key in needs}
        )
        params = optax.apply_updates(params, update)
        updates.append(update)
        path.append(params)
    return updates, path, state


def behind(optimizer, multipliers):
    scaling = optax_llr.scale_by_layer(LAYERS, jnp.asarray(multipliers))
    return optax.chain(optimizer, scaling)


def special(name):
    """What an optimizer asks of its caller beyond the rest."""
    match name:
        case "dpsgd":  # gradients of each example
            return {"slope": jax.tree.map(lambda g: g[None], SLOPE), "needs": ()}
        case "lbfgs":
            return {"needs": ("value", "grad", "value_fn")}
        case "sophia":
            return {"needs": ("obj_fn",)}
        case "sam":
            return {"needs": ()}
        case _:
            return {}


ALIASES = [name for name in OPTIMIZERS if name != "lookahead"]


def test_optimizers_are_found():
    assert {"adam", "adamw", "nadam", "lbfgs", "muon", "prodigy"} <= set(ALIASES)
    assert len(ALIASES) > 40


@functools.cache
def run(name, *multipliers):
    """A few steps of the optimizer, alone or with these multipliers behind it."""
    optimizer = make(name, rate=1.0)
    if multipliers:
        optimizer = behind(optimizer, multipliers)
    return trained(optimizer, FEWER_STEPS.get(name, 3), **special(name))


@pytest.mark.parametrize("name", ALIASES)
def test_first_update_is_multiplied(name):
    own, _, _ = run(name)
    ours, _, _ = run(name, 0.5, 0.3)
    first = next(
        i for i, update in enumerate(own) if any(map(np.any, jax.tree.leaves(update)))
    )
    for layer, factor in [("stem", 0.5), ("head", 0.3)]:
        jax.tree.map(
            lambda a, b, factor=factor: np.testing.assert_array_max_ulp(
                np.asarray(a), np.float32(factor) * np.asarray(b), maxulp=1
            ),
            ours[first][layer],
            own[first][layer],
        )


def remembers_parameters(name):
    """Whether the state holds a copy of parameters, to look back at."""
    _, path, state = run(name)
    seen = [PARAMS, *path[-2:-1]]
    return any(
        np.array_equal(leaf, params["head"]["kernel"])
        for leaf in jax.tree.leaves((make(name).init(PARAMS), state))
        for params in seen
    )


def disturbs_other_layers(name):
    """Whether the head moves otherwise when only the stem's multiplier differs."""
    _, half, _ = run(name, 0.5, 0.3)
    _, whole, _ = run(name, 1.0, 0.3)
    return not np.array_equal(far(half, "head"), far(whole, "head"))


@pytest.mark.parametrize("name", ALIASES)
def test_page_lists_just_those_that_need_another_place(name):
    misled = remembers_parameters(name) or disturbs_other_layers(name)
    assert misled == (name in ELSEWHERE)


def test_page_lists_only_optimizers_of_optax():
    assert set(ELSEWHERE) <= set(OPTIMIZERS)


def far(path, layer):
    return np.asarray(path[-1][layer]["kernel"] - PARAMS[layer]["kernel"])


def bowl(params):
    return sum(jnp.sum((p - 2.0) ** 4) for p in jax.tree.leaves(params))


def after_its_search(multipliers):
    return behind(optax.lbfgs(), multipliers)


def before_its_search(multipliers):
    return optax.chain(
        optax.scale_by_lbfgs(),
        optax.scale(-1.0),
        optax_llr.scale_by_layer(LAYERS, multipliers),
        optax.scale_by_zoom_linesearch(20),
    )


@functools.partial(jax.jit, static_argnums=0)
def search(place, multipliers, params, state):
    value, grad = jax.value_and_grad(bowl)(params)
    updates, state = place(multipliers).update(
        grad, state, params, value=value, grad=grad, value_fn=bowl
    )
    return optax.apply_updates(params, updates), state


def searched(place, multipliers, steps):
    """Parameters after some line searches, and the value that the last one kept."""
    params, state = PARAMS, place(multipliers).init(PARAMS)
    for _ in range(steps):
        params, state = search(place, multipliers, params, state)
    return params, optax.tree.get(state, "value")


def test_lbfgs_keeps_a_stale_value_behind_and_a_true_one_before_its_search():
    multipliers = jnp.array([0.5, 3.0])
    params, kept = searched(after_its_search, multipliers, 1)
    assert abs(kept - bowl(params)) > 0.1 * kept
    params, kept = searched(before_its_search, multipliers, 1)
    np.testing.assert_allclose(kept, bowl(params), rtol=1e-5)


def test_lbfgs_freezes_a_layer_and_trains_the_other_before_its_search():
    params, _ = searched(before_its_search, jnp.array([0.0, 1.0]), 20)
    jax.tree.map(np.testing.assert_array_equal, params["stem"], PARAMS["stem"])
    np.testing.assert_allclose(params["head"]["kernel"], 2.0, atol=0.1)


@pytest.mark.parametrize(
    "name", ["schedule_free", "schedule_free_sgd", "schedule_free_adamw"]
)
def test_schedule_free_moves_evaluation_weights_of_a_layer_frozen_behind_it(name):
    _, path, state = trained(behind(make(name), [0.0, 1.0]), 5)
    weights = optax.contrib.schedule_free_eval_params(state[0], path[-1])
    np.testing.assert_array_equal(path[-1]["stem"]["kernel"], PARAMS["stem"]["kernel"])
    assert np.abs(weights["stem"]["kernel"] - PARAMS["stem"]["kernel"]).min() > 1e-4


def test_schedule_free_freezes_evaluation_weights_from_inside():
    inner = behind(optax.sgd(0.1), [0.0, 1.0])
    _, path, state = trained(optax.contrib.schedule_free(inner, 0.1), 5)
    weights = optax.contrib.schedule_free_eval_params(state, path[-1])
    np.testing.assert_allclose(
        weights["stem"]["kernel"], PARAMS["stem"]["kernel"], rtol=1e-6
    )
    assert np.abs(weights["head"]["kernel"] - PARAMS["head"]["kernel"]).min() > 1e-3


def looked_ahead(optimizer):
    params = optax.LookaheadParams.init_synced(PARAMS)
    state = optimizer.init(params)
    for _ in range(4):
        updates, state = optimizer.update(SLOPE, state, params)
        params = optax.apply_updates(params, updates)
    return [params.slow]


def test_lookahead_is_refused_in_front():
    wrong = behind(optax.lookahead(optax.sgd(0.1), 2, 0.5), [0.5, 1.0])
    with pytest.raises(ValueError, match="in none of the layers"):
        wrong.init(optax.LookaheadParams.init_synced(PARAMS))


def test_lookahead_scales_the_rate_from_inside():
    def ahead(multipliers):
        inner = behind(optax.sgd(0.1), multipliers)
        return looked_ahead(optax.lookahead(inner, 2, 0.5))

    half, whole = ahead([0.5, 0.0]), ahead([1.0, 1.0])
    np.testing.assert_allclose(far(half, "stem"), 0.5 * far(whole, "stem"), rtol=1e-4)
    assert not far(half, "head").any()


def test_sam_does_not_come_back_from_its_detour_behind_and_does_inside():
    still, detour = optax.sgd(0.0), optax.sgd(0.05)
    wrong = behind(optax.contrib.sam(still, detour), [0.5, 1.0])
    _, path, _ = trained(wrong, 2, needs=())
    assert np.abs(far(path, "stem")).max() > 1e-3

    right = optax.contrib.sam(behind(optax.sgd(0.1), [0.0, 1.0]), detour)
    _, path, _ = trained(right, 2, needs=())
    np.testing.assert_allclose(far(path, "stem"), 0.0, atol=1e-7)
    np.testing.assert_allclose(
        far(path, "head"), -0.1 * SLOPE["head"]["kernel"], rtol=1e-4, atol=1e-6
    )


def test_mechanize_answers_to_multipliers_behind_it_and_keeps_their_ratio_inside():
    def came(optimizer):
        _, path, _ = trained(optimizer, 12)
        return [np.abs(far(path, x) / SLOPE[x]["kernel"]).mean() for x in LAYERS.names]

    mechanize = optax.contrib.mechanize
    whole = came(mechanize(optax.sgd(1.0), s_init=1e-2))
    half = came(behind(mechanize(optax.sgd(1.0), s_init=1e-2), [0.5, 0.5]))
    assert half[0] < 0.4 * whole[0]

    stem, head = came(mechanize(behind(optax.sgd(1.0), [0.5, 1.0]), s_init=1e-2))
    np.testing.assert_allclose(stem / head, 0.5, rtol=1e-3)
    stem, head = came(mechanize(behind(optax.sgd(1.0), [0.0, 1.0]), s_init=1e-2))
    assert stem == 0.0
    assert head > 0.0


def test_madgrad_takes_the_multiplier_for_its_momentum():
    _, ours, _ = trained(behind(optax.contrib.madgrad(0.1), [0.5, 0.5]), 6)
    halved = optax.contrib.madgrad(0.1, momentum=1 - 0.5 * (1 - 0.9))
    _, theirs, _ = trained(halved, 6)
    np.testing.assert_allclose(far(ours, "stem"), far(theirs, "stem"), rtol=1e-4)


def test_madgrad_for_each_layer_has_its_rate():
    rates = {"stem": 0.05, "head": 0.1}
    parts = {name: optax.contrib.madgrad(rate) for name, rate in rates.items()}
    apart = optax.partition(parts, {"stem": "stem", "head": "head"})
    _, ours, _ = trained(apart, 6)
    for name, rate in rates.items():
        _, alone, _ = trained(optax.contrib.madgrad(rate), 6)
        np.testing.assert_array_equal(far(ours, name), far(alone, name))


def test_cocob_comes_further_than_half_under_half_and_nowhere_under_zero():
    _, whole, _ = trained(optax.contrib.cocob(), 12)
    _, ours, _ = trained(behind(optax.contrib.cocob(), [0.5, 0.0]), 12)
    reached = far(ours, "stem") / far(whole, "stem")
    assert reached.min() > 0.6
    assert not far(ours, "head").any()


SHARED = {
    "dog": lambda: optax.contrib.dog(init_step=("distance", 0.1)),
    "dowg": lambda: optax.contrib.dowg(init_estim_sq_dist=0.1),
    "prodigy": lambda: optax.contrib.prodigy(estim_lr0=0.01),
    "polyak_sgd": lambda: optax.polyak_sgd(10.0),
    "momo": lambda: optax.contrib.momo(10.0),
    "momo_adam": lambda: optax.contrib.momo_adam(10.0),
}


@pytest.mark.parametrize("name", SHARED)
def test_one_step_size_for_all_layers_answers_to_each_multiplier_behind(name):
    _, whole, _ = trained(SHARED[name](), 8)
    _, ours, _ = trained(behind(SHARED[name](), [0.0, 1.0]), 8)
    changed = np.abs(far(ours, "head") / far(whole, "head")).mean()
    if name in ("dog", "dowg", "prodigy"):
        assert changed < 0.9
    else:
        assert changed > 1.1


@pytest.mark.parametrize("name", SHARED)
def test_one_step_size_leaves_frozen_layers_out_before(name):
    freeze = optax_llr.scale_by_layer(LAYERS, np.array([0.0, 1.0]))
    # The same loss, with the same value, of the head alone.
    offset = optax.tree.vdot(SLOPE["stem"], PARAMS["stem"])
    head, slope = {"head": PARAMS["head"]}, {"head": SLOPE["head"]}
    alone = optax.with_extra_args_support(SHARED[name]())
    state = alone.init(head)
    for _ in range(4):
        value = 10.0 + offset + optax.tree.vdot(slope, head)
        update, state = alone.update(slope, state, head, value=value)
        head = optax.apply_updates(head, update)
    _, ours, _ = trained(optax.chain(freeze, SHARED[name]()), 4)
    np.testing.assert_allclose(far(ours, "head"), far([head], "head"), rtol=1e-4)
    assert not far(ours, "stem").any()
