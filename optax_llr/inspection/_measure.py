"""measure_layers: what a training step does to each layer, in numbers."""

import collections
from collections.abc import Callable, Collection
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import Number, check_numbers
from ..layers._layers import Layers, as_indices
from ..layers._paths import PyTree, close_to
from ..layers._sums import layer_cosine, layer_slices, layer_sum
from ._arguments import check_alike, check_layers, known_leaves
from ._rotation import layer_rotation

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


class LayerMeasures(NamedTuple):
    """What `measure_layers` measures; None for what is not asked for.

    0 where there is nothing to measure: for a layer that the trees hold nothing of (it
    is masked, say) and one of size 0. It is no NaN, as `jax_debug_nans` takes every NaN
    for a fault.
    """

    gradient_norm: jax.Array | None = None  # shape=(L,), float32; ‖g‖
    update_ratio: jax.Array | None = None  # shape=(L,), float32; ‖u‖ / ‖w‖
    effective_rate: jax.Array | None = None  # shape=(L,), float32; rate / ‖w‖²
    step_quantiles: jax.Array | None = None  # shape=(L, 5), float32; of |u| / rate
    gradient_cosine: jax.Array | None = None  # shape=(L,), float32; cos(g(t), g(t−1))
    rotation: jax.Array | None = None  # shape=(L,), float32; 1 − cos(w(t), w(0))


def measure_layers(
    layers: Layers,
    gradients: PyTree,
    updates: PyTree,
    params: PyTree,
    *,
    rate: Number = 1.0,
    previous: PyTree | None = None,
    initial: PyTree | None = None,
    measures: Collection[str] | None = None,
) -> LayerMeasures:
    r"""Measures one training step, layer by layer.

    What is not asked for is not computed. 0 where there is nothing to measure; a norm
    of weights that is 0 gives an infinite ratio, unless the step is 0 as well.

    - `gradient_norm`: :math:`\lVert g_l \rVert`, what vanishes or explodes;
    - `update_ratio`: :math:`\lVert u_l \rVert / \lVert w_l \rVert`, how large a step is
      beside the weights;
    - `effective_rate`: :math:`\eta / \lVert w_l \rVert^2`, the rate that counts for
      weights in front of a norm, which are the same at any scale (not the rate times
      the multiplier, for which see `layer_rates`);
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
        previous: gradients of the step before; `gradient_cosine` needs them.
        initial: parameters at the start; `rotation` needs them.
        measures: names of the measures that are wanted, such as
            `("gradient_norm", "update_ratio")`; by default all, but for those that need
            what is not given.

    Returns:
        `LayerMeasures`, of arrays (L,) and (L, 5).

    Raises:
        ValueError: for a leaf that `layers` does not know, or one that another of the
            trees lacks or has in another shape; for measures that there are not, or
            that need `previous` or `initial`; for a rate that is no number.

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
    function = "measure_layers"
    check_layers(function, layers, gradients=gradients, updates=updates, params=params)
    check_numbers(function, rate=rate)
    needs = {"gradient_cosine": previous, "rotation": initial}
    if measures is None:
        lacking = {name for name, tree in needs.items() if tree is None}
        chosen = [name for name in LayerMeasures._fields if name not in lacking]
    else:
        chosen = chosen_measures(function, measures)
    given = {"gradients": gradients, "updates": updates, "params": params}
    if "gradient_cosine" in chosen:
        given["previous"] = previous
    if "rotation" in chosen:
        given["initial"] = initial
    trees = {
        name: known_leaves(function, layers, name, tree) for name, tree in given.items()
    }
    check_alike(function, **trees)
    check_alike(function, params=trees["params"], gradients=trees["gradients"])
    return _measured(layers, chosen, rate, **trees)


def chosen_measures(function: str, measures: Collection[str]) -> list[str]:
    """The names of measures, if they are such."""
    names = [measures] if isinstance(measures, str) else list(measures)
    known = LayerMeasures._fields
    for name in names:
        if isinstance(measures, str) or name not in known:
            raise ValueError(
                f"{function}: measures: expected names among {list(known)}, in a "
                f"tuple, got {measures!r}{close_to(str(name), known)}"
            )
    return names


def _measured(
    layers: Layers, chosen: list[str], rate: Number, **trees: dict[str, jax.Array]
) -> LayerMeasures:
    """Those measures that are chosen, of trees that are alike."""
    rate = jnp.asarray(rate, jnp.float32)

    def norm(name: str) -> jax.Array:
        return jnp.sqrt(layer_sum(layers, jnp.square, trees[name]))

    def effective_rate() -> jax.Array:
        held = np.zeros(len(layers), bool)  # layers with something to measure
        for path, leaf in w.items():
            held[list(as_indices(layers.members[path]))] |= jnp.size(leaf) > 0
        return _ratio(jnp.where(held, rate, 0), layer_sum(layers, jnp.square, w))

    w, g = trees["params"], trees["gradients"]
    measure: dict[str, Callable[[], jax.Array]] = {
        "gradient_norm": lambda: norm("gradients"),
        "update_ratio": lambda: _ratio(norm("updates"), norm("params")),
        "effective_rate": effective_rate,
        "step_quantiles": lambda: _ratio(_quantiles(layers, trees["updates"]), rate),
        "gradient_cosine": lambda: layer_cosine(layers, g, trees["previous"]),
        "rotation": lambda: layer_rotation(layers, trees["initial"], w),
    }
    return LayerMeasures(**{name: measure[name]() for name in chosen})


def nothing_measured(layers: Layers, chosen: Collection[str]) -> LayerMeasures:
    """Zeros, one array for each measure, as each may be donated."""
    shapes = {"step_quantiles": (len(layers), len(QUANTILES))}
    zeros = {
        name: jnp.zeros(shapes.get(name, (len(layers),)), jnp.float32)
        for name in chosen
    }
    return LayerMeasures(**zeros)


def _ratio(over: jax.Array, under: jax.Array) -> jax.Array:
    """The quotient, 0 where `over` is 0: no NaN where both are."""
    return over / jnp.where(over == 0, 1, under)


def _quantiles(layers: Layers, updates: PyTree) -> jax.Array:
    """Quantiles of the absolute values of each layer, (L, 5).

    Layers of one size are sorted together: a sort takes XLA long to compile.
    """
    by_size: dict[int, list[int]] = collections.defaultdict(list)
    slices = layer_slices("measure_layers", layers, updates)
    for index, parts in slices.items():
        by_size[sum(part.size for part in parts)].append(index)
    quantiles = jnp.zeros((len(layers), len(QUANTILES)), jnp.float32)
    for size, indices in by_size.items():
        if size:
            parts = [_magnitude(part) for index in indices for part in slices[index]]
            values = jnp.concatenate(parts).reshape(len(indices), size)
            rows = jnp.quantile(values, np.array(QUANTILES, np.float32), axis=1)
            quantiles = quantiles.at[np.array(indices)].set(rows.T)
    return quantiles


def _magnitude(part: jax.Array) -> jax.Array:
    """Absolute values in float32, as a vector."""
    if jnp.iscomplexobj(part):
        part = jnp.abs(part)
    return jnp.abs(part.astype(jnp.float32)).ravel()
