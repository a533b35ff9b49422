"""The paths of parameters, and names in messages."""

import collections
import difflib
import functools
import re
from collections.abc import Iterable, Iterator
from typing import Any

from jax.tree_util import keystr, tree_leaves_with_path

PyTree = Any


def leaves_by_path(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by their paths, the same boxed and unboxed, in its order.

    `nnx.State` and `linen.Partitioned` box each array in a node with one attribute,
    `value`; `nnx.Optimizer` hands over boxed parameters but bare gradients.
    """
    leaves = [
        (keystr(keys, simple=True, separator="/"), leaf)
        for keys, leaf in _unboxed_leaves(tree)
    ]
    by_path = dict(leaves)
    if len(by_path) < len(leaves):
        counts = collections.Counter(path for path, _ in leaves)
        clash = [path for path, times in counts.items() if times > 1]
        raise ValueError(f"two parameters have the same path: {quoted(clash)}")
    return by_path


def _unboxed_leaves(tree: PyTree, boxed: bool = False) -> Iterator[tuple[Any, Any]]:
    def is_box(node: Any) -> bool:
        return _is_box_type(type(node)) and not (boxed and node is tree)

    for keys, node in tree_leaves_with_path(tree, is_leaf=is_box):
        if not is_box(node):
            yield keys, node
            continue
        for inner, leaf in _unboxed_leaves(node, boxed=True):
            yield (*keys, *inner[1:]), leaf


def is_array(leaf: Any) -> bool:
    """Whether a leaf of a model is an array, and not an activation, say."""
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


@functools.cache
def _is_box_type(kind: type) -> bool:
    """Whether a type boxes an array for Flax, which is not imported for this."""
    return any(
        base.__module__.split(".")[0] == "flax"
        and base.__name__ in ("Variable", "VariableState", "AxisMetadata")
        for base in kind.__mro__
    )


def natural_key(text: str) -> list[tuple[int, str]]:
    """Sort key that puts `block2` before `block10`."""
    parts = re.split(r"(\d+)", text)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def quoted(names: Iterable[str], limit: int = 8) -> str:
    """Names for an error message: all of a few, the first of many."""
    names = list(names)
    shown = ", ".join(repr(name) for name in names[:limit])
    return f"[{shown}, … {len(names) - limit} more]" if names[limit:] else f"[{shown}]"


def close_to(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` where something known is spelled nearly so."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
