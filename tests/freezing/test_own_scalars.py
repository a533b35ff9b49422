"""A layer counts for itself: what an optimizer keeps as a scalar beside its moments."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optax_llr
from optax_llr import Phase, match_layers

NAN = float("nan")
# A layer with a scalar in it, as CLIP's temperature is one, and one that always trains.
PARAMS = {
    "a": {"w": jnp.linspace(-1.0, 1.0, 12).reshape(3, 4), "s": jnp.float32(0.7)},
    "b": jnp.linspace(1.0, 2.0, 6).reshape(2, 3),
}
LAYERS = match_layers(PARAMS, [("a/.*", "a"), ("b", "b")])
ON, OFF = (Phase(LAYERS, 0, 1, (still, False)) for still in (False, True))
RUN = [ON, ON, OFF, OFF, OFF, ON, ON]


def gradients(params):
    return jax.tree.map(lambda w: jnp.sin(3 * w) + w, params)


@functools.partial(jax.jit, static_argnames=("optimizer", "gradients"))
def step(params, state, optimizer, gradients, **extra):
    update = optax.with_extra_args_support(optimizer).update
    updates, state = update(gradients(params), state, params, **extra)
    return optax.apply_updates(params, updates), state


def trained(optimizers, params, gradients=gradients, **extra):
    """Parameters and state after a step of each optimizer."""
    state = optimizers[0].init(params)
    for optimizer in optimizers:
        params, state = step(params, state, optimizer, gradients, **extra)
    return params, state


def frozen(inner, phases=RUN):
    return [phase.freeze(inner) for phase in phases]


def by_rank(tree):
    return jax.tree.map(lambda leaf: "matrix" if leaf.ndim > 1 else "other", tree)


def is_matrix(tree):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, tree)


PLAIN = (
    "adabelief adadelta adagrad adam adamax adamaxw adamw adan amsgrad fromage lamb "
    "lars lion nadam nadamw novograd optimistic_adam_v2 optimistic_gradient_descent "
    "radam rmsprop rprop sgd sign_sgd yogi"
)
CONTRIB = (
    "acprop ademamix cocob galore madgrad schedule_free_adamw schedule_free_sgd "
    "simplified_ademamix"
)
PAUSING = {
    **{name: functools.partial(getattr(optax, name), 0.1) for name in PLAIN.split()},
    **{
        name: functools.partial(getattr(optax.contrib, name), 0.1)
        for name in CONTRIB.split()
    },
    "muon": lambda: optax.contrib.muon(0.1, ns_steps=1),
    "adafactor": lambda: optax.adafactor(0.1, min_dim_size_to_factor=2),
    "rmsprop, corrected": lambda: optax.rmsprop(
        0.1, bias_correction=True, momentum=0.9
    ),
    "ema": lambda: optax.chain(optax.ema(0.9), optax.sgd(0.1)),
    "injected": lambda: optax.inject_hyperparams(optax.adamw)(0.1),
    "masked": lambda: optax.masked(optax.adam(0.1), is_matrix),
    "decay masked": lambda: optax.adamw(0.1, weight_decay=0.1, mask=is_matrix),
    "partition": lambda: optax.partition(
        {"matrix": optax.adam(0.1), "other": optax.lion(0.1)}, by_rank
    ),
    "finite": lambda: optax.apply_if_finite(optax.adam(0.1), 3),
    "finite, schedule_free": lambda: optax.apply_if_finite(
        optax.contrib.schedule_free_adamw(0.1), 3
    ),
    "jitted": lambda: optax.GradientTransformation(
        optax.adam(0.1).init, jax.jit(optax.adam(0.1).update)
    ),
}


# One of each kind by default: the others differ in their formulas alone.
KINDS = (
    "adam adafactor finite injected lamb masked optimistic_gradient_descent partition "
    "schedule_free_sgd sgd"
)
EACH = [
    name if name in KINDS.split() else pytest.param(name, marks=pytest.mark.slow)
    for name in PAUSING
]


@pytest.mark.parametrize("name", EACH)
def test_thawed_layer_goes_on_as_an_optimizer_of_its_own(name):
    inner = PAUSING[name]()
    # RAdam takes the difference of two numbers about 2,000 where it has digits for 1.
    rtol = 1e-4 if name == "radam" else 1e-5
    ours, _ = trained(frozen(inner), PARAMS)
    for layer, steps in (("a", 4), ("b", 7)):
        alone, _ = trained([inner] * steps, {layer: PARAMS[layer]})
        chex.assert_trees_all_close(ours[layer], alone[layer], rtol=rtol, atol=1e-6)


def estimating(name):
    return lambda: getattr(optax.contrib, name)()


MIXING = {
    **{
        name: (estimating(name), "computes with several layers at once.*'")
        for name in ["dadapt_adamw", "dog", "dowg", "momo", "momo_adam", "prodigy"]
    },
    "flatten": (lambda: optax.flatten(optax.adam(0.1)), "cannot tell which part"),
    "lbfgs": (lambda: optax.lbfgs(0.1), "cannot tell which part"),
    "sm3": (lambda: optax.sm3(0.1), "cannot tell which part"),
    "MultiSteps": (
        lambda: optax.MultiSteps(optax.adam(0.1), 2).gradient_transformation(),
        r"put it around: MultiSteps\(phase\.freeze",
    ),
    "sam": (
        lambda: optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.1)),
        r"put it around: sam\(phase\.freeze",
    ),
}


@pytest.mark.parametrize("name", MIXING)
def test_what_cannot_pause_by_layer_is_refused_before_anything_is_frozen(name):
    make, message = MIXING[name]
    params = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 2))}
    phase = Phase(match_layers(params, [(k, k) for k in params]), 0, 1, (False, False))
    with pytest.raises(ValueError, match=message):
        trained([phase.freeze(make())], params, value=1.0)


def test_bias_is_corrected_by_the_layer_and_the_rate_is_the_runs():
    """adam(cosine): a layer's own direction at rate 1, by the rates of the run."""
    rate = optax.cosine_decay_schedule(0.1, 10)
    inner = optax.adam(rate)
    adam, g = optax.adam(1.0), jnp.array([0.3])
    params = {"a": jnp.ones(1), "b": jnp.ones(1)}
    layers = match_layers(params, [(k, k) for k in params])
    plan = [(True, False)] * 5 + [(False, False)] * 4
    state = Phase(layers, 0, 1, plan[0]).freeze(inner).init(params)
    alone, seen = adam.init(g), 0
    for step, still in enumerate(plan):
        now = g * (1 + step)
        optimizer = Phase(layers, 0, 1, still).freeze(inner)
        updates, state = optimizer.update({"a": now, "b": now}, state, params)
        expected = jnp.zeros(1)
        if not still[0]:
            expected, alone = adam.update(now, alone)
            seen += 1
        np.testing.assert_allclose(updates["a"], rate(step) * expected, rtol=1e-5)
    assert state.inner[0].count.tolist() == [4, 9]
    assert int(state.inner[1].count) == 9


def test_steps_that_are_rejected_are_no_pause():
    """As loss scaling rejects some: a layer's first steps of Adam stay its first."""
    inner = optax.apply_if_finite(optax.adam(0.1), 99)
    state = ON.freeze(inner).init(PARAMS)
    good = jax.tree.map(jnp.ones_like, PARAMS)
    for step in range(6):
        bad = {**good, "b": good["b"] * (NAN if step % 2 else 1)}
        _, state = OFF.freeze(inner).update(bad, state, PARAMS)
    assert state.inner.inner_state[0].count.tolist() == [0, 3]
    updates, _ = ON.freeze(inner).update(good, state, PARAMS)
    np.testing.assert_allclose(updates["a"]["w"], -0.1, rtol=1e-5)


def poisoned(params):
    return {**gradients(params), "a": jax.tree.map(lambda w: w + NAN, params["a"])}


LEAKING = {
    "clip": lambda: optax.chain(optax.clip_by_global_norm(0.1), optax.adam(0.1)),
    "clip behind": lambda: optax.chain(
        optax.scale_by_adam(), optax.clip_by_global_norm(0.1), optax.scale(-1.0)
    ),
    "clip twice": lambda: optax.chain(
        optax.clip_by_global_norm(0.1), optax.scale_by_adam(), optax.clip(1.0),
        optax.clip_by_global_norm(0.1), optax.scale(-1.0),
    ),
    "normalize": lambda: optax.chain(
        optax.scale_by_adam(), optax.normalize_by_update_norm(), optax.scale(-0.1)
    ),
    "finite": lambda: optax.apply_if_finite(optax.adam(0.1), 0),
    "polyak": lambda: optax.polyak_sgd(),
}  # fmt: skip


@pytest.mark.parametrize("name", LEAKING)
def test_nothing_leaks_from_frozen_layers_through_what_sees_all(name):
    """What trains is updated as if it were alone, and frozen moments keep all bits."""
    inner = LEAKING[name]()
    ours, state = trained(frozen(inner, [OFF, OFF]), PARAMS, poisoned, value=1.0)
    alone, _ = trained([inner] * 2, {"b": PARAMS["b"]}, value=1.0)
    np.testing.assert_allclose(ours["b"], alone["b"], rtol=1e-5)
    chex.assert_trees_all_equal(ours["a"], PARAMS["a"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("stacks", [1, 2])
def test_slices_of_a_stack_count_for_themselves(stacks):
    shapes = [(3, 2, 2), (3, 4)][:stacks]
    params = {f"w{i}": jnp.arange(1.0, 1 + np.prod(s)).reshape(s) for i, s in
              enumerate(shapes)}  # fmt: skip
    layers = match_layers(params, [("w.*", "block[:]")])
    plan = [(False, True, False)] * 2 + [(False,) * 3] * 2
    inner = optax.adam(0.1)
    now = [Phase(layers, 0, 1, still).freeze(inner) for still in plan]
    ours, state = trained(now, params)
    assert state.inner[0].count.tolist() == [4, 2, 4]
    for index, steps in enumerate((4, 2, 4)):
        one = jax.tree.map(lambda w, i=index: w[i], params)
        alone, _ = trained([inner] * steps, one)
        mine = jax.tree.map(lambda w, i=index: w[i], ours)
        chex.assert_trees_all_close(mine, alone, rtol=1e-5)


def test_a_stack_that_is_computed_as_a_whole_pauses_as_a_whole():
    params = {"w": jnp.ones((2, 3, 4)), "b": jnp.ones(3)}
    layers = match_layers(params, [("w", "block[:]"), ("b", "b")])
    inner = optax.contrib.muon(0.1)
    inner = optax.chain(optax.scale_by_adam(), optax.scale_by_trust_ratio(), inner)
    plan = [(False, False, False), (True, True, False), (False, False, False)]
    now = [Phase(layers, 0, 1, still).freeze(inner) for still in plan]
    _, state = trained(now, params)
    assert state.inner[0].count.tolist() == [2, 2, 3]


# --- One state, and one program for one set of frozen layers --------------------------


def test_equal_frozen_sets_are_one_program_whoever_asks():
    traced = []

    @functools.partial(jax.jit, static_argnames=("optimizer",))
    def step(params, state, optimizer):
        traced.append(optimizer)
        return optimizer.update(gradients(params), state, params)

    inner = optax.adam(0.1)
    state = ON.freeze(inner).init(PARAMS)
    for start, still in itertools.product(range(3), (True, False)):
        phase = Phase(LAYERS, start, start + 5, (still, False))
        _, state = step(PARAMS, state, phase.freeze(inner))
    assert len(traced) == 2


def test_an_optimizer_made_under_jit_leaks_nothing():
    optimizer = optax.inject_hyperparams(lambda rate: OFF.freeze(optax.adam(rate)))
    optimizer = optimizer(rate=0.1)
    with jax.checking_leaks():
        state = optimizer.init(PARAMS)
        jax.jit(optimizer.update)(PARAMS, state, PARAMS)


def test_a_state_of_the_optimizer_alone_is_refused_and_can_be_taken_over():
    inner = optax.adam(0.1)
    _, plain = trained([inner] * 3, PARAMS)
    with pytest.raises(ValueError, match=r"expected a FreezeState, as `init`.*tuple"):
        ON.freeze(inner).update(PARAMS, plain, PARAMS)
    fresh = ON.freeze(inner).init(PARAMS)
    taken = jax.tree.map(
        lambda new, old: jnp.broadcast_to(old, new.shape), fresh.inner, plain
    )
    update = jax.jit(ON.freeze(inner).update)
    ours, _ = update(PARAMS, fresh._replace(inner=taken), PARAMS)
    theirs, _ = jax.jit(inner.update)(PARAMS, plain, PARAMS)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-6)


def test_states_of_others_are_refused():
    inner, other = optax.adam(0.1), match_layers(PARAMS, [(".*", "all")])
    state = Phase(other, 0, 1, (False,)).freeze(inner).init(PARAMS)
    with pytest.raises(ValueError, match="belongs to other Layers"):
        ON.freeze(inner).update(PARAMS, state, PARAMS)
    state = ON.freeze(optax.lion(0.1)).init(PARAMS)
    with pytest.raises(ValueError, match="expected a state of this optimizer"):
        ON.freeze(inner).update(PARAMS, state, PARAMS)
    with pytest.raises(ValueError, match="put it around"):
        ON.freeze(ON.freeze(inner)).init(PARAMS)


def test_a_vector_of_as_many_numbers_as_layers_is_no_scalar_of_theirs():
    """Mechanize keeps one number for each of its six rates."""
    params = {f"w{i}": jnp.ones(2) for i in range(6)}
    layers = match_layers(params, [(k, k) for k in params])
    inner = optax.contrib.mechanize(optax.adam(0.1))
    phase = Phase(layers, 0, 1, (False,) * 6)
    ours, _ = trained([phase.freeze(inner)] * 2, params)
    chex.assert_trees_all_close(ours, trained([inner] * 2, params)[0], rtol=1e-5)


def equations(jaxpr):
    return sum(1 + sum(map(equations, inner(eqn))) for eqn in jaxpr.eqns)


def inner(eqn):
    return [
        value.jaxpr
        for values in eqn.params.values()
        for value in (values if isinstance(values, tuple) else [values])
        if hasattr(value, "jaxpr")
    ]


@pytest.mark.parametrize("wrap", [lambda o: o, lambda o: optax.apply_if_finite(o, 3)])
def test_equations_grow_with_the_layers_only(wrap):
    params = {f"w{i:02}": {"k": jnp.ones(4), "b": jnp.ones(5)} for i in range(24)}
    layers = match_layers(params, [(r"(w\d+)/.*", r"\1")])
    optimizer = wrap(optax.adam(0.1))
    ours = Phase(layers, 0, 1, (False,) * 24).freeze(optimizer)
    one, other = (
        equations(jax.make_jaxpr(o.update)(params, o.init(params), params).jaxpr)
        for o in (ours, optimizer)
    )
    assert one < 2 * other
    still = Phase(layers, 0, 1, (True,) * 23 + (False,)).freeze(optimizer)
    few = jax.make_jaxpr(still.update)(params, still.init(params), params)
    assert equations(few.jaxpr) < other


# --- What lies elsewhere --------------------------------------------------------------


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_zero_updates_lie_on_devices_as_the_parameters_do(kind):
    mesh = jax.make_mesh((2,), ("d",), axis_types=(kind,))
    params = {"body": jnp.ones((8, 16)), "head": jnp.ones((8, 4))}
    layers = match_layers(params, [(k, k) for k in params])
    with jax.set_mesh(mesh):
        params = jax.device_put(params, NamedSharding(mesh, P("d")))
        inner = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1))
        optimizer = Phase(layers, 0, 1, (True, False)).freeze(inner)
        state = optimizer.init(params)
        for update in (optimizer.update, jax.jit(optimizer.update)):
            updates, after = update(params, state, params)
            for tree in (updates, after.inner[1][0].mu):
                for name, leaf in tree.items():
                    same = leaf.sharding.is_equivalent_to(params[name].sharding, 2)
                    assert same, (name, leaf.sharding)
            np.testing.assert_array_equal(updates["body"], 0)


def test_leaves_that_are_no_arrays_pass():
    """An Equinox model holds its activation; what is filtered is None."""
    import equinox as eqx

    model = eqx.nn.MLP(4, 2, 8, 2, key=jax.random.key(0))

    def loss(model, x):
        return (jax.vmap(model)(x) ** 2).mean()

    layers = optax_llr.trace_layers(loss, model, jnp.ones((5, 4)))
    phase = Phase(layers, 0, 1, (True, False, False))
    gradient = eqx.filter_jit(eqx.filter_grad(phase.stopped(loss)))
    grads = gradient(model, jnp.ones((5, 4)))
    assert not np.asarray(grads.layers[0].weight).any()
    optimizer = phase.freeze(optax.adamw(0.1))
    update = eqx.filter_jit(optimizer.update)
    updates, _ = update(grads, optimizer.init(model), model)
    moved = eqx.apply_updates(model, updates)
    chex.assert_trees_all_equal(moved.layers[0].weight, model.layers[0].weight)
    assert (moved.layers[1].weight != model.layers[1].weight).any()
    held = phase.held({"f": jnp.tanh, "n": None}, {"f": jnp.tanh, "n": None})
    assert held == {"f": jnp.tanh, "n": None}


def test_extra_arguments_reach_what_is_inside():
    seen = {}

    def update(updates, state, params=None, **extra):
        seen.update(extra)
        return updates, state

    watching = optax.GradientTransformationExtraArgs(lambda _: (), update)
    for phase, inner in itertools.product(
        (ON, OFF), (watching, optax.chain(optax.adam(0.1), watching))
    ):
        seen.clear()
        optimizer = phase.freeze(inner)
        optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS, value=2.0)
        assert seen == {"value": 2.0}
        # A plain transformation takes none, and is not given any.
        trained([phase.freeze(optax.GradientTransformation(*optax.sgd(0.1)))], PARAMS,
                value=2.0)  # fmt: skip
