"""The paths of parameters, and names in messages."""

import collections
import difflib
import re
from collections.abc import Iterable
from typing import Any

from jax.tree_util import DictKey, GetAttrKey, keystr, tree_leaves_with_path

PyTree = Any


def path_of(keys: Iterable[Any]) -> str:
    """The path of a leaf as text, the same boxed and unboxed.

    `nnx.State` and `linen.Partitioned` box each array in a node with one attribute,
    `value`; `nnx.Optimizer` hands over boxed parameters but bare gradients.
    """
    match tuple(keys):
        case (*inner, DictKey() as last, GetAttrKey(name="value")):
            return keystr((*inner, last), simple=True, separator="/")
        case plain:
            return keystr(plain, simple=True, separator="/")


def leaves_by_path(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by their paths, in the tree's own order."""
    leaves = [(path_of(keys), leaf) for keys, leaf in tree_leaves_with_path(tree)]
    by_path = dict(leaves)
    if len(by_path) < len(leaves):
        counts = collections.Counter(path for path, _ in leaves)
        clash = [path for path, times in counts.items() if times > 1]
        raise ValueError(f"two parameters have the same path: {quoted(clash)}")
    return by_path


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
