"""What a policy computes, as a few numbers: an edited policy gives others.

Records keep them, so that a study that was begun does not go on with other policies of
the same names, wherever their code stands and whatever their texts say.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_llr

from ..config.config import Config
from .optimizers import Layering, optimizer

MOMENTS = 9
"""Steps of a run at which the rate and the multipliers are looked at."""
UPDATES = 3
"""Steps that the optimizer takes on made-up gradients, under unequal multipliers."""
SHAPES = {"stem": (3, 3, 2, 4), "body": (4, 6), "head": (6, 2)}


def moments(rates: Any, multipliers: Any) -> dict[str, list[Any]]:
    """Some of the global rates (T,) and of the multipliers (T, L) of a run."""
    taken = np.linspace(0, len(rates) - 1, MOMENTS).round().astype(int)
    return {
        "rates": np.asarray(rates)[taken].tolist(),
        "multipliers": np.asarray(multipliers)[taken].tolist(),
    }


def updates(config: Config, layering: Layering) -> list[list[float]]:
    """The size of the updates of each layer of a small made-up model, step by step."""
    trees = [
        {name: {"kernel": _array(shape, seed)} for name, shape in SHAPES.items()}
        for seed in range(1 + UPDATES)
    ]
    params, *gradients = jax.tree.map(jnp.asarray, trees)
    layers = optax_llr.match_layers(params, [(r"(\w+)/kernel", r"\1")])
    chain = optimizer(config, layers, layering)

    @jax.jit
    def sizes() -> list[list[jax.Array]]:
        found: list[list[jax.Array]] = []
        weights: Any = params
        state: Any = chain.init(params)
        told = {"rate": jnp.float32(0.1), "multipliers": jnp.array([0.5, 1.0, 2.0])}
        for gradient in gradients:
            state = state._replace(hyperparams=told)
            changes, state = chain.update(gradient, state, weights)
            weights = optax.apply_updates(weights, changes)
            found.append([jnp.linalg.norm(leaf) for leaf in jax.tree.leaves(changes)])
        return found

    # Not as fast as the device can, but as all devices do.
    with jax.default_matmul_precision("highest"):
        return jax.tree.map(float, sizes())


def _array(shape: tuple[int, ...], seed: int) -> np.ndarray:
    # NumPy promises to keep only the raw bits the same in later versions.
    bits = np.random.PCG64(seed).random_raw(int(np.prod(shape)))
    return (bits / 2**64 - 0.5).astype(np.float32).reshape(shape)
