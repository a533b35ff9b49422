"""An optimizer's state in parts: what is frozen apart from what trains.

Which arrays of a state belong to which parameter, Optax itself knows
(`optax.tree.map_params`). A `count` (or `t`, in some optimizers) that stands beside
such arrays, as that of Adam, corrects the bias of moments and is the layer's own; any
other, as that of a schedule, counts the steps of the run.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import GetAttrKey, tree_flatten_with_path, tree_leaves_with_path

from ..layers._paths import PyTree, leaves_by_path, path_of
from ..rules._adapt_layers import is_adapted
from ..transforms._product import along_axis_0

_COUNTS = {(GetAttrKey("count"),), (GetAttrKey("t"),)}


Mask = bool | np.ndarray
"""Whether a leaf is frozen; of a leaf that is in part, each slice of axis 0 (n,)."""


@dataclasses.dataclass(frozen=True)
class _Of:
    """In place of an array: which parameter it belongs to."""

    keys: tuple[Any, ...]


class Split:
    """The arrays of a state, and what each of them is.

    Attributes:
        leaves: the arrays.
        path: for each the path of its parameter, None for one of the whole optimizer.
        own: for each whether it is a count of a layer's own.
        measured: for each whether a rule keeps it by layer, in its first axis.
    """

    def __init__(
        self,
        inner: optax.GradientTransformation,
        state: PyTree,
        params: PyTree,
        length: int,
    ):
        """Looks through the state of an optimizer for parameters, of so many layers."""
        self.leaves, self._treedef = jax.tree.flatten(state, is_leaf=is_masked)
        keys = [keys for keys, _ in tree_leaves_with_path(params)]
        marks = jax.tree.unflatten(jax.tree.structure(params), map(_Of, keys))
        marked = _marked(inner, state, marks)
        found, _ = tree_flatten_with_path(marked, is_leaf=is_masked)
        self.path = [
            path_of(mark.keys) if isinstance(mark, _Of) else None for _, mark in found
        ]
        owners = {
            field[:-1]
            for keys, mark in found
            if isinstance(mark, _Of)
            and (field := keys[: len(keys) - len(mark.keys)])
            and isinstance(field[-1], GetAttrKey)
        }
        self.own = [keys[-1:] in _COUNTS and keys[:-1] in owners for keys, _ in found]
        adapted = [
            keys
            for keys, node in tree_leaves_with_path(state, is_leaf=is_adapted)
            if is_adapted(node)
        ]
        self.measured = [
            path is None
            and not is_masked(leaf)
            and jnp.shape(leaf)[:1] == (length,)
            and any(keys[: len(node)] == node for node in adapted)
            for leaf, path, (keys, _) in zip(self.leaves, self.path, found, strict=True)
        ]

    def with_leaves(self, leaves: list[Any]) -> PyTree:
        """A state of the same structure with other arrays."""
        return jax.tree.unflatten(self._treedef, leaves)

    def without(self, masks: Mapping[str, Mask], pause: int) -> PyTree:
        """The state without what is frozen, its own counts less by a pause."""
        rows = zip(self.leaves, self.path, self.own, strict=True)
        return self.with_leaves([self._without(*row, masks, pause) for row in rows])

    def _without(
        self, leaf: Any, path: str | None, own: bool, masks: Any, pause: int
    ) -> Any:
        if own:  # a wrapper may have held it back, by steps that it rejected, say
            return jnp.maximum(leaf - pause, 0).astype(leaf.dtype)
        if path is None or is_masked(leaf):
            return leaf
        mask = masks[path]
        if isinstance(mask, np.ndarray) and jnp.shape(leaf)[:1] != mask.shape:
            raise ValueError(
                f"Phase.freeze: {path!r} is a stack of {len(mask)} layers, some of "
                "them frozen, but this optimizer keeps a state of shape "
                f"{jnp.shape(leaf)} for it, not one for each layer. Freeze all of the "
                "stack, or none"
            )
        return optax.MaskedNode() if mask is True else leaf

    def after(self, state: PyTree, given: PyTree) -> list[Any]:
        """The arrays of a state that `given` became, own counts as far ahead."""
        leaves, treedef = jax.tree.flatten(state, is_leaf=is_masked)
        before = jax.tree.leaves(given, is_leaf=is_masked)
        if treedef != self._treedef:
            raise ValueError(
                "Phase.freeze: expected an optimizer whose update returns a state of "
                f"the structure it was given, {self._treedef}; got {treedef}"
            )
        rows = zip(leaves, before, self.leaves, self.own, strict=True)
        return [old + (new - told) if own else new for new, told, old, own in rows]


def _marked(
    inner: optax.GradientTransformation, state: PyTree, marks: PyTree
) -> PyTree:
    """The state with marks in place of what belongs to parameters."""
    if any(_is_multi_steps(n) for n in jax.tree.leaves(state, is_leaf=_is_multi_steps)):
        raise ValueError(
            "Phase.freeze: the counts within optax.MultiSteps are not those of the "
            "phases; put it around: MultiSteps(phase.freeze(optimizer), k), with "
            "phases in whole steps"
        )
    try:
        return optax.tree.map_params(
            inner,
            lambda leaf, mark: leaf if is_masked(leaf) else mark,
            state,
            marks,
            is_leaf=is_masked,
        )
    except Exception as error:
        raise ValueError(
            "Phase.freeze: cannot tell which part of this optimizer's state belongs to "
            "which parameter, as optax.tree.map_params cannot"
        ) from error


def _is_multi_steps(node: Any) -> bool:
    return isinstance(node, optax.MultiStepsState)


def is_masked(node: Any) -> bool:
    """Whether it stands for a parameter that is not there."""
    return isinstance(node, optax.MaskedNode)


def masked(tree: PyTree, masks: Mapping[str, Mask]) -> PyTree:
    """The tree without what is frozen; frozen slices of a leaf are 0."""
    leaves = [_masked(leaf, masks[path]) for path, leaf in leaves_by_path(tree).items()]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def choose(frozen: Mask, old: jax.Array, new: jax.Array) -> jax.Array:
    """The old where it is frozen, else the new."""
    if isinstance(frozen, np.ndarray):
        return jnp.where(along_axis_0(frozen, new), old, new)
    return old if frozen else new


def _masked(leaf: jax.Array, frozen: Mask) -> Any:
    if isinstance(frozen, np.ndarray):
        return jnp.where(along_axis_0(frozen, leaf), jnp.zeros_like(leaf), leaf)
    return optax.MaskedNode() if frozen else leaf
