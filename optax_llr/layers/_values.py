"""What a variable of the walk holds: parameters, or an activation."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from jax.extend.core import JaxprEqn

from ._graph import INPUT as INPUT_NODE
from ._paths import quoted
from ._primitives import KEEP_ROWS, REDUCTIONS, shape_of

Part: TypeAlias = tuple[str, int | None]  # a parameter's path, and which slice of it
Unit: TypeAlias = tuple[str, int | None]  # a module or group, and which slice of it


@dataclasses.dataclass(frozen=True)
class Weights:
    """A value made of parameters and constants only."""

    parts: frozenset[Part] = frozenset()
    # For each index of the leading axes, which slice of the parameters it is;
    # None where that is not known (transposed, mixed) or a slice has been taken.
    rows: np.ndarray | None = None
    # Where it is the output of layers for a constant input (an RNN's zeros, a learned
    # query): what they apply, layer by layer.
    stages: tuple[frozenset[Part], ...] = ()
    # Of which it is more than a statistic or a slice.
    full: frozenset[Part] = frozenset()


class Activation(NamedTuple):
    """A value that depends on the input, by its node in the graph."""

    node: int
    # Parameters that met an input elementwise. If that was the data they are a layer
    # before the first; if it was a mask or a norm's running variance, not yet.
    waiting: frozenset[Part] = frozenset()


Value: TypeAlias = Weights | Activation


CONSTANT = Weights()


INPUT = Activation(INPUT_NODE)


def whole(value: Value) -> Value:
    """The value without its slices: they stand for time here, not for layers."""
    if isinstance(value, Weights):
        return dataclasses.replace(value, rows=None)
    return value


def fitting(value: Value, shape: tuple[int, ...]) -> Value:
    rows = None if isinstance(value, Activation) else value.rows
    return value if rows is None or rows.shape == shape[: rows.ndim] else whole(value)


def row_of(value: Value, i: int) -> Value:
    if isinstance(value, Activation) or value.rows is None:
        return value
    row = value.rows[i]
    if np.ndim(row):
        return dataclasses.replace(value, rows=row)

    def sliced(parts: Iterable[Part]) -> frozenset[Part]:
        return frozenset((path, int(row)) for path, _ in parts)

    stages = tuple(map(sliced, value.stages))
    return dataclasses.replace(
        value,
        parts=sliced(value.parts),
        rows=None,
        stages=stages,
        full=sliced(value.full),
    )


def all_parts(weights: Iterable[Weights]) -> frozenset[Part]:
    return frozenset[Part]().union(*(w.parts for w in weights))


def merged_stages(weights: Iterable[Weights]) -> tuple[frozenset[Part], ...]:
    """The stages of values that meet: those that came last stand side by side."""
    stages: list[frozenset[Part]] = []
    for weight in weights:
        for i, parts in enumerate(reversed(weight.stages)):
            if i == len(stages):
                stages.append(parts)
            else:
                stages[i] |= parts
    return tuple(reversed(stages))


def common_rows(weights: Sequence[Weights]) -> np.ndarray | None:
    first, *others = [w.rows for w in weights if w.parts] or [None]
    if first is None or any(r is None or not np.array_equal(first, r) for r in others):
        return None
    return first


def rows_after(eqn: JaxprEqn, args: Sequence[Value]) -> np.ndarray | None:
    """Which slice of the parameters each leading index of an equation's output is."""
    rows = common_rows([v for v in args if isinstance(v, Weights)])
    if rows is None or len(eqn.outvars) != 1:
        return None
    shape, name, params = shape_of(eqn.outvars[0]), eqn.primitive.name, eqn.params
    leading = tuple(range(rows.ndim))
    if name in KEEP_ROWS:
        return rows if shape[: rows.ndim] == rows.shape else None
    if name in REDUCTIONS:
        return rows if min(params["axes"], default=rows.ndim) >= rows.ndim else None
    match name:
        case "dot_general":
            _, (left, right) = params["dimension_numbers"]
            batched = tuple(left)[: rows.ndim] == tuple(right)[: rows.ndim] == leading
            return rows if batched else None
        case "reshape":
            return _reshaped_rows(rows, shape)
        case "transpose":
            return rows if params["permutation"][: rows.ndim] == leading else None
        case "slice":
            strides = params["strides"] or (1,) * len(params["start_indices"])
            bounds = zip(
                params["start_indices"], params["limit_indices"], strides, strict=True
            )
            return rows[tuple(slice(*b) for b in bounds)[: rows.ndim]]
        case "rev":
            return np.flip(rows, tuple(d for d in params["dimensions"] if d in leading))
        case "squeeze":
            return rows.squeeze(tuple(d for d in params["dimensions"] if d in leading))
        case "broadcast_in_dim":
            kept = params["broadcast_dimensions"][: rows.ndim] == leading
            return rows if kept and shape[: rows.ndim] == rows.shape else None
        case _:
            return None


def _reshaped_rows(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    for ndim in range(1, len(shape) + 1):
        if np.prod(shape[:ndim]) == rows.size:
            return rows.reshape(shape[:ndim])
    return None


def paths_of(weights: Iterable[Weights]) -> str:
    return quoted(sorted({path for w in weights for path, _ in w.parts}))
