"""What of each parameter is frozen."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ..layers._layers import Layers, as_indices, check_leaf
from ..layers._paths import PyTree, is_array, leaves_by_path
from ..transforms._product import along_axis_0

Mask = bool | np.ndarray
"""Whether a leaf is frozen; of a leaf that is in part, each slice of axis 0 (n,)."""


def masks_of(layers: Layers, frozen: Sequence[bool], params: PyTree) -> dict[str, Mask]:
    """By path, what is frozen of each array."""
    masks: dict[str, Mask] = {}
    for path, leaf in leaves_by_path(params).items():
        if is_array(leaf):
            check_leaf("Phase", layers, path, leaf)
            members = as_indices(layers.members[path])
            masks[path] = in_short([frozen[i] for i in members])
    return masks


def in_short(slices: Sequence[bool]) -> Mask:
    """All, none, or an array."""
    whole = all(slices) or not any(slices)
    return slices[0] if whole else np.array(slices)


def choose(frozen: Mask, old: jax.Array, new: jax.Array) -> jax.Array:
    """The old where it is frozen, else the new."""
    if isinstance(frozen, np.ndarray):
        return jnp.where(along_axis_0(frozen, new), old, new)
    return old if frozen else new
