"""trace_layers: the layers of a model in forward order, read off its own jaxpr.

One walk over the equations. Each variable holds either `Weights`, a function of
parameters alone, or an `Activation`, which depends on the input and knows how many
layers lie behind it. Where the two meet, a layer is found.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from ._layers import (
    Layers,
    Member,
    PyTree,
    as_indices,
    leaves_by_path,
    natural_key,
    quoted,
)

# Primitives that call a jaxpr with their own operands, and where they keep it.
_CALLS = {
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "composite": "jaxpr",
    "shard_map": "jaxpr",
}
# Primitives whose jaxprs say how operands are combined, and bring in no others.
_COMBINERS = {
    *("reduce", "reduce_window", "select_and_scatter", "custom_linear_solve"),
    *("scatter", "scatter-add", "scatter-sub", "scatter-mul"),
    *("scatter-min", "scatter-max"),
}
# Operands stand side by side here: what they add to each other is parallel.
_ADDITIVE = {
    *("add", "add_any", "sub", "max", "min", "select_n", "concatenate", "pad"),
    *("dynamic_update_slice", "scatter", "scatter-add"),
}
_ELEMENTWISE = _ADDITIVE | {
    *("mul", "div", "pow", "rem", "atan2", "clamp", "eq", "ne", "lt", "le", "gt", "ge"),
}
_CONTRACTIONS = {"dot_general", "conv_general_dilated", "ragged_dot_general"}
# Equations through which slice i of axis 0 stays slice i.
_KEEP_ROWS = {
    *("add", "sub", "mul", "div", "max", "min", "neg", "abs", "sign", "pow", "square"),
    *("integer_pow", "sqrt", "rsqrt", "cbrt", "exp", "exp2", "expm1", "log", "log1p"),
    *("sin", "cos", "tanh", "logistic", "erf", "floor", "ceil", "round", "clamp"),
    *("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "select_n", "copy"),
    *("convert_element_type", "reduce_precision", "stop_gradient", "name"),
    *("sharding_constraint",),
}
_REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod"}

Part: TypeAlias = tuple[str, int | None]  # a parameter's path, and which slice of it
Unit: TypeAlias = tuple[str, int | None]  # a module or group, and which slice of it


@dataclasses.dataclass(frozen=True)
class Weights:
    """A value made of parameters and constants only."""

    parts: frozenset[Part] = frozenset()
    # For each index of the leading axes, which slice of the parameters it is;
    # None where that is not known (transposed, mixed) or a slice has been taken.
    rows: np.ndarray | None = None
    # Whether it is already a layer's output, for a constant input (an RNN's zeros).
    applied: bool = False


class Activation(NamedTuple):
    """A value that depends on the input: its level, and the layer it came from."""

    level: int
    layer: int
    # Parameters that met an input elementwise. If that was the data they are a layer
    # before the first; if it was a mask or a norm's running variance, not yet.
    waiting: frozenset[Part] = frozenset()


Value: TypeAlias = Weights | Activation

_CONSTANT = Weights()
_INPUT = Activation(level=-1, layer=-1)


def trace_layers(
    fn: Callable[..., Any],
    params: PyTree,
    *args: Any,
    group: Callable[[str], str] | None = None,
    **kwargs: Any,
) -> Layers:
    """Finds the layers of a model, in forward order, from its own computation.

    `fn` is traced, not run. Parameters of one module (`conv1/kernel`, `conv1/bias`)
    form a layer; a module that has only vectors and applies them elementwise (a norm)
    joins the layer that feeds it. Names and their order play no part.

    The level of a layer is the number of layers on the longest path from the input to
    it. What runs side by side (a projection shortcut; queries, keys and values; token
    and position embeddings) shares a level; tied weights count at their first use.
    Parameters that `jax.lax.scan` slices along axis 0 become one layer a slice,
    `name[0]`, `name[1]`, …; in a scan over time, whose inputs are activations, they
    stay one. A stacked parameter that is not scanned is one layer.

    Args:
        fn: a forward pass or a loss, called as `fn(params, *args, **kwargs)`.
        params: the parameters, as the optimizer will be given them. Arrays or
            `jax.ShapeDtypeStruct`.
        *args: inputs. Whatever has a shape and a dtype counts as input, also random
            keys and batch statistics; everything else (flags, sizes) is static.
            State that only serves to rescale weights is closed over instead.
        group: from a parameter's path to the name of its layer. Given, it decides
            alone: norms join no other layer; only the slices of a scanned parameter
            stay apart. One layer a module, norms too, is
            `group=lambda path: path.rpartition("/")[0]`.
        **kwargs: more inputs, by name.

    Returns:
        The `Layers`, ordered by level and then by first use.

    Raises:
        ValueError: naming the parameters, if some are never used, are scanned along
            another axis than 0, or enter a primitive that holds a jaxpr unknown here;
            if there is no input, or `group` gives no name. `match_layers` serves
            models that cannot be traced.

    Example:
        >>> import jax, jax.numpy as jnp, optax_llr
        >>> params = {"b": {"w": jnp.ones((4, 8))}, "a": {"w": jnp.ones((8, 2))}}
        >>> def forward(params, x):
        ...     return jax.nn.relu(x @ params["b"]["w"]) @ params["a"]["w"]
        >>> optax_llr.trace_layers(forward, params, jnp.ones((1, 4))).names
        ('b', 'a')
    """
    leaves, treedef = jax.tree.flatten(params)
    inputs, input_treedef = jax.tree.flatten((args, kwargs))
    paths = list(leaves_by_path(params))
    of_params = [i for i, leaf in enumerate(leaves) if _is_array(leaf)]
    of_inputs = [i for i, leaf in enumerate(inputs) if _is_array(leaf)]

    def flat(param_arrays: Sequence[Any], input_arrays: Sequence[Any]) -> list[Any]:
        merged = _replaced(leaves, of_params, param_arrays)
        call_args, call_kwargs = input_treedef.unflatten(
            _replaced(inputs, of_inputs, input_arrays)
        )
        outputs = fn(treedef.unflatten(merged), *call_args, **call_kwargs)
        return [leaf for leaf in jax.tree.leaves(outputs) if _is_array(leaf)]

    shapes = {paths[i]: tuple(leaves[i].shape) for i in of_params}
    if not shapes or not of_inputs:
        raise ValueError(
            "trace_layers: expected parameters and at least one input array, as "
            f"trace_layers(forward, params, x); got {len(shapes)} parameters and "
            f"{len(of_inputs)} input arrays. What `forward` closes over is no input"
        )
    closed = jax.make_jaxpr(flat)(
        [leaves[i] for i in of_params], [inputs[i] for i in of_inputs]
    )
    found = _Found(shapes, group)
    values: list[Value] = [
        Weights(frozenset([(path, None)]), np.arange(shape[0]) if shape else None)
        for path, shape in shapes.items()
    ]
    outputs = _Walk(found).closed(closed, values + [_INPUT] * len(of_inputs))
    found.finish(outputs)
    return found.to_layers()


class _Found:
    """The layers found so far: where each module was first met, and by what."""

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], group: Callable[[str], str] | None
    ):
        self._shapes = shapes
        self._owner = (
            _owning_modules(shapes) if group is None else _named(group, shapes)
        )
        self._owned = collections.defaultdict[str, list[str]](list)
        for path, owner in self._owner.items():
            self._owned[owner].append(path)
        self._norms_join = group is None
        self._names: list[str] = []
        self._levels: list[int] = []
        self._placed: dict[Unit, int] = {}
        # For each parameter, the layer of each slice met; of the whole under None.
        self._layer = collections.defaultdict[str, dict[int | None, int]](dict)

    def meet(self, weights: Weights, x: Activation, primitive: str) -> Activation:
        """Weights meet an activation: their modules are layers from here on."""
        parts = sorted(weights.parts, key=lambda part: natural_key(part[0]))
        units = list(dict.fromkeys(self._unit(part) for part in parts))
        joining = [u for u in units if self._norms_join and self._has_only_vectors(u)]
        proper = [u for u in units if u not in joining]
        for unit in proper:
            matrix = any(not self.is_vector(p) for p in parts if self._unit(p) == unit)
            if matrix and primitive in ("mul", "div") and not weights.applied:
                self._refuse_rescaled(unit, parts, x)
            parallel = weights.applied or (primitive in _ADDITIVE and matrix)
            self._place(unit, max(x.level, 0) if parallel else x.level + 1)
        for unit in joining:
            if proper:  # the scale of a normalised weight, say
                self._placed.setdefault(unit, self._placed[proper[0]])
            elif primitive in _ELEMENTWISE and x.layer >= 0:
                self._placed.setdefault(unit, x.layer)
            else:
                self._place(unit, x.level + 1)
        for part in parts:
            path, row = part
            layer = self._layer[path].setdefault(row, self._placed[self._unit(part)])
            x = max(x, Activation(self._levels[layer], layer))
        return x

    def finish(self, outputs: Iterable[Value]) -> None:
        """Parameters that are outputs themselves (a learned scale) come last."""
        last = Activation(max(self._levels, default=-1), len(self._levels) - 1)
        for value in outputs:
            if isinstance(value, Activation) and value.waiting:
                self.meet(Weights(value.waiting), _INPUT, "output")
            elif isinstance(value, Weights) and value.parts and self._levels:
                self.meet(dataclasses.replace(value, applied=True), last, "output")

    def to_layers(self) -> Layers:
        self._demand_all_used()
        members = {path: self._layers_of(path) for path in self._shapes}
        used = {i for at in members.values() for i in as_indices(at)}
        order = sorted(used, key=lambda i: (self._levels[i], i))
        rank = {old: new for new, old in enumerate(order)}
        return Layers(
            names=tuple(self._names[i] for i in order),
            level=np.array([self._levels[i] for i in order]),
            members={
                path: rank[at] if isinstance(at, int) else tuple(rank[i] for i in at)
                for path, at in members.items()
            },
        )

    def knows(self, weights: Weights) -> bool:
        return all(self._layer[path] for path, _ in weights.parts)

    def is_vector(self, part: Part) -> bool:
        path, row = part
        shape = self._shapes[path] if row is None else self._shapes[path][1:]
        return sum(size > 1 for size in shape) <= 1

    def _refuse_rescaled(
        self, unit: Unit, parts: Sequence[Part], x: Activation
    ) -> None:
        """A kernel times what the same kernel made of an input has no level."""
        ours = [path for path, _ in parts if self._owner[path] == unit[0]]
        if self._placed.get(unit) == x.layer and any(self._layer[p] for p in ours):
            raise ValueError(
                f"trace_layers: {quoted(ours)} are rescaled by what an input makes of "
                "them (as spectral norm does by its state). Close over that input "
                "instead of passing it"
            )

    def _demand_all_used(self) -> None:
        unused = [
            _part_name(path, row)
            for path in self._shapes
            for row in self._rows(path)
            if not {row, None} & self._layer[path].keys()
        ]
        if unused:
            raise ValueError(
                "trace_layers: the computation on the input never uses "
                f"{quoted(unused)}. Leave them out of the parameters, or make the "
                "layers with `match_layers`"
            )

    def _layers_of(self, path: str) -> Member:
        found = self._layer[path]
        at = [found[row] if row in found else found[None] for row in self._rows(path)]
        return at[0] if self._rows(path) == [None] else tuple(at)

    def _rows(self, path: str) -> list[int | None]:
        """The slices of a parameter that some scan has taken; a whole has row None."""
        if any(row is not None for row in self._layer[path]):
            return list(range(self._shapes[path][0]))
        return [None]

    def _unit(self, part: Part) -> Unit:
        path, row = part
        return self._owner[path], row

    def _place(self, unit: Unit, level: int) -> None:
        if unit not in self._placed:
            name, row = unit
            self._placed[unit] = len(self._names)
            self._names.append(_part_name(name, row))
            self._levels.append(level)

    def _has_only_vectors(self, unit: Unit) -> bool:
        name, row = unit
        return all(self.is_vector((path, row)) for path in self._owned[name])


class _Walk:
    """The walk over a jaxpr, with a value for each variable."""

    def __init__(self, found: _Found):
        self._found = found

    def closed(self, closed: ClosedJaxpr, args: Sequence[Value]) -> list[Value]:
        return self.jaxpr(closed.jaxpr, [_CONSTANT] * len(closed.consts), args)

    def jaxpr(
        self, jaxpr: Jaxpr, consts: Sequence[Value], args: Sequence[Value]
    ) -> list[Value]:
        values: dict[Any, Value] = dict(zip(jaxpr.constvars, consts, strict=True))
        for var, value in zip(jaxpr.invars, args, strict=True):
            values[var] = _fitting(value, _shape(var))

        def read(atom: Any) -> Value:
            return _CONSTANT if isinstance(atom, Literal) else values[atom]

        for eqn in _live(jaxpr):
            outputs = self._equation(eqn, [read(atom) for atom in eqn.invars])
            values |= zip(eqn.outvars, outputs, strict=True)
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: JaxprEqn, args: list[Value]) -> Sequence[Value]:
        name = eqn.primitive.name
        if name in _CALLS:
            inner = eqn.params[_CALLS[name]]
            if isinstance(inner, ClosedJaxpr):
                return self.closed(inner, args)
            return self.jaxpr(inner, [], args)
        match name:
            case "scan":
                return self._scan(eqn, args)
            case "while":
                return self._while(eqn, args)
            case "cond":
                return self._cond(eqn, args)
            case "optimization_barrier":
                return args
            case _:
                return [self._operation(eqn, args)] * len(eqn.outvars)

    def _operation(self, eqn: JaxprEqn, args: Sequence[Value]) -> Value:
        name = eqn.primitive.name
        weights = [v for v in args if isinstance(v, Weights) and v.parts]
        if weights and name not in _COMBINERS and _holds_jaxpr(eqn.params):
            raise ValueError(
                f"trace_layers: cannot see into the primitive {name!r}, which "
                f"{_paths(weights)} enter. Make the layers with `match_layers`"
            )
        if len(weights) < len(args) and _latest(args):
            return self._meeting(name, args)
        if not weights:
            return _CONSTANT
        matrices = [w for w in weights if not all(map(self._found.is_vector, w.parts))]
        return Weights(
            parts=frozenset().union(*(w.parts for w in weights)),
            rows=_rows_after(eqn, args),
            applied=all(w.applied for w in matrices or weights)
            or (name in _CONTRACTIONS and len(weights) < len(args)),
        )

    def _meeting(self, primitive: str, values: Sequence[Value]) -> Activation:
        """Values of which at least one depends on the input."""
        x = _latest(values) or _INPUT
        weights = [v for v in values if isinstance(v, Weights) and v.parts]
        waiting = frozenset().union(
            *(v.waiting for v in values if isinstance(v, Activation))
        )
        first = primitive in _ADDITIVE or not waiting or not weights
        if x.level < 0 and primitive in _ELEMENTWISE and first:
            return x._replace(waiting=waiting.union(*(w.parts for w in weights)))
        if waiting and (x.level >= 0 or weights or primitive in _CONTRACTIONS):
            x = self._found.meet(
                Weights(waiting), x._replace(waiting=frozenset()), primitive
            )
        for weight in weights:
            x = max(x, self._found.meet(weight, x, primitive))
        return x

    def _scan(self, eqn: JaxprEqn, args: list[Value]) -> Sequence[Value]:
        body, split = eqn.params["jaxpr"], eqn.params["num_consts"]
        length, num_carry = eqn.params["length"], eqn.params["num_carry"]
        consts, carry = args[:split], args[split : split + num_carry]
        xs = args[split + num_carry :]
        stacked = [x for x in xs if isinstance(x, Weights) and x.parts]
        if not stacked or self._runs_over_time(xs, carry):
            xs = [_whole(x) for x in xs]
            carry, ys = self._loop(body, consts, carry, xs)
            return carry + [_whole(y) for y in ys]
        # A backward pass slices once more, transposed, what has its layers already.
        stacked = [x for x in stacked if x.rows is not None or not self._found.knows(x)]
        mixed = [x for x in stacked if x.rows is None or len(x.rows) != length]
        if mixed:
            raise ValueError(
                f"trace_layers: a scan slices {_paths(mixed)} in another way than each "
                "parameter along its axis 0, so the slices are no layers to scale by. "
                "Stack them along axis 0, or make the layers with `match_layers`"
            )
        all_ys: list[Sequence[Value]] = []
        for i in range(length)[:: -1 if eqn.params["reverse"] else 1]:
            outputs = self.closed(body, consts + carry + [_slice(x, i) for x in xs])
            carry = outputs[:num_carry]
            all_ys.append(outputs[num_carry:])
        return carry + [self._join(*ys) for ys in zip(*all_ys, strict=True)]

    def _runs_over_time(self, xs: Sequence[Value], carry: Sequence[Value]) -> bool:
        """Whether a scan that slices parameters is no stack of layers.

        Both slice activations too (a stack its skip connections, say). Over time the
        parameters are vectors for each step, or what is carried starts from nothing.
        """
        if not any(isinstance(x, Activation) for x in xs):
            return False
        parts = [part for x in xs if isinstance(x, Weights) for part in x.parts]
        return all(self._found.is_vector((path, 0)) for path, _ in parts) or all(
            isinstance(c, Weights) and not c.parts for c in carry
        )

    def _while(self, eqn: JaxprEqn, args: list[Value]) -> Sequence[Value]:
        of_cond, of_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        consts = args[of_cond : of_cond + of_body]
        start = args[of_cond + of_body :]
        carry, _ = self._loop(eqn.params["body_jaxpr"], consts, start, [])
        self.closed(eqn.params["cond_jaxpr"], args[:of_cond] + carry)
        return carry

    def _cond(self, eqn: JaxprEqn, args: list[Value]) -> Sequence[Value]:
        index, operands = args[0], args[1:]
        branches = [self.closed(b, operands) for b in eqn.params["branches"]]
        return [self._join(index, *values) for values in zip(*branches, strict=True)]

    def _loop(
        self,
        body: ClosedJaxpr,
        consts: list[Value],
        carry: list[Value],
        xs: list[Value],
    ) -> tuple[list[Value], list[Value]]:
        """Runs a body until what it carries no longer changes.

        That is soon: weights count at first use, so levels stop growing.
        """
        while True:
            outputs = self.closed(body, consts + carry + xs)
            joined = [
                self._join(before, after)
                for before, after in zip(carry, outputs, strict=False)
            ]
            if all(_same(a, b) for a, b in zip(joined, carry, strict=True)):
                return joined, outputs[len(carry) :]
            carry = joined

    def _join(self, *values: Value) -> Value:
        """One value for what may be either: the later activation, or all weights."""
        if _latest(values):
            return self._meeting("select_n", values)
        weights = [v for v in values if isinstance(v, Weights)]
        return Weights(
            parts=frozenset().union(*(w.parts for w in weights)),
            rows=_common_rows(weights),
            applied=any(w.applied for w in weights),
        )


def _latest(values: Iterable[Value]) -> Activation | None:
    activations = [v for v in values if isinstance(v, Activation)]
    return max(activations, key=lambda x: (x.level, x.layer), default=None)


def _owning_modules(paths: Iterable[str]) -> dict[str, str]:
    """The module of each parameter; what lies in a list, or alone, is its own."""

    def owner(path: str) -> str:
        module, _, name = path.rpartition("/")
        return path if not module or name.isdecimal() else module

    owners = {path: owner(path) for path in paths}
    alone = len(set(owners.values())) == 1
    return {path: path for path in owners} if alone else owners


def _named(group: Callable[[str], Any], paths: Iterable[str]) -> dict[str, str]:
    names = {path: group(path) for path in paths}
    for path, name in names.items():
        if not isinstance(name, str):
            raise ValueError(
                f"trace_layers: group must return the name of a layer, a str; got "
                f"{name!r} for {path!r}"
            )
    return names


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def _replaced(
    leaves: Sequence[Any], at: Sequence[int], values: Sequence[Any]
) -> list[Any]:
    new = dict(zip(at, values, strict=True))
    return [new.get(i, leaf) for i, leaf in enumerate(leaves)]


def _part_name(name: str, row: int | None) -> str:
    return name if row is None else f"{name}[{row}]"


def _paths(weights: Iterable[Weights]) -> str:
    return quoted(sorted({path for w in weights for path, _ in w.parts}))


def _live(jaxpr: Jaxpr) -> list[JaxprEqn]:
    """The equations that an output or an effect depends on."""
    needed = {v for v in jaxpr.outvars if not isinstance(v, Literal)}
    live: list[JaxprEqn] = []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or any(v in needed for v in eqn.outvars):
            live.append(eqn)
            needed |= {v for v in eqn.invars if not isinstance(v, Literal)}
    return live[::-1]


def _holds_jaxpr(params: Mapping[str, Any]) -> bool:
    values = [
        v
        for value in params.values()
        for v in (value if isinstance(value, tuple | list) else [value])
    ]
    return any(isinstance(v, Jaxpr | ClosedJaxpr) for v in values)


def _same(a: Value, b: Value) -> bool:
    if isinstance(a, Weights) and isinstance(b, Weights):
        return (a.parts, a.applied) == (b.parts, b.applied)
    return a == b


def _whole(value: Value) -> Value:
    """The value without its slices: they stand for time here, not for layers."""
    if isinstance(value, Weights):
        return dataclasses.replace(value, rows=None)
    return value


def _fitting(value: Value, shape: tuple[int, ...]) -> Value:
    rows = None if isinstance(value, Activation) else value.rows
    return value if rows is None or rows.shape == shape[: rows.ndim] else _whole(value)


def _slice(value: Value, i: int) -> Value:
    if isinstance(value, Activation) or value.rows is None:
        return value
    row = value.rows[i]
    if np.ndim(row):
        return dataclasses.replace(value, rows=row)
    parts = frozenset((path, int(row)) for path, _ in value.parts)
    return dataclasses.replace(value, parts=parts, rows=None)


def _common_rows(weights: Sequence[Weights]) -> np.ndarray | None:
    first, *others = [w.rows for w in weights if w.parts] or [None]
    if first is None or any(r is None or not np.array_equal(first, r) for r in others):
        return None
    return first


def _rows_after(eqn: JaxprEqn, args: Sequence[Value]) -> np.ndarray | None:
    """Which slice of the parameters each leading index of an equation's output is."""
    rows = _common_rows([v for v in args if isinstance(v, Weights)])
    if rows is None or len(eqn.outvars) != 1:
        return None
    shape, name, params = _shape(eqn.outvars[0]), eqn.primitive.name, eqn.params
    leading = tuple(range(rows.ndim))
    if name in _KEEP_ROWS:
        return rows if shape[: rows.ndim] == rows.shape else None
    if name in _REDUCTIONS:
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


def _shape(var: Any) -> tuple[int, ...]:
    return tuple(var.aval.shape)


def _reshaped_rows(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    for ndim in range(1, len(shape) + 1):
        if np.prod(shape[:ndim]) == rows.size:
            return rows.reshape(shape[:ndim])
    return None
