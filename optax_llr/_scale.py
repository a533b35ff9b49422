"""scale_by_layer: an update times the multiplier of its layer at this step."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.typing import ArrayLike

from ._layers import Layers, PyTree
from ._multipliers import (
    LayerWeightDecayState,
    Multipliers,
    ScaleByLayerState,
    at_this_step,
    check_constant,
    check_params,
    initial_fields,
    map_leaves,
    product,
    scaled,
)


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
    check_constant(layers, multipliers)

    def init_fn(params: PyTree) -> ScaleByLayerState:
        fields = initial_fields(layers, multipliers, params)
        return ScaleByLayerState(*fields, uniform_share=jnp.float32(0))

    def update_fn(
        updates: PyTree,
        state: Any,
        params: PyTree | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, ScaleByLayerState]:
        del params, extra_args
        state = at_this_step(ScaleByLayerState, layers, multipliers, state)
        state = state._replace(multipliers=_blended(state))
        updates = map_leaves(scaled, layers, state, updates)
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
    check_constant(layers, multipliers)
    _check_rate(rate)

    def init_fn(params: PyTree) -> LayerWeightDecayState:
        return LayerWeightDecayState(*initial_fields(layers, multipliers, params))

    def update_fn(
        updates: PyTree,
        state: Any,
        params: PyTree | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, LayerWeightDecayState]:
        del extra_args
        check_params("layer_weight_decay", params)
        state = at_this_step(LayerWeightDecayState, layers, multipliers, state)
        strengths = state._replace(multipliers=rate * state.multipliers)
        updates = map_leaves(_decayed, layers, strengths, updates, params)
        return updates, state._replace(count=optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _blended(state: ScaleByLayerState) -> jax.Array:
    """The multipliers, as far on their way to 1 as the state says."""
    share = state.uniform_share
    blend = (1 - share) * state.multipliers + share
    return jnp.where(share == 0, state.multipliers, blend)


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
