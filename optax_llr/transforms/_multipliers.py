"""Multipliers in the state of a transformation, and whose they are."""

import math
from collections.abc import Callable
from typing import Any, Protocol, Self, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike

from ..layers._layers import Layers, check_leaves
from ..layers._paths import PyTree, quoted

Multipliers: TypeAlias = ArrayLike | Callable[[Any], ArrayLike]

LayerIds: TypeAlias = dict[str, tuple[jax.Array, ...]]
"""Private to the states: {fingerprint of the `Layers`: 0 … ⌈√L⌉−1, each a uint32}.

The key makes whose state it is part of its structure, which `jit` sees while tracing;
checkpoints keep it. The numbers say as data where in the square of multipliers a layer
stands: were they constants, each leaf would become a kernel that XLA compiles by
itself. benchmarks/README.md has what that saves.
"""


class LayerState(Protocol):
    """What the states of all transformations with multipliers have in common."""

    count: jax.Array  # shape=(), dtype=jnp.int32
    multipliers: jax.Array  # shape=(L,), dtype=jnp.float32; what the last step used
    layers: LayerIds

    def _replace(self, **fields: Any) -> Self: ...


AnyLayerState = TypeVar("AnyLayerState", bound=LayerState)


def is_layer_state(node: Any) -> bool:
    """Whether a node of a tree is a state of a transformation with multipliers."""
    return getattr(node, "_fields", None) == ("count", "multipliers", "layers")


def layer_states(opt_state: PyTree) -> list[LayerState]:
    """All states of this library's transformations within an optimizer state."""
    nodes = jax.tree.leaves(opt_state, is_leaf=is_layer_state)
    return [node for node in nodes if is_layer_state(node)]


def belongs(state: LayerState, layers: Layers) -> bool:
    """Whether a state is one of these `Layers`."""
    return list(state.layers) == [layers.fingerprint]


def evaluate(layers: Layers, multipliers: Multipliers, count: ArrayLike) -> jax.Array:
    """The multipliers (L,) at a step, in float32 or wider."""
    values = jnp.asarray(multipliers(count) if callable(multipliers) else multipliers)
    if values.shape != (len(layers),) or jnp.iscomplexobj(values):
        raise ValueError(
            f"expected real multipliers of shape ({len(layers)},), one for each of the "
            f"layers {quoted(layers.names)}; got {values.dtype} of shape {values.shape}"
        )
    return values.astype(wide_dtype(values))


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
            "use `reassign_layers(layers, opt_state)` to go on with it"
        )


def check_params(owner: str, params: PyTree | None) -> None:
    """Refuses an update without parameters."""
    if params is None:
        raise ValueError(
            f"{owner} needs the parameters: call update(updates, state, params)"
        )


def check_constant(layers: Layers, multipliers: Multipliers) -> None:
    if not callable(multipliers):
        values = evaluate(layers, multipliers, 0)
        if not isinstance(values, Tracer) and not np.isfinite(np.asarray(values)).all():
            raise ValueError(f"expected finite multipliers, got {multipliers!r}")


def initial_fields(
    layers: Layers, multipliers: Multipliers, params: PyTree
) -> tuple[jax.Array, jax.Array, LayerIds]:
    """The fields of a state at step 0, after a look at the parameters."""
    check_leaves(layers, params)
    count = jnp.zeros([], jnp.int32)
    # A copy, so that a state that is donated does not take the caller's array.
    values = jnp.array(evaluate(layers, multipliers, count))
    return count, values, layer_ids(layers)


def at_this_step(
    kind: type[AnyLayerState], layers: Layers, multipliers: Multipliers, state: Any
) -> AnyLayerState:
    """The state with the multipliers of its count, after a look at whose it is."""
    check_state(kind, layers, state)
    return state._replace(multipliers=evaluate(layers, multipliers, state.count))


def layer_ids(layers: Layers) -> LayerIds:
    """Whose state it is, and the digits of the layers' places."""
    side = math.isqrt(max(0, len(layers) - 1)) + 1
    # The barrier keeps them data where `init` is part of a larger jitted program.
    digits = lax.optimization_barrier(tuple(jnp.uint32(d) for d in range(side)))
    return {layers.fingerprint: digits}


def wide_dtype(array: jax.Array) -> np.dtype:
    """The dtype that products with an array are formed in."""
    return np.dtype(np.float64 if array.dtype == np.float64 else np.float32)
