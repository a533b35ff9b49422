"""split_scans: a scan over stacked layers, cut where frozen layers begin or end.

The backward pass of a scan is one loop over all of its layers. To leave out those of a
frozen part, the function is evaluated equation by equation, and each scan over a stack
that is frozen in part becomes several, one behind the other.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun

from ..layers._paths import PyTree, leaves_by_path

Result = TypeVar("Result")


Frozen = np.ndarray | None
"""Which slices of a stacked parameter are frozen, (n,); None for anything else."""


_MOVES = {"convert_element_type", "copy", "optimization_barrier", "sharding_constraint"}


def split_scans(
    function: Callable[..., Result], frozen: Mapping[str, np.ndarray]
) -> Callable[..., Result]:
    """The same function, without gradients by frozen slices that it scans through.

    Args:
        function: of parameters, and of anything else.
        frozen: for the paths of stacked parameters, which of their slices are frozen.

    Returns:
        A function of the same arguments. A scan that stands within another loop, a
        branch, or `jax.checkpoint` stays whole.
    """

    @functools.wraps(function)
    def split(params: PyTree, *args: Any, **kwargs: Any) -> Result:
        leaves, treedef = jax.tree.flatten((params, args, kwargs))
        traced = [i for i, leaf in enumerate(leaves) if isinstance(leaf, _ARRAYS)]

        def flat(*arrays: Any) -> Result:
            filled = list(leaves)
            for i, array in zip(traced, arrays, strict=True):
                filled[i] = array
            params, args, kwargs = jax.tree.unflatten(treedef, filled)
            return function(params, *args, **kwargs)

        arrays = [leaves[i] for i in traced]
        closed, shape = jax.make_jaxpr(flat, return_shape=True)(*arrays)
        # Parameters come first among all leaves, in their own order.
        marks = [frozen.get(path) for path in leaves_by_path(params)]
        marks += [None] * (len(leaves) - len(marks))
        out = _evaluate(closed.jaxpr, closed.consts, arrays, [marks[i] for i in traced])
        return jax.tree.unflatten(jax.tree.structure(shape), [v for v, _ in out])

    return split


_ARRAYS = (jax.Array, np.ndarray)


def _evaluate(
    jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any], marks: Sequence[Frozen]
) -> list[tuple[Any, Frozen]]:
    """The values of a jaxpr's outputs, each with what of it is frozen."""
    known: dict[Any, tuple[Any, Frozen]] = {}

    def read(atom: Any) -> tuple[Any, Frozen]:
        return (atom.val, None) if isinstance(atom, Literal) else known[atom]

    known |= {
        var: (value, None) for var, value in zip(jaxpr.constvars, consts, strict=True)
    }
    known |= dict(zip(jaxpr.invars, zip(args, marks, strict=True), strict=True))
    for eqn in jaxpr.eqns:
        operands = [read(atom) for atom in eqn.invars]
        known |= dict(zip(eqn.outvars, _results(eqn, operands, jaxpr), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _results(
    eqn: JaxprEqn, operands: list[tuple[Any, Frozen]], around: Jaxpr
) -> list[tuple[Any, Frozen]]:
    values, marks = [v for v, _ in operands], [m for _, m in operands]
    name = eqn.primitive.name
    if any(mark is not None for mark in marks):
        if name in ("jit", "pjit"):
            inner = eqn.params["jaxpr"]
            return _evaluate(inner.jaxpr, inner.consts, values, marks)
        if name == "scan" and any(m is not None for m in _of_xs(eqn, marks)):
            return [(value, None) for value in _split(eqn, values, marks)]
    results = run(eqn, values, around)
    if name in _MOVES:
        return list(zip(results, marks, strict=True))
    return [(result, None) for result in results]


def run(eqn: JaxprEqn, values: list[Any], around: Jaxpr) -> list[Any]:
    """The results of one equation of a jaxpr, which stands in another."""
    pairs = zip(eqn.invars, values, strict=True)
    given = {var: value for var, value in pairs if not isinstance(var, Literal)}
    jaxpr = around.replace(
        constvars=[],
        invars=list(given),
        outvars=eqn.outvars,
        eqns=[eqn],
        effects=eqn.effects,
    )
    return jaxpr_as_fun(ClosedJaxpr(jaxpr, ()))(*given.values())


def _of_xs(eqn: JaxprEqn, marks: list[Frozen]) -> list[Frozen]:
    """Those of what a scan slices."""
    return marks[eqn.params["num_consts"] + eqn.params["num_carry"] :]


def _split(eqn: JaxprEqn, values: list[Any], marks: list[Frozen]) -> list[Any]:
    """The results of a scan, run in parts that are frozen or not as a whole."""
    length, reverse = eqn.params["length"], eqn.params["reverse"]
    first = eqn.params["num_consts"]
    behind = first + eqn.params["num_carry"]
    consts, carry, xs = values[:first], values[first:behind], values[behind:]
    whole = np.zeros(length, bool)
    frozen = [mark if mark is not None else whole for mark in _of_xs(eqn, marks)]
    rows = np.stack(frozen, axis=1)  # (length, number of xs)
    edges = np.flatnonzero((rows[1:] != rows[:-1]).any(axis=1)) + 1
    parts = list(itertools.pairwise([0, *edges.tolist(), length]))
    outputs: list[list[Any]] = []
    for start, stop in reversed(parts) if reverse else parts:
        slices = [
            lax.stop_gradient(x[start:stop]) if still else x[start:stop]
            for x, still in zip(xs, rows[start], strict=True)
        ]
        results = eqn.primitive.bind(
            *consts, *carry, *slices, **{**eqn.params, "length": stop - start}
        )
        carry, ys = results[: len(carry)], results[len(carry) :]
        outputs.append(ys)
    ordered = reversed(outputs) if reverse else outputs
    return [*carry, *(jnp.concatenate(ys) for ys in zip(*ordered, strict=True))]
