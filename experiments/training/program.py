"""The pure functions that a study compiles: one step for all policies of a layering.

What differs between their runs is data to that step: the weights, the random key, and
two tables with the global rate and the multipliers of every step. So the step is traced
and compiled once for all schedules, once for each rule, and once for each phase in
which other layers are frozen. Runs of one seed start from the same weights and see the
same images in the same order, augmented alike.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Sharding

import optax_llr
from optax_llr import LayerMeasures, Layers, Phase

from ..config import own
from ..config.config import Config
from ..data.augment import augment, normalise
from ..data.dataset import Dataset
from ..models import make
from ..policies.optimizers import Layering, optimizer, scheduled
from . import transfer

Weights = nnx.State[Any, Any]

WEIGHTS, ORDER, AUGMENTATION, IMAGES = range(4)  # what the keys of a run are for

MEASURES = ("gradient_norm", "update_ratio", "step_quantiles", "rotation")
"""What records hold of a step."""


class TrainState(NamedTuple):
    """All that changes during a run, and all that is needed to go on with it.

    Everything else follows from the configuration and `step`: the rate, and multipliers
    by a schedule. Those that a rule measures are in the optimizer state. That holds all
    layers, frozen or not, so a change of what is frozen needs no other state.
    """

    params: Weights
    statistics: Weights  # those of batch norm; empty for a model without
    average: tuple[Weights, Weights] | None  # of both, over steps; None where ema is 0
    opt_state: Any  # that of `optax.inject_hyperparams`
    step: jax.Array  # shape=(), dtype=jnp.int32; steps done
    key: jax.Array  # shape=(), a JAX key; data order and augmentation derive from it
    order: jax.Array  # shape=(n,), dtype=jnp.int32; this epoch's order of the images
    loss: jax.Array  # shape=(), dtype=jnp.float32; sum since the last fetch
    correct: jax.Array  # shape=(), dtype=jnp.int32; sum since the last fetch
    diverged: jax.Array  # shape=(), dtype=jnp.int32; steps before a bad loss, else −1


class Tables(NamedTuple):
    """A policy as data: what the optimizer is told at each of the T steps."""

    rate: jax.Array | np.ndarray  # shape=(T,), dtype=float32; the global rate
    multipliers: jax.Array | np.ndarray  # shape=(T, L), dtype=float32; none measured


class Images(NamedTuple):
    """Images and labels on the device; a label of −1 marks an image that fills up.

    Or windows of text, (n, context), and of each of their bytes the next one.
    """

    images: jax.Array  # shape=(n, height, width, channels), dtype=jnp.uint8
    labels: jax.Array  # shape=(n,), dtype=jnp.int32


def evaluated(state: TrainState) -> tuple[Weights, Weights]:
    """The weights and statistics to evaluate: their average where one is kept."""
    if state.average is None:
        return state.params, state.statistics
    return state.average


class Abstract(NamedTuple):
    """A model without weights."""

    training: nnx.GraphDef[Any]
    inference: nnx.GraphDef[Any]
    layers: Layers


def abstract(config: Config, classes: int, shape: tuple[int, ...]) -> Abstract:
    """The model of a configuration, and its layers, read off what it computes.

    Args:
        config: a valid one.
        classes: how many logits an image gets, or a byte of text.
        shape: of an image: (height, width, channels); or of text: (context,).

    Raises:
        ValueError: the model does not take such images, or answers otherwise.
    """
    model = nnx.eval_shape(lambda: _make(config, classes, jax.random.key(0)))
    if config.norm_statistics == "frozen":
        _freeze_statistics(config, model)
    training, params, statistics = nnx.split(model, nnx.Param, ...)
    model.eval()
    inference = nnx.graphdef(model)
    dtype = jnp.dtype(jnp.uint8 if config.text else config.dtype)
    images = jax.ShapeDtypeStruct((config.batch_size, *shape), dtype)
    _check_logits(config, classes, images, inference, params, statistics)
    layers = optax_llr.trace_layers(
        functools.partial(infer, inference),
        params,
        statistics,
        images,
        group=_module if config.text else None,
    )
    return Abstract(training, inference, layers)


def _module(path: str) -> str:
    """Where a parameter stands: in language models norms have rates of their own."""
    return path.rpartition("/")[0]


def _freeze_statistics(config: Config, model: nnx.Module) -> None:
    """Has batch norm take the running statistics in training too."""
    if not jax.tree.leaves(nnx.state(model, nnx.BatchStat)):
        raise ValueError(
            "norm_statistics must be running for a model without batch norm, such as "
            f"{own.label(config.model)} with norm {config.norm}; got frozen"
        )
    model.set_attributes(use_running_average=True, raise_if_not_found=False)


def _check_logits(
    config: Config, classes: int, images: jax.ShapeDtypeStruct, *model: Any
) -> None:
    name = own.label(config.model)
    wanted = (*(images.shape if config.text else images.shape[:1]), classes)
    taken = " × ".join(map(str, images.shape[1:]))
    try:
        logits = jax.eval_shape(infer, *model, images)
    except (TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"model: {name} cannot take images of {taken}: {reason:.200}"
        ) from error
    if getattr(logits, "shape", None) != wanted:
        raise ValueError(
            f"model: {name} must answer images of {taken} with logits {wanted}; got "
            f"{getattr(logits, 'shape', logits)}"
        )


class Program:
    """The pure functions that a study compiles.

    Attributes:
        layers: the layers of the model, in forward order.
    """

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        layering: Layering = scheduled,
        divided: Sharding | None = None,
    ):
        """Builds the model in the abstract, without weights."""
        self._config, self._divided = config, divided
        self._classes = dataset.classes
        self._mean, self._std = dataset.mean, dataset.std
        self._labels = dataset.train.labels
        self._dtype = jnp.dtype(config.dtype)
        shape = dataset.train.images.shape[1:]
        model = abstract(config, self._classes, shape)
        self._training, self._inference = model.training, model.inference
        self.layers = model.layers
        self._optimizer = optimizer(config, self.layers, layering)
        self._whole = Phase(self.layers, 0, 1, (False,) * len(self.layers))

    def initial(
        self, key: jax.Array, source: Mapping[str, Any] | None = None
    ) -> TrainState:
        """The state before the first step; the key fixes everything random in a run.

        Args:
            key: a JAX random key.
            source: arrays to start from, by path; of none all weights are random.

        Raises:
            ValueError: they do not fit the model.
        """
        _, params, statistics = nnx.split(
            _make(self._config, self._classes, jax.random.fold_in(key, WEIGHTS)),
            nnx.Param,
            ...,
        )
        if source:
            found = transfer.fit(
                source, params, statistics, self.layers, self._config.new_head
            )
            params = transfer.replaced(params, source, found.taken)
            statistics = transfer.replaced(statistics, source, found.taken)
        return TrainState(
            params=params,
            statistics=statistics,
            # A copy, so that a state that is donated holds no array twice.
            average=jax.tree.map(jnp.copy, (params, statistics))
            if self._config.ema
            else None,
            opt_state=self._whole.freeze(self._optimizer).init(params),
            step=jnp.int32(0),
            key=key,
            order=self._images(jax.random.fold_in(key, IMAGES)),
            loss=jnp.float32(0),
            correct=jnp.int32(0),
            diverged=jnp.int32(-1),
        )

    def _images(self, key: jax.Array) -> jax.Array:
        """Which images a run trains on, (n,): all, or some of each class at random.

        By one key fewer of a class are a part of more.
        """
        labels, count = self._labels, self._config.images_per_class
        if count is None:
            return jnp.arange(len(labels), dtype=jnp.int32)
        by_class = jnp.lexsort((jax.random.bits(key, labels.shape), labels))
        begins = np.searchsorted(np.sort(labels), np.arange(self._classes))
        return by_class[(begins[:, None] + np.arange(count)).ravel()].astype(jnp.int32)

    def step(
        self,
        state: TrainState,
        data: Images,
        tables: Tables,
        phase: Phase,
        settled: Phase | None = None,
    ) -> TrainState:
        """One optimizer step on the next batch; frozen layers are only run forward.

        Args:
            state: before it.
            data: what is trained on.
            tables: of the policy.
            phase: which layers are frozen.
            settled: which of these have batch statistics to keep; None for all.
        """
        settled = phase if settled is None else settled
        order, images, labels = self._next_batch(state, data)
        (loss, (correct, statistics)), gradients = jax.value_and_grad(
            phase.stopped(functools.partial(self._loss, settled=settled)), has_aux=True
        )(state.params, state.statistics, images, labels)
        statistics = settled.held(statistics, state.statistics)
        updates, opt_state = phase.freeze(self._optimizer).update(
            gradients, self._told(state, tables), state.params
        )
        params = cast(Weights, optax.apply_updates(state.params, updates))
        first_bad = (state.diverged < 0) & ~jnp.isfinite(loss)
        fresh = state.step % self._config.record_every == 0  # the last was fetched
        return TrainState(
            params=params,
            statistics=statistics,
            average=self._averaged(state.average, (params, statistics)),
            opt_state=opt_state,
            step=state.step + 1,
            key=state.key,
            order=order,
            loss=jnp.where(fresh, 0, state.loss) + loss,
            correct=jnp.where(fresh, 0, state.correct) + correct,
            diverged=jnp.where(first_bad, state.step, state.diverged),
        )

    def steps(
        self,
        state: TrainState,
        data: Images,
        tables: Tables,
        phase: Phase,
        settled: Phase,
        length: int,
    ) -> TrainState:
        """Several steps in one call."""
        return jax.lax.scan(
            lambda state, _: (self.step(state, data, tables, phase, settled), None),
            state,
            length=length,
        )[0]

    def score(
        self, params: Weights, statistics: Weights, batch: Images
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Sum of losses, number of correct answers and of all; without the fill.

        The losses are those of true labels, not of smoothed ones.
        """
        inputs = self._inputs(batch.images)
        logits = infer(self._inference, params, statistics, inputs)
        real = batch.labels >= 0
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
        correct = logits.argmax(-1) == batch.labels
        return jnp.where(real, losses, 0).sum(), (correct & real).sum(), real.sum()

    def measure(
        self, state: TrainState, data: Images, tables: Tables, initial: Weights
    ) -> LayerMeasures:
        """What the next step is about to do to each layer, frozen or not.

        Args:
            state: before that step.
            data: what is trained on.
            tables: as for the step.
            initial: the parameters before the first step.
        """
        _, images, labels = self._next_batch(state, data)
        gradients, _ = jax.grad(self._loss, has_aux=True)(
            state.params, state.statistics, images, labels
        )
        updates, _ = self._whole.freeze(self._optimizer).update(
            gradients, self._told(state, tables), state.params
        )
        return optax_llr.measure_layers(
            self.layers,
            gradients,
            updates,
            state.params,
            rate=tables.rate[state.step],
            initial=initial,
            measures=MEASURES,
        )

    def _told(self, state: TrainState, tables: Tables) -> Any:
        """The state of the optimizer, told the rate and multipliers of this step."""
        told = {
            "rate": tables.rate[state.step],
            "multipliers": tables.multipliers[state.step],
        }
        return state.opt_state._replace(
            inner=state.opt_state.inner._replace(hyperparams=told)
        )

    def training_loss(
        self, params: Weights, statistics: Weights, batch: Images
    ) -> jax.Array:
        """Mean loss in training mode, but without augmentation.

        With batch norm the statistics are those of the batch: running ones lag behind,
        by the more, the larger the steps are.
        """
        inputs = self._inputs(batch.images)
        return self._loss(params, statistics, inputs, batch.labels)[0]

    def _loss(
        self,
        params: Weights,
        statistics: Weights,
        images: jax.Array,
        labels: jax.Array,
        *,
        settled: Phase | None = None,
    ) -> tuple[jax.Array, tuple[jax.Array, Weights]]:
        # A copy, as batch norm may not change variables from outside the gradient.
        model = nnx.merge(self._training, params, statistics, copy=True)
        if settled is not None:
            hold_statistics(model, settled)
        logits = model(images)
        targets = optax.smooth_labels(
            jax.nn.one_hot(labels, self._classes), self._config.label_smoothing
        )
        losses = optax.softmax_cross_entropy(logits, targets)
        _, _, statistics = nnx.split(model, nnx.Param, ...)
        correct = (logits.argmax(-1) == labels).sum()
        return losses.mean(), (correct, statistics)

    def _averaged(
        self, average: tuple[Weights, Weights] | None, new: tuple[Weights, Weights]
    ) -> tuple[Weights, Weights] | None:
        """The average after a step: ema · average + (1 − ema) · new.

        It starts as the initial weights, which keep a share of emaᵗ after t steps:
        early evaluations lag, and 1 / (1 − ema) steps should be a small part of a run.
        Begun at 0, and corrected for that as Adam's means are, it would forget them at
        once, but move layers that stand still by rounding.
        """
        if average is None:
            return None
        share = 1 - self._config.ema

        def averaged(a: jax.Array, w: jax.Array) -> jax.Array:
            # In this form what stands still is its own average, to the last bit.
            return a + share * (w - a) if jnp.issubdtype(w.dtype, jnp.inexact) else w

        return jax.tree.map(averaged, average, new)

    def _next_batch(
        self, state: TrainState, data: Images
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The order of this epoch; of this step the inputs, augmented, and labels."""
        config = self._config
        epoch = state.step // config.steps_per_epoch
        batch = state.step % config.steps_per_epoch

        def shuffled() -> jax.Array:
            key = _key(state.key, ORDER, epoch)
            return jax.random.permutation(key, jnp.sort(state.order))

        order = jax.lax.cond(batch == 0, shuffled, lambda: state.order)
        taken = jax.lax.dynamic_slice_in_dim(
            order, batch * config.batch_size, config.batch_size
        )
        images = self._inputs(self._laid_out(data.images[taken]))
        if not config.text:
            images = augment(
                _key(state.key, AUGMENTATION, state.step),
                images,
                flip=config.flip,
                crop_padding=config.crop_padding,
                cutout=config.cutout,
            )
        return order, images, self._laid_out(data.labels[taken])

    def _inputs(self, images: jax.Array) -> jax.Array:
        """What the model takes: normalised images, or text as it is."""
        if self._mean is None or self._std is None:
            return images
        return normalise(images, self._mean, self._std, self._dtype)

    def _laid_out(self, batch: jax.Array) -> jax.Array:
        """Divided over the devices, from here to the gradients."""
        if self._divided is None:
            return batch
        return jax.lax.with_sharding_constraint(batch, self._divided)


def _make(config: Config, classes: int, key: jax.Array) -> nnx.Module:
    dtype = jnp.dtype(config.dtype)
    return make(config.model, classes, nnx.Rngs(key), dtype, config.norm)


def infer(
    graph: nnx.GraphDef[Any], params: Weights, statistics: Weights, images: jax.Array
) -> jax.Array:
    """What a model answers with these weights; images are normalised."""
    return nnx.merge(graph, params, statistics)(images)


def _key(key: jax.Array, use: int, count: jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(key, use), count)


def hold_statistics(model: nnx.Module, phase: Phase) -> None:
    """Has batch norm of frozen layers take the running statistics in training too."""
    for path, node in nnx.iter_graph(model):
        normalises = hasattr(node, "use_running_average")
        if normalises and phase.holds("/".join(map(str, path))):
            node.set_attributes(use_running_average=True)
