"""The product of updates with the multipliers of their layers, exact at 0 and 1."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._checks import described, wide_dtype
from ..layers._layers import Layers, check_leaf
from ..layers._paths import PyTree, leaves_by_path, quoted
from ._multipliers import LayerState

AnyArray = TypeVar("AnyArray", jax.Array, np.ndarray)


def map_leaves(
    owner: str,
    function: Callable[..., jax.Array],
    layers: Layers,
    state: LayerState,
    updates: PyTree,
    *params: PyTree,
) -> PyTree:
    """Maps `function(multiplier, update, *params)` over leaves, layer by layer.

    The multipliers are laid out as a square, layer i in row i // side and column
    i % side; ⌈√L⌉ scalars then suffice to say, as data, where any layer is.
    """
    (digits,) = state.layers.values()
    side = len(digits)
    square = jnp.pad(state.multipliers, (0, side**2 - len(layers)))
    square = square.reshape(side, side)
    leaves = leaves_by_path(updates)
    # By path, as the parameters may have leaves where an update is None.
    others = [leaves_by_path(tree) for tree in params]
    mapped: dict[str, jax.Array] = {}
    together: dict[int, list[tuple[str, tuple[jax.Array, ...]]]] = {}
    for path, leaf in leaves.items():
        _check_dtype(owner, path, leaf)
        check_leaf(owner, layers, path, leaf)
        operand = (leaf, *(_param(owner, path, leaf, other) for other in others))
        member = layers.members[path]
        if isinstance(member, int):
            together.setdefault(member, []).append((path, operand))
        else:
            values = state.multipliers[np.array(member, np.int32)]
            mapped[path] = function(along_axis_0(values, leaf), *operand)
    for layer, members in together.items():
        row, column = digits[layer // side], digits[layer % side]
        results = _map_layer(function, square, row, column, [o for _, o in members])
        mapped |= zip([path for path, _ in members], results, strict=True)
    treedef = jax.tree.structure(updates)
    return treedef.unflatten([mapped[path] for path in leaves])


@functools.partial(jax.jit, static_argnums=0)  # layers of one structure: one trace
def _map_layer(
    function: Callable[..., jax.Array],
    square: jax.Array,
    row: jax.Array,
    column: jax.Array,
    operands: list[tuple[jax.Array, ...]],
) -> list[jax.Array]:
    multiplier = lax.dynamic_slice(square, (row, column), (1, 1)).reshape(())
    return [function(multiplier, *operand) for operand in operands]


def along_axis_0(values: AnyArray, leaf: jax.Array) -> AnyArray:
    """Values of slices, to be broadcast against the leaf."""
    return values.reshape((-1,) + (1,) * (jnp.ndim(leaf) - 1))


def _check_dtype(owner: str, path: str, leaf: Any) -> None:
    try:
        dtype = jnp.result_type(leaf)
    except TypeError:
        dtype = None
    if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
        raise ValueError(
            f"{owner}: expected updates of a floating or complex dtype, got "
            f"{dtype or described(leaf)} for {path!r}; keep that parameter from the "
            "optimizer (`optax.masked`)"
        )


def _param(owner: str, path: str, update: Any, params: dict[str, Any]) -> Any:
    """The parameter of an update."""
    if path not in params:
        raise ValueError(
            f"{owner}: expected a parameter for each update, got none for {path!r}; "
            f"params have {quoted(params)}"
        )
    if jnp.shape(params[path]) != jnp.shape(update):
        raise ValueError(
            f"{owner}: expected an update of the shape of its parameter, "
            f"{jnp.shape(params[path])}, got {jnp.shape(update)} for {path!r}"
        )
    return params[path]


@jax.custom_jvp
def scaled(multiplier: jax.Array, update: jax.Array) -> jax.Array:
    """The product; exactly the update under 1, and 0 under 0 whatever comes."""
    result = product(multiplier, update).astype(update.dtype)
    # Multiplying by 1 is not enough: the CPU flushes subnormal numbers to 0.
    result = jnp.where(multiplier == 1, update, result)
    return jnp.where(multiplier == 0, jnp.zeros_like(update), result)


@scaled.defjvp
def _scaled_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    """The derivative of a product; that of the selection is 0 by m at 0 and at 1."""
    (multiplier, update), (multiplier_dot, update_dot) = primals, tangents
    by_multiplier = product(multiplier_dot, update).astype(update.dtype)
    return scaled(*primals), by_multiplier + scaled(multiplier, update_dot)


def product(number: jax.Array, array: jax.Array) -> jax.Array:
    """`number * array` in float32 or wider; the parts of complex numbers apart."""
    if jnp.iscomplexobj(array):
        # number + 0j would turn an infinite part into NaN in the other.
        return lax.complex(product(number, array.real), product(number, array.imag))
    wide = max(wide_dtype(number), wide_dtype(array), key=lambda dtype: dtype.itemsize)
    return number.astype(wide) * array.astype(wide)
