"""Sums by layer: what the rules and the measurements are made of."""

import contextlib
import functools
from collections.abc import Callable, Generator
from contextvars import ContextVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec

from ._layers import Layers, as_indices, check_leaf
from ._paths import PyTree, leaves_by_path

_left_out: ContextVar[np.ndarray | None] = ContextVar("_left_out", default=None)

TINY = float(np.finfo(np.float32).tiny)


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
        ValueError: if a leaf is unknown to `layers`, or the first tree has a leaf that
            another one has not, or in another shape.

    Example:
        >>> import jax.numpy as jnp, optax_llr
        >>> gradients = {"conv": jnp.array([3.0, 4.0]), "head": jnp.array([2.0])}
        >>> layers = optax_llr.match_layers(gradients, [(k, k) for k in gradients])
        >>> print(jnp.sqrt(optax_llr.layer_sum(layers, jnp.square, gradients)))
        [5. 2.]
    """
    first, *others = [leaves_by_path(tree) for tree in trees]
    whole: dict[int, list[tuple[jax.Array, ...]]] = {}
    stacked: list[tuple[tuple[int, ...], tuple[jax.Array, ...]]] = []
    for path, leaf in first.items():
        check_leaf(layers, path, leaf)
        if missing := [i for i, other in enumerate(others, 2) if path not in other]:
            raise ValueError(
                f"layer_sum: the first tree holds {path!r}, tree {missing[0]} does not"
            )
        operands = (leaf, *(other[path] for other in others))
        if len(shapes := {jnp.shape(operand) for operand in operands}) > 1:
            raise ValueError(f"layer_sum: {path!r} has several shapes: {shapes}")
        member = layers.members[path]
        if isinstance(member, int):
            whole.setdefault(member, []).append(operands)
        else:
            stacked.append((member, operands))
    sums = jnp.zeros(len(layers), jnp.float32)
    if whole:
        parts = [_sum_layer(function, operands) for operands in whole.values()]
        sums = sums.at[np.array(list(whole), np.int32)].set(jnp.stack(parts))
    for member, operands in stacked:
        sums = sums.at[np.array(member, np.int32)].add(_sum_slices(function, operands))
    return sums


def layer_norm(layers: Layers, tree: PyTree) -> jax.Array:
    """The Euclidean norm of each layer, (L,); at least 1e-19, where squares end."""
    return jnp.sqrt(jnp.maximum(layer_sum(layers, jnp.square, tree), TINY))


def layer_cosine(layers: Layers, one: PyTree, other: PyTree) -> jax.Array:
    """The cosine between two trees in each layer, (L,); 0 where one of them is 0.

    NaN where what it is made of is not finite, or too large to be squared.
    """
    dot = layer_sum(layers, jnp.multiply, one, other)
    norms = layer_norm(layers, one), layer_norm(layers, other)
    finite = jnp.isfinite(dot) & jnp.isfinite(norms[0]) & jnp.isfinite(norms[1])
    cosine = jnp.clip(dot / norms[0] / norms[1], -1, 1)
    return jnp.where(finite, cosine, jnp.nan)


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


def layer_slices(layers: Layers, tree: PyTree) -> dict[int, list[jax.Array]]:
    """What a tree holds of each layer: leaves, or slices of stacked leaves."""
    present = layers_in(layers, tree)
    parts: dict[int, list[jax.Array]] = {}
    for path, leaf in leaves_by_path(tree).items():
        check_leaf(layers, path, leaf)
        member = layers.members[path]
        leaf = _everywhere(jnp.asarray(leaf))
        slices = leaf if isinstance(member, tuple) else [leaf]
        for index, part in zip(as_indices(member), slices, strict=True):
            parts.setdefault(index, []).append(part)
    return {index: parts[index] for index in sorted(parts) if present[index]}


def layers_in(layers: Layers, tree: PyTree) -> np.ndarray:
    """Which layers a tree holds parameters of, as a bool array (L,)."""
    found = np.zeros(len(layers), bool)
    for path, leaf in leaves_by_path(tree).items():
        check_leaf(layers, path, leaf)
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


@functools.partial(jax.jit, static_argnums=0)  # layers of one structure: one trace
def _sum_layer(
    function: Callable[..., jax.Array], leaves: list[tuple[jax.Array, ...]]
) -> jax.Array:
    sums = [function(*map(_real, operands)).sum() for operands in leaves]
    return functools.reduce(jnp.add, sums).astype(jnp.float32)


def _sum_slices(
    function: Callable[..., jax.Array], operands: tuple[jax.Array, ...]
) -> jax.Array:
    values = function(*map(_real, operands))
    sums = values.sum(tuple(range(1, values.ndim))).astype(jnp.float32)
    return _everywhere(sums)


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
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
