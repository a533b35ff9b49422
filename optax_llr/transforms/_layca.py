"""Layca: every kernel turns by a given angle a step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from .._checks import wide_dtype
from ..layers._layers import Layers
from ..layers._paths import PyTree, leaves_by_path
from ..layers._sums import check_unsharded, safe_sqrt
from ._multipliers import (
    LayerIds,
    Multipliers,
    at_this_step,
    check_constant,
    check_params,
    initial_fields,
)
from ._product import map_leaves, scaled

RADIAL = 1e-6
"""A step with no larger share than this across the weights only has rounding there."""


class LaycaState(NamedTuple):
    """State of `layca`."""

    count: jax.Array  # pyright: ignore  # shape=(), dtype=jnp.int32
    multipliers: jax.Array  # shape=(L,), dtype=jnp.float32; rotations of the last step
    layers: LayerIds  # private: whose state it is


def layca(
    layers: Layers, rotation: Multipliers
) -> optax.GradientTransformationExtraArgs:
    r"""Turns the weights of each kernel by an angle, and keeps their norm.

    .. math::
        s_\perp &= s - \frac{\langle s, w \rangle}{\lVert w \rVert^2} w, \quad
        v = w - \rho_l(t) \frac{\lVert w \rVert}{\lVert s_\perp \rVert} s_\perp \\
        w' &= \frac{\lVert w \rVert}{\lVert v \rVert} v

    where s = −u is the step that comes in, of which only the direction counts. The
    angle between w and w′ is arctan ρ: the rate at which a layer rotates, whatever the
    size of its gradient and its weights. Chain it last, behind an optimizer of rate 1:
    `chain(sgd(1.0, momentum=0.9), layca(layers, rotation))`.

    A kernel is a leaf (or slice of a stacked one) of two axes or more, rotated as a
    whole. It takes no step where nothing is left across w (‖s⊥‖ ≤ 10⁻⁶ ‖s‖), or where
    w is 0. Vectors and numbers (biases, norms) do not rotate: they take the plain step
    ρ u. (The authors leave them at their initial values: for that, set their updates
    to zero by `optax.partition`.) Under ρ = 0 nothing of a layer moves.

    Args:
        layers: the `Layers` of the parameters; may know more than `init` is given.
        rotation: ρ, an array (L,) or a schedule `count -> (L,)`, such as a rate times
            the multipliers of the layers. The authors find 3⁻³ to work everywhere.

    Returns:
        An `optax.GradientTransformationExtraArgs`; its `update` needs `params`. Its
        state is a `LaycaState`, of which `multipliers` are the ρ of the last step.

    Raises:
        ValueError: as `scale_by_layer`; if `update` is called without `params`, or with
            some of other shapes; or if leaves differ between devices, within
            `jax.shard_map`, where their norms would be those of a part.

    Example:
        >>> import jax.numpy as jnp, numpy as np, optax, optax_llr
        >>> params = {"kernel": jnp.array([[3.0, 4.0]])}
        >>> layers = optax_llr.match_layers(params, [("kernel", "kernel")])
        >>> optimizer = optax.chain(
        ...     optax.sgd(1.0), optax_llr.layca(layers, np.array([1 / 27])))
        >>> gradients = {"kernel": jnp.array([[1.0, 0.0]])}
        >>> updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        >>> turned = np.asarray(optax.apply_updates(params, updates)["kernel"])
        >>> print(turned.round(4))
        [[2.8499 4.1083]]

    References:
        Carbonnelle & De Vleeschouwer, On layer-level control of DNN training and its
        impact on generalization,
        `arXiv:1806.01603 <https://arxiv.org/abs/1806.01603>`_
    """
    owner = "layca"
    check_constant(owner, layers, rotation)

    def init_fn(params: PyTree) -> LaycaState:
        return LaycaState(*initial_fields(owner, layers, rotation, params))

    def update_fn(
        updates: PyTree,
        state: Any,
        params: PyTree | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, LaycaState]:
        del extra_args
        check_params(owner, params)
        state = at_this_step(owner, LaycaState, layers, rotation, state)
        for path, leaf in leaves_by_path(updates).items():
            check_unsharded(owner, path, leaf)
        updates = map_leaves(owner, _rotated, layers, state, updates, params)
        return updates, state._replace(count=optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _rotated(rate: jax.Array, update: jax.Array, param: jax.Array) -> jax.Array:
    """The update that turns a kernel; a stacked one has a rate for each slice."""
    axes = tuple(range(min(1, jnp.ndim(rate)), jnp.ndim(update)))
    if len(axes) < 2:
        return scaled(rate, update)
    if not jnp.iscomplexobj(update):
        return _turn(rate, update, param, axes)
    # A complex kernel is the vector of its parts.
    parts = [jnp.stack([leaf.real, leaf.imag], -1) for leaf in (update, param)]
    rate = rate[..., None] if jnp.ndim(rate) else rate
    turned = _turn(rate, parts[0], parts[1], (*axes, jnp.ndim(update)))
    return lax.complex(turned[..., 0], turned[..., 1])


def _turn(
    rate: jax.Array, update: jax.Array, param: jax.Array, axes: tuple[int, ...]
) -> jax.Array:
    (weight, scale), (step, _) = _scaled_down(param, axes), _scaled_down(update, axes)
    rate, step = rate.astype(weight.dtype), step.astype(weight.dtype)
    length = _norm(weight, axes)
    along = _dot(step, weight, axes) / jnp.where(length > 0, length, 1) ** 2
    across = step - along * weight
    size = _norm(across, axes)
    # The update that comes in points downhill already.
    turned = weight + rate * length / jnp.where(size > 0, size, 1) * across
    turned = length / jnp.where(length > 0, _norm(turned, axes), 1) * turned
    still = (rate == 0) | (size <= RADIAL * _norm(step, axes))
    return jnp.where(still, 0, scale * (turned - weight)).astype(update.dtype)


def _scaled_down(
    array: jax.Array, axes: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """Divided by its largest element, that no square is too large or too small."""
    array = array.astype(wide_dtype(array))
    largest = jnp.abs(array).max(axes, keepdims=True, initial=0)
    # The turn goes with the scale of either array, so that it has no derivative by it.
    scale = lax.stop_gradient(jnp.where(largest > 0, largest, 1))
    return array / scale, scale


def _dot(a: jax.Array, b: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    return (a * b).sum(axes, keepdims=True)


def _norm(array: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    return safe_sqrt(_dot(array, array, axes))
