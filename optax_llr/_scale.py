"""scale_by_layer: an update times the multiplier of its layer at this step."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
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


class LayerWeightDecayState(NamedTuple):
    """State of `layer_weight_decay`; the fields are those of `ScaleByLayerState`."""

    count: jax.Array  # pyright: ignore  # shape=(), dtype=jnp.int32
    multipliers: jax.Array  # shape=(L,), dtype=jnp.float32; what the last step used
    digits: tuple[jax.Array, ...]  # 0 … ⌈√L⌉−1, each shape=(), dtype=jnp.uint32
    fingerprint: jax.Array  # shape=(), dtype=jnp.uint32; of the Layers it belongs to


LayerState: TypeAlias = ScaleByLayerState | LayerWeightDecayState
AnyLayerState = TypeVar("AnyLayerState", ScaleByLayerState, LayerWeightDecayState)


def scale_by_layer(
    layers: Layers, multipliers: Multipliers
) -> optax.GradientTransformationExtraArgs:
    r"""Scales each update by the multiplier of its layer.

    .. math::
        u'_i = m_{\ell(i)}(t) \, u_i

    where :math:`\ell(i)` is the layer of leaf (or slice) i and t counts the updates
    from 0. Chained last, after an optimizer with its global schedule, m multiplies the
    learning rate and nothing else.

    Exact: under multiplier 1 updates keep every bit; under 0 they are exactly 0, also
    where the incoming update is NaN or infinite. Between, the product is formed in
    float32 or wider and cast to the update's own dtype.

    Args:
        layers: the `Layers` of the parameters; may know more than `init` is given, so
            that it works under `optax.masked` and `optax.partition`.
        multipliers: an array (L,), or a schedule `count -> (L,)` such as
            `optax.linear_schedule` makes of two vectors. 1 leaves a layer's rate as
            it is, 0 freezes the layer.

    Returns:
        An `optax.GradientTransformationExtraArgs`.

    Raises:
        ValueError: if multipliers are not of shape (L,); from `init` and `update`, if
            a leaf is unknown to `layers` or a stacked one has another number of
            slices; from `update`, if the state belongs to other `Layers`. (Under
            `jit`, where values cannot be looked at, multipliers of a state from other
            layers of the same number become NaN. `reassign_layers` mends both.)

    Example:
        >>> import jax.numpy as jnp, numpy as np, optax, optax_llr
        >>> params = {"stem": jnp.ones(3), "head": jnp.ones(2)}
        >>> rules = [("stem", "stem"), ("head", "head")]
        >>> layers = optax_llr.match_layers(params, rules)
        >>> early_first = optax.linear_schedule(
        ...     np.array([1.5, 0.5]), np.array([0.5, 1.5]), transition_steps=100)
        >>> optimizer = optax.chain(
        ...     optax.sgd(0.1, momentum=0.9),
        ...     optax_llr.scale_by_layer(layers, early_first))
        >>> state = optimizer.init(params)
        >>> updates, state = optimizer.update(params, state, params)
        >>> print(updates["stem"], updates["head"])
        [-0.15 -0.15 -0.15] [-0.05 -0.05]

    References:
        Singh et al., Layer-Specific Adaptive Learning Rates for Deep Networks,
        `arXiv:1510.04609 <https://arxiv.org/abs/1510.04609>`_
    """
    _check_constant(layers, multipliers)

    def init_fn(params: PyTree) -> ScaleByLayerState:
        return ScaleByLayerState(*_initial_fields(layers, multipliers, params))

    def update_fn(
        updates: PyTree,
        state: Any,
        params: PyTree | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, ScaleByLayerState]:
        del params, extra_args
        state = _at_this_step(ScaleByLayerState, layers, multipliers, state)
        updates = _map_leaves(_scaled, layers, state, updates)
        return updates, state._replace(count=optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def layer_weight_decay(
    rate: ArrayLike, layers: Layers, multipliers: Multipliers
) -> optax.GradientTransformationExtraArgs:
    r"""Adds weight decay with a strength of its own for each layer.

    .. math::
        u'_i = u_i + \lambda \, d_{\ell(i)}(t) \, w_i

    It stands where `optax.add_decayed_weights` stands, before the learning rate. Behind
    `scale_by_layer` its multipliers are independent of that one's: give it the same to
    let decay follow them, their inverse to oppose them, ones to ignore them. (A layer
    frozen by multiplier 0 still decays unless d is 0 as well.)

    Args:
        rate: the strength λ of decay, a number.
        layers: the `Layers` of the parameters.
        multipliers: d, an array (L,) or a schedule `count -> (L,)`.

    Returns:
        An `optax.GradientTransformationExtraArgs`; its `update` needs `params`.

    Raises:
        ValueError: as `scale_by_layer`, and if `update` is called without `params`.

    Example:
        >>> import jax.numpy as jnp, numpy as np, optax, optax_llr
        >>> params = {"kernel": jnp.ones(2), "bias": jnp.ones(2)}
        >>> rules = [("kernel", "kernel"), ("bias", "bias")]
        >>> layers = optax_llr.match_layers(params, rules)
        >>> optimizer = optax.chain(
        ...     optax_llr.scale_by_layer(layers, np.array([1.0, 64.0])),
        ...     optax_llr.layer_weight_decay(0.5, layers, np.array([1.0, 1.0])),
        ...     optax.scale_by_learning_rate(0.125))
        >>> gradients = {"kernel": jnp.zeros(2), "bias": jnp.ones(2)}
        >>> updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        >>> print(updates["bias"], updates["kernel"])
        [-8.0625 -8.0625] [-0.0625 -0.0625]

    References:
        Loshchilov & Hutter, Decoupled Weight Decay Regularization,
        `arXiv:1711.05101 <https://arxiv.org/abs/1711.05101>`_
    """
    _check_constant(layers, multipliers)
    _check_rate(rate)

    def init_fn(params: PyTree) -> LayerWeightDecayState:
        return LayerWeightDecayState(*_initial_fields(layers, multipliers, params))

    def update_fn(
        updates: PyTree,
        state: Any,
        params: PyTree | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, LayerWeightDecayState]:
        del extra_args
        if params is None:
            raise ValueError(
                "layer_weight_decay needs the parameters: "
                "call update(updates, state, params)"
            )
        state = _at_this_step(LayerWeightDecayState, layers, multipliers, state)
        strengths = state._replace(multipliers=rate * state.multipliers)
        updates = _map_leaves(_decayed, layers, strengths, updates, params)
        return updates, state._replace(count=optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def reassign_layers(opt_state: PyTree, layers: Layers) -> PyTree:
    """Hands an optimizer state over to other `Layers`; everything else is kept.

    For a checkpoint that is continued under another grouping. The step count goes on;
    the recorded multipliers are NaN until the next update.

    Args:
        opt_state: an optimizer state with a state of this library somewhere in it.
        layers: the `Layers` that the transformation now has.

    Returns:
        The optimizer state, fit for transformations made with `layers`.

    Raises:
        ValueError: if there is no state of this library in `opt_state`, or several
            that belong to different `Layers`.

    Example:
        >>> import jax.numpy as jnp, numpy as np, optax_llr
        >>> params = {"stem": jnp.ones(3), "head": jnp.ones(2)}
        >>> one = optax_llr.match_layers(params, [(".*", "all")])
        >>> two = optax_llr.match_layers(params, [("stem", "stem"), ("head", "head")])
        >>> state = optax_llr.scale_by_layer(one, np.ones(1)).init(params)
        >>> state = optax_llr.reassign_layers(state, two)
        >>> _ = optax_llr.scale_by_layer(two, np.ones(2)).update(params, state)
    """

    def reassign(node: Any) -> Any:
        if not isinstance(node, LayerState):
            return node
        batch = jnp.shape(node.count)
        return node._replace(
            multipliers=_as_boxed(
                node.multipliers,
                jnp.full((*batch, len(layers)), jnp.nan, node.multipliers.dtype),
            ),
            digits=tuple(
                _as_boxed(node.digits[0], jnp.broadcast_to(d, batch))
                for d in _digits(layers)
            ),
            fingerprint=_as_boxed(
                node.fingerprint, jnp.broadcast_to(_fingerprint(layers), batch)
            ),
        )

    states = layer_states(opt_state)
    if not states:
        raise ValueError(
            "reassign_layers: expected an optimizer state that holds a state of "
            f"scale_by_layer or layer_weight_decay, got {type(opt_state).__name__}"
        )
    if len({bytes(np.asarray(state.fingerprint)) for state in states}) > 1:
        raise ValueError(
            f"reassign_layers: the {len(states)} states in this optimizer state belong "
            "to different Layers; hand over one after the other, as parts of it "
            "(`opt_state[1]`, say)"
        )
    return jax.tree.map(reassign, opt_state, is_leaf=_is_layer_state)


def _as_boxed(old: Any, new: jax.Array) -> Any:
    """The new array in the box of the old one: `nnx.Optimizer` boxes all its state."""
    return jax.tree.unflatten(jax.tree.structure(old), [new])


def layer_states(opt_state: PyTree) -> list[LayerState]:
    """All states of this library's transformations within an optimizer state."""
    nodes = jax.tree.leaves(opt_state, is_leaf=_is_layer_state)
    return [node for node in nodes if _is_layer_state(node)]


def belongs(state: LayerState, layers: Layers) -> bool:
    """Whether a state is one of these `Layers`; in `jit` as far as can be seen."""
    if jnp.shape(state.multipliers)[-1:] != (len(layers),):
        return False
    if isinstance(state.fingerprint, Tracer):
        return True
    return bool(np.all(np.asarray(state.fingerprint) == _fingerprint(layers)))


def evaluate(layers: Layers, multipliers: Multipliers, count: ArrayLike) -> jax.Array:
    """The multipliers (L,) at a step, in float32 or wider."""
    values = jnp.asarray(multipliers(count) if callable(multipliers) else multipliers)
    if values.shape != (len(layers),) or jnp.iscomplexobj(values):
        raise ValueError(
            f"expected real multipliers of shape ({len(layers)},), one for each of the "
            f"layers {quoted(layers.names)}; got {values.dtype} of shape {values.shape}"
        )
    return values.astype(_wide(values))


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


def _is_layer_state(node: Any) -> bool:
    return isinstance(node, LayerState)


def _check_constant(layers: Layers, multipliers: Multipliers) -> None:
    if not callable(multipliers):
        values = evaluate(layers, multipliers, 0)
        if not isinstance(values, Tracer) and not np.isfinite(np.asarray(values)).all():
            raise ValueError(f"expected finite multipliers, got {multipliers!r}")


def _check_rate(rate: Any) -> None:
    if isinstance(rate, Tracer):
        return
    number = np.asarray(rate)
    kinds = (jnp.integer, jnp.floating)  # bfloat16 among them, for JAX
    real = any(jnp.issubdtype(number.dtype, kind) for kind in kinds)
    if number.ndim or not real or not np.isfinite(number):
        raise ValueError(
            f"layer_weight_decay: expected a finite number as rate, got {rate!r}. What "
            "depends on layer or time goes into the multipliers"
        )


def _initial_fields(
    layers: Layers, multipliers: Multipliers, params: PyTree
) -> tuple[jax.Array, jax.Array, tuple[jax.Array, ...], jax.Array]:
    for path, leaf in leaves_by_path(params).items():
        check_leaf(layers, path, leaf)
    count = jnp.zeros([], jnp.int32)
    return (
        count,
        # A copy, so that a state that is donated does not take the caller's array.
        jnp.array(evaluate(layers, multipliers, count)),
        _digits(layers),
        jnp.asarray(_fingerprint(layers)),
    )


def _at_this_step(
    kind: type[AnyLayerState], layers: Layers, multipliers: Multipliers, state: Any
) -> AnyLayerState:
    """The state with the multipliers of its count, after a look at whose it is."""
    if not isinstance(state, kind):
        raise ValueError(
            f"expected a {kind.__name__}, as `init` returns it, got a "
            f"{type(state).__name__}; a restored checkpoint needs that state as target"
        )
    if not belongs(state, layers):
        raise ValueError(
            f"this {type(state).__name__} belongs to other Layers than those of the "
            f"transformation, {quoted(layers.names)}; "
            "use `reassign_layers(opt_state, layers)` to go on with it"
        )
    values = evaluate(layers, multipliers, state.count)
    ours = state.fingerprint == _fingerprint(layers)
    return state._replace(multipliers=jnp.where(ours, values, jnp.nan))


def _fingerprint(layers: Layers) -> np.uint32:
    return np.uint32(int(layers.fingerprint[:8], 16))


def _digits(layers: Layers) -> tuple[jax.Array, ...]:
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


def _map_leaves(
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
            mapped[path] = function(_along_axis_0(values, leaf), *operand)
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


def _along_axis_0(values: jax.Array, leaf: jax.Array) -> jax.Array:
    return values.reshape((-1,) + (1,) * (jnp.ndim(leaf) - 1))


@jax.custom_jvp
def _scaled(multiplier: jax.Array, update: jax.Array) -> jax.Array:
    product = _product(multiplier, update).astype(update.dtype)
    # Multiplying by 1 is not enough: the CPU flushes subnormal numbers to 0.
    scaled = jnp.where(multiplier == 1, update, product)
    return jnp.where(multiplier == 0, jnp.zeros_like(update), scaled)


@_scaled.defjvp
def _scaled_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    """The derivative of a product; that of the selection is 0 by m at 0 and at 1."""
    (multiplier, update), (multiplier_dot, update_dot) = primals, tangents
    by_multiplier = _product(multiplier_dot, update).astype(update.dtype)
    return _scaled(*primals), by_multiplier + _scaled(multiplier, update_dot)


@jax.custom_jvp
def _decayed(strength: jax.Array, update: jax.Array, parameter: jax.Array) -> jax.Array:
    decay = _product(strength, parameter).astype(update.dtype)
    return jnp.where(strength == 0, update, update + decay)


@_decayed.defjvp
def _decayed_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    strength, update, parameter = primals
    strength_dot, update_dot, parameter_dot = tangents
    by_strength = _product(strength_dot, parameter).astype(update.dtype)
    return _decayed(*primals), by_strength + _decayed(
        strength, update_dot, parameter_dot
    )


def _product(number: jax.Array, array: jax.Array) -> jax.Array:
    """`number * array` in float32 or wider; the parts of complex numbers apart."""
    if jnp.iscomplexobj(array):
        # number + 0j would turn an infinite part into NaN in the other.
        return lax.complex(_product(number, array.real), _product(number, array.imag))
    wide = max(_wide(number), _wide(array), key=lambda dtype: dtype.itemsize)
    return number.astype(wide) * array.astype(wide)


def _wide(array: jax.Array) -> np.dtype:
    return np.dtype(np.float64 if array.dtype == np.float64 else np.float32)
