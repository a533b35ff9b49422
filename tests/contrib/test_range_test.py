"""layer_range_test and what it says, against plain gradient descent on quadratics."""

import dataclasses

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st
from scipy import stats

import optax_llr
from optax_llr.contrib import layer_range_test

NAMES = ("stem", "block", "head")
PARAMS = {name: jnp.ones(3) for name in NAMES}
LAYERS = optax_llr.match_layers(PARAMS, [(name, name) for name in NAMES])
CURVATURE = np.array([0.5, 3.0, 20.0])
RATE = 0.05
GRID = np.geomspace(0.01, 100, 9)
DENSE = np.geomspace(0.01, 100, 161)  # a step is a factor of 1.06


def descended(multipliers, scale, steps):
    """Loss Σ ½ s h w² from w = 1 after steps of gradient descent, in NumPy."""
    weights = (1 - scale * RATE * CURVATURE * multipliers) ** steps
    return (0.5 * CURVATURE * weights**2).sum(-1)


def quadratic(steps, scales=(1.0,)):
    def run(vectors):
        return np.stack([descended(vectors, s, steps) for s in scales], axis=-1)

    return run


def from_table(losses, frozen=None, uniform=None, grid=None):
    """A RangeTest of given losses (L, M, R), at multipliers around 1."""
    losses = np.asarray(losses, float)
    count, width, repeats = losses.shape
    middle = width // 2
    grid = 10.0 ** (np.arange(width) - middle) if grid is None else grid
    uniform = losses[0, middle] if uniform is None else np.asarray(uniform, float)
    return optax_llr.contrib.RangeTest(
        layers=optax_llr.match_layers(
            {name: 0 for name in NAMES[:count]}, [(n, n) for n in NAMES[:count]]
        ),
        multipliers=grid,
        losses=losses,
        frozen=np.full((count, repeats), 9.0) if frozen is None else np.array(frozen),
        uniform=uniform,
    )


def test_one_step_on_quadratics_suggests_newtons_rate():
    test = layer_range_test(LAYERS, quadratic(1), GRID)
    np.testing.assert_allclose(test.suggestion, 1 / (RATE * CURVATURE), rtol=1e-4)
    np.testing.assert_allclose(test.best[:, 0], 1 / (RATE * CURVATURE), rtol=1e-4)
    assert not test.at_edge.any()


ONE = optax_llr.match_layers({"a": 0}, [("a", "a")])


def one_layer(loss, repeats=3):
    """A run of one layer whose loss at a multiplier is known, the same each time."""
    return lambda rows: np.tile(loss(rows[:, :1].astype(float)), repeats)


@pytest.mark.parametrize("grid", [GRID, np.geomspace(0.01, 100, 6), [0.05, 0.4, 30]])
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_the_suggestion_is_never_worse_than_the_grid(steps, grid):
    for right in np.geomspace(0.05, 20, 7):

        def loss(m, right=right):
            return 1 + (1 - m / right) ** (2 * steps)

        test = layer_range_test(ONE, one_layer(loss), grid)
        (found,) = test.suggestion
        tried = float(np.float32(found))  # what the steps have seen
        assert loss(tried) <= test.losses[test.seen].min(initial=np.inf)
        if steps == 1 and not test.at_edge:
            assert found == pytest.approx(right, rel=1e-3)
        if not test.at_edge:  # and how far off it may be is said
            (uncertainty,) = test.uncertainty
            assert abs(np.log10(found / right)) < np.sqrt(12) * uncertainty


@hypothesis.settings(deadline=None, max_examples=20)
@hypothesis.given(st.integers(0, 10**6))
def test_the_suggestion_is_never_worse_than_the_grid_whatever_the_loss(seed):
    def loss(m):  # something else for each multiplier
        bits = int(np.float32(m).view(np.uint32))
        return np.random.default_rng([seed, bits]).random()

    run = one_layer(lambda rows: np.array([[loss(m)] for (m,) in rows]))
    test = layer_range_test(ONE, run)
    if test.seen:
        assert loss(test.suggestion[0]) <= test.losses.min()
    else:
        assert test.suggestion == 1


def test_what_lies_between_the_points_is_not_known_for_certain():
    """Also where all repeats agree."""
    coarse = layer_range_test(ONE, one_layer(lambda m: (1 - m / 3) ** 2), GRID)
    fine = layer_range_test(ONE, one_layer(lambda m: (1 - m / 3) ** 2), DENSE)
    assert 0.05 < coarse.uncertainty[0] < 0.2
    assert fine.uncertainty[0] < 0.01


@pytest.mark.parametrize("right", [0.7, 1.0, 1.4])
def test_a_layer_that_wants_1_is_seen_by_the_ends_of_the_grid(right):
    test = layer_range_test(ONE, one_layer(lambda m: (1 - m / right) ** 2), GRID)
    assert test.seen
    assert test.suggestion == pytest.approx(right, rel=1e-4)
    assert "no difference" not in str(test)


def test_where_no_difference_is_seen_nothing_is_suggested():
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(99, 4))
    test = layer_range_test(ONE, lambda rows: 5 + noise[: len(rows)] * (rows != 1))
    assert not test.seen
    assert test.suggestion == 1
    assert np.isnan(test.uncertainty).all()
    layer, *cells = str(test).splitlines()[1].split()
    assert (layer, cells[-3:]) == ("a", ["no", "difference", "seen"])
    assert len(cells) == 5  # limit and gain before them


@pytest.mark.parametrize("grid", [GRID, [0.01, 0.05, 0.3, 2.5, 7, 80, 100]])
def test_a_loss_that_is_a_parabola_in_log_m_is_met_as_well(grid):
    best = np.array([0.07, 0.9, 31.0])

    def run(vectors):
        tried = np.where(vectors == 0, 1e-6, vectors)
        return 2 + ((np.log(tried) - np.log(best)) ** 2).sum(-1, keepdims=True)

    test = layer_range_test(LAYERS, run, grid)
    np.testing.assert_allclose(test.suggestion, best, rtol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_limit_is_where_gradient_descent_diverges(steps):
    test = layer_range_test(LAYERS, quadratic(steps), DENSE)
    exact = 2 / (RATE * CURVATURE)
    beyond = test.limit * DENSE[1] / DENSE[0]
    assert (test.limit <= exact).all()
    assert (exact < beyond).all()


def test_optax_under_vmap_agrees_with_the_same_in_numpy():
    curvature = dict(zip(NAMES, CURVATURE, strict=True))

    def loss(params, scale):
        return sum(0.5 * scale * h * params[n][0] ** 2 for n, h in curvature.items())

    @jax.vmap
    def run(multipliers):
        optimizer = optax.chain(
            optax.sgd(RATE), optax_llr.scale_by_layer(LAYERS, multipliers)
        )

        def repeat(scale):
            def step(state, _):
                params, opt_state = state
                updates, opt_state = optimizer.update(
                    jax.grad(loss)(params, scale), opt_state
                )
                return (optax.apply_updates(params, updates), opt_state), None

            start = PARAMS, optimizer.init(PARAMS)
            (params, _), _ = jax.lax.scan(step, start, length=3)
            return loss(params, 1.0)

        return jax.vmap(repeat)(jnp.array([1.0, 0.5]))

    found = layer_range_test(LAYERS, run, GRID)
    meant = layer_range_test(LAYERS, quadratic(3, (1.0, 0.5)), GRID)
    np.testing.assert_allclose(found.losses, meant.losses, rtol=2e-4)
    np.testing.assert_allclose(found.frozen, meant.frozen, rtol=2e-4)
    np.testing.assert_allclose(found.uniform, meant.uniform, rtol=2e-4)


def test_run_is_called_with_one_layer_changed_at_a_time():
    seen = []

    def run(vectors):
        seen.append(vectors)
        return vectors @ [[1.0, 2], [10, 20], [100, 200]]  # tells the rows apart

    test = layer_range_test(LAYERS, run, [0.5, 1, 4])
    (rows,) = seen  # all are best at an end: nothing lies between
    assert rows.dtype == np.float32
    assert rows.shape == (1 + 3 * 3, 3)  # all ones once; 0, 0.5 and 4 for each layer
    assert ((rows != 1).sum(axis=1) <= 1).all()
    assert len(np.unique(rows, axis=0)) == len(rows)
    weight = np.array([1.0, 10, 100])
    expected = 111 + weight[:, None] * (np.array([0.5, 1, 4]) - 1)
    np.testing.assert_array_equal(test.losses[..., 0], expected)
    np.testing.assert_array_equal(test.losses[..., 1], 2 * expected)
    np.testing.assert_array_equal(test.frozen[:, 0], 111 - weight)
    np.testing.assert_array_equal(test.uniform, [111, 222])


def test_a_second_call_tries_what_lies_between():
    seen = []

    def run(vectors):
        seen.append(vectors)
        return quadratic(3)(vectors)

    test = layer_range_test(LAYERS, run, GRID)
    rows = seen[1]
    assert rows.dtype == np.float32
    assert (rows[0] == 1).all()
    assert ((rows[1:] != 1).sum(axis=1) == 1).all()
    assert len(rows) <= 1 + 2 * 3
    for layer in range(3):
        tried = rows[1:, layer][rows[1:, layer] != 1]
        np.testing.assert_array_equal(test.between[layer], tried)
        assert test.suggestion[layer] in [*tried, *GRID]


def test_other_batches_in_the_second_call_are_found():
    calls = iter([1.0, 1.1])
    with pytest.raises(ValueError, match=r"in both calls of run, got .* and then"):
        layer_range_test(LAYERS, lambda rows: next(calls) * quadratic(1)(rows))


def test_no_layers_at_all():
    none = optax_llr.match_layers({}, [])
    test = layer_range_test(none, lambda rows: np.ones((len(rows), 2)))
    assert test.suggestion.shape == test.uncertainty.shape == test.seen.shape == (0,)
    assert str(test).split() == ["layer", "suggestion", "×/÷", "limit", "gain"]


@pytest.mark.parametrize(
    "grid", [[0.1, 10], [2, 4], [0.25, 0.5], 0.1 * np.arange(1, 20)]
)
def test_1_is_always_among_the_multipliers(grid):
    test = layer_range_test(LAYERS, quadratic(2), grid)
    assert (test.multipliers == 1).sum() == 1
    np.testing.assert_allclose(test.multipliers, np.union1d(np.round(grid, 12), 1))
    at_one = test.losses[:, test.multipliers == 1, 0]
    np.testing.assert_array_equal(at_one, np.broadcast_to(test.uniform, (3, 1)))


def test_what_only_rounding_keeps_from_1_is_1():
    test = layer_range_test(LAYERS, quadratic(2), [0.5, 1 + 1e-12, 2])
    assert test.multipliers.tolist() == [0.5, 1, 2]


def test_change_is_to_the_same_repeat():
    test = layer_range_test(LAYERS, quadratic(2, (1.0, 0.3)), GRID)
    for repeat in range(2):
        expected = test.losses[:, :, repeat] - test.uniform[repeat]
        np.testing.assert_array_equal(test.change[:, :, repeat], expected)
    assert (test.change[:, 4] == 0).all()


def test_the_mean_over_repeats_is_least_at_the_suggestion():
    scales = np.array([1.0, 0.9, 0.8, 1.1])
    test = layer_range_test(LAYERS, quadratic(1, scales), GRID)
    assert test.seen[:2].all()
    meant = scales.mean() / (scales**2).mean() / (RATE * CURVATURE)
    np.testing.assert_allclose(test.suggestion[:2], meant[:2], rtol=1e-4)
    apart = np.log10(1 / scales).std(ddof=1)
    assert (test.uncertainty[:2] > apart).all()


def test_one_repeat_suggests_and_cannot_tell_how_uncertain_that_is():
    test = layer_range_test(LAYERS, quadratic(1), GRID)
    np.testing.assert_allclose(test.suggestion, 1 / (RATE * CURVATURE), rtol=1e-4)
    assert np.isnan(test.uncertainty).all()


@hypothesis.settings(deadline=None)  # the first one compiles
@hypothesis.given(st.permutations(range(3)))
def test_layers_in_another_order_are_found_alike(order):
    order = np.array(order)

    def run(vectors):
        return quadratic(2, (1.0, 0.5))(vectors[:, np.argsort(order)])

    plain = layer_range_test(LAYERS, quadratic(2, (1.0, 0.5)), GRID)
    moved = layer_range_test(LAYERS, run, GRID)
    for name in ("suggestion", "uncertainty", "limit", "at_edge", "seen"):
        np.testing.assert_allclose(getattr(moved, name), getattr(plain, name)[order])


@hypothesis.settings(deadline=None)
@hypothesis.given(st.floats(1e-3, 1e3))
def test_the_unit_of_the_loss_does_not_matter(unit):
    plain = layer_range_test(LAYERS, quadratic(2, (1.0, 0.5)), GRID)
    other = layer_range_test(
        LAYERS, lambda vectors: unit * quadratic(2, (1.0, 0.5))(vectors), GRID
    )
    np.testing.assert_allclose(other.gain, unit * plain.gain)
    for name in ("suggestion", "limit", "at_edge", "seen"):
        np.testing.assert_allclose(getattr(other, name), getattr(plain, name))


@pytest.mark.parametrize("diverged", [np.nan, np.inf])
def test_what_diverged_is_kept_and_never_suggested(diverged):
    losses = [[[diverged], [4.0], [3.0], [2.0], [diverged]]]
    test = from_table(losses)
    np.testing.assert_array_equal(test.losses, losses)
    np.testing.assert_allclose(
        test.suggestion, 10
    )  # no parabola through a neighbour that diverged
    assert test.limit == 10
    assert not test.at_edge
    assert "10" in str(test)


def test_all_that_diverged_but_1_suggests_1():
    test = from_table([[[np.nan] * 2, [3.0, 3.0], [np.inf] * 2]])
    np.testing.assert_allclose(test.suggestion, 1)
    assert test.seen  # that there is nothing else


def test_an_end_of_the_grid_is_suggested_as_it_is_and_said():
    test = from_table([[[5.0], [4.0], [3.0]], [[1.0], [4.0], [9.5]]], uniform=[4.0])
    np.testing.assert_allclose(test.suggestion, [10, 0.1])
    assert test.at_edge.all()
    assert str(test).count("at the edge of the grid") == 2
    assert str(test).count("≥ 10") == 1


def test_one_repeat_at_the_edge_is_enough_to_say_so():
    test = from_table([[[5.0, 5], [4.0, 1], [3.0, 5]]])
    assert test.at_edge


def test_a_layer_that_changes_nothing_keeps_1():
    test = from_table(np.full((2, 5, 3), 0.7))
    np.testing.assert_array_equal(test.suggestion, [1, 1])
    assert not test.at_edge.any()
    with jax.debug_nans(True):
        assert not test.seen.any()


def test_limit_looks_upwards_from_the_best_only():
    # Noise puts a small multiplier above the frozen loss; the fourth is beyond.
    test = from_table([[[9.1], [7.0], [8.0], [9.2], [8.9]]])
    assert test.limit == 1
    assert from_table([[[9.1], [9.3], [9.2]]]).limit == 0
    assert from_table([[[9.3], [9.1], [9.2]]]).limit == 0
    assert "better frozen" in str(from_table([[[9.1], [9.3], [9.2]]]))


def test_limit_ends_where_a_single_repeat_diverges():
    test = from_table([[[7.0, 7], [6.0, 6], [5.0, np.nan]]])
    assert test.limit == 1


def test_limit_ends_at_divergence_though_the_frozen_layer_diverges_as_well():
    test = from_table([[[7.0], [6.0], [np.inf]]], frozen=[[np.nan]])
    assert test.limit == 1


def test_gain_is_measured_by_repeats_that_did_not_choose():
    # Each repeat alone finds the multiplier on which noise smiled there.
    lucky = [[[-0.5, 2, 2], [1.0, 1, 1], [2.0, -0.5, 2]]]
    test = from_table(lucky)
    np.testing.assert_allclose(test.gain, [[-1, -1, -1]])
    assert not test.seen
    assert "no difference seen" in str(test)


def test_nothing_is_suggested_where_repeats_disagree_over_the_whole_grid():
    # All but 1 are better, each time another: a gain, but at no place.
    losses = np.full((1, 9, 4), 1.0)
    losses[0, 4] = 2
    losses[0, [0, 8, 1, 8], range(4)] = 0.9
    test = from_table(losses, grid=GRID)
    assert (test.gain > 0.9).all()
    assert not test.seen
    assert test.suggestion == 1
    assert np.isnan(test.uncertainty)
    _, line = str(test).splitlines()
    limit, gain = ["≥", "100"], ["1"]
    assert line.split() == ["stem", *limit, *gain, "no", "difference", "seen"]


def test_what_all_repeats_agree_on_is_seen():
    test = from_table([[[0.4, 0.5, 0.45], [1.0, 1, 1], [2.0, 2, 2]]])
    np.testing.assert_allclose(test.gain, [[0.6, 0.5, 0.55]])
    assert test.seen
    assert "no difference seen" not in str(test)


@pytest.mark.parametrize("repeats", [2, 3, 5, 8])
def test_noise_alone_is_rarely_seen_in_any_layer(repeats):
    rng = np.random.default_rng(0)
    losses = rng.normal(size=(400, 3, 9, repeats))
    losses[:, :, 4] = losses[:, :1, 4]  # with 1 it is the same run for all layers
    seen = [from_table(given, grid=GRID).seen.any() for given in losses]
    assert 0.01 < np.mean(seen) < 0.15


@pytest.mark.parametrize("repeats", [2, 3, 8])
@pytest.mark.parametrize("layers", [1, 3])
def test_what_is_seen_passes_a_t_test_for_all_layers_together(repeats, layers):
    rng = np.random.default_rng(repeats)
    chances, seen = [], []
    for size in np.geomspace(0.3, 100, 60):
        gained = size + rng.normal(size=(layers, repeats))
        never = np.full((layers, repeats), 1e6)
        losses = np.stack([never, never, -gained], axis=1)
        seen.extend(from_table(losses, uniform=np.zeros(repeats)).seen)
        chances.extend(stats.ttest_1samp(gained.T, 0, alternative="greater").pvalue)
    assert 0.1 < np.mean(seen) < 1
    np.testing.assert_array_equal(seen, np.array(chances) < 0.05 / layers)


def test_one_repeat_cannot_tell_noise():
    test = layer_range_test(LAYERS, quadratic(2), GRID)
    assert np.isnan(test.gain).all()
    assert not test.seen.any()
    assert "no difference" not in str(test)
    assert "nan" not in str(test)


def test_table_has_a_line_for_each_layer():
    test = layer_range_test(LAYERS, quadratic(1, (1.0, 1.001, 0.999)), DENSE)
    lines = str(test).splitlines()
    assert lines[0].split() == ["layer", "suggestion", "×/÷", "limit", "gain"]
    assert [line.split()[0] for line in lines[1:]] == list(NAMES)
    assert float(lines[3].split()[1]) == pytest.approx(1 / (RATE * 20), rel=0.01)


@pytest.mark.parametrize(
    "grid",
    [
        [],
        2.0,
        [[0.5, 2]],
        [0.0, 1],
        [-1.0, 1],
        [2.0, 1],
        [1.0, 1],
        [1.0, np.nan],
        [1.0, np.inf],
        [1e-60, 1],
        [1.0, 1e60],
        ["a"],
        [True],
    ],
)
def test_a_grid_that_is_none_is_refused_before_any_run(grid):
    def run(vectors):
        raise AssertionError("ran")

    with pytest.raises(ValueError, match="multipliers: expected finite numbers above"):
        layer_range_test(LAYERS, run, grid)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (lambda vectors: vectors.sum(-1), r"shape \(28, R\).*got \(28,\)"),
        (lambda vectors: vectors[1:], r"shape \(28, R\).*got \(27, 3\)"),
        (lambda vectors: vectors[:, :0], r"got \(28, 0\)"),
        (lambda vectors: vectors * 1j, "real losses from run, got complex64"),
        (lambda vectors: vectors > 1, "real losses from run, got bool"),
        (lambda vectors: vectors * [1, np.nan, 1], "lower the global rate"),
    ],
)
def test_losses_that_are_none_are_refused(losses, message):
    with pytest.raises(ValueError, match=message):
        layer_range_test(LAYERS, losses)


def test_layers_that_are_none_are_refused():
    with pytest.raises(ValueError, match="layers: expected Layers"):
        layer_range_test(PARAMS, quadratic(1))
    with pytest.raises(ValueError, match=r"are layer_range_test\(layers, run, mult"):
        layer_range_test(quadratic(1), LAYERS)
    with pytest.raises(ValueError, match="run: expected a function"):
        layer_range_test(LAYERS, GRID)


def test_the_default_is_nine_multipliers_over_four_decades():
    test = layer_range_test(LAYERS, quadratic(1))
    np.testing.assert_allclose(test.multipliers, GRID)


def test_the_result_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        layer_range_test(LAYERS, quadratic(1)).losses = None
