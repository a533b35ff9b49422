"""The walk over the equations of a jaxpr."""

import math
from collections.abc import Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from ._found import Found
from ._primitives import (
    ADDITIVE,
    CALLS,
    CONTRACTIONS,
    ELEMENTWISE,
    OPAQUE,
    holds_jaxpr,
    live_equations,
    shape_of,
)
from ._values import (
    CONSTANT,
    Activation,
    Part,
    Value,
    Weights,
    all_parts,
    common_rows,
    fitting,
    merged_stages,
    paths_of,
    row_of,
    rows_after,
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
        # What holds a jaxpr of its own (a Pallas kernel) combines its operands.
        name = eqn.primitive.name
        if name not in ELEMENTWISE and holds_jaxpr(eqn.params):
            name = OPAQUE
        weights = [v for v in args if isinstance(v, Weights) and v.parts]
        if any(isinstance(v, Activation) for v in args):
            return self._meeting(name, args)
        if not weights:
            return CONSTANT
        size = math.prod(shape_of(eqn.outvars[0]))
        full = [
            v.full
            for atom, v in zip(eqn.invars, args, strict=True)
            if isinstance(v, Weights) and size >= math.prod(shape_of(atom))
        ]
        return Weights(
            parts=all_parts(weights),
            rows=rows_after(eqn, args),
            stages=self._stages(name, args, weights),
            full=frozenset[Part]().union(*full),
        )

    def _stages(
        self, primitive: str, args: Sequence[Value], weights: Sequence[Weights]
    ) -> tuple[frozenset[Part], ...]:
        """Which layers, one by one, have made this of a constant or a parameter."""
        staged = [w for w in weights if w.stages]
        others = [w for w in weights if not w.stages]
        if primitive in CONTRACTIONS and len(others) == 1:
            [kernel] = others
            if staged:  # the next layer
                new = kernel.parts - all_parts(staged)
                return merged_stages(staged) + ((new,) if new else ())
            return (kernel.parts,) if len(args) > 1 else ()
        if primitive in CONTRACTIONS and len(others) == 2:
            return self._found.as_layer_of(*others)
        known = all_parts(staged)
        if not staged or any(self._is_kernel(w, primitive, known) for w in others):
            return ()
        return _with_last(merged_stages(staged), all_parts(others) - known)

    def _is_kernel(self, w: Weights, primitive: str, staged: frozenset[Part]) -> bool:
        """Whether weights are more than a bias or scale of the stages they join."""
        if all(map(self._found.is_vector, w.parts)):
            return False
        units = {self._found.unit(part) for part in staged}
        bias = primitive in ADDITIVE and not w.parts & staged
        return not (bias and {self._found.unit(part) for part in w.parts} <= units)

    def _meeting(self, primitive: str, values: Sequence[Value]) -> Activation:
        """Values of which at least one depends on the input."""
        found, inputs = self._found, [v for v in values if isinstance(v, Activation)]
        weights = [v for v in values if isinstance(v, Weights) and v.parts]
        waiting = frozenset[Part]().union(*(v.waiting for v in inputs))
        if len({v.node for v in inputs}) == 1 and not weights and not waiting:
            return inputs[0]
        x = found.graph.join(v.node for v in inputs)
        at_input = found.graph.front(x).level < 0
        first = primitive in ADDITIVE or not waiting or not weights
        if at_input and primitive in ELEMENTWISE and first:
            return Activation(x, waiting | all_parts(weights))
        if waiting and (not at_input or weights or primitive in CONTRACTIONS):
            x = found.meet(Weights(waiting), x, primitive)
            waiting = frozenset[Part]()
        met = [found.meet(weight, x, primitive) for weight in weights]
        return Activation(found.graph.join(met or [x]), waiting)

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
                "trace_layers: expected a scan over layers to slice each parameter "
                f"along its axis 0; {paths_of(mixed)} are sliced in another way, as by "
                "`nn.scan` with `variable_axes={'params': 1}`, and only slices of axis "
                "0 can be layers. Stack them along axis 0"
            )
        self._found.stack(stacked)
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
            if all(map(self._same, joined, carry)):
                return joined, outputs[len(carry) :]
            carry = joined

    def _same(self, a: Value, b: Value) -> bool:
        if isinstance(a, Activation) and isinstance(b, Activation):
            front = self._found.graph.front
            return (front(a.node), a.waiting) == (front(b.node), b.waiting)
        if isinstance(a, Weights) and isinstance(b, Weights):
            return (a.parts, a.stages) == (b.parts, b.stages)
        return False

    def _join(self, *values: Value) -> Value:
        """One value for what may be either: the later activation, or all weights."""
        if any(isinstance(v, Activation) for v in values):
            return self._meeting("select_n", values)
        weights = [v for v in values if isinstance(v, Weights)]
        stages = merged_stages(weights)
        known = frozenset[Part]().union(*stages)
        return Weights(
            parts=all_parts(weights),
            rows=common_rows(weights),
            stages=_with_last(stages, all_parts(weights) - known) if stages else (),
            full=frozenset[Part]().union(*(w.full for w in weights)),
        )


def _with_last(
    stages: tuple[frozenset[Part], ...], more: frozenset[Part]
) -> tuple[frozenset[Part], ...]:
    return *stages[:-1], stages[-1] | more
