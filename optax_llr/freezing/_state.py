"""The state of an optimizer whose layers pause: what of it belongs to which layer.

Which arrays belong to which parameter, Optax itself knows (`optax.tree.map_params`). A
scalar that stands in one node with such arrays, as the count of Adam beside its
moments, is what they are corrected by, and so each layer's own. Any other, as the count
of a schedule, is the run's.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import (
    GetAttrKey,
    SequenceKey,
    keystr,
    tree_flatten_with_path,
    tree_leaves_with_path,
)

from ..inspection._monitor import MonitorLayersState
from ..layers._layers import Layers
from ..layers._paths import PyTree, leaves_by_path, quoted
from ..rules._adapt_layers import is_adapted
from ..transforms._multipliers import LayerIds, layer_ids


class FreezeState(NamedTuple):
    """State of `Phase.freeze`: the same for all phases, and whatever is frozen."""

    inner: Any  # of the optimizer; each layer's own scalars as vectors, shape=(L,)
    layers: LayerIds  # private: whose state it is


@dataclasses.dataclass(frozen=True)
class _Of:
    """In place of an array: which parameter it belongs to."""

    keys: tuple[Any, ...]
    path: str


class Roles:
    """What each array of an optimizer's state is.

    Attributes:
        path: the path of its parameter, None for one of the whole optimizer.
        own: whether it is a scalar that each layer owns.
        measured: whether a rule keeps it by layer, in its first axis.
        names: where it stands, for messages.
    """

    def __init__(
        self,
        inner: optax.GradientTransformation,
        state: PyTree,
        params: PyTree,
        length: int,
    ):
        """Looks through the state of an optimizer of so many layers."""
        keys = [keys for keys, _ in tree_leaves_with_path(params)]
        owners = map(_Of, keys, leaves_by_path(params))
        marks = jax.tree.unflatten(jax.tree.structure(params), owners)
        # As the optimizer makes it: a vector may be of as many numbers as layers.
        made = jax.eval_shape(inner.init, params)
        if jax.tree.structure(made) != jax.tree.structure(state):
            raise ValueError(
                "Phase.freeze: expected a state of this optimizer, of the structure "
                f"{jax.tree.structure(made)}, got {jax.tree.structure(state)}"
            )
        found, _ = tree_flatten_with_path(_marked(inner, state, marks))
        leaves = jax.tree.leaves(made)
        nodes = {
            field[:-1]
            for keys, mark in found
            if isinstance(mark, _Of)
            and (field := keys[: len(keys) - len(mark.keys)])
            # A tuple is a chain: what stands in it side by side is no node.
            and not isinstance(field[-1], SequenceKey)
        }
        ruled: list[tuple[Any, ...]] = []
        for keys, node in _ours(state):
            if is_adapted(node):
                ruled += [(*keys, GetAttrKey(name)) for name in ("rule", "measured")]
            else:
                nodes -= {keys}  # its scalar counts the steps of the run
        self.path = [m.path if isinstance(m, _Of) else None for _, m in found]
        self.names = [keystr(keys) for keys, _ in found]
        self.own: list[bool] = []
        self.measured: list[bool] = []
        for leaf, path, (keys, _) in zip(leaves, self.path, found, strict=True):
            by_rule = any(keys[: len(rule)] == rule for rule in ruled)
            alone = path is None and not by_rule and keys[:-1] in nodes
            self.own.append(alone and not leaf.shape)
            by_layer = leaf.shape[:1] == (length,)
            self.measured.append(path is None and by_rule and by_layer)


def _ours(state: PyTree) -> list[tuple[tuple[Any, ...], Any]]:
    """Where wrappers of this library stand in a state, with theirs."""
    found: list[tuple[tuple[Any, ...], Any]] = []
    left: list[tuple[tuple[Any, ...], Any]] = [((), state)]
    while left:
        above, tree = left.pop()
        for keys, node in tree_leaves_with_path(tree, is_leaf=_is_ours):
            if _is_ours(node):
                found.append(((*above, *keys), node))
                left.append(((*above, *keys, GetAttrKey("inner")), node.inner))
    return found


def _is_ours(node: Any) -> bool:
    return is_adapted(node) or isinstance(node, MonitorLayersState)


def initial(
    inner: optax.GradientTransformation, layers: Layers, params: PyTree
) -> FreezeState:
    """The state at step 0, each layer's own scalars as vectors."""
    state = inner.init(params)
    roles = Roles(inner, state, params, len(layers))
    leaves = [
        jnp.broadcast_to(leaf, (len(layers),)) if own else leaf
        for leaf, own in zip(jax.tree.leaves(state), roles.own, strict=True)
    ]
    state = jax.tree.unflatten(jax.tree.structure(state), leaves)
    return FreezeState(state, layer_ids(layers))


def check_state(layers: Layers, state: Any) -> None:
    """Refuses what is no state of these `Layers`."""
    if not isinstance(state, FreezeState):
        raise ValueError(
            "Phase.freeze: expected a FreezeState, as `init` returns it, got a "
            f"{type(state).__name__}; make it by `phase.freeze(optimizer).init(params)`"
            ", with any phase. A state that the optimizer made without phases is taken "
            "over once: `frozen._replace(inner=jax.tree.map(lambda new, old: "
            "jnp.broadcast_to(old, new.shape), frozen.inner, state))`"
        )
    if list(state.layers) != [layers.fingerprint]:
        raise ValueError(
            "Phase.freeze: this FreezeState belongs to other Layers than those of the "
            f"phase, {quoted(layers.names)}; make it anew by "
            "`phase.freeze(optimizer).init(params)`"
        )


def _marked(
    inner: optax.GradientTransformation, state: PyTree, marks: PyTree
) -> PyTree:
    """The state with marks in place of what belongs to parameters."""
    for kind, name, instead in _AROUND:

        def is_kind(node: Any, kind: type = kind) -> bool:
            return isinstance(node, kind)

        if any(map(is_kind, jax.tree.leaves(state, is_leaf=is_kind))):
            raise ValueError(
                f"Phase.freeze: the counts within {name} are not those of the "
                f"phases; put it around: {instead}, with phases in whole steps"
            )
    try:
        return optax.tree.map_params(
            inner,
            lambda leaf, mark: leaf if _is_masked(leaf) else mark,
            state,
            marks,
            is_leaf=_is_masked,
        )
    except Exception as error:
        raise ValueError(
            "Phase.freeze: cannot tell which part of this optimizer's state belongs to "
            "which parameter, as optax.tree.map_params cannot"
        ) from error


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


_AROUND = [
    (
        optax.MultiStepsState,
        "optax.MultiSteps",
        "MultiSteps(phase.freeze(optimizer), k)",
    ),
    (
        optax.contrib.SAMState,
        "optax.contrib.sam",
        "sam(phase.freeze(optimizer), adversarial)",
    ),
    (FreezeState, "another phase", "phase.freeze(optimizer) once"),
]
