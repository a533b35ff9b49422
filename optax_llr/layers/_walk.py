"""The walk over the equations of a jaxpr."""

from collections.abc import Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from ._found import Found
from ._primitives import (
    ADDITIVE,
    CALLS,
    COMBINERS,
    CONTRACTIONS,
    ELEMENTWISE,
    holds_jaxpr,
    live_equations,
    shape_of,
)
from ._values import (
    CONSTANT,
    INPUT,
    Activation,
    Value,
    Weights,
    common_rows,
    fitting,
    latest,
    paths_of,
    row_of,
    rows_after,
    same_value,
    whole,
)


class Walk:
    """The walk over a jaxpr, with a value for each variable."""

    def __init__(self, found: Found):
        self._found = found

    def closed(self, closed: ClosedJaxpr, args: Sequence[Value]) -> list[Value]:
        return self.jaxpr(closed.jaxpr, [CONSTANT] * len(closed.consts), args)

    def jaxpr(
        self, jaxpr: Jaxpr, consts: Sequence[Value], args: Sequence[Value]
    ) -> list[Value]:
        values: dict[Any, Value] = dict(zip(jaxpr.constvars, consts, strict=True))
        for var, value in zip(jaxpr.invars, args, strict=True):
            values[var] = fitting(value, shape_of(var))

        def read(atom: Any) -> Value:
            return CONSTANT if isinstance(atom, Literal) else values[atom]

        for eqn in live_equations(jaxpr):
            outputs = self._equation(eqn, [read(atom) for atom in eqn.invars])
            values |= zip(eqn.outvars, outputs, strict=True)
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: JaxprEqn, args: list[Value]) -> Sequence[Value]:
        name = eqn.primitive.name
        if name in CALLS:
            inner = eqn.params[CALLS[name]]
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
        if weights and name not in COMBINERS and holds_jaxpr(eqn.params):
            raise ValueError(
                f"trace_layers: cannot see into the primitive {name!r}, which "
                f"{paths_of(weights)} enter. Make the layers with `match_layers`"
            )
        if len(weights) < len(args) and latest(args):
            return self._meeting(name, args)
        if not weights:
            return CONSTANT
        matrices = [w for w in weights if not all(map(self._found.is_vector, w.parts))]
        return Weights(
            parts=frozenset().union(*(w.parts for w in weights)),
            rows=rows_after(eqn, args),
            applied=all(w.applied for w in matrices or weights)
            or (name in CONTRACTIONS and len(weights) < len(args)),
        )

    def _meeting(self, primitive: str, values: Sequence[Value]) -> Activation:
        """Values of which at least one depends on the input."""
        x = latest(values) or INPUT
        weights = [v for v in values if isinstance(v, Weights) and v.parts]
        waiting = frozenset().union(
            *(v.waiting for v in values if isinstance(v, Activation))
        )
        first = primitive in ADDITIVE or not waiting or not weights
        if x.level < 0 and primitive in ELEMENTWISE and first:
            return x._replace(waiting=waiting.union(*(w.parts for w in weights)))
        if waiting and (x.level >= 0 or weights or primitive in CONTRACTIONS):
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
            xs = [whole(x) for x in xs]
            carry, ys = self._loop(body, consts, carry, xs)
            return carry + [whole(y) for y in ys]
        # A backward pass slices once more, transposed, what has its layers already.
        stacked = [x for x in stacked if x.rows is not None or not self._found.knows(x)]
        mixed = [x for x in stacked if x.rows is None or len(x.rows) != length]
        if mixed:
            raise ValueError(
                f"trace_layers: a scan slices {paths_of(mixed)} in another way than "
                "each parameter along its axis 0, so the slices are no layers to scale "
                "by. Stack them along axis 0, or make the layers with `match_layers`"
            )
        all_ys: list[Sequence[Value]] = []
        for i in range(length)[:: -1 if eqn.params["reverse"] else 1]:
            outputs = self.closed(body, consts + carry + [row_of(x, i) for x in xs])
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
            if all(same_value(a, b) for a, b in zip(joined, carry, strict=True)):
                return joined, outputs[len(carry) :]
            carry = joined

    def _join(self, *values: Value) -> Value:
        """One value for what may be either: the later activation, or all weights."""
        if latest(values):
            return self._meeting("select_n", values)
        weights = [v for v in values if isinstance(v, Weights)]
        return Weights(
            parts=frozenset().union(*(w.parts for w in weights)),
            rows=common_rows(weights),
            applied=any(w.applied for w in weights),
        )
