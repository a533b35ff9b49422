"""revert_to_uniform: back to one rate for all layers when things get worse."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from .._checks import (
    Number,
    as_count,
    check_counts,
    check_numbers,
    described,
    in_float32,
    real_array,
    require,
)
from ..layers._paths import PyTree
from ..transforms._multipliers import check_inner, check_kind, layer_states
from ..transforms._scale_by_layer import ScaleByLayerState, UniformShare

NO_BEST = float(np.finfo(np.float32).max)
"""Before the first check; infinity would stop a run under `jax_debug_infs`."""


class RevertToUniformState(NamedTuple):
    """State of `revert_to_uniform`."""

    inner: Any  # of the inner optimizer
    total: jax.Array  # shape=(), dtype=jnp.float32; of the values since the last check
    values: jax.Array  # shape=(), dtype=jnp.int32; how many
    best: jax.Array  # shape=(), dtype=jnp.float32; lowest mean of a check, or NO_BEST
    worse: jax.Array  # shape=(), dtype=jnp.int32; checks in a row that were worse
    reverting: jax.Array  # shape=(), dtype=jnp.int32; steps since: 0, 1, …, `steps`


def revert_to_uniform(
    inner: optax.GradientTransformation,
    patience: Number,
    steps: Number,
    *,
    rtol: Number = 0.05,
    atol: Number = 0.0,
    accumulation_size: Number = 1,
) -> optax.GradientTransformationExtraArgs:
    r"""Leads all layers back to multiplier 1 once a value gets worse.

    .. math::
        m'_l = (1 - b) \, m_l + b, \quad b = \min(1, k / steps)

    where k counts the steps since the value was worse than its best for `patience`
    checks in a row: 0 before, and from `steps` on every layer is at exactly 1. There
    is no way back to the multipliers. A check is worse if the mean value since the last
    one exceeds the lowest mean so far by more than `rtol` of it and `atol`, or is not
    finite.

    The value is handed to `update` as to `optax.contrib.reduce_on_plateau`:
    `update(gradients, state, params, value=loss)`. (That one's `cooldown` is a pause
    after each reduction; here there is only one.) All `scale_by_layer` and
    `adapt_layers` within `inner` are led back, also from 0, which wakes a frozen layer
    (but not in a `Phase` in which it is); decay by `add_decayed_weights_by_layer` is
    not.

    Args:
        inner: an optimizer with a `scale_by_layer` or `adapt_layers` somewhere in it.
        patience: checks in a row, a whole number above 0.
        steps: length of the way back, a whole number above 0.
        rtol: how much worse, as a share of the best value, 0 or above.
        atol: how much worse besides, as a number, 0 or above.
        accumulation_size: values averaged for one check, a whole number above 0. Losses
            of single batches are noisy: take those of an epoch, say.

    Returns:
        An `optax.GradientTransformationExtraArgs`; its `update` needs `value`. Its
        state is a `RevertToUniformState`, in which `reverting` says how far it is.

    Raises:
        ValueError: if inner is no optimizer; for numbers that are none of these; from
            `init`, if there are no multipliers in `inner`; from `update`, if it gets no
            `value`, or one that is not a single real number.

    Example:
        >>> import jax.numpy as jnp, numpy as np, optax, optax_llr
        >>> params = {"conv": jnp.ones(2), "head": jnp.ones(2)}
        >>> layers = optax_llr.match_layers(params, [(k, k) for k in params])
        >>> scale = optax_llr.scale_by_layer(layers, np.array([2.0, 0.0]))
        >>> optimizer = optax_llr.contrib.revert_to_uniform(
        ...     optax.chain(optax.sgd(0.1), scale), patience=2, steps=4)
        >>> state = optimizer.init(params)
        >>> for value in (1.0, 0.5, 0.9, 0.8, 0.7):
        ...     _, state = optimizer.update(params, state, params, value=value)
        >>> optax_llr.layer_multipliers(layers, state), int(state.reverting)
        ({'conv': 1.5, 'head': 0.5}, 2)
    """
    owner = "revert_to_uniform"
    check_inner(owner, inner)
    check_counts(
        owner, patience=patience, steps=steps, accumulation_size=accumulation_size
    )
    check_numbers(owner, rtol=rtol, atol=atol)
    for name, number in (("rtol", rtol), ("atol", atol)):
        require(
            number >= 0,
            f"{owner}: {name}: expected a number of 0 or above, got {number!r}",
        )
    patience, steps, size = map(as_count, (patience, steps, accumulation_size))
    rtol, atol = in_float32(rtol), in_float32(atol)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: PyTree) -> RevertToUniformState:
        inner_state = inner.init(params)
        if not any(isinstance(s, ScaleByLayerState) for s in layer_states(inner_state)):
            raise ValueError(
                "revert_to_uniform: expected an optimizer with multipliers to lead "
                "back, a scale_by_layer or adapt_layers within `inner`; found none"
            )
        return RevertToUniformState(
            inner=inner_state,
            total=jnp.float32(0),
            values=jnp.int32(0),
            best=jnp.float32(NO_BEST),
            worse=jnp.int32(0),
            reverting=jnp.int32(0),
        )

    def update_fn(
        updates: PyTree,
        state: Any,
        params: PyTree | None = None,
        *,
        value: ArrayLike | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, RevertToUniformState]:
        check_kind(owner, RevertToUniformState, state)
        state = _watched(state, _checked_value(value), rtol, atol, size)
        begun = (state.reverting > 0) | (state.worse >= patience)
        reverting = jnp.where(begun, jnp.minimum(state.reverting + 1, steps), 0)
        share = reverting.astype(jnp.float32) / in_float32(jnp.asarray(steps))
        share = UniformShare(jnp.where(reverting >= steps, 1.0, share))
        updates, inner_state = inner.update(
            updates,
            state.inner,
            params,
            **{**extra_args, "value": value, "uniform_share": share},
        )
        if not share.reader.was_read:
            raise ValueError(
                "revert_to_uniform: the multipliers within `inner` cannot be led back, "
                "as a wrapper around them does not pass extra arguments on "
                "(schedule_free, for one, and what MultiSteps returns, though not "
                "optax.GradientTransformationExtraArgs(steps.init, steps.update)); put "
                "revert_to_uniform inside of it"
            )
        return updates, state._replace(
            inner=inner_state, reverting=reverting.astype(jnp.int32)
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _checked_value(value: Any) -> jax.Array:
    if value is None:
        raise ValueError(
            "revert_to_uniform: needs the value to watch, a loss, say: "
            "call update(updates, state, params, value=value)"
        )
    number = real_array(value)
    if number is None or number.ndim:
        raise ValueError(
            "revert_to_uniform: value: expected one real number, such as a mean "
            f"over the batch; got {described(value)}"
        )
    return number.astype(jnp.float32)


def _watched(
    state: RevertToUniformState, value: jax.Array, rtol: Any, atol: Any, size: Any
) -> RevertToUniformState:
    """The state with one value more, and a check where there are enough of them."""
    total = state.total + value
    values = state.values + 1
    mean = total / values.astype(jnp.float32)
    known = state.best < NO_BEST
    best = jnp.where(known, state.best, 0.0)
    fine = jnp.isfinite(mean) & (~known | (mean <= best + rtol * jnp.abs(best) + atol))
    better = fine & (mean < state.best)
    due = values >= size
    return state._replace(
        total=jnp.where(due, 0.0, total),
        values=jnp.where(due, 0, values),
        best=jnp.where(due & better, mean, state.best),
        worse=jnp.where(due, jnp.where(fine, 0, state.worse + 1), state.worse),
    )
