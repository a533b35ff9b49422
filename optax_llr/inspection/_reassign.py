"""reassign_layers: an optimizer state goes on under other `Layers`."""

from typing import Any

import jax
import jax.numpy as jnp

from ..layers._layers import Layers
from ..layers._paths import PyTree
from ..rules._adapt_layers import is_adapted
from ..transforms._multipliers import is_layer_state, layer_ids, layer_states
from ._arguments import check_layers


def reassign_layers(layers: Layers, opt_state: PyTree) -> PyTree:
    """Hands an optimizer state over to other `Layers`; everything else is kept.

    For a checkpoint that is continued under another grouping. The step count goes on;
    the recorded multipliers are 1 until the next update.

    Args:
        layers: the `Layers` that the transformation now has.
        opt_state: an optimizer state with a state of this library somewhere in it.

    Returns:
        The optimizer state, fit for transformations made with `layers`.

    Raises:
        ValueError: if there is no state of this library in `opt_state`, several
            that belong to different `Layers`, or one of `adapt_layers`, whose rule
            measured the old layers.

    Example:
        >>> import jax.numpy as jnp, numpy as np, optax_llr
        >>> params = {"stem": jnp.ones(3), "head": jnp.ones(2)}
        >>> one = optax_llr.match_layers(params, [(".*", "all")])
        >>> two = optax_llr.match_layers(params, [("stem", "stem"), ("head", "head")])
        >>> state = optax_llr.scale_by_layer(one, np.ones(1)).init(params)
        >>> state = optax_llr.reassign_layers(two, state)
        >>> _ = optax_llr.scale_by_layer(two, np.ones(2)).update(params, state)
    """
    check_layers("reassign_layers", layers, opt_state=opt_state)

    def reassign(node: Any) -> Any:
        if not is_layer_state(node):
            return node
        batch = jnp.shape(node.count)
        ((old, *_),) = node.layers.values()
        return node._replace(
            multipliers=_as_boxed(
                node.multipliers,
                jnp.ones((*batch, len(layers)), node.multipliers.dtype),
            ),
            layers={
                key: tuple(_as_boxed(old, jnp.broadcast_to(d, batch)) for d in digits)
                for key, digits in layer_ids(layers).items()
            },
        )

    nodes = jax.tree.leaves(opt_state, is_leaf=is_adapted)
    if any(is_adapted(node) for node in nodes):
        raise ValueError(
            "reassign_layers: this optimizer state holds multipliers that a rule "
            "measured for each of the old layers, which the new ones cannot take over. "
            "Begin anew with `init`, and keep what is inside: "
            "`adapted.init(params)._replace(inner=state.inner)`"
        )
    states = layer_states(opt_state)
    if not states:
        raise ValueError(
            "reassign_layers: expected an optimizer state that holds a state of "
            "scale_by_layer, add_decayed_weights_by_layer or layca, got "
            f"{type(opt_state).__name__}"
        )
    if len({key for state in states for key in state.layers}) > 1:
        raise ValueError(
            f"reassign_layers: the {len(states)} states in this optimizer state belong "
            "to different Layers; hand over one after the other, as parts of it "
            "(`opt_state[1]`, say)"
        )
    return jax.tree.map(reassign, opt_state, is_leaf=is_layer_state)


def _as_boxed(old: Any, new: jax.Array) -> Any:
    """The new array in the box of the old one: `nnx.Optimizer` boxes all its state."""
    return jax.tree.unflatten(jax.tree.structure(old), [new])
