"""Weights in files: those that a run keeps, and those that a study starts from.

They go by their paths, such as blocks/0/first/kernel. What a run keeps is a NumPy
archive, weights.npz, with an array for each parameter and each batch statistic.
"""

import io
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.tree_util import keystr, tree_leaves_with_path

from . import checkpoint, checksums

KEPT = "weights.npz"
WANTED = (
    "expected the folder of a run that kept its weights, a folder that Orbax wrote, or "
    "a NumPy archive .npz of arrays by their paths"
)


def path_of(keys: Any) -> str:
    """The path of a leaf, the same for a tree of Flax and one of plain arrays."""
    return keystr(keys, simple=True, separator="/").removesuffix("/value")


def by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths."""
    return {path_of(keys): leaf for keys, leaf in tree_leaves_with_path(tree)}


def of_model(params: Any, statistics: Any) -> dict[str, Any]:
    """What is trained of a model and what is averaged on the way, by path."""
    leaves = by_path(params) | by_path(statistics)
    return {path: leaf for path, leaf in leaves.items() if is_number(leaf)}


def is_number(leaf: Any) -> bool:
    """Whether an array holds floating-point numbers; not counts, or random keys."""
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def keep(run: Path, params: Any, statistics: Any) -> None:
    """Writes weights.npz into the folder of a run.

    Raises:
        OSError: it cannot be written; one that was there before is whole.
    """
    content, leaves = io.BytesIO(), of_model(params, statistics)
    arrays: dict[str, Any] = {path: np.asarray(leaf) for path, leaf in leaves.items()}
    np.savez(content, **arrays)
    checksums.write_whole(run / KEPT, content.getvalue())


def read(source: Path | None) -> dict[str, np.ndarray]:
    """The arrays that a study is to start from, by path; of None, none.

    Raises:
        ValueError: in one line: there is nothing of the kind, or it is damaged.
    """
    if source is None:
        return {}
    where = f"init_from: {str(source)!r}"
    if (source / "metrics.jsonl").exists():
        if not (source / KEPT).exists():
            raise ValueError(
                f"{where} has no {KEPT}: that run has not finished, or diverged, or "
                "its study was not given --keep-weights"
            )
        source, load = source / KEPT, _archive
    elif (source / "_METADATA").exists():
        load = _orbax
    elif source.suffix == ".npz" and source.is_file():
        load = _archive
    else:
        raise ValueError(f"{where}: {WANTED}; {_found(source)}")
    try:
        found = load(source)
    except Exception as error:  # what a damaged file raises differs by the damage
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{where} cannot be read: {reason:.200}") from error
    if not found:
        raise ValueError(f"{where}: {WANTED}; there is no array in it")
    return found


def hashes(source: Path | None) -> dict[str, str]:
    """SHA-256 of what a study starts from, by the name of its field; of None none."""
    return {} if source is None else {"init_from": checkpoint.sha256(read(source))}


def _archive(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file, np.load(file) as arrays:
        return dict(arrays)


def _orbax(folder: Path) -> dict[str, np.ndarray]:
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(folder.resolve())
    return {path: np.asarray(leaf) for path, leaf in by_path(tree).items()}


def _found(source: Path) -> str:
    if not source.exists():
        return "it does not exist"
    runs = sorted(kept.parent.name for kept in source.glob(f"*/{KEPT}"))
    return f"it has {', '.join(runs)}" if runs else "it is none of them"
