"""add_decayed_weights_by_layer: weight decay with a strength for each layer."""

import reprlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from .._checks import is_number
from ..layers._layers import Layers
from ..layers._paths import PyTree
from ._multipliers import (
    LayerIds,
    Multipliers,
    at_this_step,
    check_constant,
    check_params,
    initial_fields,
)
from ._product import map_leaves, product


class AddDecayedWeightsByLayerState(NamedTuple):
    """State of `add_decayed_weights_by_layer`."""

    count: jax.Array  # pyright: ignore  # shape=(), dtype=jnp.int32
    multipliers: jax.Array  # shape=(L,), dtype=jnp.float32; what the last step used
    layers: LayerIds  # private: whose state it is


def add_decayed_weights_by_layer(
    layers: Layers, weight_decay: ArrayLike, multipliers: Multipliers
) -> optax.GradientTransformationExtraArgs:
    r"""Adds weight decay with a strength of its own for each layer.

    .. math::
        u'_i = u_i + \lambda \, d_{\ell(i)}(t) \, w_i

    It stands where `optax.add_decayed_weights` stands, before the learning rate. Behind
    `scale_by_layer` its multipliers are independent of that one's: give it the same to
    let decay follow them, their inverse to oppose them, ones to ignore them. (A layer
    frozen by multiplier 0 still decays unless d is 0 as well.)

    Args:
        layers: the `Layers` of the parameters.
        weight_decay: the strength λ of decay, a number.
        multipliers: d, an array (L,) or a schedule `count -> (L,)`.

    Returns:
        An `optax.GradientTransformationExtraArgs`; its `update` needs `params`.

    Raises:
        ValueError: as `scale_by_layer`; if weight_decay is no number; if `update` is
            called without `params`, or with some of other shapes.

    Example:
        >>> import jax.numpy as jnp, numpy as np, optax, optax_llr
        >>> params = {"kernel": jnp.ones(2), "bias": jnp.ones(2)}
        >>> rules = [("kernel", "kernel"), ("bias", "bias")]
        >>> layers = optax_llr.match_layers(params, rules)
        >>> optimizer = optax.chain(
        ...     optax_llr.scale_by_layer(layers, np.array([1.0, 64.0])),
        ...     optax_llr.add_decayed_weights_by_layer(layers, 0.5, np.ones(2)),
        ...     optax.scale_by_learning_rate(0.125))
        >>> gradients = {"kernel": jnp.zeros(2), "bias": jnp.ones(2)}
        >>> updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        >>> print(updates["bias"], updates["kernel"])
        [-8.0625 -8.0625] [-0.0625 -0.0625]

    References:
        Loshchilov & Hutter, Decoupled Weight Decay Regularization,
        `arXiv:1711.05101 <https://arxiv.org/abs/1711.05101>`_
    """
    owner = "add_decayed_weights_by_layer"
    check_constant(owner, layers, multipliers)
    if not is_number(weight_decay):
        raise ValueError(
            f"{owner}: weight_decay: expected a finite real number, got "
            f"{reprlib.repr(weight_decay)}. What depends on layer or time goes into "
            "the multipliers"
        )

    def init_fn(params: PyTree) -> AddDecayedWeightsByLayerState:
        return AddDecayedWeightsByLayerState(
            *initial_fields(owner, layers, multipliers, params)
        )

    def update_fn(
        updates: PyTree,
        state: Any,
        params: PyTree | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, AddDecayedWeightsByLayerState]:
        del extra_args
        check_params(owner, params)
        state = at_this_step(
            owner, AddDecayedWeightsByLayerState, layers, multipliers, state
        )
        decay = jnp.asarray(weight_decay, state.multipliers.dtype)
        strengths = state._replace(multipliers=decay * state.multipliers)
        updates = map_leaves(owner, _decayed, layers, strengths, updates, params)
        return updates, state._replace(count=optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@jax.custom_jvp
def _decayed(strength: jax.Array, update: jax.Array, parameter: jax.Array) -> jax.Array:
    decay = product(strength, parameter).astype(update.dtype)
    return jnp.where(strength == 0, update, update + decay)


@_decayed.defjvp
def _decayed_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    strength, update, parameter = primals
    strength_dot, update_dot, parameter_dot = tangents
    by_strength = product(strength_dot, parameter).astype(update.dtype)
    return _decayed(*primals), by_strength + _decayed(
        strength, update_dot, parameter_dot
    )
