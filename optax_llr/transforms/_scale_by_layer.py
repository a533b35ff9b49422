"""scale_by_layer: an update times the multiplier of its layer at this step."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ..layers._layers import Layers
from ..layers._paths import PyTree
from ._multipliers import (
    LayerIds,
    Multipliers,
    at_this_step,
    check_constant,
    initial_fields,
)
from ._product import map_leaves, scaled


class ScaleByLayerState(NamedTuple):
    """State of `scale_by_layer`; nothing in it has the shape of a parameter."""

    count: jax.Array  # pyright: ignore  # shape=(), dtype=jnp.int32
    multipliers: jax.Array  # shape=(L,), dtype=jnp.float32; what the last step used
    layers: LayerIds  # private: whose state it is


class Reader:
    """Whether a `UniformShare` was read."""

    was_read = False


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class UniformShare:
    """How far all multipliers are on their way to 1, told by `revert_to_uniform`.

    Handed down as an extra argument. Not every wrapper passes these on, so it also says
    whether any multipliers read it.
    """

    share: jax.Array  # shape=(), between 0 and 1
    reader: Reader = dataclasses.field(
        default_factory=Reader, metadata={"static": True}
    )

    def blend(self, multipliers: jax.Array) -> jax.Array:
        """The multipliers, this far on their way to 1."""
        self.reader.was_read = True
        share = self.share.astype(multipliers.dtype)
        blended = (1 - share) * multipliers + share
        return jnp.where(share == 0, multipliers, blended)


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
        ValueError: if multipliers are not L real numbers, or, in an array, one of them
            is negative or not finite; from `init` and `update`, if
            a leaf is unknown to `layers` or a stacked one has another number of
            slices; from `update`, under `jit` while tracing, if the state belongs to
            other `Layers` (`reassign_layers` mends that) or an update is not of a
            floating or complex dtype.

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
    owner = "scale_by_layer"
    check_constant(owner, layers, multipliers)

    def init_fn(params: PyTree) -> ScaleByLayerState:
        return ScaleByLayerState(*initial_fields(owner, layers, multipliers, params))

    def update_fn(
        updates: PyTree,
        state: Any,
        params: PyTree | None = None,
        *,
        uniform_share: UniformShare | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, ScaleByLayerState]:
        del params, extra_args
        state = at_this_step(owner, ScaleByLayerState, layers, multipliers, state)
        if uniform_share is not None:
            blended = uniform_share.blend(state.multipliers)
            state = state._replace(multipliers=blended)
        updates = map_leaves(owner, scaled, layers, state, updates)
        return updates, state._replace(count=optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
