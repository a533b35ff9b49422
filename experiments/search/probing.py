"""Short runs from one state of training, each with multipliers of its own."""

import functools
import itertools
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from optax_llr import freeze_phases

from ..data.dataset import Dataset
from ..models.convolution import compiler_options
from ..policies.chosen import configured, with_controls
from ..records import weights
from ..terminal import signals
from ..training import stacking
from ..training.compiling import policy_tables
from ..training.program import Images, Program, Tables, TrainState
from .find import Find

BATCHES = 8
"""Of training images, on which the loss is looked at."""


class Probe:
    """Trains on from one state of training, with any constant multipliers.

    That state follows upon the warm-up with multiplier 1 for all layers. The moments of
    the optimizer are a part of it, and the global schedule goes on from there.

    Attributes:
        layers: the layers of the model, in forward order.
    """

    def __init__(self, asked: Find, dataset: Dataset):
        """Warms up.

        Raises:
            ValueError: training diverged meanwhile.
        """
        self._asked, config = asked, asked.config
        self._program = Program(config, dataset)
        self.layers = self._program.layers
        uniform = configured(with_controls(config)[0])["uniform"]
        tables = policy_tables(uniform, config, self.layers)
        self._rates = jnp.asarray(tables.rate)
        split = dataset.train
        self._data = Images(jnp.asarray(split.images), jnp.asarray(split.labels))
        self._compiled = functools.cache(self._compile)
        self._start = functools.cache(self._starting)
        key, chosen_key = jax.random.split(jax.random.key(0))
        count = min(BATCHES, config.steps_per_epoch) * config.batch_size
        source = weights.read(config.init_from)
        start = jax.jit(self._program.initial)(key, source)
        chosen = jax.random.permutation(chosen_key, start.order)[:count]
        self._batches = [
            Images(self._data.images[batch], self._data.labels[batch])
            for batch in chosen.reshape(-1, config.batch_size)
        ]
        self._warm = self._trained(start, np.ones(len(self.layers)), asked.warmup)
        if (step := int(self._warm.diverged)) >= 0:
            raise ValueError(
                f"rate must be one at which the warm-up does not diverge, as it did "
                f"after {step} steps; got {uniform.rate or config.rate}"
            )

    def losses(
        self, multipliers: np.ndarray, repeats: Sequence[int], name: str
    ) -> np.ndarray:
        """The losses (n, R) after the horizon, for multipliers (n, L).

        Args:
            multipliers: of all layers, a row for each run.
            repeats: R numbers; each stands for batches of its own, the same in every
                run and call.
            name: what to call it on the terminal meanwhile.
        """
        runs = list(itertools.product(multipliers, repeats))
        size = self._stack(len(runs))
        groups = [runs[begin : begin + size] for begin in range(0, len(runs), size)]
        found: list[np.ndarray] = []
        for group in tqdm.tqdm(
            groups,
            desc=name,
            disable=None,
            leave=False,
            dynamic_ncols=True,
            bar_format="{desc} {bar:8} {n_fmt}/{total_fmt}, {remaining} left",
        ):
            signals.check()
            found.append(self._measured(stacking.filled(group, size)))
        losses = np.concatenate(found)[: len(runs)]
        return losses.reshape(len(multipliers), len(repeats))

    def _stack(self, runs: int) -> int:
        """How many runs are trained at once."""
        if self._asked.config.stack != "auto":
            return min(self._asked.config.stack, runs)
        ones = np.ones(len(self.layers))

        def speed(size: int) -> float:
            self._measured([(ones, 0)] * size)  # compiles
            began = time.perf_counter()
            self._measured([(ones, 0)] * size)
            return size / (time.perf_counter() - began)

        return stacking.size_that_pays(speed, runs)[0]

    def _measured(self, group: Sequence[tuple[np.ndarray, int]]) -> np.ndarray:
        """The losses of runs that are trained at once."""
        multipliers = np.stack([multipliers for multipliers, _ in group])
        states = [self._start(repeat) for _, repeat in group]
        if len(group) == 1:
            state = self._trained(states[0], multipliers[0], self._asked.horizon)
        else:
            state = stacking.stacked(states)
            state = self._trained(state, multipliers, self._asked.horizon)
        _, loss = self._compiled(len(group))
        losses = [loss(state.params, state.statistics, b) for b in self._batches]
        return np.atleast_1d(np.mean(jax.device_get(losses), axis=0, dtype=float))

    def _trained(
        self, state: TrainState, multipliers: np.ndarray, steps: int
    ) -> TrainState:
        step, _ = self._compiled(1 if multipliers.ndim == 1 else len(multipliers))
        told = jnp.asarray(multipliers, jnp.float32)
        for _ in range(steps):
            state = step(state, self._data, told)
        return state

    def _starting(self, repeat: int) -> TrainState:
        """The warm state, from which another repeat meets other batches."""
        key = jax.random.fold_in(self._warm.key, repeat)
        key, order_key = jax.random.split(key)
        # Steps shuffle only at the beginning of an epoch.
        order = jax.random.permutation(order_key, self._warm.order)
        return self._warm._replace(key=key, order=order)

    def _compile(self, size: int) -> tuple[Any, Any]:
        """Step and loss, for so many runs at once."""
        program, layers = self._program, self.layers
        total = self._asked.config.total_steps
        (whole,) = freeze_phases(layers, np.ones(len(layers)), 1)

        def step(state: TrainState, data: Images, multipliers: jax.Array) -> TrainState:
            rows = jnp.broadcast_to(multipliers, (total, len(layers)))
            return program.step(state, data, Tables(self._rates, rows), whole)

        loss = program.training_loss
        if size > 1:
            step = jax.vmap(step, (stacking.AXES, None, 0), stacking.AXES)
            loss = jax.vmap(loss, (0, 0, None))
        options = compiler_options()
        return (
            jax.jit(step, compiler_options=options),
            jax.jit(loss, compiler_options=options),
        )
