"""What rules share that measure the weights: spectra, the exponents of their tails."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from .._checks import Number, wide_dtype
from ..layers._layers import Layers
from ..layers._paths import PyTree
from ..layers._sums import layer_slices
from ._adapt_layers import NOT_MEASURED

FEWEST = 50
"""Eigenvalues below which a layer is not measured, as in the sources."""


def layer_matrices(
    owner: str, layers: Layers, params: PyTree
) -> dict[int, list[jax.Array]]:
    """The matrices of each layer that has some, as stacks (k, a, b)."""
    found: dict[int, list[jax.Array]] = {}
    for index, parts in layer_slices(owner, layers, params).items():
        if kernels := _kernels(parts):
            found[index] = [_stack(kernel) for kernel in kernels]
    return found


def tail_exponents(length: int, matrices: dict[int, list[jax.Array]]) -> jax.Array:
    """α of each layer, (L,); NOT_MEASURED where there is none."""
    enough = [index for index in matrices if _count(matrices[index]) >= FEWEST]
    spectra = _spectra([matrices[index] for index in enough])
    exponents = jnp.full(length, NOT_MEASURED, jnp.float32)
    for members in _alike(spectra, len).values():
        found = exponent(jnp.stack([spectra[member] for member in members]))
        indices = np.array([enough[member] for member in members], np.int32)
        exponents = exponents.at[indices].set(found)
    return exponents


def exponent(eigenvalues: jax.Array) -> jax.Array:
    """α of the upper half of eigenvalues (…, N); NOT_MEASURED where there is none."""
    ordered = jnp.sort(eigenvalues)
    tail = ordered[..., ordered.shape[-1] // 2 :]
    start = tail[..., :1]
    ratios = jnp.where(start > 0, tail / jnp.where(start > 0, start, 1), 1)
    total = jnp.log(ratios).sum(-1)
    found = 1 + tail.shape[-1] / jnp.where(total > 0, total, 1)
    return jnp.where(total > 0, found, NOT_MEASURED)


def shared_out(exponents: jax.Array, low: Number, high: Number) -> jax.Array:
    """From low to high, linear in α; 1 where there is none, or all are equal."""
    measured = exponents < NOT_MEASURED  # which NaN is not
    known = jnp.where(measured, exponents, 0)
    least = jnp.where(measured, exponents, NOT_MEASURED).min(initial=NOT_MEASURED)
    spread = known.max(initial=0) - least  # below 0 where there is none
    shared = measured & (spread > 0)
    above = jnp.where(shared, known - least, 0) / jnp.where(spread > 0, spread, 1)
    shares = jnp.where(shared, low + (high - low) * above, 1.0)
    return shares.astype(jnp.float32)


def measured_when(
    due: bool | jax.Array, measure: Callable[[], jax.Array], before: jax.Array
) -> jax.Array:
    """What is measured now where it is due, else what was before."""
    if isinstance(due, Tracer):
        return lax.cond(due, measure, lambda: before)
    # Outside `jit`, `cond` would compile its branches anew in each step.
    return measure() if due else before


def _kernels(parts: list[jax.Array]) -> list[jax.Array]:
    """Those with two axes or more, without the biases that stand beside them.

    An attention's bias has an axis for the heads: its shape is the end of the kernel's.
    """
    large = [part for part in parts if part.ndim > 1 and part.size]
    ends = {part.shape[start:] for part in large for start in range(1, part.ndim)}
    return [part for part in large if part.shape not in ends]


def _stack(leaf: jax.Array) -> jax.Array:
    """A leaf as its matrices: (1, a, b) for two axes or three, else (k, a, b)."""
    if leaf.ndim != 3:
        return leaf.reshape(-1, *leaf.shape[-2:])
    first, second, _ = leaf.shape
    rows = max(first, first * second, key=lambda n: min(n, leaf.size // n))
    return leaf.reshape(1, rows, leaf.size // rows)


def _count(stacks: Sequence[jax.Array]) -> int:
    """How many eigenvalues stacks of matrices have together."""
    return sum(len(stack) * min(stack.shape[1:]) for stack in stacks)


def _spectra(layers: Sequence[Sequence[jax.Array]]) -> list[jax.Array]:
    """For each layer the eigenvalues of all its matrices, as a vector.

    Matrices of one shape are decomposed in one call, whichever layer they belong to: a
    call for each takes longer to compile.
    """
    owners = [owner for owner, stacks in enumerate(layers) for _ in stacks]
    wide = [s.astype(wide_dtype(s)) for stacks in layers for s in stacks]
    found: list[list[jax.Array]] = [[] for _ in layers]
    for members in _alike(wide, lambda s: (s.shape[1:], s.dtype)).values():
        together = jnp.concatenate([wide[member] for member in members])
        singular = jnp.linalg.svd(together, compute_uv=False)
        eigenvalues = jnp.square(singular).astype(jnp.float32)
        ends = np.cumsum([len(wide[member]) for member in members])
        rows = jnp.split(eigenvalues, ends[:-1])
        for member, own in zip(members, rows, strict=True):
            found[owners[member]].append(own.ravel())
    return [jnp.concatenate(vectors) for vectors in found]


def _alike(
    arrays: Sequence[jax.Array], kind: Callable[[jax.Array], object]
) -> dict[object, list[int]]:
    """Positions of the arrays of each kind."""
    found: dict[object, list[int]] = {}
    for position, array in enumerate(arrays):
        found.setdefault(kind(array), []).append(position)
    return found
