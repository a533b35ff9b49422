"""Settling: which layers it freezes, when, and how often at most."""

import pickle

import jax.numpy as jnp
import numpy as np
import pytest

import optax_llr

NAMES = ("conv", "hidden", "head")
PARAMS = {name: jnp.eye(3) + jnp.arange(9.0).reshape(3, 3) / 10 for name in NAMES}
PARAMS["head_bias"] = jnp.zeros(3)
LAYERS = optax_llr.match_layers(PARAMS, [(f"{n}.*", n) for n in NAMES])


def turned(angles):
    """The parameters with each kernel turned by an angle, and three times as long."""
    params = dict(PARAMS)
    for name, angle in zip(NAMES, angles, strict=True):
        kernel = np.asarray(PARAMS[name], np.float64)
        across = np.arange(9.0)[::-1].reshape(3, 3)
        across -= (across * kernel).sum() / (kernel**2).sum() * kernel
        across *= np.linalg.norm(kernel) / np.linalg.norm(across)
        moved = np.cos(angle) * kernel + np.sin(angle) * across
        params[name] = jnp.asarray(moved, jnp.float32)
    return params


def begin(**changes):
    options = {"total_steps": 1000, "threshold": 1e-3, "checks": 2, "most": 8}
    return optax_llr.contrib.Settling.begin(LAYERS, PARAMS, **(options | changes))


def run(settling, *rates, every=10):
    """Turns each layer by a rate for some steps, then checks; once for each row."""
    angles = np.zeros(len(NAMES))
    for rate in rates:
        angles = angles + every * np.array(rate)
        settling = settling.check(settling.step + every, turned(angles))
    return settling


CALM, MOVING = 1e-4, 1e-2


def test_by_default_three_checks_settle_a_layer_and_eight_phases_are_the_most():
    settling = optax_llr.contrib.Settling.begin(LAYERS, PARAMS, 1000, 1e-3)
    assert (settling.checks, settling.most) == (3, 8)
    row = (0, MOVING, MOVING)
    assert run(settling, row, row).phase.names == ()
    assert run(settling, row, row, row).phase.names == ("conv",)


@pytest.mark.parametrize("angle", [0.0, 1e-5, 1e-4, 0.01, 1.0, 3.0])
def test_rates_are_angles_a_step_also_where_cosines_have_no_digits(angle):
    settling = begin().check(5, turned([angle, 0.5, 0.1]))
    expected = np.array([angle, 0.5, 0.1]) / 5
    np.testing.assert_allclose(settling.rates, expected, rtol=1e-5, atol=5e-8)


def test_layer_settles_after_so_many_checks_in_a_row():
    rows = [(CALM, MOVING, MOVING), (MOVING, MOVING, MOVING), (CALM, CALM, MOVING)]
    settling = run(begin(), *rows)
    assert settling.phase.names == ()
    assert settling.calm == (1, 1, 0)
    settling = run(begin(), *rows, (CALM, MOVING, MOVING))
    assert settling.phase.names == ("conv",)
    first, second = settling.phases
    assert (first.start, first.stop) == (0, 40)
    assert (second.start, second.stop) == (40, 1000)


def test_what_is_frozen_stays_so():
    still = (0, MOVING, MOVING)
    settling = run(begin(), still, still, (MOVING, MOVING, MOVING))
    assert settling.phase.names == ("conv",)


def test_each_layer_that_settles_begins_a_phase():
    settling = run(begin(checks=1), (0, MOVING, MOVING), (0, 0, MOVING))
    names = [phase.names for phase in settling.phases]
    assert names == [(), ("conv",), ("conv", "hidden")]


def test_the_last_layer_that_moves_is_left():
    settling = run(begin(checks=1), (1e-5, 5e-5, 2e-5))
    assert settling.phase.names == ("conv", "head")


@pytest.mark.parametrize(("most", "names"), [(1, ()), (2, ("conv",))])
def test_there_are_no_more_phases_than_allowed(most, names):
    settling = run(begin(checks=1, most=most), (0, MOVING, MOVING), (0, 0, MOVING))
    assert len(settling.phases) == most
    assert settling.phase.names == names


def test_layer_without_kernels_never_settles():
    params = {"norm": jnp.ones(3), "head": jnp.eye(3)}
    layers = optax_llr.match_layers(params, [(k, k) for k in params])
    settling = optax_llr.contrib.Settling.begin(layers, params, 100, 1e-3, checks=1)
    settling = settling.check(10, params)
    assert settling.phase.names == ("head",)
    assert np.isnan(settling.rates[0])


def test_it_goes_on_from_a_pickle():
    row = (0, MOVING, MOVING)
    half = pickle.loads(pickle.dumps(run(begin(), row)))
    again = half.check(20, turned([0, 20 * MOVING, 20 * MOVING]))
    assert again.phases == run(begin(), row, row).phases


def test_parameters_may_be_donated_after_a_check():
    params = {name: jnp.array(leaf) for name, leaf in PARAMS.items()}
    settling = begin().check(10, params)
    for leaf in params.values():
        leaf.delete()
    settling.check(20, PARAMS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 0.0}, "threshold above 0, got 0.0"),
        ({"checks": 0}, "Settling: checks: expected a whole number above 0, got 0"),
        ({"checks": 2.5}, "Settling: checks: expected a whole number above 0, got 2.5"),
        ({"most": 0}, "Settling: most: expected a whole number above 0, got 0"),
        ({"total_steps": 0}, "start < stop, got 0 and 0"),
    ],
)
def test_bad_numbers_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        begin(**changes)


def test_a_check_at_the_end_measures_and_begins_no_phase():
    settling = begin(checks=1).check(1000, turned([0, 1, 1]))
    assert settling.rates[1] == pytest.approx(1e-3, rel=1e-4)
    assert len(settling.phases) == 1


@pytest.mark.parametrize("step", [0, 1001, -5])
def test_steps_must_go_on(step):
    with pytest.raises(ValueError, match=f"after the last check, at 0.*got {step}"):
        begin().check(step, PARAMS)
