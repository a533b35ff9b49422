"""The training loop: one compiled step that every policy and seed of a study shares.

What differs between runs is data to that step: the weights, the random key, and two
tables with the global rate and the multipliers of every step. So the step is traced
and compiled once, and runs of one seed start from the same weights and see the same
images in the same order, mirrored and shifted alike.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import optax_llr
from optax_llr import Layers

from . import cache
from .augment import augment, normalise
from .cifar10 import DataError, Split
from .config import Config
from .data import Dataset
from .models import make
from .policies import Policy
from .rates import global_rate

Event = dict[str, Any]
Weights = nnx.State[Any, Any]

EVALUATION_BATCH = 200  # divides 400, 5,000 and 10,000
WEIGHTS, ORDER, AUGMENTATION = range(3)  # what the keys of a run are for


class TrainState(NamedTuple):
    """All that changes during a run, and all that is needed to go on with it.

    Everything else follows from the configuration and `step`: the rate, the
    multipliers, and from these which layers are frozen. The optimizer state holds all
    layers, frozen or not, so a change of what is frozen needs no other state.
    """

    params: Weights
    statistics: Weights  # those of batch norm; empty for a model without
    opt_state: Any  # that of `optax.inject_hyperparams`
    step: jax.Array  # shape=(), dtype=jnp.int32; steps done
    key: jax.Array  # shape=(), a JAX key; data order and augmentation derive from it
    order: jax.Array  # shape=(n,), dtype=jnp.int32; the permutation of this epoch
    loss: jax.Array  # shape=(), dtype=jnp.float32; sum since the last fetch
    correct: jax.Array  # shape=(), dtype=jnp.int32; sum since the last fetch
    diverged: jax.Array  # shape=(), dtype=jnp.int32; steps before a bad loss, else −1


class Tables(NamedTuple):
    """A policy as data: what the optimizer is told at each of the T steps."""

    rate: jax.Array | np.ndarray  # shape=(T,), dtype=float32; the global rate
    multipliers: jax.Array | np.ndarray  # shape=(T, L), dtype=float32


class Images(NamedTuple):
    """Images and labels on the device; a label of −1 marks an image that fills up."""

    images: jax.Array  # shape=(n, 32, 32, 3), dtype=jnp.uint8
    labels: jax.Array  # shape=(n,), dtype=jnp.int32


class Trainer:
    """Trains one model on one data set, under any policy and seed.

    Made once a study: puts the data on the device, reads the layers off the model and
    compiles.

    Attributes:
        layers: the layers of the model, in forward order.
    """

    def __init__(self, config: Config, dataset: Dataset):
        """Takes a valid configuration and the data set that it names."""
        if len(dataset.train.labels) != config.training_images:
            raise DataError(
                f"expected the {config.training_images} training images that the "
                f"configuration names, got {len(dataset.train.labels)}"
            )
        self._config = config
        self._train = _on_device(dataset.train.images, dataset.train.labels)
        self._validation = _batches(dataset.validation)
        self._test = _batches(dataset.test)
        program = Program(config, dataset)
        self.layers = program.layers
        self._compile(program)

    def run(self, policy: Policy, seed: int, record: Callable[[Event], None]) -> None:
        """Trains once and records what happens.

        A loss that is not finite ends the run as "diverged", at the number of steps
        done before it. An interrupt ends it as "interrupted" and is raised again.

        Args:
            policy: how the rates of the layers differ.
            seed: fixes initial weights, data order and augmentation.
            record: is given one event after another, the last of kind "end".
        """
        log = _Log(policy.name, seed, self._config.batch_size, record)
        tables = policy_tables(policy, self._config, self.layers)
        try:
            status, test = self._fit(tables, log)
        except KeyboardInterrupt:
            log.end("interrupted")
            raise
        log.end(status, *test)

    def _fit(self, tables: Tables, log: "_Log") -> tuple[str, tuple[float, ...]]:
        """Trains to the end or to divergence: the status, test loss and accuracy."""
        total, every = self._config.total_steps, self._config.record_every
        told = jax.device_put(tables)
        state = self._initial(jax.random.key(log.seed))
        while log.step < total:
            steps = min(every, total - log.step)
            began = time.perf_counter()
            state = self._advance(state, told, steps)
            loss, correct, diverged = jax.device_get(
                (state.loss, state.correct, state.diverged)
            )
            log.seconds += time.perf_counter() - began
            if diverged >= 0:
                log.step = int(diverged)
                return "diverged", ()
            log.step += steps
            log.train(float(loss) / steps, int(correct) / steps, tables)
            if log.step % self._config.evaluate_every == 0 or log.step == total:
                loss, accuracy = self._evaluate(state, self._validation)
                log.write("validation", loss=loss, accuracy=accuracy)
                if not np.isfinite(loss):
                    return "diverged", ()
        return "finished", self._evaluate(state, self._test)

    def _advance(self, state: TrainState, tables: Tables, steps: int) -> TrainState:
        calls, left = divmod(steps, self._steps_per_call)
        for _ in range(calls):
            state = self._steps(state, self._train, tables)
        for _ in range(left):
            state = self._step(state, self._train, tables)
        return state

    def _evaluate(
        self, state: TrainState, batches: list[Images]
    ) -> tuple[float, float]:
        """Mean loss and accuracy over all images of a split."""
        totals = [
            self._score(state.params, state.statistics, batch) for batch in batches
        ]
        loss, correct, images = np.sum(jax.device_get(totals), axis=0, dtype=float)
        return float(loss / images), float(correct / images)

    def _compile(self, program: "Program") -> None:
        """Compiles ahead of the first run, so that no run's time includes it."""
        key = jax.random.key(0)
        state = jax.eval_shape(program.initial, key)
        total, layers = self._config.total_steps, len(program.layers)
        tables = jax.eval_shape(
            lambda: Tables(jnp.zeros(total), jnp.zeros((total, layers)))
        )
        step = jax.jit(program.step, donate_argnums=0)
        steps = jax.jit(program.steps, donate_argnums=0, static_argnums=3)
        score = jax.jit(program.score)
        self._initial = jax.jit(program.initial).lower(key).compile()
        self._step = step.lower(state, self._train, tables).compile()
        self._score = score.lower(
            state.params, state.statistics, self._test[0]
        ).compile()
        self._steps_per_call = steps_per_call(self._config.record_every)
        if self._steps_per_call == 1:
            self._steps = self._step
        else:
            self._steps = steps.lower(
                state, self._train, tables, self._steps_per_call
            ).compile()


class Program:
    """The pure functions that a study compiles.

    Attributes:
        layers: the layers of the model, in forward order.
    """

    def __init__(self, config: Config, dataset: Dataset):
        """Builds the model in the abstract, without weights."""
        self._config = config
        self._classes = len(dataset.classes)
        self._mean, self._std = dataset.mean, dataset.std
        self._dtype = jnp.dtype(config.dtype)
        model = nnx.eval_shape(lambda: self._model(jax.random.key(0)))
        self._training, params, statistics = nnx.split(model, nnx.Param, ...)
        model.eval()
        self._inference = nnx.graphdef(model)
        images = jax.ShapeDtypeStruct(
            (config.batch_size, *dataset.train.images.shape[1:]), self._dtype
        )
        self.layers = optax_llr.trace_layers(self._infer, params, statistics, images)
        self._optimizer = optimizer(config, self.layers)

    def initial(self, key: jax.Array) -> TrainState:
        """The state before the first step; the key fixes everything random in a run."""
        _, params, statistics = nnx.split(
            self._model(jax.random.fold_in(key, WEIGHTS)), nnx.Param, ...
        )
        return TrainState(
            params=params,
            statistics=statistics,
            opt_state=self._optimizer.init(params),
            step=jnp.int32(0),
            key=key,
            order=jnp.arange(self._config.training_images, dtype=jnp.int32),
            loss=jnp.float32(0),
            correct=jnp.int32(0),
            diverged=jnp.int32(-1),
        )

    def step(self, state: TrainState, data: Images, tables: Tables) -> TrainState:
        """One optimizer step on the next batch."""
        order, images, labels = self._next_batch(state, data)
        (loss, (correct, statistics)), gradients = jax.value_and_grad(
            self._loss, has_aux=True
        )(state.params, state.statistics, images, labels)
        told = {
            "rate": tables.rate[state.step],
            "multipliers": tables.multipliers[state.step],
        }
        updates, opt_state = self._optimizer.update(
            gradients, state.opt_state._replace(hyperparams=told), state.params
        )
        first_bad = (state.diverged < 0) & ~jnp.isfinite(loss)
        fresh = state.step % self._config.record_every == 0  # the last was fetched
        return TrainState(
            params=cast(Weights, optax.apply_updates(state.params, updates)),
            statistics=statistics,
            opt_state=opt_state,
            step=state.step + 1,
            key=state.key,
            order=order,
            loss=jnp.where(fresh, 0, state.loss) + loss,
            correct=jnp.where(fresh, 0, state.correct) + correct,
            diverged=jnp.where(first_bad, state.step, state.diverged),
        )

    def steps(
        self, state: TrainState, data: Images, tables: Tables, length: int
    ) -> TrainState:
        """Several steps in one call."""
        return jax.lax.scan(
            lambda state, _: (self.step(state, data, tables), None),
            state,
            length=length,
        )[0]

    def score(
        self, params: Weights, statistics: Weights, batch: Images
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Sum of losses, number of correct answers and of images; without the fill."""
        images = normalise(batch.images, self._mean, self._std, self._dtype)
        logits = self._infer(params, statistics, images)
        real = batch.labels >= 0
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
        correct = logits.argmax(-1) == batch.labels
        return jnp.where(real, losses, 0).sum(), (correct & real).sum(), real.sum()

    def _model(self, key: jax.Array) -> nnx.Module:
        return make(self._config.model, self._classes, nnx.Rngs(key), self._dtype)

    def _infer(
        self, params: Weights, statistics: Weights, images: jax.Array
    ) -> jax.Array:
        return nnx.merge(self._inference, params, statistics)(images)

    def _loss(
        self,
        params: Weights,
        statistics: Weights,
        images: jax.Array,
        labels: jax.Array,
    ) -> tuple[jax.Array, tuple[jax.Array, Weights]]:
        # A copy, as batch norm may not change variables from outside the gradient.
        model = nnx.merge(self._training, params, statistics, copy=True)
        logits = model(images)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        _, _, statistics = nnx.split(model, nnx.Param, ...)
        correct = (logits.argmax(-1) == labels).sum()
        return losses.mean(), (correct, statistics)

    def _next_batch(
        self, state: TrainState, data: Images
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The order of this epoch, and of this step the augmented images and labels."""
        config = self._config
        epoch = state.step // config.steps_per_epoch
        batch = state.step % config.steps_per_epoch

        def shuffled() -> jax.Array:
            key = _key(state.key, ORDER, epoch)
            return jax.random.permutation(key, len(state.order)).astype(jnp.int32)

        order = jax.lax.cond(batch == 0, shuffled, lambda: state.order)
        taken = jax.lax.dynamic_slice_in_dim(
            order, batch * config.batch_size, config.batch_size
        )
        images = augment(
            _key(state.key, AUGMENTATION, state.step),
            data.images[taken],
            flip=config.flip,
            crop_padding=config.crop_padding,
        )
        images = normalise(images, self._mean, self._std, self._dtype)
        return order, images, data.labels[taken]


def optimizer(config: Config, layers: Layers) -> optax.GradientTransformation:
    """SGD with momentum and coupled weight decay, then the multipliers.

    The global rate and the multipliers are hyperparameters in the state, set anew at
    each step.
    """

    def sgd(
        rate: jax.Array, multipliers: jax.Array
    ) -> optax.GradientTransformationExtraArgs:
        return optax.chain(
            optax.add_decayed_weights(config.weight_decay),
            optax.sgd(rate, momentum=config.momentum),
            optax_llr.scale_by_layer(layers, multipliers),
        )

    return optax.inject_hyperparams(sgd)(rate=0.0, multipliers=np.ones(len(layers)))


def steps_per_call(most: int) -> int:
    """How many steps one call to the device runs; all of them, or one on a CPU.

    XLA runs a convolution inside a loop on one thread of a CPU and by a slower routine,
    many times slower than outside. An accelerator is to be kept busy without the host.
    """
    return 1 if jax.default_backend() == "cpu" else most


def policy_tables(policy: Policy, config: Config, layers: Layers) -> Tables:
    """The global rate and the multipliers of every step of a run under a policy."""
    total = config.total_steps
    rate = global_rate(policy.schedule or config.schedule, config.rate, total)
    multipliers = policy.multipliers(layers, total)

    @jax.jit
    def evaluate(steps: jax.Array) -> Tables:
        values = jax.vmap(multipliers)(steps) if callable(multipliers) else multipliers
        return Tables(
            jnp.broadcast_to(jax.vmap(rate)(steps), (total,)).astype(jnp.float32),
            jnp.broadcast_to(values, (total, len(layers))).astype(jnp.float32),
        )

    return jax.device_get(evaluate(jnp.arange(total)))


def use_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache folder, for the next start."""
    jax.config.update("jax_compilation_cache_dir", str(cache.folder() / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@dataclasses.dataclass
class _Log:
    """Where a run stands, and the events that say so."""

    policy: str
    seed: int
    batch_size: int
    record: Callable[[Event], None]
    step: int = 0
    seconds: float = 0.0

    def write(self, kind: str, **fields: Any) -> None:
        self.record(
            {
                "kind": kind,
                "policy": self.policy,
                "seed": self.seed,
                "step": self.step,
                "images": self.step * self.batch_size,
                "seconds": self.seconds,
                **fields,
            }
        )

    def train(self, loss: float, correct: float, tables: Tables) -> None:
        """Means over the last steps; rate and multipliers of the last of them."""
        last = self.step - 1
        self.write(
            "train",
            loss=loss,
            accuracy=correct / self.batch_size,
            rate=float(tables.rate[last]),
            multipliers=np.asarray(tables.multipliers[last]).tolist(),
        )

    def end(
        self, status: str, loss: float | None = None, accuracy: float | None = None
    ) -> None:
        self.write("end", status=status, test_loss=loss, test_accuracy=accuracy)


def _key(key: jax.Array, use: int, count: jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(key, use), count)


def _on_device(images: np.ndarray, labels: np.ndarray) -> Images:
    return Images(jnp.asarray(images), jnp.asarray(labels))


def _batches(split: Split) -> list[Images]:
    """Batches of one size on the device, the last filled up with label −1."""
    fill = -len(split.labels) % EVALUATION_BATCH
    images = np.pad(split.images, [(0, fill), (0, 0), (0, 0), (0, 0)])
    labels = np.pad(split.labels, (0, fill), constant_values=-1)
    parts = len(labels) // EVALUATION_BATCH
    return [
        _on_device(*part)
        for part in zip(np.split(images, parts), np.split(labels, parts), strict=True)
    ]
