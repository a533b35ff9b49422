"""What several rules share: their simplest states and checks."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from .._checks import Number, check_numbers, require
from ..layers._layers import Layers
from ..layers._paths import PyTree


class PreviousState(NamedTuple):
    """State of rules that look at two steps in a row."""

    previous: PyTree  # updates of the step before; shapes and dtypes of the parameters


def no_state(layers: Layers, params: PyTree) -> tuple[()]:
    del layers, params
    return ()


def nothing_before(layers: Layers, params: PyTree) -> PreviousState:
    del layers
    return PreviousState(optax.tree.zeros_like(params))


def zeros(param: jax.Array) -> jax.Array:
    """Zeros like a parameter, in single precision or wider."""
    dtype = jnp.result_type(param)
    return jnp.zeros_like(param, dtype=jnp.promote_types(dtype, jnp.float32))


def check_decay(owner: str, decay: Number) -> None:
    check_numbers(owner, decay=decay)
    require(
        (decay >= 0) & (decay < 1), f"{owner}: expected decay in [0, 1), got {decay}"
    )
