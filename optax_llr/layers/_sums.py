"""Sums by layer: what the rules and the measurements are made of."""

import contextlib
import functools
from collections.abc import Callable, Generator
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec

from .._checks import described, real_array, wide_dtype
from ._layers import Layers, as_indices, check_arguments, check_leaf
from ._paths import PyTree, leaves_by_path, quoted

_left_out: ContextVar[np.ndarray | None] = ContextVar("_left_out", default=None)

TINY = float(np.finfo(np.float32).tiny)
SMALLEST_NORM = 2.0**-63
"""About 1e-19, where float32 ends for squares."""


def layer_sum(
    layers: Layers, function: Callable[..., jax.Array], *trees: PyTree
) -> jax.Array:
    r"""Sums a function of the elements of trees over each layer.

    .. math::
        S_l = \sum_{i \in l} f(x_i, y_i, \ldots)

    over all leaves of a layer, or its slices of stacked leaves. Computed in float32
    (or wider, where a leaf is wider). Real and imaginary parts of complex numbers are
    elements of their own.

    Args:
        layers: the `Layers` of the trees; may know more than the trees hold.
        function: maps arrays to one array of their shape, element by element, such as
            `jnp.square`, `jnp.abs`, `jnp.multiply`.
        *trees: as many as the function takes, with leaves of one shape at one path.

    Returns:
        Array (L,), float32; 0 for a layer that the first tree has nothing of.

    Raises:
        ValueError: if a leaf is unknown to `layers`; if the first tree has a leaf that
            another one has not, or in another shape; if the function returns anything
            but an array of that shape; or if leaves differ between devices within
            `jax.shard_map`, where the sums would be those of a part.

    Example:
        >>> import jax.numpy as jnp, optax_llr
        >>> gradients = {"conv": jnp.array([3.0, 4.0]), "head": jnp.array([2.0])}
        >>> layers = optax_llr.match_layers(gradients, [(k, k) for k in gradients])
        >>> print(jnp.sqrt(optax_llr.layer_sum(layers, jnp.square, gradients)))
        [5. 2.]
    """
    check_arguments("layer_sum", layers)
    if not callable(function) or not trees:
        raise ValueError(
            "layer_sum: expected a function such as jnp.square, and as many trees as "
            f"it takes; got {described(function)} and {len(trees)} trees"
        )
    first, *others = [leaves_by_path(tree) for tree in trees]
    whole: dict[int, list[tuple[jax.Array, ...]]] = {}
    stacked: list[tuple[tuple[int, ...], tuple[jax.Array, ...]]] = []
    for path, leaf in first.items():
        check_leaf("layer_sum", layers, path, leaf)
        operands = (leaf, *_same_leaf(path, leaf, others))
        for operand in operands:
            check_unsharded("layer_sum", path, operand)
        member = layers.members[path]
        if isinstance(member, int):
            whole.setdefault(member, []).append(operands)
        else:
            stacked.append((member, operands))
    sums = jnp.zeros(len(layers), jnp.float32)
    if whole:
        sum_layer = _jitted_sum if _lasts(function) else _sum_layer
        parts = [sum_layer(function, operands) for operands in whole.values()]
        sums = sums.at[np.array(list(whole), np.int32)].set(jnp.stack(parts))
    for member, operands in stacked:
        sums = sums.at[np.array(member, np.int32)].add(_sum_slices(function, operands))
    return sums


def _same_leaf(path: str, leaf: Any, others: list[dict[str, Any]]) -> list[Any]:
    """The leaves of the other trees, which must have this one's shape."""
    found: list[Any] = []
    for i, other in enumerate(others, 2):
        if path not in other:
            raise ValueError(
                f"layer_sum: the first tree holds {path!r}, tree {i} does not; it has "
                f"{quoted(other)}"
            )
        if jnp.shape(other[path]) != jnp.shape(leaf):
            raise ValueError(
                f"layer_sum: expected {path!r} in one shape in all trees, got "
                f"{jnp.shape(leaf)} in the first, {jnp.shape(other[path])} in tree {i}"
            )
        found.append(other[path])
    return found


def check_unsharded(owner: str, path: str, leaf: Any) -> None:
    """Refuses what is no array, or a part of one, as `shard_map` gives each device."""
    try:
        kind: Any = jax.typeof(leaf)
    except TypeError:
        raise ValueError(
            f"{owner}: expected an array for {path!r}, got {described(leaf)}"
        ) from None
    # Older JAX has it in `vma`. Where shard_map is told not to check, it is empty.
    varying = getattr(getattr(kind, "mat", None), "varying", getattr(kind, "vma", ()))
    if varying:
        raise ValueError(
            f"{owner}: expected whole arrays, got parts of {path!r}, which within "
            f"jax.shard_map differs between devices, along {sorted(varying)}. Call "
            "`update` outside of shard_map, where jit works on whole arrays however "
            "they are sharded, and gradients behind lax.pmean; where each device has "
            "a whole model of its own, pass check_vma=False to shard_map"
        )


def safe_sqrt(squares: jax.Array) -> jax.Array:
    """The root, with derivatives of 0 at 0, where it has none."""
    zero = squares < TINY
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, squares)))


def layer_norm(layers: Layers, tree: PyTree) -> jax.Array:
    """The Euclidean norm of each layer, (L,); 0 below 1e-19, where squares end."""
    return safe_sqrt(layer_sum(layers, jnp.square, tree))


def layer_cosine(layers: Layers, one: PyTree, other: PyTree) -> jax.Array:
    """The cosine between two trees in each layer, (L,); 0 where one of them is 0.

    NaN where what it is made of is not finite, or too large to be squared.
    """
    dot = layer_sum(layers, jnp.multiply, one, other)
    norms = layer_norm(layers, one), layer_norm(layers, other)
    zero = (norms[0] == 0) | (norms[1] == 0)
    cosine = jnp.clip(
        dot / jnp.where(zero, 1.0, norms[0]) / jnp.where(zero, 1.0, norms[1]), -1, 1
    )
    finite = jnp.isfinite(dot) & jnp.isfinite(norms[0]) & jnp.isfinite(norms[1])
    return jnp.where(finite, jnp.where(zero, 0.0, cosine), jnp.nan)


@contextlib.contextmanager
def leaving_out(frozen: np.ndarray) -> Generator[None, None, None]:
    """Layers that trees do not hold, within, though their leaves are there: (L,).

    Those that are frozen in a phase: masks of Optax are to see them, measures not.
    """
    token = _left_out.set(frozen)
    try:
        yield
    finally:
        _left_out.reset(token)


def layer_slices(
    owner: str, layers: Layers, tree: PyTree
) -> dict[int, list[jax.Array]]:
    """What a tree holds of each layer: leaves, or slices of stacked leaves."""
    present = layers_in(owner, layers, tree)
    parts: dict[int, list[jax.Array]] = {}
    for path, leaf in leaves_by_path(tree).items():
        check_leaf(owner, layers, path, leaf)
        check_unsharded(owner, path, leaf)
        member = layers.members[path]
        leaf = _everywhere(jnp.asarray(leaf))
        slices = leaf if isinstance(member, tuple) else [leaf]
        for index, part in zip(as_indices(member), slices, strict=True):
            parts.setdefault(index, []).append(part)
    return {index: parts[index] for index in sorted(parts) if present[index]}


def layers_in(owner: str, layers: Layers, tree: PyTree) -> np.ndarray:
    """Which layers a tree holds parameters of, as a bool array (L,)."""
    found = np.zeros(len(layers), bool)
    for path, leaf in leaves_by_path(tree).items():
        check_leaf(owner, layers, path, leaf)
        found[np.array(layers.members[path])] = True
    left_out = _left_out.get()
    if left_out is None or len(left_out) != len(found):
        return found
    return found & ~left_out


def updated(
    function: Callable[[jax.Array, jax.Array], jax.Array], old: PyTree, new: PyTree
) -> PyTree:
    """`function(old, new)` leaf by leaf, in the dtypes of the old leaves.

    A leaf that is not there now (None in its place, say) stays what it was.
    """
    found = leaves_by_path(new)
    leaves = [
        function(leaf, found[path]).astype(leaf.dtype) if path in found else leaf
        for path, leaf in leaves_by_path(old).items()
    ]
    return jax.tree.unflatten(jax.tree.structure(old), leaves)


def remembered(old: PyTree, new: PyTree) -> PyTree:
    """The new leaves for the next step, in the dtypes of the old ones."""
    return updated(lambda _, leaf: _own(leaf), old, new)


def _own(leaf: jax.Array) -> jax.Array:
    """A copy, that a state that is donated does not take the caller's array."""
    # Within jit nothing is the caller's, and XLA would copy for nothing.
    return leaf if isinstance(leaf, Tracer) else jnp.array(leaf)


def _lasts(function: Callable[..., Any]) -> bool:
    """Whether a module holds it, so that it is the same object in every step.

    `jit` knows functions by identity: one that each step makes anew, such as a lambda
    within a rule, would be compiled anew in each step outside `jit`.
    """
    name = getattr(function, "__qualname__", getattr(function, "__name__", "<"))
    return "<" not in name


def _sum_layer(
    function: Callable[..., jax.Array], leaves: list[tuple[jax.Array, ...]]
) -> jax.Array:
    sums = [_values(function, operands).sum() for operands in leaves]
    return functools.reduce(jnp.add, sums).astype(jnp.float32)


# Layers of one structure: one trace.
_jitted_sum = jax.jit(_sum_layer, static_argnums=0)


def _sum_slices(
    function: Callable[..., jax.Array], operands: tuple[jax.Array, ...]
) -> jax.Array:
    values = _values(function, operands)
    sums = values.sum(tuple(range(1, values.ndim))).astype(jnp.float32)
    return _everywhere(sums)


def _values(function: Callable[..., Any], operands: tuple[jax.Array, ...]) -> jax.Array:
    arrays = [_real(operand) for operand in operands]
    returned = function(*arrays)
    values = real_array(returned)
    if values is None or values.shape != arrays[0].shape:
        raise ValueError(
            "layer_sum: expected a function that maps arrays to one real array of "
            f"their shape {arrays[0].shape}, element by element; it returned "
            f"{described(returned)}"
        )
    return values


def _everywhere(array: jax.Array) -> jax.Array:
    """Gathered on every device, where its sharding is part of its type.

    JAX asks for that before slices along a sharded axis are put elsewhere; in all other
    cases it sees to it by itself.
    """
    mesh = jax.typeof(array).sharding.mesh
    if mesh.empty or mesh.are_all_axes_auto:
        return array
    return jax.sharding.reshard(array, NamedSharding(mesh, PartitionSpec()))


def _real(leaf: jax.Array) -> jax.Array:
    """In float32 or wider; complex numbers as pairs, along one more axis."""
    leaf = jnp.asarray(leaf)
    if jnp.iscomplexobj(leaf):
        return jnp.stack([_real(leaf.real), _real(leaf.imag)], -1)
    return leaf.astype(wide_dtype(leaf))
