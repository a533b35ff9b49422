"""layer_rotation: how far the kernels of each layer have turned."""

import jax
import jax.numpy as jnp

from ..layers._layers import Layers, check_leaves
from ..layers._paths import PyTree, leaves_by_path
from ..layers._sums import layer_sum
from ._arguments import check_alike, check_layers, known_leaves


def layer_rotation(layers: Layers, initial: PyTree, params: PyTree) -> jax.Array:
    r"""How far the kernels of each layer have turned since the start.

    .. math::
        1 - \cos(w_l(t), w_l(0))

    0 at the start, 1 at a right angle. Over steps this is the layer rotation curve. The
    kernels (leaves, or slices of stacked leaves, of two axes or more) of a layer that
    has several count as one vector.

    Args:
        layers: the `Layers` of the parameters.
        initial: w(0), the parameters at the start.
        params: w(t).

    Returns:
        Array (L,), float32; 0 for a layer without a kernel, and where all of it is 0,
        now or at the start: that has no direction.

    Raises:
        ValueError: if a parameter is unknown to `layers`, or has no initial value, or
            one of another shape.

    Example:
        >>> import jax.numpy as jnp, optax_llr
        >>> initial = {"conv": jnp.array([[1.0, 0.0]]), "head": jnp.array([[1.0, 0.0]])}
        >>> params = {"conv": jnp.array([[2.0, 0.0]]), "head": jnp.array([[0.0, 3.0]])}
        >>> layers = optax_llr.match_layers(params, [(k, k) for k in params])
        >>> print(optax_llr.layer_rotation(layers, initial, params))
        [0. 1.]

    References:
        Carbonnelle & De Vleeschouwer, On layer-level control of DNN training and its
        impact on generalization,
        `arXiv:1806.01603 <https://arxiv.org/abs/1806.01603>`_
    """
    check_layers("layer_rotation", layers, initial=initial, params=params)
    trees = {
        name: known_leaves("layer_rotation", layers, name, tree)
        for name, tree in (("params", params), ("initial", initial))
    }
    check_alike("layer_rotation", **trees)
    now, then = kernels(layers, params), kernels(layers, initial)
    dot = layer_sum(layers, jnp.multiply, now, then)
    squares = [layer_sum(layers, jnp.square, tree) for tree in (now, then)]
    norms = jnp.sqrt(squares[0]) * jnp.sqrt(squares[1])
    cosines = dot / jnp.where(norms == 0, 1, norms)
    return jnp.where(norms == 0, 0, 1 - jnp.clip(cosines, -1, 1))


def kernels(layers: Layers, params: PyTree) -> dict[str, jax.Array]:
    """By path, the leaves whose slices or wholes have two axes or more."""
    check_leaves("layer_rotation", layers, params)
    return {
        path: leaf
        for path, leaf in leaves_by_path(params).items()
        if jnp.ndim(leaf) >= 2 + isinstance(layers.members[path], tuple)
    }
