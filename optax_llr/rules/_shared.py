"""What several rules share: their simplest states and checks."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from .._checks import Number, check_numbers, in_float32, require, wide_dtype
from ..layers._layers import Layers
from ..layers._paths import PyTree

WITHIN = (0.0, 1e6)
"""Bounds for rules whose formula has its own, or is meant without any."""


class PreviousState(NamedTuple):
    """State of rules that look at two steps in a row."""

    previous: PyTree  # updates of the step before; shapes and dtypes of the parameters


def no_state(layers: Layers, params: PyTree) -> tuple[()]:
    del layers, params
    return ()


def nothing_before(layers: Layers, params: PyTree) -> PreviousState:
    del layers
    return PreviousState(optax.tree.zeros_like(params))


def zeros(param: Any) -> jax.Array:
    """Zeros like a parameter, in single precision or wider."""
    return jnp.zeros_like(param, dtype=wide_dtype(param))


def checked_decay(owner: str, decay: Number) -> Any:
    check_numbers(owner, decay=decay)
    require(
        (decay >= 0) & (decay < 1),
        f"{owner}: decay: expected a number in [0, 1), got {decay}",
    )
    return in_float32(decay)
