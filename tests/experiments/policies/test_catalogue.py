import dataclasses
import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_llr
from experiments.config.choices import MEASURED, POLICY_NAMES, Schedule
from experiments.config.config import PRESETS, Config
from experiments.policies.catalogue import POLICIES, whole_steps
from experiments.policies.catalogue.entry import ENTERED
from experiments.policies.chosen import configured, with_controls
from experiments.policies.optimizers import measured, optimizer, scheduled
from experiments.policies.rates import global_rate
from experiments.training.compiling import policy_tables
from experiments.training.program import abstract

SCHEDULES = typing.get_args(Schedule)
TOTAL = 1000
LAYERED = {*MEASURED, "ramped-tail-exponent"}
"""Policies that do not scale by a schedule."""
ANY_MODEL = [name for name in POLICIES if name != "blockwise"]
"""Policies that ask for no names of layers."""
NAMES = ("conv1", "conv2", "conv3", "hidden", "head")
LAYERS = optax_llr.match_layers(
    {name: np.ones(1) for name in NAMES}, [(name, name) for name in NAMES]
)


def multipliers(name, steps, layers=LAYERS, total=TOTAL):
    values = POLICIES[name].multipliers(layers, total)
    if callable(values):
        return np.stack([np.asarray(values(step)) for step in steps])
    return np.stack([np.asarray(values)] * len(steps))


def test_the_names_are_those_that_a_configuration_may_name():
    assert ENTERED.keys() == set(POLICY_NAMES)
    assert tuple(POLICIES) == POLICY_NAMES
    assert all(policy.name == name for name, policy in POLICIES.items())


@pytest.mark.parametrize("policy", POLICIES.values(), ids=lambda policy: policy.name)
def test_every_policy_says_what_it_does_and_what_is_expected(policy):
    for text in (policy.summary, policy.expectation, policy.source):
        assert text.strip() == text != ""
    assert policy.schedule is None or policy.schedule in SCHEDULES


def test_what_policies_are_compared_with_joins_them_and_is_named():
    config, joined = with_controls(Config(policies=("freezeout", "early-first")))
    assert joined == ["uniform-cosine", "uniform"]
    assert config.policies == ("uniform", "uniform-cosine", "freezeout", "early-first")
    assert with_controls(config) == (config, [])


@pytest.mark.parametrize("policy", POLICIES.values(), ids=lambda policy: policy.name)
def test_every_control_treats_all_layers_alike_and_is_compared_with_uniform(policy):
    control = POLICIES[policy.control]
    assert control.control == "uniform"
    values = multipliers(control.name, range(0, TOTAL, 100))
    assert (values == values[:, :1]).all()


def test_every_policy_has_its_control_s_way_of_layering_or_measures_against_it():
    """So that a comparison is about the multipliers, or about the rule as a whole."""
    for name, policy in POLICIES.items():
        control = POLICIES[policy.control]
        if policy.layering is not control.layering:
            assert name in LAYERED
            assert control.name == "uniform"


def test_measured_policies_are_those_that_do_not_scale_by_a_schedule():
    layered = {name for name, p in POLICIES.items() if p.layering is not scheduled}
    assert layered == LAYERED


def test_every_policy_with_a_schedule_of_its_own_is_compared_with_one_too():
    assert POLICIES["uniform"].schedule is None
    for name, policy in POLICIES.items():
        control = POLICIES[policy.control]
        if not name.startswith("uniform"):
            assert (policy.schedule is None) == (control.schedule is None)


@functools.cache
def global_rates(schedule):
    """(TOTAL,) of a peak of 1."""
    rate = jax.jit(jax.vmap(global_rate(schedule, 1.0, TOTAL)))
    return np.broadcast_to(rate(jnp.arange(TOTAL)), (TOTAL,))


@pytest.mark.parametrize("numbers", [{}, {"first_peak": 0.05, "last_peak": 0.9}])
def test_the_control_of_cascade_is_its_mean_over_the_layers(numbers):
    steps = jnp.arange(TOTAL)
    layered, alike = (
        np.asarray(jax.vmap(tuned(name, **numbers).multipliers(LAYERS, TOTAL))(steps))
        for name in ("cascade", POLICIES["cascade"].control)
    )
    mean = layered.mean(1, dtype=np.float64)
    np.testing.assert_allclose(alike, np.stack([mean] * 5, 1), rtol=1e-6)


@pytest.mark.parametrize("depth", [2, 5, 22])
def test_a_control_anneals_more_like_freezeout_than_any_other_schedule(depth):
    name = "freezeout"
    names = [f"layer{i}" for i in range(depth)]
    layers = optax_llr.match_layers(
        {n: np.ones(1) for n in names}, [(n, n) for n in names]
    )
    schedule = POLICIES[name].multipliers(layers, TOTAL)
    layered = np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(TOTAL)))

    def distance(schedule):
        return ((layered - global_rates(schedule)[:, None]) ** 2).mean()

    own = POLICIES[POLICIES[name].control].schedule
    assert min(SCHEDULES, key=distance) == own
    # The rates of each layer add up to the same as the control's.
    np.testing.assert_allclose(layered.mean(0), global_rates(own).mean(), rtol=0.03)


@pytest.mark.parametrize(
    ("name", "first", "middle", "last"),
    [
        ("uniform", [1] * 5, [1] * 5, [1] * 5),
        ("uniform-onecycle", [1] * 5, [1] * 5, [1] * 5),
        ("uniform-cosine", [1] * 5, [1] * 5, [1] * 5),
        ("early-first", [1.5, 1.25, 1, 0.75, 0.5], [1] * 5, [0.5, 0.75, 1, 1.25, 1.5]),
        ("late-first", [0.5, 0.75, 1, 1.25, 1.5], [1] * 5, [1.5, 1.25, 1, 0.75, 0.5]),
        ("static-decreasing", *([[1.5, 1.25, 1, 0.75, 0.5]] * 3)),
        ("static-increasing", *([[0.5, 0.75, 1, 1.25, 1.5]] * 3)),
        ("three-stage", [2, 1, 1, 1, 0.5], [0.5, 1, 1, 1, 1.25], [0.5, 1, 1, 1, 2]),
        ("cascade", [0.04] * 5, [0.625, 5 / 7, 5 / 6, 1, 0.04 + 0.8], [1e-5] * 5),
        ("discriminative", *([[2.6 ** (i - 4) for i in range(5)]] * 3)),
        ("unfreeze-top-first", [0, 0, 0, 0, 1], [1] * 5, [1] * 5),
        ("unfreeze-bottom-first", [1, 0, 0, 0, 0], [1] * 5, [1] * 5),
        ("rotation-alpha", *([[0.4 ** (5 * i / 4) for i in range(5)]] * 3)),
        ("from-scratch", [1] * 5, [1] * 5, [1] * 5),
        ("head-only", *([[0, 0, 0, 0, 1]] * 3)),
        ("head-first", [0, 0, 0, 0, 1], [1] * 5, [1] * 5),
        ("ulmfit-rates", *([[2.6 ** (i - 4) for i in range(5)]] * 3)),
        ("block-decay", *([[0.75 ** (4 - i) for i in range(5)]] * 3)),
        ("uniform-slanted", [1] * 5, [1] * 5, [1] * 5),
        ("ulmfit", [0] * 4 + [1], *([[2.6 ** (i - 4) for i in range(5)]] * 2)),
        ("slow-body", *([[0.1, 0.1, 0.1, 0.1, 1]] * 3)),
        ("first-block", *([[1, 1, 0, 0, 0]] * 3)),
    ],
)
def test_multipliers_at_the_start_half_way_and_at_the_end(name, first, middle, last):
    values = multipliers(name, [0, TOTAL // 2, TOTAL])
    np.testing.assert_allclose(values, [first, middle, last], rtol=1e-5)


def test_three_stage_settles_its_first_layer_in_the_first_tenth():
    values = multipliers("three-stage", [50, 99, 100, 101])
    np.testing.assert_allclose(values[:, 0], [1.25, 0.515, 0.5, 0.5], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("unfreeze-top-first", slice(None)),
        ("unfreeze-bottom-first", slice(None, None, -1)),
    ],
)
def test_unfreezing_adds_a_layer_each_tenth_of_the_run(name, order):
    values = multipliers(name, [0, 99, 100, 199, 200, 300, 399, 400])[:, order]
    assert values.sum(1).tolist() == [1, 1, 2, 2, 3, 4, 4, 5]
    assert (np.diff(values, axis=1) >= 0).all()  # those at the end join first


def test_freezeout_freezes_from_the_first_layer_to_the_last_and_for_good():
    values = multipliers("freezeout", range(TOTAL))
    frozen_from = [int(np.flatnonzero(column == 0)[0]) for column in values.T[:4]]
    assert frozen_from == [512, 615, 729, 858]  # ⌈1000·(0.8 + 0.2·l/4)³⌉
    for column, step in zip(values.T, frozen_from, strict=False):
        assert (column[step:] == 0).all()
    assert (values[:, 4] > 0).all()


@pytest.mark.parametrize("name", ANY_MODEL)
@pytest.mark.parametrize(
    ("total", "depth"), [(1, 1), (30, 1), (5, 2), (1, 22), (5, 22)]
)
def test_short_runs_and_other_depths_have_finite_multipliers(name, total, depth):
    names = [f"layer{i}" for i in range(depth)]
    layers = optax_llr.match_layers(
        {n: np.ones(1) for n in names}, [(n, n) for n in names]
    )
    values = POLICIES[name].multipliers(layers, total)
    if callable(values):
        values = jax.jit(jax.vmap(values))(jnp.arange(total))
    assert np.shape(values)[-1] == depth
    assert np.isfinite(values).all()
    assert (np.asarray(values) >= 0).all()


@pytest.mark.parametrize("name", ANY_MODEL)
def test_tables_hold_what_the_policy_says_at_every_step(name):
    config = PRESETS["demo"]
    tables = policy_tables(POLICIES[name], config, LAYERS)
    total = config.total_steps
    assert tables.multipliers.shape == (total, len(LAYERS))
    assert tables.rate.shape == (total,)
    steps = [0, 1, total // 3, total - 1]
    expected = multipliers(name, steps, total=total)
    np.testing.assert_allclose(tables.multipliers[steps], expected, rtol=1e-5)


def test_a_policy_with_a_schedule_of_its_own_overrides_that_of_the_study():
    config = PRESETS["demo"]
    own = policy_tables(POLICIES["cascade"], config, LAYERS).rate
    study = policy_tables(POLICIES["uniform"], config, LAYERS).rate
    assert set(own.tolist()) == {np.float32(config.rate)}
    assert study[-1] < study[0]


OWN = {
    "early-first": {"first_start": 1.5, "first_end": 0.5}
    | {"last_start": 0.5, "last_end": 1.5},
    "late-first": {"first_start": 0.5, "first_end": 1.5}
    | {"last_start": 1.5, "last_end": 0.5},
    "static-decreasing": {"first": 1.5, "last": 0.5},
    "static-increasing": {"first": 0.5, "last": 1.5},
    "three-stage": {"first_start": 2.0, "first_end": 0.5, "first_duration": 0.1}
    | {"last_start": 0.5, "last_end": 2.0},
    "cascade": {"first_peak": 0.2, "last_peak": 0.6},
    "uniform-cascade": {"first_peak": 0.2, "last_peak": 0.6},
    "discriminative": {"factor": 2.6},
    "unfreeze-top-first": {"duration": 0.4},
    "unfreeze-bottom-first": {"duration": 0.4},
    "freezeout": {"t0": 0.8, "power": 3.0},
    "rotation-alpha": {"alpha": -0.6},
    "layca-alpha": {"alpha": -0.6},
    "head-first": {"duration": 0.3},
    "ulmfit-rates": {"factor": 2.6},
    "block-decay": {"decay": 0.75},
    "ulmfit": {"factor": 2.6, "duration": 0.4},
    "slow-body": {"body": 0.1},
}


def tuned(name, **numbers):
    """One policy as a study at rate 0.02 has it with these numbers."""
    numbers = {f"{name}.{key}": value for key, value in numbers.items()}
    return configured(Config(policies=(name,), rate=0.02, numbers=numbers))[name]


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_is_tuned_by_its_rate_and_by_its_own_numbers(name):
    numbers = POLICIES[name].numbers(rate=0.05)
    values = {number.name: number.value for number in numbers}
    assert values == {"rate": 0.05} | OWN.get(name, {})
    assert all(number.low <= number.value <= number.high for number in numbers)
    assert all(number.low > 0 for number in numbers if number.log)


@pytest.mark.parametrize("name", POLICIES)
def test_a_configuration_without_numbers_leaves_every_policy_as_it_is(name):
    assert tuned(name) == POLICIES[name]
    assert hash(tuned(name)) == hash(POLICIES[name])


@pytest.mark.parametrize("name", ANY_MODEL)
@pytest.mark.parametrize("end", ["low", "high"])
@pytest.mark.parametrize(("total", "depth"), [(1, 1), (30, 22)])
def test_multipliers_are_finite_at_the_ends_of_all_ranges(name, end, total, depth):
    extremes = {n.name: getattr(n, end) for n in POLICIES[name].numbers(0.02)}
    names = [f"layer{i}" for i in range(depth)]
    layers = optax_llr.match_layers(
        {n: np.ones(1) for n in names}, [(n, n) for n in names]
    )
    values = tuned(name, **extremes).multipliers(layers, total)
    if callable(values):
        values = jax.vmap(values)(jnp.arange(total))
    assert np.isfinite(values).all()
    assert (np.asarray(values) >= 0).all()


@pytest.mark.parametrize(
    ("name", "numbers", "step", "expected"),
    [
        ("early-first", {"first_start": 2.0}, 0, [2, 1.625, 1.25, 0.875, 0.5]),
        ("late-first", {"last_end": 2.5}, TOTAL, [1.5, 1.75, 2, 2.25, 2.5]),
        ("static-decreasing", {"last": 3.5}, 0, [1.5, 2, 2.5, 3, 3.5]),
        ("three-stage", {"first_duration": 0.5}, 250, [1.25, 1, 1, 1, 0.875]),
        ("discriminative", {"factor": 2.0}, 0, [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]),
        ("unfreeze-top-first", {"duration": 0.8}, 400, [0, 0, 1, 1, 1]),
        ("unfreeze-bottom-first", {"duration": 0.8}, 400, [1, 1, 1, 0, 0]),
        (
            "rotation-alpha",
            {"alpha": 0.5},
            0,
            [0.5 ** (5 - 5 * i / 4) for i in range(5)],
        ),
    ],
)
def test_numbers_change_the_multipliers(name, numbers, step, expected):
    values = tuned(name, **numbers).multipliers(LAYERS, TOTAL)
    values = values(step) if callable(values) else values
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_the_peaks_of_cascade_are_shares_of_the_run():
    values = tuned("cascade", first_peak=0.1, last_peak=0.9).multipliers(LAYERS, TOTAL)
    peaks = [int(layer) for layer in jax.vmap(values)(jnp.arange(TOTAL)).argmax(0)]
    assert peaks == [100, 300, 500, 700, 900]


def test_the_peaks_of_cascade_cannot_cross():
    _, first, last = POLICIES["cascade"].numbers(0.02)
    assert first.high <= last.low
    assert last.high < 1


def test_freezeout_freezes_where_its_numbers_say():
    values = tuned("freezeout", t0=0.5, power=2.0).multipliers(LAYERS, TOTAL)
    rows = np.asarray(jax.vmap(values)(jnp.arange(TOTAL)))
    assert rows[249, 0] > 0 == rows[250, 0]


def test_a_share_of_the_run_is_the_whole_steps_that_it_looks_like():
    """0.6 · 5 would be a step less, were it 2.9999…; and so for other lengths."""
    for total in (*range(1, 3_000), 9_999_995):
        shares = OWN["cascade"]["first_peak"], OWN["cascade"]["last_peak"], 0.1
        steps = [whole_steps(share, total) for share in shares]
        assert steps == [total // 5, 3 * total // 5, total // 10]


def test_the_rate_of_one_policy_is_its_own():
    numbers = {"early-first.rate": 0.1}
    config = Config(policies=("uniform", "early-first"), rate=0.02, numbers=numbers)
    rates = {name: policy.rate for name, policy in configured(config).items()}
    assert rates == {"uniform": None, "early-first": 0.1}


def test_a_policy_says_which_of_its_numbers_are_not_its_own():
    own = POLICIES["early-first"]
    same = {"rate": 0.02, "first_start": 1.5}  # as `best.json` may have them
    assert tuned("early-first", **same) == own
    other = tuned("early-first", **same | {"rate": 0.1, "last_end": 1.25})
    said = "Here instead: rate 0.1, last_end 1.25."
    assert other.summary == f"{own.summary} {said}"


def test_a_study_with_numbers_has_them_in_its_tables():
    config = PRESETS["demo"]
    tables = policy_tables(tuned("uniform", rate=0.1), config, LAYERS)
    study = policy_tables(POLICIES["uniform"], config, LAYERS)
    np.testing.assert_allclose(tables.rate, 5 * study.rate, rtol=1e-6)


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        (
            {"early-first.frist_start": 1.0},
            r"unknown 'early-first.frist_start'; did you mean early-first.first_start "
            r"between 0.2 and 5\?",
        ),
        ({"nonsense": 1.0}, r"unknown 'nonsense' \(expected POLICY.NUMBER"),
        ({"early-first.first_start": 9.0}, r"expected .* between 0.2 and 5; got 9"),
        ({"cascade.last_peak": 0.3}, "expected cascade.last_peak between 0.4 and 0.9"),
        ({"uniform.rate": float("nan")}, "between 0.002 and 0.2; got nan"),
    ],
)
def test_numbers_that_cannot_be_are_refused_with_their_range(numbers, said):
    with pytest.raises(ValueError, match=said) as refused:
        configured(Config(numbers=numbers))
    assert "\n" not in str(refused.value)


def test_numbers_of_policies_that_are_not_compared_are_checked_and_do_no_harm():
    config = Config(policies=("uniform",), numbers={"cascade.rate": 0.05})
    assert configured(config) == {"uniform": POLICIES["uniform"]}
    with pytest.raises(ValueError, match=r"cascade\.rate between"):
        configured(dataclasses.replace(config, numbers={"cascade.rate": 5.0}))


def gpt_layers():
    config = dataclasses.replace(PRESETS["text-gpt"], epochs=0.01)
    return config, abstract(config, *config.sizes[1:]).layers


def test_blockwise_has_the_peaks_of_its_source_and_one_floor():
    config, layers = gpt_layers()
    tables = policy_tables(POLICIES["blockwise"], config, layers)
    rates = tables.rate[:, None] * tables.multipliers
    factors = {"norm": 1, "norm1": 1, "norm2": 1, "value": 4, "out": 4, "gate": 6}
    factors |= {"up": 6, "down": 6, "query": 8, "key": 8, "tokens": 10, "head": 10}
    factors = np.array([factors[name.split("/")[-1]] for name in layers.names])
    warmup = round(config.total_steps / 10)
    peaks = rates[warmup]
    np.testing.assert_allclose(peaks, config.rate * factors / factors.mean(), rtol=1e-5)
    # As the recipe has it: up to these peaks, and along cosines down to one floor.
    floor = 0.1 * config.rate / factors.mean()
    left = config.total_steps - warmup
    source = optax.cosine_decay_schedule(peaks, left, alpha=floor / peaks)
    expected = np.stack([source(step) for step in range(left)])
    np.testing.assert_allclose(rates[warmup:], expected, rtol=1e-4)
    rising = rates[0] / peaks
    np.testing.assert_allclose(rising, rising[0], rtol=1e-5)


def test_blockwise_says_which_layers_it_does_not_know():
    with pytest.raises(ValueError, match=r"expects layers whose names.*got 'conv1'"):
        POLICIES["blockwise"].multipliers(LAYERS, TOTAL)


def test_llr_lifts_embedding_and_head_and_shares_out_the_rate():
    config, layers = gpt_layers()
    random = np.random.default_rng(0)
    params = {
        path: jnp.asarray(random.normal(size=size), jnp.float32)
        for path, size in {
            **dict.fromkeys(layers.members, (64, 64)),
            **{path: (64,) for path in layers.members if path.endswith("scale")},
        }.items()
    }
    flat = optax_llr.match_layers(params, [(r"(.*)/\w+", r"\1")])
    by_name = dict(zip(layers.names, layers.level, strict=True))
    order = sorted(flat.names, key=by_name.__getitem__)
    names, level = tuple(order), np.array([by_name[name] for name in order])
    members = {path: names.index(path.rpartition("/")[0]) for path in params}
    layers = optax_llr.Layers(names, level, members)
    chain = optimizer(config, layers, POLICIES["ramped-tail-exponent"].layering)
    state = chain.init(params)
    told = {"rate": jnp.float32(0.1), "multipliers": jnp.ones(len(layers))}
    update = jax.jit(chain.update)
    for _ in range(20):
        state = state._replace(hyperparams=told)
        _, state = update(params, state, params)
    found = dict(zip(layers.names, np.asarray(measured(state)), strict=True))
    assert np.mean([*found.values()]) == pytest.approx(1, rel=1e-5)
    by_norm = {name: value / found["norm"] for name, value in found.items()}
    assert by_norm["tokens"] == pytest.approx(3, rel=1e-5)
    assert by_norm["head"] == pytest.approx(3, rel=1e-5)
    assert by_norm["blocks/0/norm1"] == pytest.approx(1, rel=1e-5)
    matrices = [value for name, value in by_norm.items() if name.startswith("blocks")]
    assert max(matrices) == pytest.approx(3, rel=1e-5)
    assert len({round(float(value), 3) for value in matrices}) > 10
