"""Multipliers in the state of a transformation, and whose they are."""

import math
import reprlib
from collections.abc import Callable
from typing import Any, Protocol, Self, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.core import Tracer
from jax.errors import TracerArrayConversionError
from jax.typing import ArrayLike

from .._checks import described, finite, real_array, wide_dtype
from ..layers._layers import Layers, check_arguments, check_leaves
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

    @property
    def count(self) -> jax.Array: ...  # shape=(), dtype=jnp.int32

    @property
    def multipliers(self) -> jax.Array: ...  # shape=(L,), dtype=jnp.float32

    @property
    def layers(self) -> LayerIds: ...

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


def evaluate(
    owner: str, layers: Layers, multipliers: Multipliers, count: ArrayLike
) -> jax.Array:
    """The multipliers (L,) at a step, in float32 or wider."""
    given = multipliers(count) if callable(multipliers) else multipliers
    values = real_array(given)
    if values is None or values.shape != (len(layers),):
        what = "a schedule that returns " if callable(multipliers) else ""
        raise ValueError(
            f"{owner}: multipliers: expected {what}real multipliers of shape "
            f"({len(layers)},), one for each of the layers {quoted(layers.names)}; "
            f"got {described(given)}"
        )
    return values.astype(wide_dtype(values))


def check_constant(owner: str, layers: Layers, multipliers: Multipliers) -> None:
    """Demands `Layers`, and of an array that it is one number of 0 or above for each.

    A schedule is not asked here: its values are known when it is, under `jit` never.
    """
    check_arguments(owner, layers)
    if callable(multipliers):
        return
    values = evaluate(owner, layers, multipliers, 0)
    try:
        known = np.asarray(multipliers, float)
    except TracerArrayConversionError:
        return
    if (bad := ~(finite(known) & (known >= 0))).any():
        raise ValueError(
            f"{owner}: expected finite multipliers of 0 or above ({values.dtype}), got "
            f"{known[bad][0]} for {layers.names[bad.argmax()]!r}"
        )


def check_inner(owner: str, inner: object) -> None:
    """Refuses what is no optimizer."""
    if not isinstance(inner, optax.GradientTransformation):
        raise ValueError(
            f"{owner}: inner: expected an optax.GradientTransformation, such as "
            "optax.adam(1e-3) (of MultiSteps, GradientTransformationExtraArgs("
            f"steps.init, steps.update)), got {reprlib.repr(inner)}"
        )


def check_kind(owner: str, kind: type[Any], state: Any) -> None:
    """Refuses what is no state of this kind."""
    if not isinstance(state, kind):
        article = "an" if kind.__name__[0] in "AEIO" else "a"
        raise ValueError(
            f"{owner}: expected {article} {kind.__name__}, as `init` returns it, got a "
            f"{type(state).__name__}; a restored checkpoint needs that state as target"
        )


def check_state(owner: str, kind: type[Any], layers: Layers, state: Any) -> None:
    """Refuses what is no state of this kind, or not of these `Layers`."""
    check_kind(owner, kind, state)
    if not belongs(state, layers):
        raise ValueError(
            f"{owner}: this {type(state).__name__} belongs to other Layers than those "
            f"of the transformation, {quoted(layers.names)}; "
            "use `reassign_layers(layers, opt_state)` to go on with it"
        )


def check_params(owner: str, params: PyTree | None) -> None:
    """Refuses an update without parameters."""
    if params is None:
        raise ValueError(
            f"{owner}: needs the parameters: call update(updates, state, params)"
        )


def initial_fields(
    owner: str, layers: Layers, multipliers: Multipliers, params: PyTree
) -> tuple[jax.Array, jax.Array, LayerIds]:
    """The fields of a state at step 0, after a look at the parameters."""
    check_leaves(owner, layers, params)
    count = jnp.zeros([], jnp.int32)
    # A copy, so that a state that is donated does not take the caller's array.
    values = jnp.array(evaluate(owner, layers, multipliers, count))
    return count, values, layer_ids(layers)


def at_this_step(
    owner: str,
    kind: type[AnyLayerState],
    layers: Layers,
    multipliers: Multipliers,
    state: Any,
) -> AnyLayerState:
    """The state with the multipliers of its count, after a look at whose it is."""
    check_state(owner, kind, layers, state)
    values = evaluate(owner, layers, multipliers, state.count)
    # Outside of jit a copy: what a rule measured stands elsewhere in its state as well,
    # and no array can be donated twice.
    values = values if isinstance(values, Tracer) else jnp.array(values)
    return state._replace(multipliers=values)


def layer_ids(layers: Layers) -> LayerIds:
    """Whose state it is, and the digits of the layers' places."""
    side = math.isqrt(max(0, len(layers) - 1)) + 1
    # The barrier keeps them data where `init` is part of a larger jitted program.
    digits = lax.optimization_barrier(tuple(jnp.uint32(d) for d in range(side)))
    return {layers.fingerprint: digits}
