"""The layer policies under comparison, each with what was expected of it beforehand.

A policy is a function: of the layers and the length of a run, which makes multipliers;
or of a configuration, which makes a rule that measures them. The first paragraph of its
docstring says what it does, the second what is expected; its keywords with a range are
the numbers that a configuration may set and `tune` searches, beside the global rate.
What a policy says of itself holds for the values given here.

The expectations were written before any study and stay as they are, also where the
runs say otherwise; one that rests on trial runs says so. Unless a policy says more, it
leaves the global schedule to the study and is compared with `uniform`. One that anneals
by itself is compared with uniform rates annealed most alike, or else annealing would be
mistaken for what layer rates do.

Those from `from_scratch` on are for weights that were trained before (--init-from), and
what they expect holds there: the first layers are general already, and the head is new.

Those that measure share the global rate out among the layers: their multipliers are
divided by the mean over the layers, and lie between 0.1 and 10.
"""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

import optax_llr
from optax_llr import Layers, Rule, contrib, rules

from ..config.config import Config
from .blocks import by_block
from .optimizers import measuring, rotating
from .policy import Direction, Expects, Multipliers, Policy, Range, described

Made = TypeVar("Made", bound=Callable[..., Any])

POLICIES: dict[str, Policy] = {}
"""By their names."""
THREAD = (
    'L. Smith and replies, "Cyclical Layer Learning Rates (a research question)", '
    "fast.ai forums"
)
SMITH_TOPIN = "Smith and Topin, Super-Convergence, arXiv:1708.07120"
ULMFIT = "Howard and Ruder, ULMFiT, arXiv:1801.06146"
CARBONNELLE = "Carbonnelle and De Vleeschouwer, arXiv:1806.01603"
Multiplier = Annotated[float, Range(0.2, 5.0, log=True)]
Duration = Annotated[float, Range(0.05, 0.9)]
Factor = Annotated[float, Range(1.0, 5.0, log=True)]
Alpha = Annotated[float, Range(-0.8, 0.8)]
"""Within what the authors tried."""


def policy(
    source: str,
    accuracy: Direction = "open",
    speed: Direction = "open",
    **fields: Any,
) -> Callable[[Made], Made]:
    """Enters a function (layers, total_steps) → multipliers as a policy.

    Args:
        source: whose idea it is.
        accuracy: where it is expected, by that of its control.
        speed: likewise.
        **fields: others of `Policy`.
    """

    def enter(make: Made) -> Made:
        name = make.__name__.replace("_", "-")
        given: dict[str, Any] = {"multipliers": make, **fields}
        expects = Expects(accuracy, speed)
        POLICIES[name] = Policy(
            name, *described(make), source, expects=expects, **given
        )
        return make

    return enter


def measured(
    source: str, accuracy: Direction = "open", speed: Direction = "open"
) -> Callable[[Callable[[Config], Rule]], Callable[[Config], Rule]]:
    """Enters a function config → rule as a policy."""

    def enter(rule: Callable[[Config], Rule]) -> Callable[[Config], Rule]:
        fields = {"multipliers": uniform, "layering": measuring(rule)}
        return policy(source, accuracy, speed, **fields)(rule)

    return enter


@policy("common practice")
def uniform(layers: Layers, total_steps: int) -> Multipliers:
    """Every layer at the global rate.

    The yardstick. Weights of all layers depend on one another, which speaks for solving
    for all of them together.
    """
    return np.ones(len(layers))


@policy(SMITH_TOPIN, "higher", "lower", schedule="onecycle")
def uniform_onecycle(layers: Layers, total_steps: int) -> Multipliers:
    """Every layer at the global rate, which rises and falls once: uniform annealed most
    like cascade.

    Slow at first, since it warms up, and ahead of uniform under piecewise at the end,
    as in two trial runs; what cascade gains beyond that is owed to its layer rates.
    """
    return np.ones(len(layers))


@policy("Loshchilov and Hutter, SGDR, arXiv:1608.03983", "same", schedule="cosine")
def uniform_cosine(layers: Layers, total_steps: int) -> Multipliers:
    """Every layer at the global rate, which falls to 0 along a cosine: uniform annealed
    most like freezeout.

    Behind uniform under piecewise just after half-way, where that drops its rate at
    once, and equal or slightly ahead at the end; what freezeout loses beyond that is
    the price of freezing.
    """
    return np.ones(len(layers))


@policy(THREAD, "same", "higher")
def early_first(
    layers: Layers,
    total_steps: int,
    first_start: Multiplier = 1.5,
    first_end: Multiplier = 0.5,
    last_start: Multiplier = 0.5,
    last_end: Multiplier = 1.5,
) -> Multipliers:
    """First layer 1.5 → 0.5, last layer 0.5 → 1.5, linear in depth and time.

    Faster to a given accuracy than uniform, equal at the end: later layers gain little
    from learning on features that still move.
    """
    return _moving(
        layers, total_steps, (first_start, first_end), (last_start, last_end)
    )


@policy(THREAD, "same", "lower")
def late_first(
    layers: Layers,
    total_steps: int,
    first_start: Multiplier = 0.5,
    first_end: Multiplier = 1.5,
    last_start: Multiplier = 1.5,
    last_end: Multiplier = 0.5,
) -> Multipliers:
    """early-first reversed: first layer 0.5 → 1.5, last layer 1.5 → 0.5.

    Slower to a given accuracy than uniform, equal at the end: features keep changing
    under layers that have already settled.
    """
    return _moving(
        layers, total_steps, (first_start, first_end), (last_start, last_end)
    )


@policy(THREAD, "same", "higher")
def static_decreasing(
    layers: Layers, total_steps: int, first: Multiplier = 1.5, last: Multiplier = 0.5
) -> Multipliers:
    """1.5 at the first layer down to 0.5 at the last, all the time.

    As fast as early-first in the beginning, since it begins the same, and no better at
    the end, where early layers should rest.
    """
    return optax_llr.interpolate_schedule(layers, first, last)


@policy(THREAD, "open", "lower")
def static_increasing(
    layers: Layers, total_steps: int, first: Multiplier = 0.5, last: Multiplier = 1.5
) -> Multipliers:
    """0.5 at the first layer up to 1.5 at the last, all the time.

    Slower in the beginning, like late-first; suited to weights that are already trained
    rather than to a start from scratch.
    """
    return optax_llr.interpolate_schedule(layers, first, last)


@policy(THREAD, "same", "higher")
def three_stage(
    layers: Layers,
    total_steps: int,
    first_start: Multiplier = 2.0,
    first_end: Multiplier = 0.5,
    first_duration: Annotated[float, Range(0.02, 1.0)] = 0.1,
    last_start: Multiplier = 0.5,
    last_end: Multiplier = 2.0,
) -> Multipliers:
    """First layer 2 → 0.5 in the first tenth of the run, last layer 0.5 → 2 over the
    whole run, those between at 1.

    Ahead of uniform early on, as the first layer settles within the first tenth; equal
    at the end.
    """
    duration = max(1, whole_steps(first_duration, total_steps))
    first = optax.linear_schedule(first_start, first_end, duration)
    last = optax.linear_schedule(last_start, last_end, total_steps)
    ends = {0: first, int(layers.level.max()): last}
    levels = zip(layers.names, layers.level.tolist(), strict=True)
    return optax_llr.per_layer_schedule(
        layers, {name: ends.get(level, 1.0) for name, level in levels}
    )


@policy(THREAD, control="uniform-onecycle", schedule="constant")
def cascade(
    layers: Layers,
    total_steps: int,
    first_peak: Annotated[float, Range(0.02, 0.4)] = 0.2,
    last_peak: Annotated[float, Range(0.4, 0.9)] = 0.6,
) -> Multipliers:
    """A one-cycle for each layer, with peaks from 20 % of the run (first layer) to 60 %
    (last layer), all ending together.

    Slow at first, since every layer warms up, and as good as uniform or better at the
    end, as a one-cycle often is.
    """
    # The ranges meet but do not cross: the first peak never comes after the last one.
    first, last = (whole_steps(peak, total_steps) for peak in (first_peak, last_peak))
    return optax_llr.cascade_schedule(layers, first, last, total_steps)


@policy(ULMFIT, "lower", "lower")
def discriminative(
    layers: Layers, total_steps: int, factor: Factor = 2.6
) -> Multipliers:
    """The last layer at 1, each level below at 1/2.6 of the one above.

    Worse than uniform from scratch: made for fine-tuning, it hardly moves the first
    layers, which here are still random.
    """
    return optax_llr.layer_decay(layers, 1 / factor)


@policy(ULMFIT + "; " + THREAD, "lower", "lower")
def unfreeze_top_first(
    layers: Layers, total_steps: int, duration: Duration = 0.4
) -> Multipliers:
    """One level after another joins from the last to the first, over the first 40 % of
    the run.

    Slower and somewhat worse than uniform: the last layers start by learning from
    random features.
    """
    # By default the last level to join has a tenth of the run before `piecewise` first
    # drops the rate.
    steps = _stage_steps(layers, total_steps, duration)
    return optax_llr.gradual_unfreeze_schedule(layers, steps)


@policy(THREAD, "same", "lower")
def unfreeze_bottom_first(
    layers: Layers, total_steps: int, duration: Duration = 0.4
) -> Multipliers:
    """One level after another joins from the first to the last, over the first 40 % of
    the run.

    Slower than uniform at first, as signals pass through random layers above, but ahead
    of unfreeze-top-first; near uniform at the end.
    """
    steps = _stage_steps(layers, total_steps, duration)
    return optax_llr.gradual_unfreeze_schedule(layers, steps, top_first=False)


@policy(
    "Brock et al., FreezeOut, arXiv:1706.04983",
    "same",
    control="uniform-cosine",
    schedule="constant",
)
def freezeout(
    layers: Layers,
    total_steps: int,
    t0: Annotated[float, Range(0.3, 1.0)] = 0.8,
    power: Annotated[float, Range(1.0, 4.0)] = 3.0,
) -> Multipliers:
    """Each layer follows a cosine to 0 of its own; the first is frozen from 51 % of the
    run on, the last never.

    As good as uniform or slightly worse, in less time: the gradients of frozen layers
    are not computed.
    """
    return optax_llr.freezeout_schedule(layers, total_steps, t0, power)


@policy(CARBONNELLE, "lower")
def rotation_alpha(
    layers: Layers, total_steps: int, alpha: Alpha = -0.6
) -> Multipliers:
    """Layer rates (1 + α)^(5l/N) with α = −0.6: 1 at the first layer, 0.01 at the last.

    Worse than uniform, as its source reports for layers that rotate at unequal rates;
    by how much under plain SGD is open.
    """
    return optax_llr.rotation_alpha(layers, alpha)


@measured("Singh et al., LSALR, arXiv:1510.04609", "same", "same")
def gradient_norm(config: Config) -> Rule:
    """1 + log(1 + 1/‖g‖), shared out: more for layers whose gradients are small.

    Near uniform: the logarithm evens out all but large differences. Of use in deep
    plain nets without norms, where gradients vanish towards the first layers.
    """
    return rules.gradient_norm()


@measured(SMITH_TOPIN + "; " + THREAD, "same", "same")
def curvature(config: Config) -> Rule:
    """Shared out by the rate at which each layer's path would lead to the bottom of its
    valley, from two steps in a row.

    Near uniform: noise of the batches, not curvature, decides how much two steps
    differ, and it is much the same in all layers.
    """
    return rules.curvature()


@measured("Baydin et al., arXiv:1703.04782; " + THREAD, "same", "higher")
def hypergradient(config: Config) -> Rule:
    """Each multiplier descends the loss, by sums (β = 1).

    Early on more for layers with large gradients, then back towards uniform; faster at
    first, equal at the end, as it sees one step ahead only.
    """
    return rules.hypergradient(1.0)


@measured("Baydin et al., arXiv:1703.04782", "same", "higher")
def multiplicative_hypergradient(config: Config) -> Rule:
    """Each multiplier descends the loss, by factors of up to 1 %.

    As hypergradient, but for all layers alike whatever their size; some come to the
    bounds, as cosines keep their sign for long.
    """
    return rules.multiplicative_hypergradient(0.01)


@measured("our own", "open", "lower")
def signal_to_noise(config: Config) -> Rule:
    """Shared out by ‖mean g‖² / mean ‖g‖² over the last steps: less for layers whose
    gradients differ from batch to batch.

    Favours the last layers, whose gradients agree most; slower than uniform for it, as
    it starves the first ones.
    """
    return rules.signal_to_noise()


@measured("You et al., LAMB, arXiv:1904.00962", "higher")
def trust_ratio(config: Config) -> Rule:
    """Shared out by ‖w‖ / ‖u‖: updates in proportion to the weights.

    Slightly better than uniform without norms, as layers then change at one relative
    speed; the same with them.
    """
    return rules.trust_ratio()


@measured("You et al., LARS, arXiv:1708.03888")
def gradient_trust_ratio(config: Config) -> Rule:
    """Shared out by ‖w‖ / ‖g‖, with the raw gradient.

    As trust-ratio, but noisier, as momentum has not yet averaged the gradient; no
    better than it.
    """
    return rules.gradient_trust_ratio()


@measured("Zhou et al., TempBalance, arXiv:2312.00359", "same", "same")
def tail_exponent(config: Config) -> Rule:
    """0.5 to 1.5 by the tail of each layer's spectrum, once an epoch: more for layers
    with light tails; shared out.

    No difference in a run of few epochs, whose spectra are still those of random
    weights; its source reports gains after 200.
    """
    return rules.tail_exponent(every=config.steps_per_epoch)


@measured("the second post of " + THREAD, "same", "higher")
def learned(config: Config) -> Rule:
    """A small network, the same for all layers, maps gradient, weight, alignment, time
    and depth to multipliers; the hypergradient trains it.

    Faster at first, no better at the end: it learns what helps the next step. What it
    finds over time says whether early or late layers should come first.
    """
    return contrib.learned(config.total_steps)


@policy(CARBONNELLE, layering=rotating)
def layca(layers: Layers, total_steps: int) -> Multipliers:
    """Every kernel turns by the same angle a step, the arctangent of a quarter of the
    global rate, and keeps its norm.

    Better than uniform at its best rotation rate, as its source reports; at this one
    open. The quarter rests on trial runs, in which nets without norms died at the whole
    rate, and is not tuned.
    """
    return np.ones(len(layers))


@policy(CARBONNELLE, "lower", control="layca", layering=rotating)
def layca_alpha(layers: Layers, total_steps: int, alpha: Alpha = -0.6) -> Multipliers:
    """layca with rotation rates (1 + α)^(5l/N), α = −0.6: the last layer turns at a
    hundredth of the first one's rate.

    Clearly worse than layca: layers that turn at unequal rates are what its source
    finds harmful (by 1 to 5 points for this α).
    """
    return optax_llr.rotation_alpha(layers, alpha)


@policy(
    "He et al., Rethinking ImageNet Pre-training, arXiv:1811.08883",
    "lower",
    "lower",
    scratch=True,
)
def from_scratch(layers: Layers, total_steps: int) -> Multipliers:
    """Every layer at the global rate, from random weights where the others start from
    trained ones.

    Far behind uniform with few images and slower with any number; the distance shrinks
    as images are added.
    """
    return np.ones(len(layers))


@policy("Yosinski et al., arXiv:1411.1792; Kumar et al., arXiv:2202.10054", "lower")
def head_only(layers: Layers, total_steps: int) -> Multipliers:
    """The head at the global rate, all other layers frozen.

    The cheapest. Near uniform with 20 images of a class, which say too little to
    improve features, and behind it with hundreds, which do.
    """
    return _heads(layers).astype(float)


@policy("Kumar et al., LP-FT, arXiv:2202.10054", "higher")
def head_first(
    layers: Layers, total_steps: int, duration: Duration = 0.3
) -> Multipliers:
    """The head alone for 30 % of the run, then every layer at the global rate.

    Ahead of uniform with few images, as features are not bent towards a head that is
    still random; no different with many.
    """
    heads, begin = _heads(layers), whole_steps(duration, total_steps)

    def schedule(count: ArrayLike) -> jax.Array:
        return jnp.where(heads | (jnp.asarray(count) >= begin), 1.0, 0.0)

    return schedule


@policy(ULMFIT, "higher")
def ulmfit_rates(layers: Layers, total_steps: int, factor: Factor = 2.6) -> Multipliers:
    """discriminative for trained weights: the last layer at 1, each level below at
    1/2.6 of the one above.

    Ahead of uniform with few images, as the first layers are general and stay so; no
    different with many, or behind where they have to move.
    """
    return discriminative(layers, total_steps, factor)


@policy(
    "Clark et al., ELECTRA, arXiv:2003.10555; He et al., MAE, arXiv:2111.06377",
    "higher",
    "same",
)
def block_decay(
    layers: Layers, total_steps: int, decay: Annotated[float, Range(0.3, 1.0)] = 0.75
) -> Multipliers:
    """The head at 1, each block below at 0.75 of the one above.

    As ulmfit-rates, but gentler: less ahead with few images, and never behind uniform.
    """
    return optax_llr.layer_decay(by_block(layers), decay)


@policy(ULMFIT, "same", schedule="slanted")
def uniform_slanted(layers: Layers, total_steps: int) -> Multipliers:
    """Every layer at the global rate, which rises for a tenth of the run and falls to
    1/32: uniform annealed as ulmfit is.

    Near uniform under any schedule that anneals; what ulmfit gains beyond that is owed
    to its layer rates.
    """
    return np.ones(len(layers))


@policy(ULMFIT, "higher", "lower", control="uniform-slanted", schedule="slanted")
def ulmfit(
    layers: Layers,
    total_steps: int,
    factor: Factor = 2.6,
    duration: Duration = 0.4,
) -> Multipliers:
    """ulmfit-rates, where one level after another joins from the last to the first over
    the first 40 % of the run, under slanted triangles.

    Slower than uniform under the same triangle, as layers wait, and ahead of it at the
    end with few images; no better than its rates alone.
    """
    rates = ulmfit_rates(layers, total_steps, factor)
    steps = _stage_steps(layers, total_steps, duration)
    joined = optax_llr.gradual_unfreeze_schedule(layers, steps)

    def schedule(count: ArrayLike) -> jax.Array:
        return jnp.asarray(rates) * joined(count)

    return schedule


@policy("Howard and Gugger, fastai, arXiv:2002.04688", "higher")
def slow_body(
    layers: Layers,
    total_steps: int,
    body: Annotated[float, Range(0.01, 1.0, log=True)] = 0.1,
) -> Multipliers:
    """The head at the global rate, all other layers at a tenth of it.

    Ahead of uniform with few images and no different with many; as good as finer
    gradings, which is why fastai has it.
    """
    return np.where(_heads(layers), 1.0, body)


@policy("Lee et al., Surgical Fine-Tuning, arXiv:2210.11466", "higher")
def first_block(layers: Layers, total_steps: int) -> Multipliers:
    """The first layer and the first block at the global rate, all others frozen.

    Ahead of uniform where the classes are the same and the input has shifted
    (--no-new-head); far behind for new classes, whose head it never trains.
    """
    return (by_block(layers).level <= 1).astype(float)


def _heads(layers: Layers) -> np.ndarray:
    """Which layers only the output reads, (L,)."""
    return layers.distance == 0


def _moving(
    layers: Layers,
    total_steps: int,
    first: tuple[float, float],
    last: tuple[float, float],
) -> Multipliers:
    """Linear over depth and time, between the rates of the first and last layer."""
    ends = (optax.linear_schedule(*end, total_steps) for end in (first, last))
    return optax_llr.interpolate_schedule(layers, *ends)


def _stage_steps(layers: Layers, total_steps: int, duration: float) -> float:
    """Steps a stage, such that the last level joins after this share of the run."""
    return duration * total_steps / max(1, int(layers.level.max()))


def whole_steps(share: float, total_steps: int) -> int:
    """Whole steps in a share of the run, unmoved by the rounding of their product."""
    return int(round(share * total_steps, 6))
