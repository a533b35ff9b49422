"""The optimizer of a phase: frozen layers wait, and every layer counts for itself."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.core import Tracer
from jax.experimental.shard_alike import shard_alike

from ..layers._layers import Layers, Member, as_indices
from ..layers._paths import PyTree, leaves_by_path, quoted
from ..layers._sums import leaving_out
from ..transforms._multipliers import LayerIds, check_params
from ..transforms._product import along_axis_0
from ._evaluate import Each, Evaluation, MixedError, One, Value
from ._masks import choose, in_short, is_array, masks_of
from ._state import FreezeState, Roles, check_state, initial


@dataclasses.dataclass(frozen=True)
class Init:
    """`init` of a phase's optimizer; equal for equal phases and optimizers."""

    layers: Layers
    frozen: tuple[bool, ...]
    inner: optax.GradientTransformation

    def __call__(self, params: PyTree) -> FreezeState:
        params = _arrays(params)
        masks_of(self.layers, self.frozen, params)
        return initial(self.inner, self.layers, params)


@dataclasses.dataclass(frozen=True)
class Update:
    """`update` of a phase's optimizer; equal for equal phases and optimizers."""

    layers: Layers
    frozen: tuple[bool, ...]
    inner: optax.GradientTransformation

    def __call__(
        self,
        updates: PyTree,
        state: Any,
        params: PyTree | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, FreezeState]:
        check_params("Phase.freeze", params)
        check_state(self.layers, state)
        trees = _arrays(updates), state.inner, _arrays(params)
        # What a later phase could not split is refused now, not hours later.
        roles = Roles(self.inner, state.inner, trees[2], len(self.layers))
        if any(self.frozen) or any(roles.own):
            step = _Step(self, roles, state.layers, trees)
            changed, inner = step.update(extra_args)
        else:
            update = optax.with_extra_args_support(self.inner).update
            changed, inner = update(*trees, **extra_args)
        leaves = iter(jax.tree.leaves(changed))
        whole = [
            next(leaves) if is_array(leaf) else leaf
            for leaf in jax.tree.leaves(updates)
        ]
        changed = jax.tree.unflatten(jax.tree.structure(updates), whole)
        return changed, state._replace(inner=inner)


class _Step:
    """One update."""

    def __init__(
        self, of: Update, roles: Roles, ids: LayerIds, trees: tuple[Any, Any, Any]
    ):
        self.layers, self.frozen, self.inner = of.layers, of.frozen, of.inner
        self.roles, self.trees = roles, trees
        (self.digits,) = ids.values()
        self.masks = masks_of(self.layers, self.frozen, trees[2])
        self.masks |= masks_of(self.layers, self.frozen, trees[0])

    def update(self, extra_args: Mapping[str, Any]) -> tuple[PyTree, PyTree]:
        updates, state, params = self.trees
        gradients, weights = leaves_by_path(updates), leaves_by_path(params)
        roles = self.roles
        old = jax.tree.leaves(state)
        values: list[Value] = [
            *(self._seen(path, leaf) for path, leaf in gradients.items()),
            *map(self._kept, old, roles.path, roles.own),
            *(self._seen(path, leaf) for path, leaf in weights.items()),
        ]
        results, avals, whole = self._evaluated(values, extra_args)
        count = len(gradients)
        changed = [
            self._changed(path, weights.get(path, leaf), *result)
            for (path, leaf), result in zip(
                gradients.items(), zip(results, avals, strict=False), strict=False
            )
        ]
        rows = zip(range(len(old)), old, results[count:], avals[count:], strict=True)
        kept = [self._new(*row) for row in rows]
        for member in whole:
            self._check_stack(member)
        return (
            jax.tree.unflatten(jax.tree.structure(updates), changed),
            jax.tree.unflatten(jax.tree.structure(state), kept),
        )

    def _evaluated(
        self, values: list[Value], extra_args: Mapping[str, Any]
    ) -> tuple[list[Value], list[Any], set[Member]]:
        """What the inner update returns, the arrays of frozen layers left out."""
        leaves, treedef = jax.tree.flatten(self.trees)
        own = [isinstance(value, Each) for value in values]
        given = [
            leaf[0] if mine else leaf for leaf, mine in zip(leaves, own, strict=True)
        ]
        update = optax.with_extra_args_support(self.inner).update

        def flat(*arrays: Any) -> Any:
            return update(*jax.tree.unflatten(treedef, arrays), **extra_args)

        with leaving_out(np.array(self.frozen)):
            closed, shape = jax.make_jaxpr(flat, return_shape=True)(*given)
        for before, after in zip(self.trees[:2], shape, strict=True):
            if jax.tree.structure(before) != jax.tree.structure(after):
                raise ValueError(
                    "Phase.freeze: expected an optimizer whose update returns updates "
                    "and a state of the structure it was given, "
                    f"{jax.tree.structure(before)}; got {jax.tree.structure(after)}"
                )
        evaluation = Evaluation(self._pick, self._is_frozen, len(self.layers))
        try:
            results = evaluation.jaxpr(closed.jaxpr, closed.consts, values)
        except MixedError as error:
            raise self._mixed() from error
        return results, closed.out_avals, evaluation.whole

    def _mixed(self) -> ValueError:
        pairs = zip(self.roles.names, self.roles.own, strict=True)
        return ValueError(
            "Phase.freeze: expected an optimizer whose layers can pause one by one; "
            "this one computes with several layers at once what it keeps beside their "
            f"moments, of {quoted(name for name, own in pairs if own)}. Leave layers "
            "at a multiplier of 0 without a phase, or take an optimizer that does not "
            "mix layers"
        )

    def _is_frozen(self, member: Member) -> bool:
        return all(self.frozen[i] for i in as_indices(member))

    def _seen(self, path: str, leaf: Any) -> One:
        """A gradient or a parameter; slices of a stack that are frozen are 0."""
        mask = self.masks[path]
        if isinstance(mask, np.ndarray):
            leaf = jnp.where(along_axis_0(mask, leaf), jnp.zeros_like(leaf), leaf)
        return One(None if mask is True else leaf, self.layers.members[path])

    def _kept(self, leaf: Any, path: str | None, own: bool) -> Value:
        if own:
            return Each(leaf)
        if path is None:
            return One(leaf)
        mask, member = self.masks[path], self.layers.members[path]
        if isinstance(mask, np.ndarray) and jnp.shape(leaf)[:1] != mask.shape:
            self._check_stack(member, jnp.shape(leaf))
        return One(None if mask is True else leaf, member)

    def _check_stack(
        self, member: Member, shape: tuple[int, ...] | None = None
    ) -> None:
        frozen = [self.frozen[i] for i in as_indices(member)]
        if any(frozen) and not all(frozen):
            (path, *_) = [p for p, m in self.layers.members.items() if m == member]
            how = "computes with it as a whole"
            if shape is not None:
                how = f"keeps a state of shape {shape} for it, not one for each layer"
            raise ValueError(
                f"Phase.freeze: {path!r} is a stack of {len(frozen)} layers, some of "
                f"them frozen, but this optimizer {how}. Freeze all of the stack, or "
                "none"
            )

    def _pick(self, numbers: jax.Array, member: Member) -> jax.Array:
        """Of numbers (L,) that of a layer, or those of a stack."""
        if isinstance(member, tuple):
            return numbers[np.array(member, np.int32)]
        side = len(self.digits)
        row, column = self.digits[member // side], self.digits[member % side]
        return _element(numbers, row, column, side)

    def _changed(self, path: str, like: Any, value: Value, aval: Any) -> Any:
        mask = self.masks[path]
        if mask is True:
            return _zeros(like, aval)
        array = self._array(value, path, aval)
        return choose(mask, jnp.zeros_like(array), array)

    def _new(self, i: int, old: Any, value: Value, aval: Any) -> Any:
        """An array of the state after the step."""
        path, every = self.roles.path[i], in_short(self.frozen)
        if self.roles.own[i]:
            if isinstance(value, Each) and not value.shape:
                return choose(every, old, value.numbers)
            if isinstance(value, One) and value.owner is None:
                return choose(every, old, jnp.broadcast_to(value.array, jnp.shape(old)))
            raise self._mixed()
        if path is not None:
            mask = self.masks[path]
            return (
                old
                if mask is True
                else choose(mask, old, self._array(value, path, aval))
            )
        if isinstance(value, Each):
            raise self._mixed()
        if value.array is None:
            return old
        return (
            choose(every, old, value.array) if self.roles.measured[i] else value.array
        )

    def _array(self, value: Value, path: str, aval: Any) -> Any:
        evaluation = Evaluation(self._pick, self._is_frozen, len(self.layers))
        array = evaluation.array(value, self.layers.members[path], aval)
        for member in evaluation.whole:
            self._check_stack(member)
        return array


def _element(numbers: jax.Array, row: Any, column: Any, side: int) -> jax.Array:
    """An element of (L,), laid out as a square, whose digits are data."""
    # Were they constants, each leaf would become a kernel that XLA compiles by itself.
    square = jnp.pad(numbers, (0, side**2 - len(numbers))).reshape(side, side)
    return lax.dynamic_slice(square, (row, column), (1, 1)).reshape(())


_element = jax.jit(_element, static_argnums=3)


def _zeros(like: Any, aval: Any) -> jax.Array:
    """Zeros that lie on devices as another array does, of which nothing is read."""
    zeros = lax.full_like(like, 0, aval.dtype)
    return shard_alike(zeros, like)[0] if isinstance(like, Tracer) else zeros


def _arrays(tree: PyTree) -> PyTree:
    """The tree without what is no array (an activation, say)."""
    return jax.tree.map(lambda leaf: leaf if is_array(leaf) else None, tree)
