import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.config.choices import Schedule
from experiments.policies.rates import global_rate


def rates(name, peak=0.1, total=1000):
    schedule = global_rate(name, peak, total)
    return np.array([float(schedule(step)) for step in (range(total))])


def test_constant_stays():
    assert set(rates("constant", total=10)) == {0.1}


def test_piecewise_drops_at_half_three_quarters_and_nine_tenths():
    values = rates("piecewise", total=100)
    np.testing.assert_allclose(values[:50], 0.1, rtol=1e-6)
    np.testing.assert_allclose(values[50:75], 0.01, rtol=1e-6)
    np.testing.assert_allclose(values[75:90], 0.001, rtol=1e-6)
    np.testing.assert_allclose(values[90:], 0.0001, rtol=1e-6)


def test_triangular_rises_and_falls_twice_in_straight_lines():
    values = rates("triangular", total=400)
    ends = [0, 100, 200, 300, 400]
    expected = np.interp(np.arange(400), ends, [0.01, 0.1, 0.01, 0.1, 0.01])
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_onecycle_peaks_after_thirty_per_cent_and_ends_near_nothing():
    values = rates("onecycle")
    assert values.argmax() == 300
    assert values.max() == pytest.approx(0.1)
    assert values[-1] < 1e-5


def test_cosine_is_half_way_down_in_the_middle():
    values = rates("cosine")
    assert values[0] == pytest.approx(0.1)
    assert values[500] == pytest.approx(0.05)
    assert (np.diff(values) < 0).all()


def test_sgdr_restarts_twice_in_cycles_of_doubled_length():
    values = rates("sgdr", total=700)
    assert (np.flatnonzero(np.diff(values) > 0) + 1).tolist() == [100, 300]
    np.testing.assert_allclose(values[[0, 100, 300]], 0.1, rtol=1e-6)
    np.testing.assert_allclose(values[[50, 200, 500]], 0.05, rtol=1e-5)


def test_slanted_is_the_triangle_of_ulmfit():
    total, cut, ratio = 1000, 100, 32

    def written_out(t):
        p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / 0.1 - 1))
        return 0.1 * (1 + p * (ratio - 1)) / ratio

    expected = [written_out(t) for t in range(total)]
    np.testing.assert_allclose(rates("slanted", total=total), expected, rtol=1e-4)


def test_warmup_cosine_rises_for_a_tenth_and_falls_to_a_tenth():
    values = rates("warmup-cosine", total=1001)
    np.testing.assert_allclose(values[:101], 0.1 * np.arange(1, 102) / 101, rtol=1e-5)
    angles = np.pi * np.arange(901) / 901
    expected = 0.01 + 0.09 * (1 + np.cos(angles)) / 2
    np.testing.assert_allclose(values[100:], expected, rtol=1e-5)


@pytest.mark.parametrize("name", typing.get_args(Schedule))
@pytest.mark.parametrize("total", [1, 2, 3, 7, 50])
def test_rates_of_the_shortest_runs_are_finite_and_never_above_the_peak(name, total):
    schedule = global_rate(name, 0.1, total)
    steps = jnp.arange(total)
    values = np.broadcast_to(jax.jit(jax.vmap(schedule))(steps), (total,))
    assert np.isfinite(values).all()
    assert (values > 0).all()
    assert (values <= 0.1 + 1e-8).all()


def test_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match=r"schedule: expected one of .*'step'"):
        global_rate("step", 0.1, 10)
