"""What to read or print: multipliers by layer, and a table of the layers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from .._checks import is_number
from ..layers._layers import Layers, as_indices
from ..layers._paths import PyTree, quoted
from ..transforms._multipliers import Multipliers, belongs, evaluate, layer_states
from ..transforms._scale_by_layer import ScaleByLayerState
from ._arguments import check_layers, check_whole, known_leaves


def layer_multipliers(layers: Layers, opt_state: PyTree) -> dict[str, Any]:
    """The multipliers that the last step used, by layer name.

    Before the first step they are those of step 0. For logging; outside `jit` the
    values are Python floats (arrays under `vmap`).

    Args:
        layers: the `Layers` that the transformation was made with.
        opt_state: an optimizer state with the state of one `scale_by_layer` of these
            layers somewhere in it (chained, masked, in `nnx.Optimizer`, …).

    Returns:
        A number for each name of `layers`.

    Raises:
        ValueError: if `opt_state` holds no such state, or several: give the one that
            is meant, for example `opt_state[1]`.

    Example:
        >>> import jax.numpy as jnp, numpy as np, optax_llr
        >>> params = {"stem": jnp.ones(3), "head": jnp.ones(2)}
        >>> rules = [("stem", "stem"), ("head", "head")]
        >>> layers = optax_llr.match_layers(params, rules)
        >>> state = optax_llr.scale_by_layer(layers, np.array([1.5, 0.5])).init(params)
        >>> optax_llr.layer_multipliers(layers, state)
        {'stem': 1.5, 'head': 0.5}
    """
    state = _state_of("layer_multipliers", layers, opt_state)
    return _by_name(layers, state.multipliers)


def layer_rates(
    layers: Layers, opt_state: PyTree, rate: optax.ScalarOrSchedule
) -> dict[str, Any]:
    """The learning rates of the last step, by layer name: global rate × multiplier.

    For logging, as `layer_multipliers`. An optimizer with adaptive steps (Adam, say)
    divides by more than that; it is what a parameter group of PyTorch calls its `lr`.

    Args:
        layers: the `Layers` that the transformation was made with.
        opt_state: an optimizer state, as for `layer_multipliers`.
        rate: the global learning rate, or the schedule of it that the optimizer was
            given; a schedule is read at the last step.

    Returns:
        A number for each name of `layers`.

    Raises:
        ValueError: if `opt_state` holds no such state, or several; if rate is neither a
            number nor a schedule.

    Example:
        >>> import jax.numpy as jnp, numpy as np, optax, optax_llr
        >>> params = {"stem": jnp.ones(3), "head": jnp.ones(2)}
        >>> layers = optax_llr.match_layers(params, [(k, k) for k in params])
        >>> rate = optax.linear_schedule(0.5, 0.0, 10)
        >>> optimizer = optax.chain(
        ...     optax.sgd(rate),
        ...     optax_llr.scale_by_layer(layers, np.array([0.25, 1.0])))
        >>> _, state = optimizer.update(params, optimizer.init(params))
        >>> optax_llr.layer_rates(layers, state, rate)
        {'stem': 0.125, 'head': 0.5}
    """
    state = _state_of("layer_rates", layers, opt_state)
    multipliers = state.multipliers
    now: Any = rate
    if callable(rate):  # the count is that of the next step
        now = rate(jnp.maximum(jnp.asarray(state.count) - 1, 0))
    elif not is_number(rate):
        raise ValueError(
            "layer_rates: rate: expected a finite real number or a schedule, got "
            f"{rate!r}"
        )
    rates = jnp.asarray(now, multipliers.dtype)
    return _by_name(layers, multipliers * rates[..., None])


def _state_of(function: str, layers: Layers, opt_state: PyTree) -> ScaleByLayerState:
    """The one state of `scale_by_layer` that belongs to these layers."""
    check_layers(function, layers, opt_state=opt_state)
    states = [s for s in layer_states(opt_state) if isinstance(s, ScaleByLayerState)]
    ours = [state for state in states if belongs(state, layers)]
    if len(ours) != 1:
        raise ValueError(
            f"{function}: opt_state: expected one state of scale_by_layer that belongs "
            f"to the layers {quoted(layers.names)}, got {len(ours)}, and "
            f"{len(states) - len(ours)} of other layers; of several, pass the one that "
            "is meant (`opt_state[1]`, say); after a change of layers, use "
            "`reassign_layers(layers, opt_state)`"
        )
    return ours[0]


def _by_name(layers: Layers, values: jax.Array) -> dict[str, Any]:
    if not isinstance(values, Tracer):
        values = np.asarray(values)  # pyright: ignore
        if values.ndim == 1:
            return dict(zip(layers.names, values.tolist(), strict=True))
    return {name: values[..., i] for i, name in enumerate(layers.names)}


def layer_table(
    layers: Layers,
    params: PyTree,
    multipliers: Multipliers | None = None,
    steps: int | None = None,
) -> str:
    """A table to print: level, layer, number of parameters, multipliers over time.

    Args:
        layers: the `Layers`.
        params: the parameters; `jax.ShapeDtypeStruct` suffice.
        multipliers: an array (L,) or a schedule `count -> (L,)`.
        steps: total number of steps, an int above 0; a schedule is shown at 0, ¼, ½, ¾
            and the whole of it. Needed where `multipliers` is a schedule.

    Returns:
        The table, a line for each layer, without a final newline.

    Raises:
        ValueError: for a parameter that `layers` does not know, a stacked one with
            another number of slices, multipliers that are not of shape (L,), or a
            schedule without `steps`.

    Example:
        >>> import numpy as np, optax, optax_llr
        >>> params = {"stem": np.ones((3, 8)), "head": np.ones((8, 2))}
        >>> rules = [("stem", "stem"), ("head", "head")]
        >>> layers = optax_llr.match_layers(params, rules)
        >>> schedule = optax.linear_schedule(np.array([2, 1]), np.array([0, 1]), 100)
        >>> print(optax_llr.layer_table(layers, params, schedule, steps=100))
        level  layer  parameters    t=0   t=25   t=50   t=75  t=100
            0  stem           24      2    1.5      1    0.5      0
            1  head           16      1      1      1      1      1
    """
    check_layers("layer_table", layers, params=params, multipliers=multipliers)
    sizes = np.zeros(len(layers), np.int64)
    for path, leaf in known_leaves("layer_table", layers, "params", params).items():
        indices = as_indices(layers.members[path])
        # Not +=, which counts an index that repeats only once.
        np.add.at(sizes, list(indices), math.prod(jnp.shape(leaf)) // len(indices))
    columns = {
        "level": [str(level) for level in layers.level],
        "layer": list(layers.names),
        "parameters": [f"{size:,}" for size in sizes],
        **_multiplier_columns(layers, multipliers, steps),
    }
    return aligned(columns, left=("layer",))


def aligned(columns: Mapping[str, Sequence[str]], left: Sequence[str]) -> str:
    """Text in columns, to the right but for those that are named."""
    widths = {
        head: max(len(cell) for cell in (head, *cells))
        for head, cells in columns.items()
    }
    rows = [list(columns), *map(list, zip(*columns.values(), strict=True))]
    return "\n".join(
        "  ".join(
            f"{cell:{'<' if head in left else '>'}{width}}"
            for cell, (head, width) in zip(row, widths.items(), strict=True)
        ).rstrip()
        for row in rows
    )


def _multiplier_columns(
    layers: Layers, multipliers: Multipliers | None, steps: int | None
) -> dict[str, list[str]]:
    if multipliers is None:
        return {}
    if not callable(multipliers):
        return {"multiplier": _cells(layers, multipliers, 0)}
    whole = check_whole("layer_table", "steps", steps)
    counts = sorted({whole * quarter // 4 for quarter in range(5)})
    return {f"t={c}": _cells(layers, multipliers, c) for c in counts}


def _cells(layers: Layers, multipliers: Multipliers, count: int) -> list[str]:
    values = evaluate("layer_table", layers, multipliers, count)
    return [f"{value:>5.4g}" for value in np.asarray(values)]
