"""adapt_layers: multipliers that a rule measures while training."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.typing import ArrayLike

from .._checks import check_bool, described, in_float32, real_array
from ..layers._layers import Layers, check_arguments, check_leaves
from ..layers._paths import PyTree, quoted
from ..layers._sums import layers_in
from ..transforms._multipliers import (
    check_inner,
    check_kind,
    check_params,
    check_state,
)
from ..transforms._scale_by_layer import ScaleByLayerState, scale_by_layer

NOT_MEASURED = float(np.finfo(np.float32).max)
"""What a rule returns for a layer of which it could not measure anything.

NaN and what is infinite say the same; but where nothing is wrong (a gradient of 0) they
would stop a run under `jax_debug_nans` or `jax_debug_infs`.
"""


class LayerStep(NamedTuple):
    """What a rule sees of one training step."""

    layers: Layers
    gradients: PyTree  # as `update` was given them, before the inner optimizer
    updates: PyTree  # the inner optimizer's, not yet scaled
    params: PyTree  # before the step
    multipliers: jax.Array  # shape=(L,), float32; the rule's of the step before
    relative: bool = False  # whether multipliers are divided by their mean


class Rule(NamedTuple):
    """Measures multipliers: a pair of pure functions, a state of any kind, and bounds.

    `init(layers, params)` returns the state. `update(step, state)` returns multipliers
    (L,), and the state for the next step. What is not finite leaves a layer the
    multiplier it had; so does float32's largest number, for `jax_debug_nans`.
    """

    init: Callable[[Layers, PyTree], Any]
    update: Callable[[LayerStep, Any], tuple[ArrayLike, Any]]
    bounds: tuple[ArrayLike, ArrayLike] = (0.1, 10.0)  # of `adapt_layers`, by default


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
    bounds: tuple[ArrayLike, ArrayLike] | None = None,
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
        bounds: the lowest and the highest multiplier, 0 ≤ low ≤ 1 ≤ high; those of
            the rule where they are left out.
        relative: whether to divide the rule's multipliers by their mean over the
            layers, before the bounds. Then the rule says how the rate is shared out
            among the layers, and the optimizer alone how large it is.

    Returns:
        An `optax.GradientTransformationExtraArgs`; its `update` needs `params`. Of
        its state, an `AdaptLayersState`, `layer_multipliers` reads the multipliers.

    Raises:
        ValueError: if inner is no optimizer or rule no `Rule`; for bounds that are no
            such numbers; from `init` and `update`, as `scale_by_layer`, and if `update`
            is called without `params` or the rule returns anything but real multipliers
            of shape (L,) and a state.

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
    owner = "adapt_layers"
    check_inner(owner, inner)
    check_arguments(owner, layers)
    _check_rule(rule)
    low, high = _checked_bounds(rule.bounds if bounds is None else bounds)
    check_bool(owner, relative=relative)
    inner = optax.with_extra_args_support(inner)
    ones = np.ones(len(layers), np.float32)

    def init_fn(params: PyTree) -> AdaptLayersState:
        check_leaves(owner, layers, params)
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
        check_kind(owner, AdaptLayersState, state)
        check_state(owner, ScaleByLayerState, layers, state.scale)
        check_params(owner, params)
        gradients = updates
        present = jnp.asarray(layers_in(owner, layers, gradients))
        updates, inner_state = inner.update(
            gradients, state.inner, params, **extra_args
        )
        step = LayerStep(layers, gradients, updates, params, state.measured, relative)
        raw, rule_state = _checked_result(rule.update(step, state.rule), layers)
        known = present & (jnp.abs(raw) < NOT_MEASURED)  # which NaN is not
        raw = jnp.where(known, raw, 1.0)
        if relative:
            raw, known = _by_mean(raw, known)
        measured = jnp.where(known, jnp.clip(raw, low, high), state.measured)
        updates, scale = scale_by_layer(layers, lambda _: measured).update(
            updates, state.scale, params, **extra_args
        )
        return updates, AdaptLayersState(
            inner_state, rule_state, measured, cast(ScaleByLayerState, scale)
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _by_mean(values: jax.Array, known: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Divided by the mean over the layers that are known, where there is one."""
    # A negative rate is no share of anything; the bounds would raise it to 0 as well.
    shares = jnp.where(known, jnp.maximum(values, 0), 0)
    mean = shares.sum() / jnp.maximum(known.sum(), 1).astype(jnp.float32)
    usable = (mean > 0) & jnp.isfinite(mean)
    return shares / jnp.where(usable, mean, 1), known & usable


def _check_rule(rule: object) -> None:
    if not isinstance(rule, Rule) or not (
        callable(rule.init) and callable(rule.update)
    ):
        raise ValueError(
            "adapt_layers: rule: expected a Rule, as optax_llr.rules.trust_ratio() "
            f"returns one, or Rule(init, update) of two functions, got {rule!r}"
        )


def _checked_bounds(bounds: Any) -> tuple[Any, Any]:
    try:
        low, high = map(in_float32, bounds)
        if any(isinstance(bound, Tracer) for bound in (low, high)):
            return low, high
        if 0 <= low <= 1 <= high < np.inf:
            return low, high
    except (TypeError, ValueError, AttributeError):
        pass
    raise ValueError(
        "adapt_layers: bounds: expected two numbers (low, high) with "
        f"0 ≤ low ≤ 1 ≤ high, as 1 is where every layer starts; got {bounds!r}"
    )


def _checked_result(result: Any, layers: Layers) -> tuple[jax.Array, Any]:
    """The multipliers and the state that a rule returned."""
    if not isinstance(result, tuple) or len(cast(tuple[Any, ...], result)) != 2:
        raise ValueError(
            "adapt_layers: expected a rule whose update returns two things, the "
            f"multipliers and the state for the next step; got {described(result)}"
        )
    raw, state = cast(tuple[Any, Any], result)
    values = real_array(raw)
    if values is None or values.shape != (len(layers),):
        raise ValueError(
            f"adapt_layers: expected a rule that returns real multipliers of shape "
            f"({len(layers)},), one for each of the layers {quoted(layers.names)}; "
            f"got {described(raw)}"
        )
    return values.astype(jnp.float32), state
