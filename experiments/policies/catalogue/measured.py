"""Policies whose rates depend on what the layers do.

They share the global rate out among the layers: their multipliers are divided by the
mean over the layers, and lie between 0.1 and 10.
"""

import numpy as np

import optax_llr
from optax_llr import Layers, Rule, contrib, rules

from ...config.config import Config
from ..optimizers import rotating
from ..policy import Multipliers
from .entry import CARBONNELLE, SMITH_TOPIN, THREAD, Alpha, measured, policy


@measured("Singh et al., LSALR, arXiv:1510.04609", "same", "same")
def gradient_norm(config: Config, layers: Layers) -> Rule:
    """1 + log(1 + 1/‖g‖), shared out: more for layers whose gradients are small.

    Near uniform: the logarithm evens out all but large differences. Of use in deep
    plain nets without norms, where gradients vanish towards the first layers.
    """
    return rules.gradient_norm()


@measured(SMITH_TOPIN + "; " + THREAD, "same", "same")
def curvature(config: Config, layers: Layers) -> Rule:
    """Shared out by the rate at which each layer's path would lead to the bottom of its
    valley, from two steps in a row.

    Near uniform: noise of the batches, not curvature, decides how much two steps
    differ, and it is much the same in all layers.
    """
    return rules.curvature()


@measured("Baydin et al., arXiv:1703.04782; " + THREAD, "same", "higher")
def hypergradient(config: Config, layers: Layers) -> Rule:
    """Each multiplier descends the loss, by sums (β = 1).

    Early on more for layers with large gradients, then back towards uniform; faster at
    first, equal at the end, as it sees one step ahead only.
    """
    return rules.hypergradient(1.0)


@measured("Baydin et al., arXiv:1703.04782", "same", "higher")
def multiplicative_hypergradient(config: Config, layers: Layers) -> Rule:
    """Each multiplier descends the loss, by factors of up to 1 %.

    As hypergradient, but for all layers alike whatever their size; some come to the
    bounds, as cosines keep their sign for long.
    """
    return rules.multiplicative_hypergradient(0.01)


@measured("our own", "open", "lower")
def signal_to_noise(config: Config, layers: Layers) -> Rule:
    """Shared out by ‖mean g‖² / mean ‖g‖² over the last steps: less for layers whose
    gradients differ from batch to batch.

    Favours the last layers, whose gradients agree most; slower than uniform for it, as
    it starves the first ones.
    """
    return rules.signal_to_noise()


@measured("You et al., LAMB, arXiv:1904.00962", "higher")
def trust_ratio(config: Config, layers: Layers) -> Rule:
    """Shared out by ‖w‖ / ‖u‖: updates in proportion to the weights.

    Slightly better than uniform without norms, as layers then change at one relative
    speed; the same with them.
    """
    return rules.trust_ratio()


@measured("You et al., LARS, arXiv:1708.03888")
def gradient_trust_ratio(config: Config, layers: Layers) -> Rule:
    """Shared out by ‖w‖ / ‖g‖, with the raw gradient.

    As trust-ratio, but noisier, as momentum has not yet averaged the gradient; no
    better than it.
    """
    return rules.gradient_trust_ratio()


@measured("Zhou et al., TempBalance, arXiv:2312.00359", "same", "same")
def tail_exponent(config: Config, layers: Layers) -> Rule:
    """0.5 to 1.5 by the tail of each layer's spectrum, once an epoch: more for layers
    with light tails; shared out.

    No difference in a run of few epochs, whose spectra are still those of random
    weights; its source reports gains after 200.
    """
    return rules.tail_exponent(every=config.steps_per_epoch)


@measured("the second post of " + THREAD, "same", "higher")
def learned(config: Config, layers: Layers) -> Rule:
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
