"""What the functions of this folder are given, checked in one form of message."""

import operator
from typing import Any

import jax.numpy as jnp

from ..layers._layers import Layers, check_leaf
from ..layers._paths import PyTree, leaves_by_path, quoted


def check_layers(function: str, layers: object, **others: object) -> None:
    """Demands `Layers`, and that none of the other arguments is `Layers` instead."""
    swapped = [name for name, value in others.items() if isinstance(value, Layers)]
    if isinstance(layers, Layers) and not swapped:
        return
    name, value = "layers", layers
    if isinstance(layers, Layers):
        name, value = swapped[0], others[swapped[0]]
    order = ", ".join(["layers", *others])
    raise ValueError(
        f"{function}: {name}: expected "
        f"{'Layers' if name == 'layers' else 'no Layers'}, got a "
        f"{type(value).__name__}; the arguments are {function}({order})"
    )


def check_whole(function: str, name: str, value: Any) -> int:
    """A whole number above 0, as a Python int."""
    try:
        whole = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        whole = 0
    if whole < 1:
        raise ValueError(f"{function}: {name}: expected an int above 0, got {value!r}")
    return whole


def known_leaves(
    function: str, layers: Layers, name: str, tree: PyTree
) -> dict[str, Any]:
    """The leaves of an argument by their paths, all of which the layers know."""
    if tree is None:
        raise ValueError(f"{function}: {name}: expected a tree of arrays, got None")
    leaves = leaves_by_path(tree)
    for path, leaf in leaves.items():
        check_leaf(f"{function}: {name}", layers, path, leaf)
    return leaves


def check_alike(function: str, **trees: dict[str, Any]) -> None:
    """Demands that all trees have the leaves of the first, and in the same shapes."""
    (first, leaves), *others = trees.items()
    for name, other in others:
        if missing := [path for path in leaves if path not in other]:
            raise ValueError(
                f"{function}: {name}: expected the leaves of {first}, got none for "
                f"{quoted(missing)}; give both trees of one structure"
            )
        for path, leaf in leaves.items():
            if jnp.shape(leaf) != jnp.shape(other[path]):
                raise ValueError(
                    f"{function}: {name}: expected {path!r} to have the shape "
                    f"{jnp.shape(leaf)} that it has in {first}, got "
                    f"{jnp.shape(other[path])}"
                )
