"""The layer policies under comparison, each with what was expected of it beforehand.

The expectations were written before any study and stay as they are, also where the
runs say otherwise; one that rests on trial runs says so. Unless a policy says more, it
leaves the global schedule to the study and is compared with `uniform`. One that anneals
by itself is compared with uniform rates annealed most alike, or else annealing would be
mistaken for what layer rates do.
"""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
import optax

import optax_llr
from optax_llr import Layers

from .config import CONTROLS

THREAD = (
    'L. Smith and replies, "Cyclical Layer Learning Rates (a research question)", '
    "fast.ai forums"
)

Multipliers = np.ndarray | jax.Array | optax.Schedule


@dataclasses.dataclass(frozen=True)
class Policy:
    """How the rates of the layers are to differ, and what should come of it."""

    name: str
    summary: str
    """What it does, in a line."""
    expectation: str
    """What should come of it, and why; written before any run."""
    source: str
    """Whose idea it is."""
    multipliers: Callable[[Layers, int], Multipliers]
    """(layers, total_steps) → an array (L,) or a schedule `count -> (L,)`."""
    schedule: str | None = None
    """The global schedule that belongs to it; None for that of the study."""

    @property
    def control(self) -> str:
        """The policy that it is compared with, seed by seed; of uniform, uniform."""
        return CONTROLS.get(self.name, "uniform")


def _uniform(layers: Layers, total_steps: int) -> Multipliers:
    del total_steps
    return np.ones(len(layers))


def _early_first(layers: Layers, total_steps: int) -> Multipliers:
    first = optax.linear_schedule(1.5, 0.5, total_steps)
    last = optax.linear_schedule(0.5, 1.5, total_steps)
    return optax_llr.interpolate(layers, first, last)


def _late_first(layers: Layers, total_steps: int) -> Multipliers:
    first = optax.linear_schedule(0.5, 1.5, total_steps)
    last = optax.linear_schedule(1.5, 0.5, total_steps)
    return optax_llr.interpolate(layers, first, last)


def _static_decreasing(layers: Layers, total_steps: int) -> Multipliers:
    del total_steps
    return optax_llr.interpolate(layers, 1.5, 0.5)


def _static_increasing(layers: Layers, total_steps: int) -> Multipliers:
    del total_steps
    return optax_llr.interpolate(layers, 0.5, 1.5)


def _three_stage(layers: Layers, total_steps: int) -> Multipliers:
    first = optax.linear_schedule(2.0, 0.5, max(1, total_steps // 10))
    last = optax.linear_schedule(0.5, 2.0, total_steps)
    ends = {0: first, int(layers.level.max()): last}
    levels = zip(layers.names, layers.level.tolist(), strict=True)
    return optax_llr.per_layer(layers, {n: ends.get(level, 1.0) for n, level in levels})


def _cascade(layers: Layers, total_steps: int) -> Multipliers:
    first_peak, last_peak = total_steps // 5, 3 * total_steps // 5
    return optax_llr.cascade(layers, first_peak, last_peak, total_steps)


def _discriminative(layers: Layers, total_steps: int) -> Multipliers:
    del total_steps
    return optax_llr.layer_decay(layers, 1 / 2.6)


def _unfreeze_top_first(layers: Layers, total_steps: int) -> Multipliers:
    return optax_llr.gradual_unfreeze(layers, _stage(layers, total_steps))


def _unfreeze_bottom_first(layers: Layers, total_steps: int) -> Multipliers:
    stage = _stage(layers, total_steps)
    return optax_llr.gradual_unfreeze(layers, stage, top_first=False)


def _stage(layers: Layers, total_steps: int) -> float:
    """Steps a stage, such that the last level joins after 40 % of the run.

    That leaves it a tenth of the run before `piecewise` first drops the rate.
    """
    return 0.4 * total_steps / max(1, int(layers.level.max()))


def _freezeout(layers: Layers, total_steps: int) -> Multipliers:
    return optax_llr.freezeout(layers, total_steps)


def _rotation_alpha(layers: Layers, total_steps: int) -> Multipliers:
    del total_steps
    return optax_llr.rotation_alpha(layers, -0.6)


POLICIES = {
    policy.name: policy
    for policy in (
        Policy(
            name="uniform",
            summary="Every layer at the global rate.",
            expectation="The yardstick. Weights of all layers depend on one another, "
            "which speaks for solving for all of them together.",
            source="common practice",
            multipliers=_uniform,
        ),
        Policy(
            name="uniform-onecycle",
            summary="Every layer at the global rate, which rises and falls once: "
            "uniform annealed most like cascade.",
            expectation="Slow at first, since it warms up, and ahead of uniform under "
            "piecewise at the end, as in two trial runs; what cascade gains beyond "
            "that is owed to its layer rates.",
            source="Smith and Topin, Super-Convergence, arXiv:1708.07120",
            multipliers=_uniform,
            schedule="onecycle",
        ),
        Policy(
            name="uniform-cosine",
            summary="Every layer at the global rate, which falls to 0 along a cosine: "
            "uniform annealed most like freezeout.",
            expectation="Behind uniform under piecewise just after half-way, where "
            "that drops its rate at once, and equal or slightly ahead at the end; "
            "what freezeout loses beyond that is the price of freezing.",
            source="Loshchilov and Hutter, SGDR, arXiv:1608.03983",
            multipliers=_uniform,
            schedule="cosine",
        ),
        Policy(
            name="early-first",
            summary="First layer 1.5 → 0.5, last layer 0.5 → 1.5, linear in depth and "
            "time.",
            expectation="Faster to a given accuracy than uniform, equal at the end: "
            "later layers gain little from learning on features that still move.",
            source=THREAD,
            multipliers=_early_first,
        ),
        Policy(
            name="late-first",
            summary="early-first reversed: first layer 0.5 → 1.5, last layer 1.5 → "
            "0.5.",
            expectation="Slower to a given accuracy than uniform, equal at the end: "
            "features keep changing under layers that have already settled.",
            source=THREAD,
            multipliers=_late_first,
        ),
        Policy(
            name="static-decreasing",
            summary="1.5 at the first layer down to 0.5 at the last, all the time.",
            expectation="As fast as early-first in the beginning, since it begins the "
            "same, and no better at the end, where early layers should rest.",
            source=THREAD,
            multipliers=_static_decreasing,
        ),
        Policy(
            name="static-increasing",
            summary="0.5 at the first layer up to 1.5 at the last, all the time.",
            expectation="Slower in the beginning, like late-first; suited to weights "
            "that are already trained rather than to a start from scratch.",
            source=THREAD,
            multipliers=_static_increasing,
        ),
        Policy(
            name="three-stage",
            summary="First layer 2 → 0.5 in the first tenth of the run, last layer "
            "0.5 → 2 over the whole run, those between at 1.",
            expectation="Ahead of uniform early on, as the first layer settles within "
            "the first tenth; equal at the end.",
            source=THREAD,
            multipliers=_three_stage,
        ),
        Policy(
            name="cascade",
            summary="A one-cycle for each layer, with peaks from 20 % of the run "
            "(first layer) to 60 % (last layer), all ending together.",
            expectation="Slow at first, since every layer warms up, and as good as "
            "uniform or better at the end, as a one-cycle often is.",
            source=THREAD,
            multipliers=_cascade,
            schedule="constant",
        ),
        Policy(
            name="discriminative",
            summary="The last layer at 1, each level below at 1/2.6 of the one above.",
            expectation="Worse than uniform from scratch: made for fine-tuning, it "
            "hardly moves the first layers, which here are still random.",
            source="Howard and Ruder, ULMFiT, arXiv:1801.06146",
            multipliers=_discriminative,
        ),
        Policy(
            name="unfreeze-top-first",
            summary="One level after another joins from the last to the first, over "
            "the first 40 % of the run.",
            expectation="Slower and somewhat worse than uniform: the last layers start "
            "by learning from random features.",
            source="Howard and Ruder, ULMFiT, arXiv:1801.06146; " + THREAD,
            multipliers=_unfreeze_top_first,
        ),
        Policy(
            name="unfreeze-bottom-first",
            summary="One level after another joins from the first to the last, over "
            "the first 40 % of the run.",
            expectation="Slower than uniform at first, as signals pass through random "
            "layers above, but ahead of unfreeze-top-first; near uniform at the end.",
            source=THREAD,
            multipliers=_unfreeze_bottom_first,
        ),
        Policy(
            name="freezeout",
            summary="Each layer follows a cosine to 0 of its own; the first is frozen "
            "from 51 % of the run on, the last never.",
            expectation="As good as uniform or slightly worse; what it can save is the "
            "time for gradients of frozen layers, which this loop still computes.",
            source="Brock et al., FreezeOut, arXiv:1706.04983",
            multipliers=_freezeout,
            schedule="constant",
        ),
        Policy(
            name="rotation-alpha",
            summary="Layer rates (1 + α)^(5l/N) with α = −0.6: 1 at the first layer, "
            "0.01 at the last.",
            expectation="Worse than uniform, as its source reports for layers that "
            "rotate at unequal rates; by how much under plain SGD is open.",
            source="Carbonnelle and De Vleeschouwer, arXiv:1806.01603",
            multipliers=_rotation_alpha,
        ),
    )
}
