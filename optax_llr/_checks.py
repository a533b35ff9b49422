"""Checks and types of numbers; what is traced has no value yet, and passes."""

import reprlib
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

Number: TypeAlias = float | jax.Array


def check_numbers(function: str, **numbers: object) -> None:
    """Demands finite real numbers, by the names of the arguments."""
    for name, value in numbers.items():
        if not is_number(value):
            raise ValueError(
                f"{function}: {name}: expected a finite real number "
                f"({float_type().name}), got {value!r}"
            )


def check_counts(function: str, **counts: Any) -> None:
    """Demands whole numbers above 0, by the names of the arguments."""
    check_numbers(function, **counts)
    for name, value in counts.items():
        require(
            (value >= 1) & (value % 1 == 0),
            f"{function}: {name}: expected a whole number above 0, got {value!r}",
        )


def check_bool(function: str, **values: object) -> None:
    """Demands True or False, by the names of the arguments."""
    for name, value in values.items():
        if not isinstance(value, bool | np.bool_):
            raise ValueError(
                f"{function}: {name}: expected True or False, got {value!r}"
            )


def is_number(value: object) -> bool:
    """Whether it is one finite real number."""
    if not isinstance(value, int | float | np.generic | np.ndarray | jax.Array):
        return False
    number: Any = value if isinstance(value, Tracer) else np.asarray(value)
    return number.ndim == 0 and is_real(number) and bool(finite(number))


def is_real(array: Any) -> bool:
    """Whether the type is one of real numbers, which bools are not."""
    return any(jnp.issubdtype(array.dtype, k) for k in (jnp.integer, jnp.floating))


def finite(values: Any) -> np.ndarray:
    """Where values are finite once they are JAX floats; what is traced passes."""
    if isinstance(values, Tracer):
        return np.ones(values.shape, bool)
    return abs(np.asarray(values)) <= jnp.finfo(float_type()).max


def plain(number: Number) -> Any:
    """A Python number for NumPy's, and a JAX array in JAX's own int or float type.

    So that it meets arrays of those types, and counts, under strict promotion too.
    """
    if isinstance(number, jax.Array):
        whole = jnp.issubdtype(number.dtype, jnp.integer)
        return jnp.asarray(number, int if whole else float)
    return np.asarray(number).item()


def in_float32(number: Number) -> Any:
    """A Python number for NumPy's, and a JAX array in the float32 of rules."""
    number = plain(number)
    return number.astype(jnp.float32) if isinstance(number, jax.Array) else number


def as_count(number: Number) -> Any:
    """An int, also of 2.0, or a JAX array in int32."""
    return number.astype(jnp.int32) if isinstance(number, jax.Array) else int(number)


def real_array(values: Any) -> jax.Array | None:
    """As a JAX array, or None where that is not one of real numbers (or bools)."""
    if isinstance(values, str | bytes):  # which may be the name of a type
        return None
    try:
        with np.errstate(over="ignore"):
            array = jnp.asarray(values)
    except (TypeError, ValueError, OverflowError):
        return None
    return array if is_real(array) or array.dtype == bool else None


def described(value: Any) -> str:
    """For a message: dtype and shape of an array, else the value in short."""
    if isinstance(value, jax.Array | np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    return f"{type(value).__name__} {reprlib.repr(value)}"


def float_type() -> np.dtype[Any]:
    """JAX's own float type, of which all multipliers are."""
    return jnp.result_type(float)


def wide_dtype(array: Any) -> np.dtype[Any]:
    """The dtype to compute in: float32, or what is wider; complex stays complex.

    Not by `promote_types`, which under strict promotion refuses it for half precision,
    and for 8 bits always.
    """
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        return np.dtype(array.dtype)
    return np.dtype(np.float64 if array.dtype == np.float64 else np.float32)


def require(holds: Any, message: str) -> None:
    """Raises unless it holds; what is traced is not known yet and passes."""
    if not isinstance(holds, Tracer) and not holds:
        raise ValueError(message)
