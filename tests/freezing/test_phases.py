"""Phases of frozen layers; `Phase.stopped` has test_split_scans.py to itself."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from flax import linen as nn
from flax import nnx
from flax.training.train_state import TrainState
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import optax_llr
from optax_llr import Phase, freeze_phases, match_layers, rules, scale_by_layer

NAN = float("nan")


def tree(shapes, seed):
    generator = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(generator.standard_normal(shape), jnp.float32),
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def assert_same_bits(ours, theirs):
    def compare(one, other):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()

    jax.tree.map(compare, ours, theirs)


# --- Reading phases off a schedule ----------------------------------------------------

ABC = match_layers({n: jnp.ones(2) for n in "abc"}, [(n, n) for n in "abc"])


def abc(**multipliers):
    return optax_llr.per_layer_schedule(
        ABC, {name: 1.0 for name in "abc"} | multipliers
    )


def awake_at(*steps):
    """A layer that trains in these steps only."""
    return lambda count: jnp.isin(count, jnp.array(steps)).astype(float)


def frozen_at(*steps):
    return lambda count: 1.0 - awake_at(*steps)(count)


def read(*args, **kwargs):
    return [
        (phase.start, phase.stop, "".join(phase.names))
        for phase in freeze_phases(*args, **kwargs)
    ]


halves = optax.piecewise_constant_schedule(1.0, {5: 0.5, 8: 0.0})
PHASES = {
    "array": (np.ones(3), 10, [(0, 10, "")]),
    "array with a 0": (np.array([0.5, 0, -0.0]), 10, [(0, 10, "bc")]),
    "one step": (np.array([0, 1, 1]), 1, [(0, 1, "a")]),
    "freezeout": (
        optax_llr.freezeout_schedule(
            ABC, 100, t0=0.5
        ),  # 100 · (0.125, 0.421875, 1), rounded up
        100,
        [(0, 13, ""), (13, 43, "a"), (43, 100, "ab")],
    ),
    "gradual_unfreeze": (
        optax_llr.gradual_unfreeze_schedule(ABC, 10),
        40,
        [(0, 10, "ab"), (10, 20, "a"), (20, 40, "")],
    ),
    "gradual_unfreeze, with a ramp from 0": (
        optax_llr.gradual_unfreeze_schedule(ABC, 10, ramp_steps=4),
        25,
        [(0, 11, "ab"), (11, 21, "a"), (21, 25, "")],
    ),
    "gradual_unfreeze, bottom first": (
        optax_llr.gradual_unfreeze_schedule(ABC, 10, top_first=False),
        25,
        [(0, 10, "bc"), (10, 20, "c"), (20, 25, "")],
    ),
    "table": (
        optax_llr.table_schedule([[1, 1, 1], [0, 1, 1], [0, 2, 1], [0, 0, 1]]),
        6,
        [(0, 1, ""), (1, 3, "a"), (3, 6, "ab")],
    ),
    "piecewise": (abc(b=halves), 12, [(0, 8, ""), (8, 12, "b")]),
    "in turns": (
        lambda count: jnp.arange(3) == count % 3,
        4,
        [(0, 1, "bc"), (1, 2, "ac"), (2, 3, "ab"), (3, 4, "bc")],
    ),
    "all is 0 after the end": (
        lambda count: jnp.where(count < 7, jnp.ones(3), -jnp.inf),
        7,
        [(0, 7, "")],
    ),
}


@pytest.mark.parametrize(
    ("multipliers", "steps", "phases"), PHASES.values(), ids=PHASES
)
def test_phases_are_read_off_a_schedule(multipliers, steps, phases):
    assert read(ABC, multipliers, steps) == phases


@pytest.mark.parametrize("step", [1, 4095, 4096, 4097, 8191, 8192, 9998])
def test_one_step_is_not_missed_wherever_it_lies(step):
    gap = abc(a=awake_at(step), b=frozen_at(step))
    assert read(ABC, gap, 10_000) == [
        (0, step, "a"),
        (step, step + 1, "b"),
        (step + 1, 10_000, "a"),
    ]


@pytest.mark.parametrize(
    ("shortest", "phases"),
    [
        (2, [(0, 4, "ab"), (4, 7, "b"), (7, 12, "ab")]),
        (4, [(0, 7, "b"), (7, 12, "ab")]),
        (6, [(0, 12, "b")]),
        (99, [(0, 12, "b")]),
    ],
)
def test_short_phases_join_a_neighbour(shortest, phases):
    multipliers = abc(a=awake_at(4, 5, 6), b=0.0)
    assert read(ABC, multipliers, 12, shortest=shortest) == phases


AB, A, C, NONE = [0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 1, 1]  # multipliers 0


@pytest.mark.parametrize(
    ("rows", "phases"),
    [
        ([AB] * 8 + [A] * 2 + [NONE] * 4, [(0, 8, "ab"), (8, 14, "")]),
        ([NONE] * 4 + [A] * 2 + [AB] * 8, [(0, 6, ""), (6, 14, "ab")]),
        ([AB] * 8 + [A] * 2 + [C] * 4, [(0, 8, "ab"), (8, 14, "")]),
        ([AB] * 3 + [A] * 2 + [C] * 4, [(0, 5, "a"), (5, 9, "c")]),
    ],
)
def test_the_neighbour_is_the_one_with_which_less_is_lost(rows, phases):
    assert read(ABC, optax_llr.table_schedule(rows), len(rows), shortest=3) == phases


@st.composite
def frozen_tables(draw):
    """Which of three layers are frozen, step by step; never all of them."""
    runs = st.tuples(st.sampled_from(range(7)), st.integers(1, 6))
    rows = [
        [bool(bits & 1 << i) for i in range(3)]
        for bits, times in draw(st.lists(runs, min_size=1, max_size=8))
        for _ in range(times)
    ]
    return np.array(rows)


@given(frozen_tables(), st.integers(1, 20))
@settings(max_examples=25, deadline=None)
def test_laws_of_joined_phases(frozen, shortest):
    multipliers = optax_llr.table_schedule(np.where(frozen, 0.0, 0.5))
    phases = freeze_phases(ABC, multipliers, len(frozen), shortest)
    assert (phases[0].start, phases[-1].stop) == (0, len(frozen))
    assert len(phases) == 1 or min(map(len, phases)) >= shortest
    for one, other in itertools.pairwise(phases):
        assert one.stop == other.start
        assert one.frozen != other.frozen
    for phase in phases:
        # What is joined is frozen as far as all of its steps are, and no further.
        steps = frozen[phase.start : phase.stop]
        assert phase.frozen == tuple(steps.all(axis=0)) or shortest > 1
        assert (steps >= np.array(phase.frozen)).all()
    if shortest == 1:
        rows = [phase.frozen for phase in phases for _ in range(len(phase))]
        np.testing.assert_array_equal(rows, frozen)


# --- What is refused ------------------------------------------------------------------

late = {5000: 0.0}
REFUSED = {
    "everything frozen": (
        (abc(a=0.0, b=0.0, c=optax.piecewise_constant_schedule(1.0, late)), 6000),
        "frozen at step 5000, and at 1000 of 6000 steps",
    ),
    "everything frozen in one step": (
        (abc(a=frozen_at(50), b=frozen_at(50), c=frozen_at(50)), 100),
        "frozen at step 50, and at 1 of 100 steps",
    ),
    "everything frozen in one step, joined": (
        (abc(a=frozen_at(50), b=frozen_at(50), c=frozen_at(50)), 100, 10),
        "frozen at step 50, and at 1 of 100 steps",
    ),
    "negative": (
        (abc(b=optax.constant_schedule(-0.5)), 10),
        "got -0.5 for 'b' at step 0",
    ),
    "negative, late": (
        (abc(b=lambda count: jnp.where(count == 4200, -2.0, 1.0)), 9000),
        "got -2.0 for 'b' at step 4200",
    ),
    "nan": (
        (abc(c=lambda count: jnp.where(count < 7, 1.0, NAN)), 9),
        "got nan for 'c' at step 7",
    ),
    "0 steps": ((np.ones(3), 0), "an int total_steps ≥ 1, got 0"),
    "a fraction of steps": ((np.ones(3), 10.0), "an int total_steps ≥ 1, got 10.0"),
    "a bool for steps": ((np.ones(3), True), "an int total_steps ≥ 1, got True"),
    "shortest 0": ((np.ones(3), 9, 0), "an int shortest ≥ 1, got 0"),
    "another number of layers": ((np.ones(2), 9), r"of shape \(3,\).*shape \(2,\)"),
    "a number for all": ((lambda count: 1.0, 9), r"of shape \(3,\).*got float 1.0"),
}


@pytest.mark.parametrize(("args", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_before_anything_is_compiled(args, message):
    with pytest.raises(ValueError, match=message):
        freeze_phases(ABC, *args)


def test_names_are_no_layers():
    with pytest.raises(ValueError, match="freeze_phases: layers: expected Layers"):
        freeze_phases(["a", "b"], np.ones(2), 9)


A = (True, False, False)
NO_PHASE = {
    "too few": ((0, 9, (True,)), r"frozen: expected a bool for each of 3.*\(True,\)"),
    "words": ((0, 9, ("no", "", "")), "frozen: expected a bool for each.*'no'"),
    "numbers": ((0, 9, (1, 0, 0)), "frozen: expected a bool for each"),
    "half a step": ((0.5, 9, A), "expected an int start ≥ 0, got 0.5"),
    "a bool for a step": ((0, True, A), "expected an int stop ≥ 0, got True"),
    "empty": ((9, 9, A), "start < stop, got 9 and 9"),
    "before 0": ((-1, 9, A), "an int start ≥ 0, got -1"),
    "all": ((3, 9, (True, True, True)), "frozen in the steps 3 to 8"),
}


@pytest.mark.parametrize(("args", "message"), NO_PHASE.values(), ids=NO_PHASE)
def test_what_is_no_phase_is_refused(args, message):
    with pytest.raises(ValueError, match=message):
        Phase(ABC, *args)


def test_a_phase_needs_layers():
    with pytest.raises(ValueError, match="Phase: layers: expected Layers"):
        Phase(["a"], 0, 9, (False,))


def test_numbers_of_numpy_make_the_same_phase():
    phase = Phase(ABC, np.int64(0), np.int32(9), tuple(np.array(A)))
    assert phase == Phase(ABC, 0, 9, A)
    assert hash(phase) == hash(Phase(ABC, 0, 9, A))
    same = freeze_phases(ABC, np.ones(3), np.int64(9), np.int32(2))
    assert same == freeze_phases(ABC, np.ones(3), 9, 2)


def test_where_there_are_no_layers_nothing_is_frozen():
    none = match_layers({}, [])
    (phase,) = freeze_phases(none, np.ones(0), 3)
    optimizer = phase.freeze(optax.adam(0.1))
    assert optimizer.update({}, optimizer.init({}), {})[0] == {}


def test_the_key_is_what_is_frozen():
    turns = freeze_phases(ABC, PHASES["in turns"][0], 30)
    assert len(turns) == 30
    assert len({phase.key for phase in turns}) == 3


# --- The optimizer of a phase ---------------------------------------------------------

SHAPES = {
    "stem": {"kernel": (3, 4), "bias": (4,)},
    "blocks": {"kernel": (3, 4, 4)},
    "head": {"kernel": (4, 2)},
}
PARAMS, GRADIENTS = tree(SHAPES, 0), tree(SHAPES, 1)
LAYERS = match_layers(
    PARAMS, [("stem/.*", "stem"), ("blocks/.*", "block[:]"), ("head/.*", "head")]
)
FROZEN = {  # of the stem, three blocks, and the head
    "blocks": (False, True, True, True, False),
    "stem head": (True, False, False, False, True),
    "nothing": (False,) * 5,
}
warmup = optax.linear_schedule(0.1, 0.5, 9)
is_matrix = lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)  # noqa: E731
by_ndim = lambda params: jax.tree.map(lambda leaf: str(leaf.ndim), params)  # noqa: E731
INNER = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": optax.adam(0.1),
    "adam, scheduled": optax.adam(warmup),
    "adamw": optax.adamw(0.1, weight_decay=0.1),
    "lion": optax.lion(0.1),
    "adafactor": optax.adafactor(0.1, min_dim_size_to_factor=2),
    "muon": optax.contrib.muon(0.1),
    "clip": optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.1)),
    "masked": optax.chain(
        optax.masked(optax.add_decayed_weights(0.1), is_matrix), optax.adam(0.1)
    ),
    "partition": optax.partition(
        {"1": optax.adam(0.1), "2": optax.sgd(0.1), "3": optax.lion(0.1)}, by_ndim
    ),
    "injected": optax.inject_hyperparams(optax.adamw)(warmup, weight_decay=0.1),
    "scale_by_layer": optax.chain(
        optax.adam(0.1), scale_by_layer(LAYERS, np.linspace(0.5, 1.5, 5))
    ),
    "adapt_layers": optax_llr.adapt_layers(
        optax.adam(0.1), LAYERS, rules.gradient_norm()
    ),
}


@pytest.fixture(params=INNER)
def inner(request):
    return INNER[request.param]


def phase_of(frozen, layers=LAYERS):
    return Phase(layers, 0, 1, frozen)


def poisoned(gradients, names):
    """NaN for what is frozen: nobody may look at it."""
    return {
        name: jax.tree.map(lambda leaf: leaf + NAN, part) if name in names else part
        for name, part in gradients.items()
    }


@functools.partial(jax.jit, static_argnums=0)
def one_step(optimizer, params, state, gradients, t):
    """With a gradient of its own."""
    turned = jax.tree.map(lambda g, p: g + 0.1 * t * p, gradients, params)
    updates, state = optimizer.update(turned, state, params)
    return optax.apply_updates(params, updates), state


def steps(optimizer, count, params=PARAMS, gradients=GRADIENTS, state=None):
    """Parameters and state after some steps."""
    state = optimizer.init(params) if state is None else state
    for t in range(count):
        params, state = one_step(optimizer, params, state, gradients, t)
    return params, state


def of(names, node):
    """Leaves of a state or of parameters that belong to these parameters."""
    return {
        path: leaf
        for keys, leaf in jax.tree_util.tree_leaves_with_path(node)
        if any(name in (path := jax.tree_util.keystr(keys)) for name in names.split())
    }


@pytest.mark.parametrize("names", ["blocks", "stem head"])
def test_what_trains_is_updated_as_if_it_were_alone(inner, names):
    optimizer = phase_of(FROZEN[names]).freeze(inner)
    ours, _ = steps(optimizer, 2, gradients=poisoned(GRADIENTS, names.split()))
    alone = {name: PARAMS[name] for name in PARAMS if name not in names.split()}
    gradients = {name: GRADIENTS[name] for name in alone}
    theirs, _ = steps(inner, 2, params=alone, gradients=gradients)
    for path, leaf in of(" ".join(alone), theirs).items():
        mine = of(" ".join(alone), ours)[path]
        np.testing.assert_allclose(mine, leaf, rtol=1e-6, atol=1e-7, err_msg=path)
        assert (np.asarray(mine) != of(" ".join(alone), PARAMS)[path]).any()
    assert_same_bits(of(names, ours), of(names, PARAMS))


def test_frozen_moments_keep_every_bit(inner):
    names = "stem head"
    params, warm = steps(phase_of(FROZEN["nothing"]).freeze(inner), 1)
    optimizer = phase_of(FROZEN[names]).freeze(inner)
    bad = poisoned(GRADIENTS, names.split())
    _, state = steps(optimizer, 1, params, bad, warm)
    assert jax.tree.structure(state) == jax.tree.structure(warm)
    assert_same_bits(
        jax.tree.map(jnp.zeros_like, state), jax.tree.map(jnp.zeros_like, warm)
    )
    assert_same_bits(of(names, state), of(names, warm))


def test_the_state_is_one_in_all_phases(inner):
    states = [phase_of(f).freeze(inner).init(PARAMS) for f in FROZEN.values()]
    assert_same_bits(states[0], states[1])
    assert_same_bits(states[0], states[2])
    plain = inner.init(PARAMS)
    assert jax.tree.structure(states[0].inner) == jax.tree.structure(plain)


def test_nothing_frozen_and_nothing_own_is_the_inner_optimizer_itself():
    phase, inner = phase_of(FROZEN["nothing"]), INNER["momentum"]
    state = phase.freeze(inner).init(PARAMS)

    def ours(gradients, trace, params):
        now = state._replace(inner=trace)
        updates, after = phase.freeze(inner).update(gradients, now, params)
        return updates, after.inner

    theirs = jax.make_jaxpr(inner.update)(PARAMS, state.inner, PARAMS)
    assert str(jax.make_jaxpr(ours)(PARAMS, state.inner, PARAMS)) == str(theirs)

    def loss(params):
        return 0.0

    assert phase.stopped(loss) is loss


def test_one_compilation_for_each_distinct_phase():
    phases = freeze_phases(LAYERS, lambda t: 1.0 - (jnp.arange(5) == t // 5 % 2), 40)
    again = freeze_phases(LAYERS, lambda t: 1.0 - (jnp.arange(5) == t // 5 % 2), 40)
    assert phases == again
    assert hash(phases) == hash(again)
    traces = []

    def update(optimizer, state):
        traces.append(optimizer)
        return optimizer.update(GRADIENTS, state, PARAMS)[1]

    update = jax.jit(update, static_argnums=0)
    state = phases[0].freeze(INNER["adam"]).init(PARAMS)
    for phase in (*phases, *again):
        state = update(phase.freeze(INNER["adam"]), state)
    assert len(traces) == len(set(traces)) == 2
    moved = Phase(LAYERS, 90, 95, phases[1].frozen)
    assert moved.freeze(INNER["adam"]) == phases[1].freeze(INNER["adam"])


ELEMENTWISE = ["momentum", "adam", "adam, scheduled", "adamw", "lion", "injected"]


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_slices_of_a_stack_freeze_one_by_one(name):
    inner = INNER[name]
    optimizer = phase_of((False, True, False, True, False)).freeze(inner)
    whole = phase_of(FROZEN["nothing"]).freeze(inner)
    params, warm = steps(whole, 2)
    kernel = GRADIENTS["blocks"]["kernel"].at[jnp.array([0, 2])].set(NAN)
    gradients = GRADIENTS | {"blocks": {"kernel": kernel}}
    frozen, state = steps(optimizer, 3, params, gradients, warm)
    free, all_moved = steps(whole, 3, params, GRADIENTS, warm)
    assert_same_bits(of("stem head", frozen), of("stem head", free))
    ours, theirs = of("blocks", (frozen, state)), of("blocks", (free, all_moved))
    for path, before in of("blocks", (params, warm)).items():
        assert_same_bits(ours[path][1], theirs[path][1])
        assert_same_bits(ours[path][::2], before[::2])


BY_STACK = {"adafactor": (3,), "novograd": ()}


@pytest.mark.parametrize("name", BY_STACK)
def test_state_that_is_not_kept_by_slice_is_refused(name):
    inner = {"adafactor": optax.adafactor(0.1), "novograd": optax.novograd(0.1)}[name]
    optimizer = phase_of((False, True, False, False, False)).freeze(inner)
    with pytest.raises(
        ValueError, match="'blocks/kernel' is a stack of 3 layers, some"
    ):
        optimizer.update(GRADIENTS, optimizer.init(PARAMS), PARAMS)


@pytest.mark.parametrize("inner", [optax.sm3(0.1), optax.lbfgs(0.1)])
def test_state_that_belongs_to_no_parameter_is_refused(inner):
    optimizer = phase_of(FROZEN["blocks"]).freeze(inner)
    with pytest.raises(ValueError, match=r"Phase\.freeze"):
        optimizer.update(GRADIENTS, optimizer.init(PARAMS), PARAMS)


def test_several_gradients_a_step_go_around_a_phase():
    optimizer = phase_of(FROZEN["blocks"]).freeze(INNER["adam"])
    every = optax.MultiSteps(optimizer, 2).gradient_transformation()
    ours, _ = steps(every, 4)
    assert_same_bits(ours["blocks"], PARAMS["blocks"])
    assert (np.asarray(ours["head"]["kernel"]) != PARAMS["head"]["kernel"]).all()
    within = optax.MultiSteps(INNER["adam"], 2).gradient_transformation()
    with pytest.raises(ValueError, match=r"put it around: MultiSteps\(phase\.freeze"):
        steps(phase_of(FROZEN["blocks"]).freeze(within), 1)


def test_params_are_asked_for():
    optimizer = phase_of(FROZEN["blocks"]).freeze(INNER["adam"])
    with pytest.raises(ValueError, match="freeze: needs the parameters"):
        optimizer.update(GRADIENTS, optimizer.init(PARAMS))


def test_weight_decay_stops():
    none = jax.tree.map(jnp.zeros_like, PARAMS)
    optimizer = phase_of(FROZEN["blocks"]).freeze(optax.adamw(0.1, weight_decay=0.5))
    updates, _ = optimizer.update(none, optimizer.init(PARAMS), PARAMS)
    assert (np.asarray(updates["blocks"]["kernel"]) == 0).all()
    np.testing.assert_allclose(
        updates["head"]["kernel"], -0.05 * PARAMS["head"]["kernel"], rtol=1e-6
    )


def test_clipping_sees_what_trains():
    inner = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0))
    optimizer = phase_of((False, True, True, False, True)).freeze(inner)
    gradients = poisoned(GRADIENTS, ["head"])
    updates, _ = optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)
    stem, last = GRADIENTS["stem"], GRADIENTS["blocks"]["kernel"][2]
    norm = np.sqrt(sum(np.sum(np.square(a)) for a in (*stem.values(), last)))
    assert norm > 1
    np.testing.assert_allclose(updates["stem"]["bias"], -stem["bias"] / norm, rtol=1e-6)
    np.testing.assert_allclose(updates["blocks"]["kernel"][2], -last / norm, rtol=1e-6)


@pytest.mark.parametrize("trained", [0, 3], ids=["fresh", "held"])
def test_bias_correction_counts_the_steps_that_a_layer_trained(trained):
    """Under the count of the run the first update would be 2.5 times as long."""
    multipliers = optax_llr.per_layer_schedule(
        ABC, {"a": lambda t: (t < trained) | (t >= 1000), "b": 1.0, "c": 1.0}
    )
    params, inner = {n: jnp.ones(1) for n in "abc"}, optax.adam(1.0)
    phases = freeze_phases(ABC, multipliers, 1005)
    state, alone = phases[0].freeze(inner).init(params), reference.Adam(1.0)
    for phase in phases:
        optimizer = phase.freeze(inner)
        update = jax.jit(
            lambda s, optimizer=optimizer: optimizer.update(params, s, params)
        )
        for _ in range(phase.start, phase.stop):
            updates, state = update(state)
            expected = 0.0 if "a" in phase.names else alone(1.0)
            np.testing.assert_allclose(updates["a"], expected, rtol=2e-5)
    assert state.inner[0].count.tolist() == [trained + 5, 1005, 1005]


# --- Whole runs against a slow reference ----------------------------------------------

STEPS, DEPTH = 24, 4
WEIGHTS, INPUTS, TARGETS = (
    np.random.default_rng(seed).normal(size=shape)
    for seed, shape in enumerate([(DEPTH, 4, 4), (STEPS, 8, 4), (STEPS, 8, 4)])
)
PLAIN = {f"l{i}": jnp.array(w, jnp.float32) for i, w in enumerate(WEIGHTS)}
STACKED = {"stack": jnp.array(WEIGHTS, jnp.float32)}
MLPS = {
    "plain": (PLAIN, match_layers(PLAIN, [(n, n) for n in PLAIN])),
    "stacked": (STACKED, match_layers(STACKED, [("stack", "l[:]")])),
}
L = MLPS["plain"][1]


def without(layer, *steps):
    """Multipliers of 1 and 0.5, and of 0 for a layer in these steps."""
    rows = np.where(np.arange(STEPS)[:, None] % 3, np.ones(DEPTH), 0.5)
    rows[list(steps), layer] = 0
    return optax_llr.table_schedule(rows)


RUNS = {
    "freezeout": optax_llr.freezeout_schedule(L, STEPS, t0=0.6),
    "unfreeze": optax_llr.gradual_unfreeze_schedule(L, 5, ramp_steps=3),
    "unfreeze, bottom first": optax_llr.gradual_unfreeze_schedule(
        L, 5, top_first=False
    ),
    "a middle layer twice": without(1, *range(4, 9), *range(13, 20)),
    "one step": without(0, *range(12), *range(13, STEPS)),
}
rate = optax.linear_schedule(0.05, 0.01, STEPS)  # by the steps of the run


muon_update = jax.jit(optax.contrib.muon(1.0).update)


def muon_alone():
    """Muon of Optax for one layer; the reference multiplies by rates."""
    zero = jnp.zeros((4, 4))
    state = optax.contrib.muon(1.0).init(zero)

    def step(gradient):
        nonlocal state
        updates, state = muon_update(jnp.float32(gradient), state, zero)
        return np.asarray(updates)

    return step


OPTIMIZERS = {  # with an optimizer of one layer at rate 1, and decay
    "sgd": (optax.sgd(rate, 0.9), lambda: reference.momentum_steps(1, 0.9), 0.0),
    "adam": (optax.adam(rate), lambda: reference.Adam(1.0), 0.0),
    "adamw": (optax.adamw(rate, weight_decay=0.1), lambda: reference.Adam(1.0), 0.1),
    "muon": (optax.contrib.muon(rate), muon_alone, 0.0),
}


def mlp_loss(params, x, y):
    if "stack" in params:
        x, _ = lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["stack"])
    else:
        for weight in params.values():
            x = jnp.tanh(x @ weight)
    return jnp.mean((x - y) ** 2) / 2


@functools.partial(jax.jit, static_argnames=("phase", "optimizer"))
def phase_step(params, state, x, y, phase, optimizer):
    gradients = jax.grad(phase.stopped(mlp_loss))(params, x, y)
    updates, state = phase.freeze(optimizer).update(gradients, state, params)
    return optax.apply_updates(params, updates), state


def trained(phases, optimizer, params, state, start=0, stop=STEPS):
    """Parameters and state at a step, by the phases' own losses and optimizers."""
    for phase in phases:
        for t in range(max(start, phase.start), min(stop, phase.stop)):
            x, y = jnp.float32(INPUTS[t]), jnp.float32(TARGETS[t])
            params, state = phase_step(params, state, x, y, phase.key, optimizer)
    return params, state


CASES = [
    *itertools.product(["plain"], RUNS, ["adam"], [1]),
    *itertools.product(["plain"], ["a middle layer twice"], ["sgd", "adamw"], [1]),
    ("plain", "freezeout", "muon", 1),
    ("plain", "unfreeze", "adam", 6),  # phases of 6 steps at least
    *itertools.product(["stacked"], ["a middle layer twice"], ["sgd", "adam"], [1]),
]


@pytest.mark.parametrize(
    ("model", "run", "name", "shortest"),
    [*CASES[:4], *(pytest.param(*case, marks=pytest.mark.slow) for case in CASES[4:])],
)
def test_whole_runs_are_those_of_layers_that_wait(model, run, name, shortest):
    (params, layers), multipliers = MLPS[model], RUNS[run]
    inner, make, decay = OPTIMIZERS[name]
    factors = np.array([multipliers(t) for t in range(STEPS)], np.float64)
    phases = freeze_phases(layers, multipliers, STEPS, shortest)
    assert len(phases) > 1
    trains = factors > 0
    if shortest > 1:  # moments go on in what is computed and multiplied by 0
        rows = [phase.frozen for phase in phases for _ in range(len(phase))]
        trains = ~np.array(rows)
    rates = np.array([rate(t) for t in range(STEPS)])[:, None]
    theirs = reference.trained_apart(
        list(WEIGHTS),
        lambda weights, t: reference.mlp_gradients(weights, INPUTS[t], TARGETS[t]),
        trains,
        factors * rates,
        make,
        decay,
    )
    optimizer = optax.chain(inner, scale_by_layer(layers, multipliers))
    state = phases[0].freeze(optimizer).init(params)
    ours, _ = trained(phases, optimizer, params, state)
    ours = np.stack([*ours.values()]).reshape(WEIGHTS.shape)
    # Float32 against float64 over 24 steps; Muon's iteration enlarges the difference.
    atol = 1e-4 if name == "muon" else 1e-5
    np.testing.assert_allclose(ours, theirs[-1], rtol=0, atol=atol)


@pytest.mark.parametrize(("model", "stop"), [("plain", 6), ("stacked", 15)])
def test_a_run_goes_on_inside_any_phase_to_the_last_bit(model, stop):
    params, layers = MLPS[model]
    multipliers = RUNS["a middle layer twice"]
    optimizer = optax.chain(optax.adam(rate), scale_by_layer(layers, multipliers))
    phases = freeze_phases(layers, multipliers, STEPS)
    start = params, phases[0].freeze(optimizer).init(params)
    whole = trained(phases, optimizer, *start)
    saved = trained(phases, optimizer, *start, stop=stop)
    restored = jax.tree.map(lambda leaf: jnp.array(np.array(leaf)), saved)
    again = freeze_phases(layers, multipliers, STEPS)
    assert_same_bits(trained(again, optimizer, *restored, start=stop), whole)


# --- Nothing is computed --------------------------------------------------------------


def products(text):
    """How many matrix products and convolutions a compiled program runs."""
    bodies = dict(
        re.findall(r"^(?:ENTRY )?%(\S+) \(.*?\{\n(.*?)^\}", text, re.M | re.S)
    )
    entry = re.search(r"^ENTRY %(\S+)", text, re.M)[1]

    def count(name):
        total = 0
        for line in bodies[name].splitlines():
            called = re.findall(r"(?:calls|to_apply|body)=%([\w.-]+)", line)
            loop = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
            assert loop or " while(" not in line
            times = int(loop[1]) if loop else 1
            total += bool(re.search(r" (dot|convolution)\(", line))
            total += times * sum(map(count, called))
        return total

    return count(entry)


def products_of_a_step(phase, loss, params, stopped=True):
    """Of the loss, its gradients, and Adam, behind clipping by the global norm."""
    inner = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1))
    gradient = jax.grad(phase.stopped(loss) if stopped else loss)

    def step(params, state):
        updates, state = phase.freeze(inner).update(gradient(params), state, params)
        return optax.apply_updates(params, updates), state

    state = phase.freeze(inner).init(params)
    return products(jax.jit(step).lower(params, state).compile().as_text())


def deep(params):
    x = jnp.ones((4, 8))
    for weight in params.values():
        x = jnp.tanh(x @ weight)
    return jnp.sum(x**2)


def scanned(params):
    x, _ = lax.scan(lambda x, w: (jnp.tanh(x @ w), None), jnp.ones((4, 8)), params["w"])
    return jnp.sum((x @ params["head"]) ** 2)


def conv(x, kernel):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def residual(params):
    x = conv(jnp.ones((2, 6, 6, 3)), params["stem"])
    for name in ("b0", "b1", "b2"):
        first, second = params[name].values()
        x = x + conv(jax.nn.relu(conv(x, first)), second)
    return jnp.sum((x.mean((1, 2)) @ params["head"]) ** 2)


DEEP = tree({f"l{i}": (8, 8) for i in range(8)}, 0)
SCANNED = tree({"w": (8, 8, 8), "head": (8, 2)}, 0)
BLOCKS = {name: {0: (3, 3, 4, 4), 1: (3, 3, 4, 4)} for name in ("b0", "b1", "b2")}
RESIDUAL = tree({"stem": (3, 3, 3, 4), **BLOCKS, "head": (4, 2)}, 0)
MODELS = {
    "deep": (deep, DEEP, match_layers(DEEP, [(n, n) for n in DEEP])),
    "residual": (
        residual,
        RESIDUAL,
        match_layers(
            RESIDUAL, [("stem", "stem"), (r"(b\d)/.*", r"\1"), ("head", "head")]
        ),
    ),
    "scanned": (
        scanned,
        SCANNED,
        match_layers(SCANNED, [("w", "w[:]"), ("head", "head")]),
    ),
}
# Forward, by parameters of what trains, by inputs of all behind the first that trains.
COUNTS = [
    ("deep", [], 8 + 8 + 7),
    ("deep", [0, 1, 2, 3], 8 + 4 + 3),
    ("deep", [4, 5, 6, 7], 8 + 4 + 7),
    ("deep", [2, 3, 4, 5], 8 + 4 + 7),
    ("deep", [0, 1, 2, 3, 4, 5, 6], 8 + 1 + 0),
    ("residual", [], 8 + 8 + 7),
    ("residual", [0, 1], 8 + 5 + 4),
    ("residual", [3, 4], 8 + 5 + 7),
    ("residual", [2], 8 + 6 + 7),
    # A loop computes the derivative by its first input as well.
    ("scanned", [], 9 + 9 + 9),
    ("scanned", [0, 1, 2, 3], 9 + 5 + 5),
    ("scanned", [4, 5, 6, 7, 8], 9 + 4 + 9),
    ("scanned", [2, 3, 4, 5], 9 + 5 + 9),
]


@pytest.mark.parametrize(("name", "frozen", "count"), COUNTS)
def test_what_is_frozen_is_not_computed(name, frozen, count):
    loss, params, layers = MODELS[name]
    phase = phase_of(tuple(i in frozen for i in range(len(layers))), layers=layers)
    assert products_of_a_step(phase, loss, params) == count
    if name != "scanned":  # XLA leaves out by itself what nobody looks at
        assert products_of_a_step(phase, loss, params, stopped=False) == count


# --- Batch statistics -----------------------------------------------------------------

KERNELS = {
    "stem": {"conv": (2, 2), "norm": (2,)},
    "block": {"conv1": (2, 2), "conv2": (2, 2)},
    "stack": {"conv": (3, 2, 2)},
    "head": {"kernel": (2, 2)},
}
MODULES = match_layers(
    tree(KERNELS, 0),
    [
        ("stem/.*", "stem"),
        (r"block/conv(\d)", r"block\1"),
        ("stack/.*", "stack[:]"),
        ("head/.*", "head"),
    ],
)
STATISTICS = {
    "stem": {"norm": {"mean": (2,)}},
    "block": {"norm": {"mean": (2,)}},  # without parameters of its own
    "stack": {"norm": {"mean": (3, 2)}},
    "mean": (2,),  # of the whole model
}


@pytest.mark.parametrize(
    ("frozen", "held"),
    [
        ("", ""),
        ("stem", "stem"),
        ("block1", ""),  # a layer that trains feeds it, maybe
        ("block1 block2", "block"),
        ("stack[0] stack[1] stack[2]", "stack"),
        ("stem block1 block2 stack[0] stack[1] stack[2]", "stem block stack"),
    ],
)
def test_statistics_of_frozen_layers_are_held(frozen, held):
    old, new = tree(STATISTICS, 1), tree(STATISTICS, 2)
    phase = phase_of(tuple(n in frozen.split() for n in MODULES.names), layers=MODULES)
    expected = {name: old[name] if name in held.split() else new[name] for name in new}
    assert_same_bits(phase.held(new, old), expected)
    modules = "stem", "block", "stack"
    assert [m for m in modules if phase.holds(f"{m}/norm")] == sorted(
        held.split(), key=modules.index
    )


def test_statistics_of_a_stack_are_held_slice_by_slice():
    old, new = tree(STATISTICS, 1), tree(STATISTICS, 2)
    phase = phase_of(tuple(n == "stack[1]" for n in MODULES.names), layers=MODULES)
    held = phase.held(new, old)["stack"]["norm"]["mean"]
    rows = [s["stack"]["norm"]["mean"][i] for i, s in enumerate((new, old, new))]
    np.testing.assert_array_equal(held, rows)
    assert not phase.holds("stack/norm")


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=False, name="norm1")(nn.Dense(4)(x))
        x = nn.BatchNorm(use_running_average=False, name="norm2")(nn.Dense(4)(x))
        return nn.Dense(1)(x)


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.dense1, self.dense2 = (
            nnx.Linear(3, 4, rngs=rngs),
            nnx.Linear(4, 4, rngs=rngs),
        )
        self.norm1, self.norm2 = (
            nnx.BatchNorm(4, rngs=rngs),
            nnx.BatchNorm(4, rngs=rngs),
        )
        self.head = nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x):
        return self.head(self.norm2(self.dense2(self.norm1(self.dense1(x)))))


NET_RULES = [("(?i)(dense_0|dense1|norm1)/.*", "one"), (".*", "rest")]
DATA = tree({"x": (8, 3)}, 3)["x"]


def linen_statistics():
    variables = LinenNet().init(jax.random.key(0), DATA)
    layers = match_layers(variables["params"], NET_RULES)
    _, changed = LinenNet().apply(variables, DATA, mutable="batch_stats")
    return layers, changed["batch_stats"], variables["batch_stats"]


def nnx_statistics():
    model = NnxNet(nnx.Rngs(0))
    old = jax.tree.map(jnp.copy, nnx.state(model, nnx.BatchStat))
    model(DATA)
    layers = match_layers(nnx.state(model, nnx.Param), NET_RULES)
    return layers, nnx.state(model, nnx.BatchStat), old


@pytest.mark.parametrize("statistics", [linen_statistics, nnx_statistics])
def test_statistics_of_a_model_are_held(statistics):
    layers, new, old = statistics()
    held = phase_of((True, False), layers=layers).held(new, old)
    assert len(of("mean var", held)) == 4
    assert_same_bits(of("norm1", held), of("norm1", old))
    assert_same_bits(of("norm2", held), of("norm2", new))
    for path, leaf in of("norm2", old).items():
        assert (np.asarray(of("norm2", held)[path]) != leaf).any()


# --- Two lines in a loop of one's own -------------------------------------------------

LOOP_STEPS = 20


def linen_loss(params, images):
    model = nn.Sequential([nn.Dense(4), nn.tanh, nn.Dense(1)])
    return jnp.mean((model.apply({"params": params}, images) - 1) ** 2)


def test_train_state_goes_through_phases():
    model = nn.Sequential([nn.Dense(4), nn.tanh, nn.Dense(1)])
    params = model.init(jax.random.key(0), DATA)["params"]
    layers = match_layers(params, [(r"(layers_\d)/.*", r"\1")])
    multipliers = optax_llr.freezeout_schedule(layers, LOOP_STEPS, t0=0.8)
    optimizer = optax.chain(optax.adam(0.1), scale_by_layer(layers, multipliers))
    phases = freeze_phases(layers, multipliers, LOOP_STEPS)
    expected = TrainState.create(apply_fn=model.apply, params=params, tx=optimizer)
    state = TrainState.create(
        apply_fn=model.apply, params=params, tx=phases[0].freeze(optimizer)
    )

    @jax.jit
    def whole(state):
        gradients = jax.grad(linen_loss)(state.params, DATA)
        return state.apply_gradients(grads=gradients)

    for _ in range(LOOP_STEPS):
        expected = whole(expected)
    for phase in phases:
        state = state.replace(tx=phase.freeze(optimizer))
        gradient = jax.grad(phase.stopped(linen_loss))
        step = jax.jit(lambda s, g=gradient: s.apply_gradients(grads=g(s.params, DATA)))
        for _ in range(phase.start, phase.stop):
            state = step(state)
    assert phase.names == ("layers_0",)
    assert int(state.step) == LOOP_STEPS
    # What freezes does not thaw: a multiplier of 0 is as good, only slower.
    for path, leaf in of("layers", state.params).items():
        theirs = of("layers", expected.params)[path]
        np.testing.assert_allclose(leaf, theirs, rtol=1e-5, atol=1e-6)


def test_nnx_optimizer_goes_through_phases():
    model = NnxNet(nnx.Rngs(0))
    layers = match_layers(nnx.state(model, nnx.Param), NET_RULES)
    multipliers = optax_llr.freezeout_schedule(layers, LOOP_STEPS, t0=0.8)
    inner = optax.chain(optax.adam(0.1), scale_by_layer(layers, multipliers))
    phases = freeze_phases(layers, multipliers, LOOP_STEPS)
    optimizer = nnx.Optimizer(model, phases[0].freeze(inner), wrt=nnx.Param)
    graphdef, _, _ = nnx.split(model, nnx.Param, ...)

    def loss(params, rest):
        net = nnx.merge(graphdef, params, rest, copy=True)
        value = jnp.mean((net(DATA) - 1) ** 2)
        return value, nnx.state(net, nnx.BatchStat)

    losses = []
    for phase in phases:
        optimizer.tx = phase.freeze(inner)
        gradient = jax.value_and_grad(phase.stopped(loss), has_aux=True)

        @nnx.jit
        def step(model, optimizer, phase=phase, gradient=gradient):
            _, params, rest = nnx.split(model, nnx.Param, ...)
            (value, statistics), gradients = gradient(params, rest)
            nnx.update(model, phase.held(statistics, nnx.state(model, nnx.BatchStat)))
            optimizer.update(model, gradients)
            return value

        before = jax.tree.map(jnp.copy, nnx.state(model))
        for _ in range(phase.start, phase.stop):
            losses.append(float(step(model, optimizer)))
    assert phase.names == ("one",)
    assert_same_bits(of("dense1 norm1", nnx.state(model)), of("dense1 norm1", before))
    assert (model.head.kernel[...] != before["head"]["kernel"][...]).all()
    assert losses[-1] < losses[0] / 2


# --- What a reviewer found ----------------------------------------------------------

PAIR = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 2))}
PAIR_LAYERS = optax_llr.match_layers(PAIR, [("a", "a"), ("b", "b")])


@pytest.mark.parametrize(
    "make", [optax.adam, optax.nadam, optax.adan, optax.contrib.ademamix]
)
def test_first_update_after_thawing_is_that_of_a_fresh_layer(make):
    """Whatever the optimizer calls the count that corrects its moments."""
    optimizer = make(0.1)
    still = optax_llr.Phase(PAIR_LAYERS, 0, 9, (True, False))
    thawed = optax_llr.Phase(PAIR_LAYERS, 9, 20, (False, False))
    state = still.freeze(optimizer).init(PAIR)
    for _ in range(9):
        _, state = still.freeze(optimizer).update(PAIR, state, PAIR)
    ours, _ = thawed.freeze(optimizer).update(PAIR, state, PAIR)
    fresh, _ = optimizer.update(PAIR, optimizer.init(PAIR), PAIR)
    np.testing.assert_allclose(ours["a"], fresh["a"], rtol=1e-5)


def test_counts_of_the_run_do_not_pause_with_a_layer():
    rate = optax.linear_schedule(1.0, 0.0, 100)
    monitored = optax_llr.monitor_layers(optax.sgd(rate), PAIR_LAYERS, rate)
    optimizer = optax_llr.adapt_layers(
        monitored, PAIR_LAYERS, optax_llr.contrib.learned(100)
    )
    still = optax_llr.Phase(PAIR_LAYERS, 0, 4, (True, False))
    other = optax_llr.Phase(PAIR_LAYERS, 4, 8, (False, True))
    state = still.freeze(optimizer).init(PAIR)
    for phase, steps in ((still, 4), (other, 2)):
        update = jax.jit(phase.freeze(optimizer).update)
        for _ in range(steps):
            _, state = update(PAIR, state, PAIR)
    assert (int(state.inner.inner.steps), int(state.inner.rule.steps)) == (6, 6)
    assert float(state.inner.rule.features[0, 3]) == pytest.approx(
        0.05
    )  # step 5 of 100


@pytest.mark.parametrize("optimizer", [optax.lbfgs(0.1), optax.sm3(0.1)])
def test_what_cannot_be_split_is_refused_before_anything_is_frozen(optimizer):
    phase = optax_llr.Phase(PAIR_LAYERS, 0, 9, (False, False))
    with pytest.raises(ValueError, match="cannot tell which part"):
        phase.freeze(optimizer).init(PAIR)


def test_statistics_that_no_layer_owns_are_refused():
    phase = optax_llr.Phase(PAIR_LAYERS, 0, 9, (True, False))
    with pytest.raises(ValueError, match="'norm/mean' stand in no module"):
        phase.held({"norm": {"mean": jnp.ones(2)}}, {"norm": {"mean": jnp.zeros(2)}})


def test_counts_of_random_streams_are_left_alone():
    phase = optax_llr.Phase(PAIR_LAYERS, 0, 9, (True, False))
    after = phase.held({"drop": {"count": jnp.int32(3)}}, {"drop": {"count": 2}})
    assert after == {"drop": {"count": 3}}


def test_statistics_of_another_structure_are_refused():
    phase = optax_llr.Phase(PAIR_LAYERS, 0, 9, (True, False))
    with pytest.raises(ValueError, match="the same structure before and after"):
        phase.held({"mean": jnp.ones(2)}, {})
