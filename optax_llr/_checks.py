"""Checks of numbers; what is traced has no value yet, and passes."""

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
            f"{function}: expected {name} to be a whole number above 0, got {value}",
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


def float_type() -> np.dtype[Any]:
    """JAX's own float type, of which all multipliers are."""
    return jnp.result_type(float)


def require(holds: Any, message: str) -> None:
    """Raises unless it holds; what is traced is not known yet and passes."""
    if not isinstance(holds, Tracer) and not holds:
        raise ValueError(message)
