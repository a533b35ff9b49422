"""A run that starts from weights that were trained before.

The body comes from them, by path and shape, with its batch statistics; the head is made
anew, or comes from them as well. All that does not fit is refused.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import tree_map_with_path

from optax_llr import Layers

from ..config.checks import first_of
from ..records.weights import is_number, of_model, path_of

SHOWN = 8


class Fit(NamedTuple):
    """What a model takes of the weights that it starts from; the paths of arrays."""

    taken: frozenset[str]
    new: frozenset[str]  # of the head, which starts at random
    unused: frozenset[str]  # what the weights hold beside


def fit(
    source: Mapping[str, Any],
    params: Any,
    statistics: Any,
    layers: Layers,
    new_head: bool,
) -> Fit:
    """What is taken of the weights by which path.

    Args:
        source: arrays, or shapes, by path.
        params: of the model, as arrays or shapes.
        statistics: those of batch norm, likewise.
        layers: of the model.
        new_head: whether the layer that only the logits read starts at random.

    Raises:
        ValueError: an array is missing in the weights or has another shape.
    """
    wanted = of_model(params, statistics)
    heads = {
        path
        for path, member in layers.members.items()
        if new_head and (layers.distance[np.atleast_1d(member)] == 0).all()
    }
    body = wanted.keys() - heads
    wrong = [
        f"{path} of {_size(wanted[path])} "
        + (f"is {_kind(source[path])}" if path in source else "is missing")
        for path in sorted(body)
        if path not in source
        or source[path].shape != wanted[path].shape
        or not is_number(source[path])
    ]
    if wrong:
        only = (
            f"only {', '.join(sorted(heads))}" if heads else "with --new-head the head"
        )
        raise ValueError(
            "init_from: the weights do not fit the model, "
            f"{first_of(wrong, SHOWN)}; {only} may be new"
        )
    return Fit(
        taken=frozenset(body),
        new=frozenset(wanted.keys() - body),
        unused=frozenset(source.keys() - body),
    )


def replaced(tree: Any, source: Mapping[str, Any], taken: Collection[str]) -> Any:
    """The tree with arrays of the weights in place of its own, in its own dtypes."""

    def replace(keys: Any, leaf: jax.Array) -> jax.Array:
        path = path_of(keys)
        return jnp.asarray(source[path], leaf.dtype) if path in taken else leaf

    return tree_map_with_path(replace, tree)


def said(found: Fit) -> str:
    """What is taken, what is new, and what the weights hold beside; in words."""
    parts = [f"{len(found.taken)} arrays are taken"]
    if found.new:
        parts.append(f"new are {', '.join(sorted(found.new))}")
    if found.unused:
        parts.append(f"not used are {', '.join(sorted(found.unused))}")
    return "; ".join(parts)


def _size(array: Any) -> str:
    return " × ".join(map(str, array.shape)) or "one number"


def _kind(array: Any) -> str:
    """Its size, or its type if that is none of numbers with a fraction."""
    return _size(array) if is_number(array) else f"of {array.dtype}"
