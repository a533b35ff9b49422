"""Multipliers known before training: arrays (L,) and Optax schedules `count -> (L,)`.

Where no time is involved a function returns an array, else an ordinary Optax schedule
that works under `jit`, `vmap` and `scan`. Numbers may be traced (to `vmap` over them,
say); the values of what is traced cannot be checked and are not. Every case that is
exact by definition (0, 1, the value at the end) is selected by comparing steps, because
what a compiler makes of `x / x` or of `1 - x + x` differs between backends.
"""

import reprlib
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.errors import TracerArrayConversionError
from jax.typing import ArrayLike

from ._checks import (
    Number,
    check_bool,
    described,
    finite,
    float_type,
    is_number,
    is_real,
    plain,
    real_array,
    require,
)
from .layers._layers import Layers, check_arguments
from .layers._paths import close_to, quoted


def interpolate_schedule(
    layers: Layers, first: optax.ScalarOrSchedule, last: optax.ScalarOrSchedule
) -> optax.Schedule:
    r"""Multipliers on a straight line through the depth, from first to last layer.

    .. math::
        m_l(t) = a(t) + (b(t) - a(t)) \, d_l

    where :math:`d_l` is the depth of layer l, 0 for the first level and 1 for the last.
    Layers on one level get one multiplier. A model of a single level gets a.

    Args:
        layers: the L layers.
        first: a, the multiplier of the first level: a number or a schedule.
        last: b, the multiplier of the last level: a number or a schedule.

    Returns:
        A schedule `count -> (L,)`.

    Raises:
        ValueError: if an end is neither a finite number nor a schedule of numbers.

    Example:
        More for the early layers at first, and the reverse at the end:

        >>> import jax.numpy as jnp, optax, optax_llr
        >>> params = {name: jnp.ones(3) for name in ("conv", "dense", "head")}
        >>> layers = optax_llr.match_layers(params, [(name, name) for name in params])
        >>> multipliers = optax_llr.interpolate_schedule(
        ...     layers,
        ...     first=optax.linear_schedule(1.5, 0.5, 100),
        ...     last=optax.linear_schedule(0.5, 1.5, 100),
        ... )
        >>> for step in (0, 50, 100):
        ...     print(multipliers(step))
        [1.5 1.  0.5]
        [1. 1. 1.]
        [0.5 1.  1.5]

    References:
        Smith, Cyclical Layer Learning Rates (a research question), fast.ai forums
    """
    check_arguments("interpolate_schedule", layers)
    _check_multiplier("interpolate_schedule: first", first)
    _check_multiplier("interpolate_schedule: last", last)

    def schedule(count: ArrayLike) -> jax.Array:
        a = _one_number("interpolate_schedule: first", first, count)
        b = _one_number("interpolate_schedule: last", last, count)
        return _on_line(a, b, layers.depth)

    return schedule


def per_layer_schedule(
    layers: Layers, multipliers: Mapping[str, optax.ScalarOrSchedule]
) -> optax.Schedule:
    """Multipliers by the names of the layers, a number or a schedule each.

    .. math::
        m_l(t) = s_l(t)

    Args:
        layers: the L layers.
        multipliers: for each name of `layers.names` a number or a schedule.

    Returns:
        A schedule `count -> (L,)`.

    Raises:
        ValueError: if multipliers is no mapping from names, a layer is missing, a name
            is no layer's, or a multiplier is neither a finite number nor a schedule of
            numbers.

    Example:
        >>> import jax.numpy as jnp, numpy as np, optax, optax_llr
        >>> params = {name: jnp.ones(3) for name in ("conv", "dense", "head")}
        >>> layers = optax_llr.match_layers(params, [(name, name) for name in params])
        >>> multipliers = optax_llr.per_layer_schedule(layers, {
        ...     "conv": optax.linear_schedule(2.0, 0.5, 10),
        ...     "dense": 1.0,
        ...     "head": optax.linear_schedule(0.5, 2.0, 100),
        ... })
        >>> for step in (0, 10, 100):
        ...     print(np.asarray(multipliers(step)).round(2))
        [2.  1.  0.5]
        [0.5  1.   0.65]
        [0.5 1.  2. ]

    References:
        Smith, Cyclical Layer Learning Rates (a research question), fast.ai forums
    """
    check_arguments("per_layer_schedule", layers)
    _check_named("per_layer_schedule: multipliers", multipliers)
    missing = [name for name in layers.names if name not in multipliers]
    unknown = [name for name in multipliers if name not in layers.names]
    if missing or unknown:
        hints = "".join(close_to(name, missing or layers.names) for name in unknown)
        hints = hints.replace("?;", ";")  # several hints are one question
        raise ValueError(
            "per_layer_schedule: expected a multiplier for every layer and for nothing "
            f"else. Layers without one: {quoted(missing)}; names that are no layer's: "
            f"{quoted(unknown)}. The layers are {quoted(layers.names)}{hints}"
        )
    values: list[Any] = [multipliers[name] for name in layers.names]
    owners = [f"per_layer_schedule: {name!r}" for name in layers.names]
    for owner, value in zip(owners, values, strict=True):
        _check_multiplier(owner, value)
    # What many layers share is evaluated once: compiling it for each takes long.
    shared = {id(v): (o, v) for o, v in zip(owners, values, strict=True)}
    row = {key: i for i, key in enumerate(shared)}
    rows = np.array([row[id(value)] for value in values])

    def schedule(count: ArrayLike) -> jax.Array:
        return jnp.stack([_one_number(o, v, count) for o, v in shared.values()])[rows]

    return schedule


def layer_decay(layers: Layers, rate: Number) -> np.ndarray | jax.Array:
    """Multipliers that shrink by one factor for each layer nearer to the input.

    .. math::
        m_l = d^{k_l}

    where :math:`k_l` is the layer's distance to the output: 0 for each head, also the
    head of a shallow tower beside a deep one. ULMFiT's discriminative fine-tuning is
    d = 1/2.6.

    Args:
        layers: the L layers.
        rate: d, above 0; below 1 it slows the early layers.

    Returns:
        Array (L,); exactly 1 where no layer lies between this one and the output.

    Raises:
        ValueError: if the rate is not a finite number above 0, or a power of it is too
            large.

    Example:
        >>> import jax.numpy as jnp, optax_llr
        >>> params = {name: jnp.ones(3) for name in ("conv", "dense", "head")}
        >>> layers = optax_llr.match_layers(params, [(name, name) for name in params])
        >>> optax_llr.layer_decay(layers, 1 / 2.6).round(6)
        array([0.147929, 0.384615, 1.      ])

    References:
        Howard & Ruder, Universal Language Model Fine-tuning for Text Classification,
        `arXiv:1801.06146 <https://arxiv.org/abs/1801.06146>`_ (the formula as other
        texts report it)
    """
    check_arguments("layer_decay", layers, rate=rate)
    require(rate > 0, f"layer_decay: rate: expected a number above 0, got {rate!r}")
    with np.errstate(over="ignore"):
        multipliers = _float(rate) ** layers.distance.astype(float)
    require(
        finite(multipliers).all(),
        f"layer_decay: rate: expected one of which all powers are finite "
        f"({float_type().name}), got {rate!r}, which gives {multipliers}",
    )
    return multipliers


def rotation_alpha(layers: Layers, alpha: Number) -> np.ndarray | jax.Array:
    r"""Multipliers exponential in the depth, both directions in one parameter.

    .. math::
        m_l = \begin{cases}
            (1 - \alpha)^{5 (N - l) / N} & \alpha > 0 \text{: slows early layers} \\
            (1 + \alpha)^{5 l / N} & \alpha \le 0 \text{: slows late layers}
        \end{cases}

    where N is the last level. α = 0 gives all 1, and so does a model of a single level.

    Args:
        layers: the L layers.
        alpha: α, between −1 and 1 and neither of them: there all layers but one
            would be frozen, which is better said with `per_layer_schedule`. The authors
            use −0.8 to 0.8.

    Returns:
        Array (L,); exactly 1 on the last level for α > 0, on the first for α ≤ 0.

    Raises:
        ValueError: if alpha is no number or outside (−1, 1).

    Example:
        >>> import jax.numpy as jnp, optax_llr
        >>> params = {f"conv{i}": jnp.ones(3) for i in range(6)}
        >>> layers = optax_llr.match_layers(params, [(name, name) for name in params])
        >>> optax_llr.rotation_alpha(layers, 0.6).round(5).tolist()
        [0.01024, 0.0256, 0.064, 0.16, 0.4, 1.0]

    References:
        Carbonnelle & De Vleeschouwer, On layer-level control of DNN training and its
        impact on generalization,
        `arXiv:1806.01603 <https://arxiv.org/abs/1806.01603>`_
    """
    check_arguments("rotation_alpha", layers, alpha=alpha)
    require(
        (alpha > -1) & (alpha < 1),
        "rotation_alpha: alpha: expected a number between -1 and 1, both excluded, "
        f"got {alpha}",
    )
    alpha = _float(alpha)
    xp = _numpy_for(alpha)
    distance = xp.where(alpha > 0, _depth_below_last(layers), layers.depth)
    return (1 - abs(alpha)) ** (5 * distance)


def cascade_schedule(
    layers: Layers,
    first_peak: Number,
    last_peak: Number,
    total_steps: Number,
    *,
    start: Number = 1 / 25,
    final: Number = 1e-5,
) -> optax.Schedule:
    r"""One-cycles whose peaks pass through the layers, and that all end together.

    .. math::
        m_l(t) = \begin{cases}
            start + (1 - start) \, t / p_l & t \le p_l \\
            final + (1 - final) \, (T - t) / (T - p_l) & p_l < t < T \\
            final & t \ge T
        \end{cases}

    Exactly 1 at the peak and exactly `final` from T on. The lines are straight, as in
    the 1cycle policy. The peaks p_l lie on a straight line through the depth, rounded
    to whole steps so that each of them is a step that happens. The multipliers hold
    the whole cycle: chain them with a constant global rate.

    Args:
        layers: the L layers.
        first_peak: the peak of the first level, in steps.
        last_peak: the peak of the last level, in steps.
        total_steps: T, when all cycles end.
        start: the multiplier at step 0. The defaults of this and of `final` are those
            of fastai's `fit_one_cycle`.
        final: the multiplier at T and afterwards.

    Returns:
        A schedule `count -> (L,)`.

    Raises:
        ValueError: if total_steps is not above 0, a peak (rounded) is not a step of
            0 … T − 1, start or final is negative, or any is not a finite number.

    Example:
        Five groups and fifty epochs of one step, with peaks at 10, 15, 20, …:

        >>> import jax.numpy as jnp, numpy as np, optax_llr
        >>> params = {f"group{i}": jnp.ones(3) for i in range(5)}
        >>> layers = optax_llr.match_layers(params, [(name, name) for name in params])
        >>> multipliers = optax_llr.cascade_schedule(
        ...     layers, 10, 30, 50, start=0.0, final=0.0)
        >>> for step in (10, 15, 50):
        ...     print(np.asarray(multipliers(step)).round(3))
        [1.    0.667 0.5   0.4   0.333]
        [0.875 1.    0.75  0.6   0.5  ]
        [0. 0. 0. 0. 0.]

    References:
        A reply to Smith, Cyclical Layer Learning Rates (a research question), fast.ai
        forums; for the cycle itself Smith, A disciplined approach to neural network
        hyper-parameters: Part 1,
        `arXiv:1803.09820 <https://arxiv.org/abs/1803.09820>`_
    """
    check_arguments(
        "cascade_schedule",
        layers,
        first_peak=first_peak,
        last_peak=last_peak,
        total_steps=total_steps,
        start=start,
        final=final,
    )
    _check_above_0("cascade_schedule", total_steps=total_steps)
    _check_0_or_above("cascade_schedule", start=start, final=final)
    start, final, end = _float(start), _float(final), plain(total_steps)
    line = _on_line(_float(first_peak), _float(last_peak), layers.depth)
    peaks = _numpy_for(line).round(line)
    require(
        ((peaks >= 0) & (peaks < _float(end))).all(),
        "cascade_schedule: first_peak, last_peak: expected peaks that round to a step "
        f"from 0 to below total_steps = {total_steps}, got {first_peak}, {last_peak}",
    )

    def schedule(count: ArrayLike) -> jax.Array:
        t = _counted(count)
        rise = start + (1 - start) * (_float(t) / jnp.maximum(peaks, 1))
        fall = final + (1 - final) * (_since(t, end) / (peaks - _float(end)))
        passed = _since(t, peaks)
        cycle = jnp.where(passed < 0, rise, jnp.where(passed == 0, 1.0, fall))
        return jnp.where(_reached(t, end), final, cycle)

    return schedule


def gradual_unfreeze_schedule(
    layers: Layers,
    steps_per_stage: Number,
    ramp_steps: Number = 0,
    *,
    top_first: bool = True,
) -> optax.Schedule:
    r"""Layers join the training level by level, one level at each stage.

    .. math::
        m_l(t) = \min(1, \max(0, (t - b_l) / r)), \quad b_l = s \cdot stage_l

    with s steps a stage and a ramp of r steps. The stage of level l is N - l from the
    top, where N is the last level, and l from the bottom. Exactly 0 before :math:`b_l`
    and exactly 1 from :math:`b_l + r` on; without a ramp 1 from :math:`b_l` on. A ramp
    leads into the training of others, so the level that trains from step 0 has none; a
    warm-up of the whole model belongs into the global schedule.

    Args:
        layers: the L layers.
        steps_per_stage: steps from one level's start to the next one's.
        ramp_steps: steps from 0 to 1, linear; may be longer than a stage.
        top_first: whether the last level is the first to train, as in ULMFiT, or the
            first level is, as when networks were built up layer by layer. The two
            differ only in the order of the stages.

    Returns:
        A schedule `count -> (L,)`.

    Raises:
        ValueError: if steps_per_stage is not above 0, ramp_steps is negative, either is
            not a finite number, or top_first is no bool.

    Example:
        >>> import jax.numpy as jnp, optax_llr
        >>> params = {name: jnp.ones(3) for name in ("conv", "dense", "head")}
        >>> layers = optax_llr.match_layers(params, [(name, name) for name in params])
        >>> multipliers = optax_llr.gradual_unfreeze_schedule(
        ...     layers, 100, ramp_steps=10)
        >>> for step in (0, 105, 200, 210):
        ...     print(multipliers(step))
        [0. 0. 1.]
        [0.  0.5 1. ]
        [0. 1. 1.]
        [1. 1. 1.]

    References:
        Howard & Ruder, Universal Language Model Fine-tuning for Text Classification,
        `arXiv:1801.06146 <https://arxiv.org/abs/1801.06146>`_
    """
    check_arguments(
        "gradual_unfreeze_schedule",
        layers,
        steps_per_stage=steps_per_stage,
        ramp_steps=ramp_steps,
    )
    check_bool("gradual_unfreeze_schedule", top_first=top_first)
    _check_above_0("gradual_unfreeze_schedule", steps_per_stage=steps_per_stage)
    _check_0_or_above("gradual_unfreeze_schedule", ramp_steps=ramp_steps)
    stage = _levels_below_last(layers) if top_first else layers.level
    steps, ramp_steps = _alike(steps_per_stage, ramp_steps)
    begin = _times(steps, stage)
    joined = begin + _times(ramp_steps, (stage > 0).astype(int))
    length = jnp.maximum(_float(ramp_steps), 1)

    def schedule(count: ArrayLike) -> jax.Array:
        t = _counted(count)
        ramp = jnp.maximum(_since(t, begin) / length, 0.0)
        return jnp.where(_reached(t, joined), 1.0, ramp)

    return schedule


def freezeout_schedule(
    layers: Layers,
    total_steps: Number,
    t0: Number = 0.8,
    power: Number = 3,
    *,
    scaled: bool = True,
) -> optax.Schedule:
    r"""Each layer anneals to 0 along its own cosine, the early ones first.

    .. math::
        m_l(t) = \frac{1}{2 c_l} \left(1 + \cos \frac{\pi t}{T \, t_l} \right),
        \quad t_l = (t_0 + (1 - t_0) \, l / N)^p

    while :math:`t / T < t_l`, and exactly 0 from there on. N is the last level, which
    trains until T, also where it is the only one; :math:`c_l = t_l` if scaled, which
    makes the multipliers of each layer add up to the same sum, and 1 if not. The ½ is
    in the authors' code; their equation leaves it out. The multipliers hold the whole
    annealing: chain them with a constant global rate.

    Args:
        layers: the L layers.
        total_steps: T, in steps.
        t0: the part of training, above 0 and at most 1, after which the first level
            freezes, before it is raised to `power`.
        power: 1, 2 or 3 in the paper; any number above 0.
        scaled: whether a layer that trains for a shorter time starts higher.

    Returns:
        A schedule `count -> (L,)`.

    Raises:
        ValueError: if total_steps or power is not above 0, t0 is not in (0, 1] or its
            power too small, any is not a finite number, or scaled is no bool.

    Example:
        >>> import jax.numpy as jnp, numpy as np, optax_llr
        >>> params = {f"conv{i}": jnp.ones(3) for i in range(5)}
        >>> layers = optax_llr.match_layers(params, [(name, name) for name in params])
        >>> multipliers = optax_llr.freezeout_schedule(layers, total_steps=1000)
        >>> for step in (250, 512, 1000):
        ...     print(np.asarray(multipliers(step)).round(3))
        [1.013 1.048 1.011 0.938 0.854]
        [0.    0.109 0.279 0.408 0.481]
        [0. 0. 0. 0. 0.]

    References:
        Brock et al., FreezeOut: Accelerate Training by Progressively Freezing Layers,
        `arXiv:1706.04983 <https://arxiv.org/abs/1706.04983>`_
    """
    check_arguments(
        "freezeout_schedule", layers, total_steps=total_steps, t0=t0, power=power
    )
    check_bool("freezeout_schedule", scaled=scaled)
    _check_above_0("freezeout_schedule", total_steps=total_steps, power=power)
    require(
        (t0 > 0) & (t0 <= 1),
        f"freezeout_schedule: t0: expected a number in (0, 1], got {t0}",
    )
    t0, power = _float(t0), _float(power)
    part = (1 - (1 - t0) * _depth_below_last(layers)) ** power
    with np.errstate(divide="ignore", over="ignore"):
        require(
            finite(1 / part).all(),
            f"freezeout_schedule: power: expected a larger t0 or a smaller power: {t0} "
            f"to the power {power} is too small to divide by",
        )
    end = _float(total_steps) * part
    # A step that should equal the end must not miss it by a rounding error.
    frozen_from = _numpy_for(end).ceil(end * (1 - 1e-12))

    def schedule(count: ArrayLike) -> jax.Array:
        t = _counted(count)
        # (1 + cos πx) / 2 is sin² (π(1 − x) / 2), which does not round to 0 so soon.
        annealed = jnp.square(jnp.sin(jnp.pi / 2 * (-_since(t, end) / end)))
        shared = annealed / part if scaled else annealed
        return jnp.where(_reached(t, frozen_from), 0.0, shared)

    return schedule


def table_schedule(values: ArrayLike) -> optax.Schedule:
    r"""Multipliers read from a table, one row a step; the last row is held.

    .. math::
        m(t) = values_{\min(t, T - 1)}

    To replay what another run recorded, or what no formula says.

    Args:
        values: array (T, L), the multipliers of T steps.

    Returns:
        A schedule `count -> (L,)`.

    Raises:
        ValueError: if values is not of two dimensions, has no row or no column, or is
            not of finite numbers of 0 or above.

    Example:
        >>> import optax_llr
        >>> multipliers = optax_llr.table_schedule([[1.0, 0.0], [1.0, 0.5], [1.0, 1.0]])
        >>> for step in (0, 1, 2, 1000):
        ...     print(multipliers(step))
        [1. 0.]
        [1.  0.5]
        [1. 1.]
        [1. 1.]
    """
    numbers = _table(values)
    if numbers.ndim != 2 or 0 in numbers.shape or not is_real(numbers):
        raise ValueError(
            "table_schedule: values: expected an array (T, L) of real numbers, with "
            f"T ≥ 1 steps and L ≥ 1 layers, got {described(numbers)}"
        )
    usable = _usable(numbers).all(axis=1)
    require(
        usable.all(),
        "table_schedule: values: expected finite multipliers of 0 or above "
        f"({float_type().name}); the first row with another one is row "
        f"{usable.argmin()}",
    )
    rows = jnp.asarray(numbers, float)

    def schedule(count: ArrayLike) -> jax.Array:
        return rows[jnp.clip(_counted(count).astype(int), 0, len(rows) - 1)]

    return schedule


def _levels_below_last(layers: Layers) -> np.ndarray:
    """Int array (L,): N − l, 0 on the last level."""
    return layers.level.max(initial=0) - layers.level


def _depth_below_last(layers: Layers) -> np.ndarray:
    """Float array (L,): (N − l)/N; 0 on the last level, also on the only one."""
    return _levels_below_last(layers) / max(1, layers.level.max(initial=0))


def _on_line(first: Number, last: Number, depth: np.ndarray) -> Any:
    """From first at depth 0 to last at depth 1, exact at both and where they agree."""
    inside = first + (last - first) * depth
    return _numpy_for(inside).where(depth == 1, last, inside)


def _numpy_for(*values: object) -> Any:
    """`jnp` where a value is a JAX array, traced or not; else `np`, in float64."""
    return jnp if any(isinstance(value, jax.Array) for value in values) else np


def _float(number: Any) -> Any:
    """In JAX's float type where it is a JAX array, else in float64."""
    if isinstance(number, jax.Array):
        return jnp.asarray(number, float)
    return np.asarray(number, float)[()]


def _alike(*numbers: Number) -> list[Any]:
    """Whole numbers as they are; all as floats where one of JAX's meets a fraction."""
    found = [plain(number) for number in numbers]
    if any(isinstance(n, jax.Array) for n in found) and not all(map(_is_whole, found)):
        return [jnp.asarray(number, float) for number in found]
    return found


def _times(number: Any, factors: np.ndarray) -> Any:
    """The products, which are whole where both are."""
    return number * (factors if _is_whole(number) else factors.astype(float))


def _is_whole(number: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(number), jnp.integer))


def _counted(count: ArrayLike) -> jax.Array:
    """As an integer of JAX; a float stays one."""
    if not isinstance(count, jax.Array):
        count = np.asarray(count)
        if jnp.issubdtype(count.dtype, jnp.integer):
            # NumPy counts on; the last step stands for edges that are never reached.
            count = np.minimum(count, _last_count() - 1)
    whole = jnp.issubdtype(count.dtype, jnp.integer)
    return jnp.asarray(count, int if whole else float)


def _last_count() -> int:
    return jnp.iinfo(jnp.result_type(int)).max


def _reached(count: jax.Array, steps: Any) -> jax.Array:
    """Whether count ≥ steps, which need not be whole; exact for integers."""
    if jnp.issubdtype(count.dtype, jnp.integer):
        return count >= _rounded("ceil", steps)
    return count >= _float(steps)


def _since(count: jax.Array, steps: Any) -> jax.Array:
    """The difference count − steps as a float, of integers formed as one."""
    if not jnp.issubdtype(count.dtype, jnp.integer):
        return count - _float(steps)
    whole = _rounded("floor", steps)
    return _float(count - whole) - (_float(steps) - _float(whole))


def _rounded(how: str, steps: Any) -> Any:
    """As integers that counts can reach, or the last of them."""
    if not isinstance(steps, jax.Array):
        rounded = getattr(np, how)(np.asarray(steps, float))
        return np.minimum(rounded, _last_count()).astype(int)
    if _is_whole(steps):
        return steps
    last = np.nextafter(np.asarray(_last_count(), float_type()), 0)
    return jnp.minimum(getattr(jnp, how)(steps), last).astype(int)


def _table(values: Any) -> Any:
    if isinstance(values, Tracer):
        return values
    try:
        return np.asarray(values)
    except TracerArrayConversionError:
        return jnp.asarray(values)
    except ValueError:  # rows of several lengths
        return np.array(None)


def _usable(numbers: Any) -> Any:
    """Where they are multipliers; what is traced passes."""
    return finite(numbers) & (isinstance(numbers, Tracer) or np.asarray(numbers) >= 0)


def _one_number(
    owner: str, multiplier: optax.ScalarOrSchedule, count: ArrayLike
) -> jax.Array:
    value = multiplier(count) if callable(multiplier) else multiplier
    number = real_array(value)
    if number is None or number.ndim:
        raise ValueError(
            f"{owner}: expected a schedule that returns one real number, got one that "
            f"returns {described(value)}"
        )
    return jnp.asarray(number, float)


def _check_multiplier(owner: str, value: Any) -> None:
    if callable(value):
        return
    if not is_number(value) or not bool(np.all(_usable(value))):
        raise ValueError(
            f"{owner}: expected a finite number of 0 or above ({float_type().name}) or "
            f"a schedule (count -> number), got {value!r}"
        )


def _check_above_0(owner: str, **numbers: Any) -> None:
    for name, value in numbers.items():
        require(value > 0, f"{owner}: {name}: expected a number above 0, got {value!r}")


def _check_0_or_above(owner: str, **numbers: Any) -> None:
    for name, value in numbers.items():
        require(
            value >= 0,
            f"{owner}: {name}: expected a number of 0 or above, got {value!r}",
        )


def _check_named(owner: str, value: object) -> None:
    if not isinstance(value, Mapping) or not all(
        isinstance(name, str) for name in cast(Mapping[object, object], value)
    ):
        raise ValueError(
            f"{owner}: expected a mapping from layer names to numbers or schedules, "
            f"got {reprlib.repr(cast(object, value))}"
        )
