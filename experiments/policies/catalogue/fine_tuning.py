"""Policies for weights that were trained before (--init-from).

What they expect holds there: the first layers are general already, the head is new.
"""

from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

import optax_llr
from optax_llr import Layers

from ..blocks import by_block
from ..policy import Multipliers, Range
from .entry import ULMFIT, Duration, Factor, policy, stage_steps, whole_steps
from .scheduled import discriminative


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
    steps = stage_steps(layers, total_steps, duration)
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
