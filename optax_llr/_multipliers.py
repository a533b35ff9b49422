"""What all transformations with multipliers share: states, checks, and the product.

Ids of layers are data here, not constants, so that XLA compiles one kernel for all
leaves of a shape; benchmarks/README.md has what that saves.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike

from ._layers import Layers, PyTree, leaves_by_path, quoted

Multipliers: TypeAlias = ArrayLike | Callable[[Any], ArrayLike]


class ScaleByLayerState(NamedTuple):
    """State of `scale_by_layer`; nothing in it has the shape of a parameter."""

    count: jax.Array  # pyright: ignore  # shape=(), dtype=jnp.int32
    multipliers: jax.Array  # shape=(L,), dtype=jnp.float32; what the last step used
    digits: tuple[jax.Array, ...]  # 0 … ⌈√L⌉−1, each shape=(), dtype=jnp.uint32
    fingerprint: jax.Array  # shape=(), dtype=jnp.uint32; of the Layers it belongs to
    uniform_share: jax.Array  # shape=(), dtype=jnp.float32; see `revert_to_uniform`


class LayerWeightDecayState(NamedTuple):
    """State of `layer_weight_decay`."""

    count: jax.Array  # pyright: ignore  # shape=(), dtype=jnp.int32
    multipliers: jax.Array  # shape=(L,), dtype=jnp.float32; what the last step used
    digits: tuple[jax.Array, ...]  # 0 … ⌈√L⌉−1, each shape=(), dtype=jnp.uint32
    fingerprint: jax.Array  # shape=(), dtype=jnp.uint32; of the Layers it belongs to


class LaycaState(NamedTuple):
    """State of `layca`."""

    count: jax.Array  # pyright: ignore  # shape=(), dtype=jnp.int32
    multipliers: jax.Array  # shape=(L,), dtype=jnp.float32; rotations of the last step
    digits: tuple[jax.Array, ...]  # 0 … ⌈√L⌉−1, each shape=(), dtype=jnp.uint32
    fingerprint: jax.Array  # shape=(), dtype=jnp.uint32; of the Layers it belongs to


AnyArray = TypeVar("AnyArray", jax.Array, np.ndarray)
LayerState: TypeAlias = ScaleByLayerState | LayerWeightDecayState | LaycaState
AnyLayerState = TypeVar(
    "AnyLayerState", ScaleByLayerState, LayerWeightDecayState, LaycaState
)


def layer_states(opt_state: PyTree) -> list[LayerState]:
    """All states of this library's transformations within an optimizer state."""
    nodes = jax.tree.leaves(opt_state, is_leaf=is_layer_state)
    return [node for node in nodes if is_layer_state(node)]


def belongs(state: LayerState, layers: Layers) -> bool:
    """Whether a state is one of these `Layers`; in `jit` as far as can be seen."""
    if jnp.shape(state.multipliers)[-1:] != (len(layers),):
        return False
    if isinstance(state.fingerprint, Tracer):
        return True
    return bool(np.all(np.asarray(state.fingerprint) == fingerprint(layers)))


def evaluate(layers: Layers, multipliers: Multipliers, count: ArrayLike) -> jax.Array:
    """The multipliers (L,) at a step, in float32 or wider."""
    values = jnp.asarray(multipliers(count) if callable(multipliers) else multipliers)
    if values.shape != (len(layers),) or jnp.iscomplexobj(values):
        raise ValueError(
            f"expected real multipliers of shape ({len(layers)},), one for each of the "
            f"layers {quoted(layers.names)}; got {values.dtype} of shape {values.shape}"
        )
    return values.astype(_wide(values))


def check_kind(kind: type[Any], state: Any) -> None:
    """Refuses what is no state of this kind."""
    if not isinstance(state, kind):
        article = "an" if kind.__name__[0] in "AEIO" else "a"
        raise ValueError(
            f"expected {article} {kind.__name__}, as `init` returns it, got a "
            f"{type(state).__name__}; a restored checkpoint needs that state as target"
        )


def check_state(kind: type[Any], layers: Layers, state: Any) -> None:
    """Refuses what is no state of this kind, or not of these `Layers`."""
    check_kind(kind, state)
    if not belongs(state, layers):
        raise ValueError(
            f"this {type(state).__name__} belongs to other Layers than those of the "
            f"transformation, {quoted(layers.names)}; "
            "use `reassign_layers(opt_state, layers)` to go on with it"
        )


def check_params(owner: str, params: PyTree | None) -> None:
    """Refuses an update without parameters."""
    if params is None:
        raise ValueError(
            f"{owner} needs the parameters: call update(updates, state, params)"
        )


def check_leaf(layers: Layers, path: str, leaf: Any) -> None:
    """Refuses a leaf that these `Layers` do not know, or not in this shape."""
    if path not in layers.members:
        raise ValueError(
            f"parameter {path!r} is in none of the layers; they know "
            f"{quoted(layers.members)}. Make the layers from the same tree that the "
            "optimizer is given"
        )
    member, shape = layers.members[path], jnp.shape(leaf)
    if isinstance(member, tuple) and shape[:1] != (len(member),):
        raise ValueError(
            f"parameter {path!r} was stacked, with {len(member)} slices along axis 0; "
            f"it now has shape {shape}"
        )


def check_leaves(layers: Layers, tree: PyTree) -> None:
    """Refuses a tree with a leaf that these `Layers` do not know."""
    for path, leaf in leaves_by_path(tree).items():
        check_leaf(layers, path, leaf)


def is_layer_state(node: Any) -> bool:
    """Whether a node of a tree is a state of a transformation with multipliers."""
    return isinstance(node, LayerState)


def check_constant(layers: Layers, multipliers: Multipliers) -> None:
    if not callable(multipliers):
        values = evaluate(layers, multipliers, 0)
        if not isinstance(values, Tracer) and not np.isfinite(np.asarray(values)).all():
            raise ValueError(f"expected finite multipliers, got {multipliers!r}")


def initial_fields(
    layers: Layers, multipliers: Multipliers, params: PyTree
) -> tuple[jax.Array, jax.Array, tuple[jax.Array, ...], jax.Array]:
    check_leaves(layers, params)
    count = jnp.zeros([], jnp.int32)
    return (
        count,
        # A copy, so that a state that is donated does not take the caller's array.
        jnp.array(evaluate(layers, multipliers, count)),
        digits(layers),
        jnp.asarray(fingerprint(layers)),
    )


def at_this_step(
    kind: type[AnyLayerState], layers: Layers, multipliers: Multipliers, state: Any
) -> AnyLayerState:
    """The state with the multipliers of its count, after a look at whose it is."""
    check_state(kind, layers, state)
    values = evaluate(layers, multipliers, state.count)
    ours = state.fingerprint == fingerprint(layers)
    return state._replace(multipliers=jnp.where(ours, values, jnp.nan))


def fingerprint(layers: Layers) -> np.uint32:
    """The first half of the fingerprint of `Layers`, as a state holds it."""
    return np.uint32(int(layers.fingerprint[:8], 16))


def digits(layers: Layers) -> tuple[jax.Array, ...]:
    """The numbers 0 … ⌈√L⌉−1 as data, with which a state says where a layer is."""
    # Were these constants, each leaf would become a kernel of its own that XLA compiles
    # by itself. As data they leave all leaves of one shape the same kernel. The barrier
    # keeps them data where `init` is part of a larger jitted program.
    side = math.isqrt(max(0, len(layers) - 1)) + 1
    return lax.optimization_barrier(tuple(jnp.uint32(d) for d in range(side)))


def _check_dtype(path: str, leaf: Any) -> None:
    dtype = jnp.result_type(leaf)
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise ValueError(
            f"expected updates of a floating or complex dtype, got {dtype} for "
            f"{path!r}; keep that parameter from the optimizer (`optax.masked`)"
        )


def map_leaves(
    function: Callable[..., jax.Array],
    layers: Layers,
    state: LayerState,
    updates: PyTree,
    *rest: PyTree,
) -> PyTree:
    """Maps `function(multiplier, update, *rest)` over leaves, layer by layer.

    The multipliers are laid out as a square, layer i in row i // side and column
    i % side; ⌈√L⌉ scalars then suffice to say, as data, where any layer is.
    """
    side = len(state.digits)
    square = jnp.pad(state.multipliers, (0, side**2 - len(layers)))
    square = square.reshape(side, side)
    leaves = leaves_by_path(updates)
    # By path, as these trees may have leaves where an update is None.
    others = [leaves_by_path(tree) for tree in rest]
    mapped: dict[str, jax.Array] = {}
    together: dict[int, list[tuple[str, tuple[jax.Array, ...]]]] = {}
    for path, leaf in leaves.items():
        operand = (leaf, *(other[path] for other in others))
        check_leaf(layers, path, leaf)
        _check_dtype(path, leaf)
        member = layers.members[path]
        if isinstance(member, int):
            together.setdefault(member, []).append((path, operand))
        else:
            values = state.multipliers[np.array(member, np.int32)]
            mapped[path] = function(along_axis_0(values, leaf), *operand)
    for layer, members in together.items():
        row, column = state.digits[layer // side], state.digits[layer % side]
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
    wide = max(_wide(number), _wide(array), key=lambda dtype: dtype.itemsize)
    return number.astype(wide) * array.astype(wide)


def _wide(array: jax.Array) -> np.dtype:
    return np.dtype(np.float64 if array.dtype == np.float64 else np.float32)
