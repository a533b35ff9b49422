"""measure_layers: what a training step does to each layer, in numbers."""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from ._check import Number
from ._layers import Layers, PyTree
from ._multipliers import check_kind, check_leaves, check_params
from ._reduce import layer_cosine, layer_slices, layer_sum, layers_in, remembered
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


class MonitorLayersState(NamedTuple):
    """State of `monitor_layers`."""

    inner: Any  # of the inner optimizer
    steps: jax.Array  # shape=(), dtype=jnp.int32; of the run
    initial: PyTree  # the parameters at `init`
    previous: PyTree  # gradients of the step before, in the dtypes of the parameters
    measures: LayerMeasures  # of the last step that was measured


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
    measures = _nothing(len(layers))
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
    absent = ~layers_in(layers, gradients)
    return jax.tree.map(lambda measure: measure.at[absent].set(jnp.nan), measures)


def monitor_layers(
    inner: optax.GradientTransformation,
    layers: Layers,
    rate: optax.ScalarOrSchedule = 1.0,
    every: int = 1,
) -> optax.GradientTransformationExtraArgs:
    """Measures the steps of an optimizer, and changes nothing.

    It wraps the optimizer, as it has to see raw gradients beside the updates. The
    measures are arrays in the state, so that a jitted loop can return them or pile them
    up; nothing calls back to the host.

    *Cost*: memory for the initial parameters and the gradients of the step before,
    twice the parameters; in a step that is measured, seven readings of arrays of their
    size, and a sort of the updates.

    Args:
        inner: the whole optimizer, with all multipliers.
        layers: the `Layers` of the parameters; may know more than `init` is given.
        rate: the global rate, or its schedule; what the measures divide by.
        every: steps from one measurement to the next; the first is made at once.

    Returns:
        An `optax.GradientTransformationExtraArgs`; its `update` needs `params`. Its
        state is a `MonitorLayersState`.

    Raises:
        ValueError: if every is no int above 0; from `init` and `update`, for a leaf
            that `layers` does not know; if `update` is called without `params`.

    Example:
        >>> import jax.numpy as jnp, optax, optax_llr
        >>> params = {"conv": jnp.array([3.0, 4.0]), "head": jnp.array([1.0, 0.0])}
        >>> layers = optax_llr.match_layers(params, [(k, k) for k in params])
        >>> optimizer = optax_llr.monitor_layers(optax.adam(0.5), layers, rate=0.5)
        >>> state = optimizer.init(params)
        >>> for _ in range(2):
        ...     updates, state = optimizer.update(params, state, params)
        >>> print(state.measures.gradient_norm, state.measures.gradient_cosine)
        [5. 1.] [1. 1.]
    """
    _check_every(every)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: PyTree) -> MonitorLayersState:
        check_leaves(layers, params)
        return MonitorLayersState(
            inner=inner.init(params),
            steps=jnp.int32(0),
            # A copy, as the parameters themselves may be donated.
            initial=jax.tree.map(jnp.copy, params),
            previous=optax.tree.zeros_like(params),
            measures=_nothing(len(layers)),
        )

    def update_fn(
        updates: PyTree,
        state: Any,
        params: PyTree | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, MonitorLayersState]:
        check_kind(MonitorLayersState, state)
        check_params("monitor_layers", params)
        gradients = updates
        updates, inner_state = inner.update(
            gradients, state.inner, params, **extra_args
        )

        def measure() -> LayerMeasures:
            measures = measure_layers(
                layers,
                gradients,
                updates,
                params,
                rate=cast(Number, rate(state.steps) if callable(rate) else rate),
                previous=state.previous,
                initial=state.initial,
            )
            first = state.steps == 0  # when there is no gradient before
            cosine = jnp.where(first, jnp.nan, measures.gradient_cosine)
            return measures._replace(gradient_cosine=cosine)

        measures = lax.cond(state.steps % every == 0, measure, lambda: state.measures)
        return updates, MonitorLayersState(
            inner=inner_state,
            steps=cast(jax.Array, optax.safe_increment(state.steps)),
            initial=state.initial,
            previous=remembered(state.previous, gradients),
            measures=measures,
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def gradient_faults(layers: Layers, gradients: PyTree) -> dict[str, str]:
    """Names the layers whose gradients cannot be right, and says why.

    For the moment when a loss turns NaN, or does not move: which layer is it? Looks at
    values, so call it outside `jit`.

    Args:
        layers: the `Layers` of the parameters.
        gradients: the gradients of a step.

    Returns:
        For each layer at fault, by name and in forward order, what is wrong, elements
        that are NaN or infinite, or all of them 0. Empty where all is well.

    Raises:
        ValueError: for a leaf that `layers` does not know.

    Example:
        >>> import jax.numpy as jnp, optax_llr
        >>> gradients = {"conv": jnp.zeros(3), "head": jnp.array([1.0, jnp.nan])}
        >>> layers = optax_llr.match_layers(gradients, [(k, k) for k in gradients])
        >>> for name, fault in optax_llr.gradient_faults(layers, gradients).items():
        ...     print(f"{name}: {fault}")
        conv: all 3 elements are 0
        head: 1 of 2 elements is not finite
    """
    size, bad, nonzero = (
        np.asarray(layer_sum(layers, count, gradients))
        for count in (jnp.ones_like, _not_finite, jnp.bool_)
    )
    faults: dict[str, str] = {}
    for i, name in enumerate(layers.names):
        if bad[i]:
            verb = "is" if bad[i] == 1 else "are"
            faults[name] = f"{bad[i]:.0f} of {size[i]:.0f} elements {verb} not finite"
        elif size[i] and not nonzero[i]:
            faults[name] = f"all {size[i]:.0f} elements are 0"
    return faults


def _not_finite(array: jax.Array) -> jax.Array:
    return ~jnp.isfinite(array)


def _nothing(length: int) -> LayerMeasures:
    unknown = jnp.full(length, jnp.nan, jnp.float32)
    steps = jnp.full((length, len(QUANTILES)), jnp.nan, jnp.float32)
    measures = {name: jnp.copy(unknown) for name in LayerMeasures._fields}
    return LayerMeasures(**{**measures, "step_quantiles": steps})


def _check_every(every: object) -> None:
    if not isinstance(every, int) or every < 1:
        raise ValueError(f"monitor_layers: expected an int every ≥ 1, got {every!r}")


def _quantiles(layers: Layers, updates: PyTree) -> jax.Array:
    """Quantiles of the absolute values of each layer, (L, 5)."""
    at = np.array(QUANTILES, np.float32)
    quantiles = jnp.full((len(layers), len(at)), jnp.nan, jnp.float32)
    for index, parts in layer_slices(layers, updates).items():
        values = jnp.concatenate([jnp.abs(part).ravel() for part in parts])
        row = jnp.quantile(values.astype(jnp.float32), at)
        quantiles = quantiles.at[index].set(row)
    return quantiles
