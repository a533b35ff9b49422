"""The rates of airbench94 as layer policies, and policies to hold against them.

Let g be the gradient of the mean loss of a batch of B images. airbench94 hands PyTorch
that of the sum, B·g, which is the same with a rate B times as large and a decay that is
divided by B. So the rate is 11.5 B / K with K = 1024 (1 + 1/(1 − β)), 1.5 at B = 1024,
times a triangle over time, and times the multiplier of the layer; decay, coupled, is
0.0153/11.5 *divided* by the multiplier, so that no multiplier scales it:

    v ← β v + g + λ w / m;    w ← w − η m (g + λ w / m + β v)

With Muon (airbench94_muon.py) convolutions take orthogonal steps, without decay, after
their norm is set to √outputs; for everything else stands what is above, with other
numbers. There the head has logits of 1/256 and weights of 256/9 the size; in our terms
its rate is 0.67 (9/256)² B, of which the norm biases' 0.053 B is 64 times. Five things
differ: the bias of the whitening starts from 0, and its decay falls with the global
rate, not with its own; Optax corrects the momentum of the first steps for its start
from 0; steps are made orthogonal in float32, not in bfloat16; and the head starts from
weights of 1.026 times the size at width 1, where they set its deviation to 1.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers

import optax_llr
from optax_llr import Layers

Schedule = Callable[[Any], Any]
Rate = float | Schedule
Chain = optax.GradientTransformation

RULES = (
    ("whiten/kernel", "whitening kernel"),
    ("whiten/bias", "whitening bias"),
    (r"group(\d)/conv\d/kernel", r"convolutions \1"),
    (r"group(\d)/norm\d/bias", r"norm biases \1"),
    ("head/kernel", "head"),
)
NORMS, CONVOLUTIONS = (
    tuple(f"{kind} {group}" for group in (1, 2, 3))
    for kind in ("norm biases", "convolutions")
)
FASTER = 64.0
WHITENING_EPOCHS = 3
"""For so many the bias of the whitening trains."""


class Recipe(NamedTuple):
    """What goes with an optimizer."""

    epochs: float
    batch: int
    per_image: float  # the highest rate, of a sum over images
    decay: float  # λ
    shape: Callable[[int], Schedule]  # steps → the rate by its highest
    whitening: Callable[[int, int], Rate]  # steps, those it trains → a multiplier
    lookahead: bool


class Policy(NamedTuple):
    """What airbench's multipliers are multiplied by, and what was expected of that."""

    expected: str  # written before any run
    factors: Callable[[int], dict[str, Rate]]  # steps → layer → 1 where not named


class Tables(NamedTuple):
    """A policy as data: what the optimizer is told at each of the T steps."""

    rate: jax.Array  # shape=(T,), dtype=jnp.float32; the global rate
    multipliers: jax.Array  # shape=(T, L), dtype=jnp.float32


def triangle(steps: int) -> Schedule:
    """From 0.2 to 1 in the first 23 % of the steps, then down towards 0.07."""
    up = max(1, int(0.23 * steps))
    rise = optax.linear_schedule(0.2, 1.0, up)
    return optax.join_schedules(
        [rise, optax.linear_schedule(1.0, 0.07, max(1, steps - up))], [up]
    )


def falling(steps: int, until: int) -> Schedule:
    """What makes of a global rate that falls to 0 by a line one that does so sooner."""

    def multiplier(count: Any) -> Any:
        share, whole = (1 - count / end for end in (until, steps))
        return jnp.where(count < until, FASTER * share / whole, 0)

    return multiplier


RECIPES = {
    "nesterov": Recipe(
        epochs=9.9,
        batch=1024,
        per_image=11.5 / (1024 * (1 + 1 / (1 - 0.85))),
        decay=0.0153 / 11.5,
        shape=triangle,
        whitening=lambda _, until: optax.piecewise_constant_schedule(1.0, {until: 0.0}),
        lookahead=True,
    ),
    "muon": Recipe(
        epochs=8,
        batch=2000,
        per_image=0.67 * (9 / 256) ** 2,
        decay=2e-6 / (0.67 * (9 / 256) ** 2),
        shape=lambda steps: optax.linear_schedule(1.0, 0.0, steps),
        whitening=falling,
        lookahead=False,
    ),
}
MOMENTUM = 0.85
FILTER_RATE = 0.24
"""The highest rate of Muon's steps, whatever the batch."""

POLICIES = {
    "airbench": Policy("the reference", lambda _: {}),
    "uniform": Policy(
        "clearly worse than airbench at as many steps",
        lambda _: dict.fromkeys(NORMS, 1 / FASTER),
    ),
    "norms-fall": Policy(
        "as good as airbench: biases matter while features form, and may settle then",
        lambda steps: dict.fromkeys(
            NORMS, optax.linear_schedule(1.0, 1 / FASTER, steps)
        ),
    ),
    "norms-rise": Policy(
        "worse than airbench, better than uniform: the early steps are missed",
        lambda steps: dict.fromkeys(
            NORMS, optax.linear_schedule(1 / FASTER, 1.0, steps)
        ),
    ),
    "head-late": Policy(
        "no better than airbench: logits of 1/9 hold the head back already",
        lambda steps: {"head": optax.linear_schedule(0.1, 1.0, max(1, steps // 3))},
    ),
    "first-freeze": Policy(
        "a tenth of a point below airbench, in less time: no backward pass of group 1",
        lambda steps: dict.fromkeys(
            ("whitening bias", NORMS[0], CONVOLUTIONS[0]),
            optax.piecewise_constant_schedule(1.0, {2 * steps // 3: 0.0}),
        ),
    ),
}


def layers_of(params: Any) -> Layers:
    """The parameters of the net by kind and group."""
    return optax_llr.match_layers(params, RULES)


def tables(
    policy: str,
    recipe: Recipe,
    layers: Layers,
    steps: int,
    batch: int,
    per_epoch: int,
    rate: float = 1.0,
) -> Tables:
    """The global rate and the multipliers of every step.

    Args:
        policy: a name of `POLICIES`.
        recipe: of the optimizer.
        layers: the L layers.
        steps: T, of the run.
        batch: images a step.
        per_epoch: steps an epoch.
        rate: times the global rate of the recipe.
    """
    until = WHITENING_EPOCHS * per_epoch
    ones = dict.fromkeys(layers.names, 1.0)
    own = {"whitening kernel": 0.0, "whitening bias": recipe.whitening(steps, until)}
    airbench = optax_llr.per_layer_schedule(
        layers, ones | dict.fromkeys(NORMS, FASTER) | own
    )
    factors = optax_llr.per_layer_schedule(
        layers, ones | POLICIES[policy].factors(steps)
    )
    shape = recipe.shape(steps)

    @jax.jit
    def evaluate(counts: jax.Array) -> Tables:
        one, other = (
            jax.vmap(values)(counts) if callable(values) else values
            for values in (airbench, factors)
        )
        rates = rate * recipe.per_image * batch * jax.vmap(shape)(counts)
        return Tables(*(jnp.asarray(x, jnp.float32) for x in (rates, one * other)))

    return evaluate(jnp.arange(steps))


def optimizer(name: str, layers: Layers, batch: int) -> Chain:
    """The optimizer, told rate and multipliers as hyperparameters in its state.

    Args:
        name: of `RECIPES`.
        layers: those of `layers_of`.
        batch: images a step.
    """
    recipe = RECIPES[name]
    convolution = np.isin(layers.names, CONVOLUTIONS)
    filters = convolution if name == "muon" else np.zeros(len(layers), bool)
    # The global rate falls for filters too, from a height of their own.
    heights = np.where(filters, FILTER_RATE / (recipe.per_image * batch), 1.0)
    steps = {"nesterov": _momentum, "muon": _orthogonal_and_momentum}[name]()
    norms = {"nesterov": optax.identity, "muon": _unit_filters}[name]()

    def told(rate: jax.Array, multipliers: jax.Array) -> Chain:
        frozen = (multipliers == 0) | filters
        unscaled = jnp.where(frozen, 0, 1 / jnp.where(frozen, 1, multipliers))
        return optax.chain(
            optax_llr.add_decayed_weights_by_layer(layers, recipe.decay, unscaled),
            steps,
            optax_llr.scale_by_layer(layers, heights * multipliers),
            optax.scale_by_learning_rate(rate),
            norms,
        )

    return optax.inject_hyperparams(told)(rate=0.0, multipliers=np.ones(len(layers)))


def _momentum() -> Chain:
    return optax.trace(MOMENTUM, nesterov=True)


def _orthogonal_and_momentum() -> Chain:
    """Muon for kernels of convolutions, read as matrices of inputs × outputs."""

    def labels(params: Any) -> Any:
        return jax.tree.map(lambda w: "filters" if w.ndim == 4 else "others", params)

    def matrices(updates: Any) -> Any:
        return jax.tree.map(lambda _: MuonDimensionNumbers((0, 1, 2), 3), updates)

    orthogonal = optax.contrib.scale_by_muon(
        ns_steps=3, beta=0.6, eps=1e-7, weight_dimension_numbers=matrices
    )
    return optax.partition({"filters": orthogonal, "others": _momentum()}, labels)


def _unit_filters() -> Chain:
    """Sets the norm of a kernel before the step to that of filters of length 1."""

    def update(step: Any, weights: Any) -> Any:
        if weights.ndim != 4:
            return step
        length = weights.shape[-1] ** 0.5
        return step + (length / jnp.linalg.norm(weights) - 1) * weights

    return optax.stateless_with_tree_map(update)
