"""measure_layers: what a training step does to each layer, in numbers."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import Number
from ..layers._layers import Layers
from ..layers._paths import PyTree
from ..layers._sums import layer_cosine, layer_slices, layer_sum, layers_in
from ._rotation import layer_rotation

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


class LayerMeasures(NamedTuple):
    """What `measure_layers` measures; NaN where there is nothing to measure."""

    gradient_norm: jax.Array  # shape=(L,), float32; ‖g‖
    update_ratio: jax.Array  # shape=(L,), float32; ‖u‖ / ‖w‖
    effective_rate: jax.Array  # shape=(L,), float32; rate / ‖w‖²
    step_quantiles: jax.Array  # shape=(L, 5), float32; of |u| / rate: 0, ¼, ½, ¾, 1
    gradient_cosine: jax.Array  # shape=(L,), float32; cos(g(t), g(t−1))
    rotation: jax.Array  # shape=(L,), float32; 1 − cos(w(t), w(0)) of the kernels


def measure_layers(
    layers: Layers,
    gradients: PyTree,
    updates: PyTree,
    params: PyTree,
    *,
    rate: Number = 1.0,
    previous: PyTree | None = None,
    initial: PyTree | None = None,
) -> LayerMeasures:
    r"""Measures one training step, layer by layer.

    - `gradient_norm`: :math:`\lVert g_l \rVert`, what vanishes or explodes;
    - `update_ratio`: :math:`\lVert u_l \rVert / \lVert w_l \rVert`, how large a step is
      beside the weights;
    - `effective_rate`: :math:`\eta / \lVert w_l \rVert^2`, the rate that counts for
      weights in front of a norm, which are the same at any scale;
    - `step_quantiles`: minimum, quartiles and maximum of
      :math:`\lvert u_i \rvert / \eta`: the step sizes of Adam, say;
    - `gradient_cosine`: between the gradients of this step and the one before, near 1
      on a slope, below 0 across a valley;
    - `rotation`: how far the kernels have turned from their start, `layer_rotation`.

    Args:
        layers: the `Layers` of the parameters.
        gradients: g, before any optimizer.
        updates: u, as they are to be added to the parameters.
        params: w, before they are.
        rate: η, the global rate of the step.
        previous: gradients of the step before; without them `gradient_cosine` is NaN.
        initial: parameters at the start; without them `rotation` is NaN.

    Returns:
        `LayerMeasures`, of arrays (L,) and (L, 5).

    Raises:
        ValueError: for a leaf that `layers` does not know, or one that another of the
            trees has not.

    Example:
        >>> import jax.numpy as jnp, optax, optax_llr
        >>> params = {"conv": jnp.array([3.0, 4.0]), "head": jnp.array([1.0, 0.0])}
        >>> gradients = {"conv": jnp.array([0.0, 1.0]), "head": jnp.array([2.0, 0.0])}
        >>> layers = optax_llr.match_layers(params, [(k, k) for k in params])
        >>> updates = optax.tree.scale(-0.5, gradients)
        >>> measures = optax_llr.measure_layers(
        ...     layers, gradients, updates, params, rate=0.5)
        >>> print(measures.gradient_norm, measures.update_ratio)
        [1. 2.] [0.1 1. ]
        >>> print(measures.step_quantiles[1])
        [0.  0.5 1.  1.5 2. ]

    References:
        van Laarhoven, L2 Regularization versus Batch and Weight Normalization,
        `arXiv:1706.05350 <https://arxiv.org/abs/1706.05350>`_, for the effective rate
    """
    measures = nothing_measured(len(layers))
    rate = jnp.asarray(rate, jnp.float32)
    weight = layer_sum(layers, jnp.square, params)
    update = layer_sum(layers, jnp.square, updates)
    measures = measures._replace(
        gradient_norm=jnp.sqrt(layer_sum(layers, jnp.square, gradients)),
        update_ratio=jnp.sqrt(update) / jnp.sqrt(weight),
        effective_rate=rate / weight,
        step_quantiles=_quantiles(layers, updates) / rate,
    )
    if previous is not None:
        cosine = layer_cosine(layers, gradients, previous)
        measures = measures._replace(gradient_cosine=cosine)
    if initial is not None:
        rotation = layer_rotation(layers, initial, params)
        measures = measures._replace(rotation=rotation)
    absent = ~layers_in("measure_layers", layers, gradients)
    return jax.tree.map(lambda measure: measure.at[absent].set(jnp.nan), measures)


def nothing_measured(length: int) -> LayerMeasures:
    unknown = jnp.full(length, jnp.nan, jnp.float32)
    steps = jnp.full((length, len(QUANTILES)), jnp.nan, jnp.float32)
    measures = {name: jnp.copy(unknown) for name in LayerMeasures._fields}
    return LayerMeasures(**{**measures, "step_quantiles": steps})


def _quantiles(layers: Layers, updates: PyTree) -> jax.Array:
    """Quantiles of the absolute values of each layer, (L, 5)."""
    at = np.array(QUANTILES, np.float32)
    quantiles = jnp.full((len(layers), len(at)), jnp.nan, jnp.float32)
    for index, parts in layer_slices("measure_layers", layers, updates).items():
        values = jnp.concatenate([jnp.abs(part).ravel() for part in parts])
        row = jnp.quantile(values.astype(jnp.float32), at)
        quantiles = quantiles.at[index].set(row)
    return quantiles
