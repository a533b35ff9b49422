"""adapt_layers: multipliers that a rule measures while training."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.typing import ArrayLike

from ..layers._layers import Layers
from ..layers._paths import PyTree, quoted
from ..layers._sums import layers_in
from ..transforms._multipliers import check_kind, check_params, check_state
from ..transforms._scale_by_layer import ScaleByLayerState, scale_by_layer


class LayerStep(NamedTuple):
    """What a rule sees of one training step."""

    layers: Layers
    gradients: PyTree  # as `update` was given them, before the inner optimizer
    updates: PyTree  # the inner optimizer's, not yet scaled
    params: PyTree  # before the step
    multipliers: jax.Array  # shape=(L,), float32; the rule's of the step before
    relative: bool = False  # whether multipliers are divided by their mean


class Rule(NamedTuple):
    """Measures multipliers: a pair of pure functions, and a state of any kind.

    `init(layers, params)` returns the state. `update(step, state)` returns multipliers
    (L,), and the state for the next step. What is not finite (nothing could be
    measured) leaves a layer the multiplier it had.
    """

    init: Callable[[Layers, PyTree], Any]
    update: Callable[[LayerStep, Any], tuple[ArrayLike, Any]]


class AdaptLayersState(NamedTuple):
    """State of `adapt_layers`."""

    inner: Any  # of the inner optimizer
    rule: Any  # of the rule
    measured: jax.Array  # shape=(L,), dtype=jnp.float32; within bounds
    scale: ScaleByLayerState  # with the multipliers that the last step used


def is_adapted(node: Any) -> bool:
    """Whether a node of a tree is a state of `adapt_layers`."""
    return isinstance(node, AdaptLayersState)


def adapt_layers(
    inner: optax.GradientTransformation,
    layers: Layers,
    rule: Rule,
    bounds: tuple[ArrayLike, ArrayLike] = (0.1, 10.0),
    *,
    relative: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Scales the updates of an optimizer by multipliers that a rule measures.

    .. math::
        u'_i = m_{\ell(i)}(t) \, u_i, \quad
        m(t) = \operatorname{clip}(\operatorname{rule}(g(t), u(t), w(t)), low, high)

    It wraps the optimizer, as a rule needs raw gradients g beside the updates u that
    the optimizer makes of them and the parameters w: behind Adam all gradients look
    alike. Give the whole optimizer, with its global schedule. What stands in front of
    it in a chain (clipping, say), changes the gradients that the rule sees; what is
    part of `inner` does not. Under `optax.MultiSteps` they are the accumulated ones.

    The memory and the passes over the parameters that each rule needs are said with
    it; besides, the updates are read and written once to be scaled.

    Args:
        inner: the optimizer.
        layers: the `Layers` of the parameters; may know more than `init` is given.
        rule: one of `optax_llr.rules`, or a `Rule` of your own.
        bounds: the lowest and the highest multiplier, 0 ≤ low ≤ 1 ≤ high.
        relative: whether to divide the rule's multipliers by their mean over the
            layers, before the bounds. Then the rule says how the rate is shared out
            among the layers, and the optimizer alone how large it is.

    Returns:
        An `optax.GradientTransformationExtraArgs`; its `update` needs `params`. Of
        its state, an `AdaptLayersState`, `layer_multipliers` reads the multipliers.

    Raises:
        ValueError: for bounds that are no such numbers; from `init` and `update`, as
            `scale_by_layer`, and if `update` is called without `params` or the rule
            returns anything but real multipliers of shape (L,).

    Example:
        A rule of one's own: in proportion to how large weights are.

        >>> import jax.numpy as jnp, optax, optax_llr
        >>> def by_weight(step, state):
        ...     squares = optax_llr.layer_sum(step.layers, jnp.square, step.params)
        ...     return jnp.sqrt(squares), state
        >>> rule = optax_llr.Rule(init=lambda layers, params: (), update=by_weight)
        >>> params = {"conv": jnp.array([3.0, 4.0]), "head": jnp.array([2.0])}
        >>> layers = optax_llr.match_layers(params, [(k, k) for k in params])
        >>> optimizer = optax_llr.adapt_layers(optax.sgd(0.1), layers, rule)
        >>> updates, state = optimizer.update(params, optimizer.init(params), params)
        >>> optax_llr.layer_multipliers(layers, state)
        {'conv': 5.0, 'head': 2.0}
        >>> print(updates["conv"])
        [-1.5 -2. ]
    """
    low, high = _checked_bounds(bounds)
    if not isinstance(cast(object, rule), Rule):
        raise ValueError(f"adapt_layers: rule: expected a Rule, got {rule!r}")
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: PyTree) -> AdaptLayersState:
        ones = np.ones(len(layers), np.float32)
        return AdaptLayersState(
            inner=inner.init(params),
            rule=rule.init(layers, params),
            measured=jnp.array(ones),
            scale=cast(ScaleByLayerState, scale_by_layer(layers, ones).init(params)),
        )

    def update_fn(
        updates: PyTree,
        state: Any,
        params: PyTree | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, AdaptLayersState]:
        check_kind(AdaptLayersState, state)
        check_state(ScaleByLayerState, layers, state.scale)
        check_params("adapt_layers", params)
        gradients = updates
        updates, inner_state = inner.update(
            gradients, state.inner, params, **extra_args
        )
        step = LayerStep(layers, gradients, updates, params, state.measured, relative)
        raw, rule_state = rule.update(step, state.rule)
        raw = _checked_multipliers(raw, layers)
        present = layers_in(layers, gradients)
        if relative:
            raw = _by_mean(raw, present)
        within = jnp.clip(raw, low, high).astype(jnp.float32)
        measured = jnp.where(present & jnp.isfinite(raw), within, state.measured)
        updates, scale = scale_by_layer(layers, measured).update(
            updates, state.scale, params, **extra_args
        )
        return updates, AdaptLayersState(
            inner_state, rule_state, measured, cast(ScaleByLayerState, scale)
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _by_mean(values: jax.Array, present: np.ndarray) -> jax.Array:
    """Divided by the mean over those layers that are there and could be measured."""
    known = present & jnp.isfinite(values)
    # A negative rate is no share of anything; the bounds would raise it to 0 as well.
    shares = jnp.where(known, jnp.maximum(values, 0), 0)
    mean = shares.sum() / jnp.maximum(known.sum(), 1)
    usable = known & (mean > 0) & jnp.isfinite(mean)
    return jnp.where(usable, shares / mean, jnp.nan)


def _checked_bounds(bounds: Any) -> tuple[Any, Any]:
    try:
        low, high = bounds
        if any(isinstance(bound, Tracer) for bound in (low, high)):
            return low, high
        if 0 <= low <= 1 <= high < np.inf:
            return low, high
    except (TypeError, ValueError):
        pass
    raise ValueError(
        "adapt_layers: bounds: expected two numbers (low, high) with "
        f"0 ≤ low ≤ 1 ≤ high, as 1 is where every layer starts; got {bounds!r}"
    )


def _checked_multipliers(raw: ArrayLike, layers: Layers) -> jax.Array:
    values = jnp.asarray(raw)
    if values.shape != (len(layers),) or jnp.iscomplexobj(values):
        raise ValueError(
            f"adapt_layers: expected a rule that returns real multipliers of shape "
            f"({len(layers)},), one for each of the layers {quoted(layers.names)}; "
            f"got {values.dtype} of shape {values.shape}"
        )
    return values.astype(jnp.float32)
