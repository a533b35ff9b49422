"""An optimizer's update, evaluated so that every layer counts for itself.

The update is traced once, with one scalar for all layers where Optax has one (the count
of Adam). The jaxpr is then evaluated equation by equation. What comes of such scalars
alone is computed for all layers at once, as a vector; where it meets an array of one
layer's, that layer's element is picked, and what meets no such scalar is computed as
ever. The arrays of frozen layers are not there, and nothing is computed from them:
where something is computed from many layers, a norm, say, they are zeros.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jax.extend.core import Literal as Constant

from ..layers._layers import Member
from ._split_scans import run

Owner = Member | str | None
"""Whose an array is: a layer's, or those of a stack; "many"; or nobody's."""


@dataclasses.dataclass(frozen=True)
class One:
    """An array; None in its place where its layer is frozen."""

    array: Any
    owner: Owner = None


@dataclasses.dataclass(frozen=True, eq=False)
class Each:
    """A number for each layer (L,), standing for a whole array of a shape."""

    numbers: jax.Array
    shape: tuple[int, ...] = ()


Value = One | Each


class MixedError(ValueError):
    """A layer's own scalar meets what was computed from many layers."""


class Evaluation:
    """Evaluates jaxprs; one for each jaxpr that is traced."""

    def __init__(
        self,
        pick: Callable[[jax.Array, Member], jax.Array],
        frozen: Callable[[Member], bool],
        length: int,
    ):
        """With functions for a layer's element of (L,), and whether it is frozen."""
        self._pick, self._frozen, self._length = pick, frozen, length
        self._picked: dict[tuple[Each, Member], jax.Array] = {}
        self.whole: set[Member] = set()  # stacks that are not computed by slice

    def jaxpr(
        self, jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Value]
    ) -> list[Value]:
        """The values of a jaxpr's outputs."""
        constants = [One(const) for const in consts]
        known: dict[Any, Value] = dict(zip(jaxpr.constvars, constants, strict=True))
        known |= dict(zip(jaxpr.invars, args, strict=True))

        def read(atom: Any) -> Value:
            return One(atom.val) if isinstance(atom, Constant) else known[atom]

        for eqn in jaxpr.eqns:
            values = self._equation(eqn, [read(atom) for atom in eqn.invars], jaxpr)
            known |= dict(zip(eqn.outvars, values, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def array(self, value: Value, owner: Owner, aval: Any) -> Any:
        """A value as one array, of this layer."""
        if isinstance(value, One):
            return jnp.zeros(aval.shape, aval.dtype) if _absent(value) else value.array
        if not isinstance(owner, int | tuple):
            raise MixedError
        picked = self._element(value, owner)
        if isinstance(owner, tuple):
            if value.shape[:1] == (len(owner),):
                rank = len(value.shape)
                picked = picked.reshape((-1,) + (1,) * (rank - 1))
            else:
                picked = self._first(picked, owner)
        return jnp.broadcast_to(picked, value.shape) if value.shape else picked

    def _element(self, value: Each, member: Member) -> jax.Array:
        key = value, member
        if key not in self._picked:
            self._picked[key] = self._pick(value.numbers, member)
        return self._picked[key]

    def _first(self, picked: jax.Array, stack: Member) -> jax.Array:
        # What is computed of a stack as a whole: its layers never pause one by one.
        self.whole.add(stack)
        return picked[0]

    def _equation(
        self, eqn: JaxprEqn, values: list[Value], around: Jaxpr
    ) -> list[Value]:
        owner = _owner(eqn, values)
        each = any(isinstance(value, Each) for value in values)
        if each or owner == "many":
            if eqn.primitive.name == "cond":
                return self._branches(eqn, values)
            if (inner := _called(eqn)) is not None:
                return self.jaxpr(inner.jaxpr, inner.consts, values)
        if owner is None and each:
            return self._for_each(eqn, values, around)
        numbers = all(_is_inexact(var.aval) for var in eqn.outvars)
        if isinstance(owner, int | tuple) and self._frozen(owner) and numbers:
            return [One(None, owner) for _ in eqn.outvars]
        arrays = self._operands(eqn, values, owner)
        return [One(array, owner) for array in run(eqn, arrays, around)]

    def _operands(self, eqn: JaxprEqn, values: list[Value], owner: Owner) -> list[Any]:
        avals = [_aval(atom) for atom in eqn.invars]
        shapes = {aval.shape for aval in avals if aval.shape}
        outputs = {_aval(var).shape for var in eqn.outvars}
        by_slice = (
            isinstance(owner, tuple)
            and shapes == outputs
            and {shape[:1] for shape in shapes} == {(len(owner),)}
            and len(shapes) == 1
            and not any(hasattr(p, "eqns") for p in eqn.params.values())
        )
        arrays: list[Any] = []
        for value, aval in zip(values, avals, strict=True):
            if by_slice and isinstance(value, Each) and not value.shape:
                value = Each(value.numbers, *shapes)
            arrays.append(self.array(value, owner, aval))
        return arrays

    def _for_each(
        self, eqn: JaxprEqn, values: list[Value], around: Jaxpr
    ) -> list[Value]:
        """An equation of numbers of the layers' own, for all layers at once."""
        shapes = [_shape(value) for value in values]
        output = _aval(eqn.outvars[0]).shape
        if eqn.primitive.name == "broadcast_in_dim" and not shapes[0]:
            (value, *_) = values
            assert isinstance(value, Each)
            return [Each(value.numbers, output)]
        if any(shapes) and not (
            {_shape(v) for v in values if isinstance(v, Each)} <= {(), output}
            and not any(_shape(v) for v in values if isinstance(v, One))
            and eqn.primitive.name in _ELEMENTWISE
        ):
            raise MixedError
        axes = [0 if isinstance(value, Each) else None for value in values]
        given = [v.numbers if isinstance(v, Each) else v.array for v in values]
        results = jax.vmap(lambda *args: run(eqn, list(args), around), axes)(*given)
        return [
            Each(result, _aval(var).shape)
            for result, var in zip(results, eqn.outvars, strict=True)
        ]

    def _branches(self, eqn: JaxprEqn, values: list[Value]) -> list[Value]:
        """A conditional: each branch for itself, then what was chosen."""
        index, *rest = values
        branches = eqn.params["branches"]
        if isinstance(index, Each):  # layers choose apart
            results = [self.jaxpr(b.jaxpr, b.consts, rest) for b in branches]
            return [
                self._chosen(index, cases, var.aval)
                for var, *cases in zip(eqn.outvars, *results, strict=True)
            ]
        owners: list[Owner] = []
        kinds: list[type | None] = []

        def branch(closed: ClosedJaxpr) -> list[Value]:
            inside = Evaluation(self._pick, self._frozen, self._length)
            found = inside.jaxpr(closed.jaxpr, closed.consts, rest)
            self.whole |= inside.whole
            return found

        def look(closed: ClosedJaxpr) -> list[Any]:
            found.append([_described(value) for value in branch(closed)])
            return []

        found: list[list[tuple[type | None, Owner]]] = []
        for closed in branches:
            jax.eval_shape(lambda closed=closed: look(closed))
        for cases in zip(*found, strict=True):
            kinds.append(_joined_kind([kind for kind, _ in cases]))
            owners.append(_joined({owner for _, owner in cases}))

        def arrays(closed: ClosedJaxpr) -> list[Any]:
            outputs = zip(branch(closed), kinds, owners, eqn.outvars, strict=True)
            return [
                self._as_kind(value, kind, owner, var.aval)
                for value, kind, owner, var in outputs
            ]

        taken = lax.switch(
            _index(index.array),
            [lambda closed=closed: arrays(closed) for closed in branches],
        )
        return [
            Each(array, _aval(var).shape)
            if kind is Each
            else One(None if kind is None else array, owner)
            for array, kind, owner, var in zip(
                taken, kinds, owners, eqn.outvars, strict=True
            )
        ]

    def _as_kind(self, value: Value, kind: type | None, owner: Owner, aval: Any) -> Any:
        if kind is None:
            return ()
        if kind is One:
            return self.array(value, owner, aval)
        if isinstance(value, Each):
            return value.numbers
        if value.owner is not None or aval.shape:
            raise MixedError
        return jnp.broadcast_to(value.array, (self._length,))

    def _chosen(self, index: Each, cases: Sequence[Value], aval: Any) -> Value:
        """What a layer's own index chooses of the outputs of branches."""
        owner = _joined({_described(case)[1] for case in cases})
        if owner is None and not aval.shape:
            columns = [self._as_kind(case, Each, None, aval) for case in cases]
            return Each(jax.vmap(lax.select_n)(index.numbers, *columns))
        if any(_absent(case) for case in cases):
            return One(None, owner)
        arrays = [self.array(case, owner, aval) for case in cases]
        wide = isinstance(owner, tuple) and aval.shape[:1] == (len(owner),)
        which = self.array(Each(index.numbers, aval.shape if wide else ()), owner, aval)
        return One(lax.select_n(which, *arrays), owner)


_ELEMENTWISE = {
    *("add", "and", "clamp", "convert_element_type", "copy", "div", "eq", "exp", "ge"),
    *("gt", "integer_pow", "le", "log", "lt", "max", "min", "mul", "ne", "neg", "not"),
    *("or", "pow", "rsqrt", "select_n", "sign", "sqrt", "square", "sub", "tanh"),
}


_SCALING = {"mul", "div", "select_n"}


def _index(index: Any) -> Any:
    return index.astype(jnp.int32) if index.dtype == bool else index


def _owner(eqn: JaxprEqn, values: Sequence[Value]) -> Owner:
    """The layer that the results of an equation are of."""
    owners = {value.owner for value in values if isinstance(value, One)}
    known = owners - {None, "many"}
    if "many" in owners and len(known) == 1:
        pairs = [
            (value.owner, len(_aval(atom).shape))
            for value, atom in zip(values, eqn.invars, strict=True)
            if isinstance(value, One)
        ]
        scalars = not any(ndim for owner, ndim in pairs if owner == "many")
        array = any(ndim for owner, ndim in pairs if owner in known)
        # A layer's gradient clipped by a norm of all is still the layer's.
        if scalars and (array or eqn.primitive.name in _SCALING):
            return known.pop()
    return _joined(owners)


def _joined(owners: set[Owner]) -> Owner:
    owners = owners - {None}
    return "many" if len(owners) > 1 else next(iter(owners), None)


def _joined_kind(kinds: Sequence[type | None]) -> type | None:
    return None if None in kinds else Each if Each in kinds else One


def _described(value: Value) -> tuple[type | None, Owner]:
    if isinstance(value, Each):
        return Each, None
    return (None if _absent(value) else One), value.owner


def _absent(value: Value) -> bool:
    return isinstance(value, One) and value.array is None


def _shape(value: Value) -> tuple[int, ...]:
    return value.shape if isinstance(value, Each) else jnp.shape(value.array)


def _aval(atom: Any) -> Any:
    return atom.aval


def _is_inexact(aval: Any) -> bool:
    return jnp.issubdtype(aval.dtype, jnp.inexact)


def _called(eqn: JaxprEqn) -> ClosedJaxpr | None:
    """The function that an equation only calls."""
    params = cast(Mapping[str, Any], eqn.params)
    name = _CALLS.get(eqn.primitive.name)
    if name is None or name not in params:
        return None
    inner = params[name]
    return inner if hasattr(inner, "consts") else ClosedJaxpr(inner, ())


_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}
