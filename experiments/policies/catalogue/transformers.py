"""Policies that were made for language models, under warm-up and a cosine.

They expect that uniform's loss is reached with a third fewer tokens, and that the loss
at the end is lower.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from optax_llr import Layers, Rule, rules

from ...config.config import Config
from ..policy import Multipliers
from ..rates import LOWEST, warmup_steps
from .entry import measured, policy

KINDS: Mapping[str, tuple[float, tuple[str, ...]]] = {
    "norms": (1.0, ("norm", "norm1", "norm2")),
    "values and outputs": (4.0, ("value", "out")),
    "feed-forward": (6.0, ("gate", "up", "down")),
    "queries and keys": (8.0, ("query", "key")),
    "embedding and head": (10.0, ("tokens", "head")),
}
"""Of a layer, by the end of its name: the peak of its rate by that of norms."""
EVERY, RAMP = 40, 20
"""Steps from one measurement to the next, and those in which it is approached."""
MEASURED_SHARE = 0.2
"""Of the run, in which LLR measures."""


@policy("Wang et al., Blockwise LR, arXiv:2502.19002", "higher", "higher")
def blockwise(layers: Layers, total_steps: int) -> Multipliers:
    """Peaks of norms 1, values and outputs 4, feed-forward 6, queries and keys 8,
    embedding and head 10, divided by their mean; all kinds end at one floor, a tenth of
    norms' peak.

    Ahead of uniform, whose loss it reaches with a third fewer tokens, as the loss is
    sharper in norms than in embeddings; twice as fast in its source. So under the
    schedule warmup-cosine, whose share of the floor this is.
    """
    peaks = np.array([_peak(name) for name in layers.names])
    warmup = warmup_steps(total_steps)
    cosine = optax.cosine_decay_schedule(1.0, total_steps - warmup)

    def schedule(count: ArrayLike) -> jax.Array:
        above = cosine(jnp.maximum(jnp.asarray(count) - warmup, 0))
        rates = LOWEST + (peaks - LOWEST) * above  # by the peak of norms
        return rates / (LOWEST + (1 - LOWEST) * above) / peaks.mean()

    return schedule


@measured("He et al., LLR, arXiv:2605.22297, and its code", "higher", "higher")
def ramped_tail_exponent(config: Config, layers: Layers) -> Rule:
    """LLR: 1 to 3 by the tail of each matrix's spectrum, more for light tails;
    embedding and head 3, norms 1. Measured every 40 steps of the first fifth of the
    run, approached in 20; shared out.

    Ahead of uniform, whose loss it reaches with a third fewer tokens, as its source
    reports from 60M parameters on. Much of that may come from embedding and head.
    """
    first, last = layers.level == 0, layers.distance == 0
    names = np.array(layers.names)[first | last].tolist()
    until = max(1, round(MEASURED_SHARE * config.total_steps))
    return rules.ramped_tail_exponent(EVERY, RAMP, names, until=until)


def _peak(name: str) -> float:
    """By that of norms."""
    end = name.rpartition("/")[-1]
    for peak, ends in KINDS.values():
        if end in ends:
            return peak
    known = ", ".join(end for _, ends in KINDS.values() for end in ends)
    raise ValueError(
        f"policies: blockwise expects layers whose names end in {known}, as those of "
        f"gpt do; got {name!r}. Leave it out for other models"
    )
