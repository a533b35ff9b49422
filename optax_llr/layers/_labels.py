"""label_layers: layers by a tree of labels, as `optax.partition` takes it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from ._layers import Layers
from ._paths import PyTree, leaves_by_path, quoted


def label_layers(
    params: PyTree, labels: PyTree | Callable[[PyTree], PyTree], order: Sequence[str]
) -> Layers:
    """Makes layers from a tree of labels, as `optax.partition` takes it.

    Parameters with one label form a layer. Each layer is one level above the one before
    it in `order`.

    Args:
        params: any pytree; arrays or `jax.ShapeDtypeStruct`.
        labels: a tree with the name of a layer for each parameter; or a prefix of such
            a tree, whose labels hold for all that lies below; or a function from the
            parameters to either.
        order: all labels, from the input to the output, and no others.

    Returns:
        The `Layers`.

    Raises:
        ValueError: for a tree that is no prefix of the parameters, a parameter without
            a label, a label that is missing from `order`, or a name in `order` that
            repeats or labels nothing.

    Example:
        >>> import jax.numpy as jnp, optax_llr
        >>> params = {"stem": {"w": jnp.ones(3), "b": jnp.ones(3)}, "head": jnp.ones(3)}
        >>> labels = {"stem": "early", "head": "late"}
        >>> layers = optax_llr.label_layers(params, labels, order=("early", "late"))
        >>> layers.members["stem/w"], layers.names
        (0, ('early', 'late'))
    """
    paths = list(leaves_by_path(params))
    tree = labels(params) if callable(labels) else labels
    label_of = dict(zip(paths, _labels_of_leaves(tree, params), strict=True))
    given = list(order)
    nameless = [path for path, label in label_of.items() if not isinstance(label, str)]
    unknown = sorted({str(label) for label in label_of.values()} - set(given))
    idle = [name for name in given if name not in set(label_of.values())]
    repeated = [name for name in dict.fromkeys(given) if given.count(name) > 1]
    if isinstance(order, str) or nameless or unknown or idle or repeated:
        raise ValueError(
            "label_layers: expected a label for each parameter and each label once in "
            f"`order`, got {order!r}. Parameters whose label is no string: "
            f"{quoted(nameless)}; labels that are not in the order: {quoted(unknown)}; "
            f"names in the order that label nothing: {quoted(map(str, idle))}; that "
            f"repeat: {quoted(map(str, repeated))}"
        )
    rank = {name: i for i, name in enumerate(given)}
    return Layers(
        names=tuple(given),
        level=np.arange(len(given)),
        members={path: rank[label] for path, label in label_of.items()},
    )


def _labels_of_leaves(labels: PyTree, params: PyTree) -> list[Any]:
    """The label of each parameter: what stands on its own place, or on one above it."""
    found: list[Any] = []

    def fill(label: Any, below: PyTree) -> None:
        found.extend([label] * len(leaves_by_path(below)))

    try:
        jax.tree.map(fill, labels, params, is_leaf=lambda node: node is None)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            "label_layers: labels: expected a tree of the same structure as the "
            f"parameters, a prefix of it, or a function that makes one ({error})"
        ) from error
    return found
