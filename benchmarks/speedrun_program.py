"""The pure functions that the speed run compiles; a policy is data to them."""

import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from airbench import CLASSES, Net, whitening
from flax import nnx
from jax.typing import DTypeLike
from speedrun_images import Draws, Images, normalised, seen, views
from speedrun_rates import RECIPES, Tables, layers_of, optimizer

from experiments.training.program import hold_statistics
from optax_llr import Phase

Weights = nnx.State[Any, Any]
SMOOTHING = 0.2
WHITENED_FROM = 5_000
"""Images whose patches the whitening is made from, at most."""
PULL_EVERY = 5
"""Steps between two pulls of lookahead."""


class Fast(NamedTuple):
    """What the steps change of the net, and lookahead pulls back."""

    params: Weights
    statistics: Weights  # of batch norm


class State(NamedTuple):
    """All that changes during a run."""

    fast: Fast
    slow: Fast | None  # the average that lookahead pulls to; None without
    opt_state: Any  # that of `optax.inject_hyperparams`
    step: jax.Array  # shape=(), dtype=jnp.int32; steps done


class Told(NamedTuple):
    """What a run is told."""

    data: Images  # to train on
    draws: Draws  # of its seed
    tables: Tables  # of its policy


class Program:
    """The pure functions of an optimizer.

    Attributes:
        layers: those of the net.
    """

    def __init__(
        self,
        optimizer_name: str,
        steps: int,
        batch: int,
        width: float = 1.0,
        dtype: DTypeLike = jnp.float32,
    ):
        """Builds the net in the abstract, without weights."""
        self._recipe = RECIPES[optimizer_name]
        self._total, self._width, self._dtype = steps, width, dtype
        model = nnx.eval_shape(lambda: self._make(jax.random.key(0)))
        self._training, params, _ = nnx.split(model, nnx.Param, ...)
        model.eval()
        self._inference = nnx.graphdef(model)
        self.layers = layers_of(params)
        self._optimizer = optimizer(optimizer_name, self.layers, batch)
        self._whole = Phase(self.layers, 0, 1, (False,) * len(self.layers))

    def initial(self, key: jax.Array, images: jax.Array) -> State:
        """The state before the first step, but for lookahead: `begun` adds that.

        Args:
            key: fixes the initial weights.
            images: of the data set, uint8.
        """
        _, params, statistics = nnx.split(self._make(key), nnx.Param, ...)
        kernel = params["whiten"]["kernel"]
        first = normalised(images[:WHITENED_FROM])
        kernel[...] = whitening(first)
        fast = Fast(params, statistics)
        return State(
            fast=fast,
            # A copy, so that a state that is donated holds no array twice.
            slow=jax.tree.map(jnp.copy, fast) if self._recipe.lookahead else None,
            opt_state=self._whole.freeze(self._optimizer).init(params),
            step=jnp.int32(0),
        )

    def step(self, state: State, told: Told, phase: Phase) -> State:
        """One step on the images drawn for it; frozen layers are only run forward."""
        params, statistics = state.fast
        images, labels = seen(
            told.data, jax.tree.map(lambda drawn: drawn[state.step], told.draws)
        )
        loss = phase.stopped(functools.partial(self.loss, phase=phase))
        gradients, new = jax.grad(loss, has_aux=True)(
            params, statistics, images, labels
        )
        now = {
            "rate": told.tables.rate[state.step],
            "multipliers": told.tables.multipliers[state.step],
        }
        inner = state.opt_state.inner._replace(hyperparams=now)
        updates, opt_state = phase.freeze(self._optimizer).update(
            gradients, state.opt_state._replace(inner=inner), params
        )
        fast = Fast(
            cast(Weights, optax.apply_updates(params, updates)),
            phase.held(new, statistics),
        )
        slow, done = state.slow, state.step + 1
        if slow is not None:
            slow, fast = pulled(slow, fast, done, self._total)
        return State(fast, slow, opt_state, done)

    def steps(self, state: State, told: Told, phase: Phase, length: int) -> State:
        """Several steps in one call."""
        if length == 1:  # convolutions are slow in loops on a CPU, also of one turn
            return self.step(state, told, phase)
        return jax.lax.scan(
            lambda state, _: (self.step(state, told, phase), None), state, length=length
        )[0]

    def loss(
        self,
        params: Weights,
        statistics: Weights,
        images: jax.Array,
        labels: jax.Array,
        *,
        phase: Phase | None = None,
    ) -> tuple[jax.Array, Weights]:
        """Mean loss under label smoothing, and the statistics after it."""
        # A copy, as batch norm may not change variables from outside the gradient.
        model = nnx.merge(self._training, params, statistics, copy=True)
        if phase is not None:
            hold_statistics(model, phase)
        logits = model(images)
        targets = optax.smooth_labels(jax.nn.one_hot(labels, CLASSES), SMOOTHING)
        loss = optax.softmax_cross_entropy(logits, targets).mean()
        _, _, statistics = nnx.split(model, nnx.Param, ...)
        return loss, statistics

    def logits(self, fast: Fast, images: jax.Array) -> jax.Array:
        """What the net answers to normalised images, without augmentation."""
        return nnx.merge(self._inference, *fast)(images)

    def correct(self, fast: Fast, batch: Images) -> jax.Array:
        """How many labels are found under test-time augmentation."""
        shares, seen_as = zip(*views(normalised(batch.images)), strict=True)
        answers = [self.logits(fast, view) for view in seen_as]
        together = jnp.average(jnp.stack(answers), 0, jnp.array(shares))
        return _found(together, batch)

    def correct_plain(self, fast: Fast, batch: Images) -> jax.Array:
        """How many are found without, which is a sixth of the work."""
        return _found(self.logits(fast, normalised(batch.images)), batch)

    def _make(self, key: jax.Array) -> Net:
        return Net(nnx.Rngs(key), self._width, self._dtype)


def _found(logits: jax.Array, batch: Images) -> jax.Array:
    return (logits.argmax(-1) == batch.labels).sum()


def pulled(slow: Fast, fast: Fast, done: jax.Array, total: int) -> tuple[Fast, Fast]:
    """Lookahead: every fifth step the average takes a share of the net, which joins it.

    The average is slow ← d · slow + (1 − d) · fast with d = 0.95⁵ (done/total)³, and
    then fast ← slow. After the last step the net becomes the average: where that is
    none of the fifths, what came since is lost, as it is in airbench94.

    Args:
        slow: the average.
        fast: the net after this step.
        done: steps done, this one included.
        total: of the run.

    Returns:
        slow and fast after it.
    """
    due, last = done % PULL_EVERY == 0, done == total
    share = jnp.where(due, 1 - 0.95**PULL_EVERY * (done / total) ** 3, 0)
    # In this form what stands still is its own average, to the last bit.
    slow = jax.tree.map(lambda s, f: s + share * (f - s), slow, fast)
    fast = jax.tree.map(lambda s, f: jnp.where(due | last, s, f), slow, fast)
    return slow, fast
