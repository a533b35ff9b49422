"""monitor_layers: measures of each layer, kept in the state."""

from collections.abc import Collection
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax import lax

from .._checks import Number, check_numbers
from ..layers._layers import Layers
from ..layers._paths import PyTree, leaves_by_path
from ..layers._sums import remembered
from ..transforms._multipliers import check_kind, check_params
from ._arguments import check_alike, check_layers, check_whole, known_leaves
from ._measure import (
    LayerMeasures,
    chosen_measures,
    measure_layers,
    nothing_measured,
)


class MonitorLayersState(NamedTuple):
    """State of `monitor_layers`."""

    inner: Any  # of the inner optimizer
    steps: jax.Array  # shape=(), dtype=jnp.int32; of the run
    initial: PyTree | None  # the parameters at `init`, for `rotation`
    previous: PyTree | None  # gradients of the step before, for `gradient_cosine`
    measures: LayerMeasures  # of the last step that was measured


def monitor_layers(
    inner: optax.GradientTransformation,
    layers: Layers,
    rate: optax.ScalarOrSchedule = 1.0,
    every: int = 1,
    measures: Collection[str] = LayerMeasures._fields,
) -> optax.GradientTransformationExtraArgs:
    """Measures the steps of an optimizer, and changes nothing.

    It wraps the optimizer, as it has to see raw gradients beside the updates. The
    measures are arrays in the state, so that a jitted loop can return them or pile them
    up; nothing calls back to the host.

    *Cost*: what is asked for. In a step that is measured,

    ================== ========================== =================
    measure            reads, × parameters        keeps, × parameters
    ================== ========================== =================
    `gradient_norm`    g                          0
    `update_ratio`     u, w                       0
    `effective_rate`   w                          0
    `step_quantiles`   u, and sorts a copy of it  0
    `gradient_cosine`  2 × g, 2 × g(t−1)          1
    `rotation`         2 × w, 2 × w(0)            1
    ================== ========================== =================

    The gradients of the step before are written in every step, measured or not.

    Args:
        inner: the whole optimizer, with all multipliers.
        layers: the `Layers` of the parameters; may know more than `init` is given.
        rate: the global rate, or its schedule; what the measures divide by.
        every: steps from one measurement to the next; the first is made at once.
        measures: names of fields of `LayerMeasures`; the others are None.

    Returns:
        An `optax.GradientTransformationExtraArgs`; its `update` needs `params`. Its
        state is a `MonitorLayersState`. All measures are 0 before the first step, and
        so is the cosine of that step, before which there is no gradient.

    Raises:
        ValueError: if every is no int above 0, measures are none, rate is neither a
            number nor a schedule, or arguments are swapped; from `init` and `update`,
            for a leaf that `layers` does not know; from `update`, without `params`, and
            for a gradient without an update or a parameter.

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
    every = check_whole(_NAME, "every", every)
    chosen = chosen_measures(_NAME, measures)
    if not callable(getattr(inner, "update", None)):
        raise ValueError(
            f"{_NAME}: inner: expected an optax.GradientTransformation, got a "
            f"{type(inner).__name__}; the arguments are {_NAME}(inner, layers, …)"
        )
    check_layers(_NAME, layers)
    if not callable(rate):
        check_numbers(_NAME, rate=rate)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: PyTree) -> MonitorLayersState:
        known_leaves(_NAME, layers, "params", params)
        return MonitorLayersState(
            inner=inner.init(params),
            steps=jnp.int32(0),
            # A copy, as the parameters themselves may be donated.
            initial=jax.tree.map(jnp.copy, params) if "rotation" in chosen else None,
            previous=(
                optax.tree.zeros_like(params) if "gradient_cosine" in chosen else None
            ),
            measures=nothing_measured(layers, chosen),
        )

    def measure(
        steps: jax.Array, last: LayerMeasures, trees: dict[str, dict[str, Any]]
    ) -> LayerMeasures:
        del last
        now = cast(Number, rate(steps) if callable(rate) else rate)
        return measure_layers(layers, **trees, rate=now, measures=chosen)

    def keep(
        steps: jax.Array, last: LayerMeasures, trees: dict[str, dict[str, Any]]
    ) -> LayerMeasures:
        del steps, trees
        return last

    # Made once, so that outside `jit` too each is compiled once, not at every step.
    @jax.jit
    def measure_if_due(
        steps: jax.Array, last: LayerMeasures, trees: dict[str, dict[str, Any]]
    ) -> LayerMeasures:
        if every == 1:
            return measure(steps, last, trees)
        return lax.cond(steps % every == 0, measure, keep, steps, last, trees)

    def update_fn(
        updates: PyTree,
        state: Any,
        params: PyTree | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, MonitorLayersState]:
        check_kind(_NAME, MonitorLayersState, state)
        check_params(_NAME, params)
        gradients = updates
        updates, inner_state = inner.update(
            gradients, state.inner, params, **extra_args
        )
        trees = _alike(
            layers,
            gradients=gradients,
            updates=updates,
            params=params,
            previous=state.previous,
            initial=state.initial,
        )
        previous = state.previous
        if previous is not None:
            previous = remembered(previous, gradients)
        return updates, MonitorLayersState(
            inner=inner_state,
            steps=cast(jax.Array, optax.safe_increment(state.steps)),
            initial=state.initial,
            previous=previous,
            measures=measure_if_due(state.steps, state.measures, trees),
        )

    # Optax's type of a state knows no None.
    return optax.GradientTransformationExtraArgs(
        cast(Any, init_fn), cast(Any, update_fn)
    )


_NAME = "monitor_layers"


def _alike(layers: Layers, **trees: PyTree | None) -> dict[str, dict[str, Any]]:
    """The leaves that there are gradients of (not those that are None), by path."""
    gradients = known_leaves(_NAME, layers, "gradients", trees["gradients"])
    leaves = {
        name: leaves_by_path(tree) for name, tree in trees.items() if tree is not None
    }
    check_alike(_NAME, **leaves)
    return {
        name: {path: found[path] for path in gradients}
        for name, found in leaves.items()
    }
