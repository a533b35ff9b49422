"""monitor_layers: measures of each layer, kept in the state."""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax import lax

from .._checks import Number
from ..layers._layers import Layers, check_leaves
from ..layers._paths import PyTree
from ..layers._sums import remembered
from ..transforms._multipliers import check_kind, check_params
from ._measure import LayerMeasures, measure_layers, nothing_measured


class MonitorLayersState(NamedTuple):
    """State of `monitor_layers`."""

    inner: Any  # of the inner optimizer
    steps: jax.Array  # shape=(), dtype=jnp.int32; of the run
    initial: PyTree  # the parameters at `init`
    previous: PyTree  # gradients of the step before, in the dtypes of the parameters
    measures: LayerMeasures  # of the last step that was measured


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
        check_leaves("monitor_layers", layers, params)
        return MonitorLayersState(
            inner=inner.init(params),
            steps=jnp.int32(0),
            # A copy, as the parameters themselves may be donated.
            initial=jax.tree.map(jnp.copy, params),
            previous=optax.tree.zeros_like(params),
            measures=nothing_measured(len(layers)),
        )

    def update_fn(
        updates: PyTree,
        state: Any,
        params: PyTree | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, MonitorLayersState]:
        check_kind("monitor_layers", MonitorLayersState, state)
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


def _check_every(every: object) -> None:
    if not isinstance(every, int) or every < 1:
        raise ValueError(f"monitor_layers: expected an int every ≥ 1, got {every!r}")
