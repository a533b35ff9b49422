"""Checkpoints of a run, by Orbax: written in the background, whole or not at all.

A checkpoint holds the arrays of a `TrainState` and what the run needs beside them. A
SHA-256 over both is kept with it: one that was damaged since is never used.
"""

import contextlib
import errno
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

State = TypeVar("State")
About = dict[str, Any]
Arrays = dict[str, np.ndarray]

KEPT = 3

# Orbax logs a failure with every thread's traceback, and raises it: once will do.
logging.getLogger("absl").setLevel(logging.CRITICAL)


class Checkpoints:
    """The last few checkpoints of one run, in a folder of their own."""

    def __init__(self, folder: Path):
        """Makes the folder, and removes what an interrupted save left in it."""
        self._folder = folder.resolve()  # Orbax takes no relative path
        self._manager = self._open()

    def save(self, step: int, state: Any, about: Mapping[str, Any]) -> None:
        """Copies the state and begins to write it, once the one before is written.

        Raises:
            OSError: this one or the one before cannot be written.
        """
        if step in self._manager.all_steps():
            return
        arrays = to_arrays(state)
        sealed = {**about, "sha256": _digest(arrays, about)}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays), about=ocp.args.JsonSave(sealed)
        )
        with self._explained():
            self._manager.save(step, args=args)

    def wait(self) -> None:
        """Returns when everything is written.

        Raises:
            OSError: something cannot be written.
        """
        with self._explained():
            self._manager.wait_until_finished()

    def newest(
        self, like: State, say: Callable[[str], None]
    ) -> tuple[State, About] | None:
        """The newest good checkpoint; newer ones are named, and put aside.

        Args:
            like: a state of the same structure, or its shapes.
            say: is told of every checkpoint that is not used, and why.
        """
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                arrays, about = self._read(step)
                return from_arrays(arrays, like), about
            except Exception as error:  # what damage raises differs by the damage
                reason = _first_line(error)
            # By hand, because Orbax may be unable to read what is to be put aside.
            unused = self._folder / f"{step}.unused"
            shutil.rmtree(unused, ignore_errors=True)
            (self._folder / str(step)).rename(unused)
            say(
                f"checkpoint of step {step:,} is not used, and kept as "
                f"{str(unused)!r} until the run is over: {reason:.200}"
            )
            self._manager.close()
            self._manager = self._open()
        return None

    def close(self) -> None:
        """Ends the background threads, after what they are writing."""
        self._manager.close()

    def _open(self) -> ocp.CheckpointManager:
        self._folder.mkdir(parents=True, exist_ok=True)
        processes = ocp.options.MultiprocessingOptions()
        if jax.process_count() > 1:  # the first one writes alone
            processes = ocp.options.MultiprocessingOptions(
                primary_host=0, active_processes={0}, barrier_sync_key_prefix="first"
            )
        options = ocp.CheckpointManagerOptions(
            max_to_keep=KEPT, create=False, multiprocessing_options=processes
        )
        return ocp.CheckpointManager(self._folder, options=options)

    def _read(self, step: int) -> tuple[Arrays, About]:
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(), about=ocp.args.JsonRestore()
            ),
        )
        arrays = {name: np.asarray(value) for name, value in restored["state"].items()}
        about = restored["about"]
        digest = about.pop("sha256")
        if digest != _digest(arrays, about):
            raise ValueError("its content does not match its checksum")
        return arrays, about

    @contextlib.contextmanager
    def _explained(self) -> Generator[None]:
        """Makes of what Orbax raises the error of a file, in one line."""
        try:
            yield
        except Exception as error:
            number, said = (
                errno.EIO,
                f"no checkpoint was written ({_first_line(error)})",
            )
            if "No space left" in str(error):
                number, said = errno.ENOSPC, "no space left for a checkpoint"
            raise OSError(number, said, str(self._folder)) from error


def sha256(tree: Any) -> str:
    """A checksum of all arrays in a tree, with their paths, shapes and dtypes."""
    return _digest(to_arrays(tree), {})


def to_arrays(tree: Any) -> Arrays:
    """Copies of the leaves by their paths; of random keys, what they consist of.

    Copies, because on a CPU the arrays share their memory with what the next step
    overwrites.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    data = [jax.random.key_data(leaf) if _is_key(leaf) else leaf for _, leaf in leaves]
    return {
        jax.tree_util.keystr(path): np.array(value)
        for (path, _), value in zip(leaves, jax.device_get(data), strict=True)
    }


def from_arrays(arrays: Arrays, like: State) -> State:
    """The arrays on the device, as a tree of the same structure."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    names = [jax.tree_util.keystr(path) for path, _ in leaves]
    if arrays.keys() != set(names):
        differing = sorted(arrays.keys() ^ set(names))
        raise ValueError(f"expected the arrays of this run; it differs in {differing}")
    return jax.tree.unflatten(
        structure,
        [
            _leaf(arrays[name], leaf)
            for name, (_, leaf) in zip(names, leaves, strict=True)
        ],
    )


def _leaf(array: np.ndarray, like: Any) -> jax.Array:
    if not _is_key(like):
        return jnp.array(array)
    return jax.random.wrap_key_data(jnp.array(array))


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _digest(arrays: Arrays, about: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(array.data if array.ndim else array.tobytes())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else repr(error)
