"""The checks of numbers that all functions share."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optax_llr import _checks as checks

NO_NUMBERS = [
    None,
    "1",
    1j,
    True,
    [0.5],
    np.array([0.5]),
    np.array(0.5, complex),
    np.bool_(True),
    jnp.array([0.5]),
    np.nan,
    np.inf,
    1e308,
    10**400,
    {"a": 1.0},
    optax.constant_schedule(0.5),
]


@pytest.mark.parametrize("bad", NO_NUMBERS, ids=lambda bad: f"{bad!r}"[:30])
def test_what_is_no_finite_real_number_is_named(bad):
    message = r"^owner: rate: expected a finite real number \(float32\), got "
    with pytest.raises(ValueError, match=message):
        checks.check_numbers("owner", other=1, rate=bad)


@pytest.mark.parametrize(
    "good", [1, 0.5, np.int64(3), np.float32(0.5), jnp.bfloat16(0.5), np.array(2)]
)
def test_every_kind_of_real_number_is_taken(good):
    checks.check_numbers("owner", rate=good)
    number = checks.plain(good)
    assert isinstance(number, int | float | jax.Array)
    assert number == float(good)


def test_traced_numbers_must_be_of_a_number_s_type_and_pass_unread():
    jax.jit(lambda x: checks.check_numbers("owner", x=x))(np.nan)
    for bad in (jnp.ones(1), jnp.array(True), jnp.array(1j)):
        with pytest.raises(ValueError, match="x: expected a finite real number"):
            jax.jit(lambda x: checks.check_numbers("owner", x=x))(bad)


@pytest.mark.parametrize("bad", [0, -1, 1.5, "2", None, True])
def test_counts_are_whole_numbers_above_0(bad):
    with pytest.raises(ValueError, match=r"^owner: steps: expected a "):
        checks.check_counts("owner", steps=bad)


@pytest.mark.parametrize("good", [1, 2.0, np.int64(3), np.float32(4), jnp.int32(5)])
def test_counts_become_integers(good):
    checks.check_counts("owner", steps=good)
    assert jnp.result_type(checks.as_count(good)) == jnp.int32


@pytest.mark.parametrize("bad", [None, 1, 0.0, "no", np.ones(2, bool), jnp.array(True)])
def test_bools_are_true_or_false(bad):
    checks.check_bool("owner", scaled=np.True_, other=False)
    with pytest.raises(ValueError, match=r"^owner: scaled: expected True or False"):
        checks.check_bool("owner", scaled=bad)


@pytest.mark.parametrize("bad", ["a", None, [1.0, [2.0]], {"a": 1.0}, [None], 1j])
def test_what_is_no_array_of_real_numbers_is_none(bad):
    assert checks.real_array(bad) is None


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [
        (bool, "float32"),
        (jnp.int32, "float32"),
        (jnp.float8_e4m3fn, "float32"),
        (jnp.bfloat16, "float32"),
        (np.float64, "float64"),
        (jnp.complex64, "complex64"),
        (np.complex128, "complex128"),
    ],
)
def test_computing_is_done_in_float32_or_wider(dtype, wide):
    assert checks.wide_dtype(np.zeros(2, dtype)) == wide


@pytest.mark.usefixtures("double_precision")
def test_in_double_precision_a_number_may_be_larger():
    checks.check_numbers("owner", rate=1e300)
    assert checks.float_type() == np.float64
    assert checks.in_float32(jnp.float64(0.5)).dtype == jnp.float32
