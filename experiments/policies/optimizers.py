"""The optimizers of a study, each with the multipliers of the layers in or behind it.

Let w be one array of weights, g its gradient, η the global rate and m the multiplier
of its layer at this step. The optimizer makes an update u; that, m, and weight decay
of strength λ make what is added to w:

=========  =======================  ================  ==================
decay      u is made with           added to w        a layer with m = 0
=========  =======================  ================  ==================
coupled    λ where it stands below  m u               stands still
following  0 in place of that λ     m (u − η λ w)     stands still
ignoring   0 in place of that λ     m u − η λ w       decays
=========  =======================  ================  ==================

(In a phase of frozen layers such a layer stands still under all three.)
All weights decay alike: kernels, biases, and what norms learn. With momentum β:

========  ======================================================================
sgd       v ← β v + g + λ w;  u = −η v
nesterov  v ← β v + g + λ w;  u = −η (β v + g + λ w)
adamw     u = −η Adam(g + λ w), b1 = β
lars      v ← β v − η r (g + λ w), r = 0.001 ‖w‖ / ‖g + λ w‖;  u = v
lamb      u = −η r d, d = Adam(g) + λ w, b1 = β, r = ‖w‖ / ‖d‖
muon      v ← β v + (1 − β)(g + λ w);
          u = −0.2 η √max(rows, columns) NS(β v + (1 − β)(g + λ w))
          for the kernels of hidden layers, else u = −η NAdam(g + λ w)
========  ======================================================================

Adam(g) is the mean of past gradients over the root of the mean of their squares. NS is
five Newton–Schulz steps towards the nearest orthogonal matrix. Both undo that their
means start from 0. r = 1 where a norm is 0. Everything else is as Optax has it.

References:
    Loshchilov and Hutter, Decoupled Weight Decay Regularization, arXiv:1711.05101
    You et al., Large Batch Training of Convolutional Networks, arXiv:1708.03888
    You et al., Large Batch Optimization for Deep Learning, arXiv:1904.00962
    Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024
    Liu et al., Muon is Scalable for LLM Training, arXiv:2502.16982
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.tree_util import keystr, tree_map_with_path
from optax.contrib import MuonDimensionNumbers

import optax_llr
from optax_llr import AdaptLayersState, Layers, Rule

from ..config import own
from ..config.config import Config

Chain = optax.GradientTransformationExtraArgs
ROTATION = 0.25
"""Of the global rate. At the whole of it nets without norms died in trial runs."""
Make = Callable[[Any], Chain]
"""Makes an optimizer of a global rate."""


class Told(NamedTuple):
    """What an optimizer is told at each step."""

    rate: Any  # shape=(), float32; the global rate
    multipliers: Any  # shape=(L,), float32


Layering = Callable[[Make, Told, Config, Layers], Chain]
"""How layers come to have rates of their own; one compiled program for each."""


def scheduled(make: Make, told: Told, config: Config, layers: Layers) -> Chain:
    """Updates times multipliers that are known before."""
    del config
    scale = optax_llr.scale_by_layer(layers, told.multipliers)
    return optax.chain(make(told.rate), scale)


def rotating(make: Make, told: Told, config: Config, layers: Layers) -> Chain:
    """Layca: kernels turn by a share of the global rate, times the multiplier."""
    del config
    turn = optax_llr.layca(layers, ROTATION * told.rate * told.multipliers)
    return optax.chain(make(1.0), turn)


MakeRule = Callable[[Config, Layers], Rule]


def measuring(rule: MakeRule) -> Layering:
    """Updates times multipliers that a rule measures; divided by their mean.

    So the rule shares out the global rate, and changes nothing in how large it is.
    """

    def adapted(make: Make, told: Told, config: Config, layers: Layers) -> Chain:
        inner = make(told.rate)
        return optax_llr.adapt_layers(
            inner, layers, rule(config, layers), bounds=(0.1, 10.0), relative=True
        )

    return adapted


def measured(opt_state: Any) -> jax.Array | None:
    """The multipliers (L,) that the last step used, if a rule measured them."""

    def is_adapted(node: Any) -> bool:
        return isinstance(node, AdaptLayersState)

    nodes = jax.tree.leaves(opt_state, is_leaf=is_adapted)
    return next((n.scale.multipliers for n in nodes if is_adapted(n)), None)


def optimizer(config: Config, layers: Layers, layering: Layering = scheduled) -> Chain:
    """The optimizer of a study, for all policies of one layering.

    The global rate and the multipliers are hyperparameters in the state, by the names
    `rate` and `multipliers`, set anew at each step.
    """

    def decay(rate: Any) -> optax.GradientTransformation:
        return optax.add_decayed_weights(-rate * config.weight_decay)

    def make(rate: Any) -> Chain:
        made = _undecayed(config, layers, rate)
        return optax.chain(made, decay(rate)) if config.decay == "following" else made

    def chain(rate: jax.Array, multipliers: jax.Array) -> Chain:
        layered = layering(make, Told(rate, multipliers), config, layers)
        if config.decay == "ignoring":
            return optax.chain(layered, decay(rate))
        return layered

    return optax.inject_hyperparams(chain)(rate=0.0, multipliers=np.ones(len(layers)))


def _undecayed(config: Config, layers: Layers, rate: Any) -> Chain:
    """The optimizer by its name, with the decay that is coupled and no other."""
    beta, name = config.momentum, config.optimizer
    coupled = config.weight_decay if config.decay == "coupled" else 0.0
    if own.is_own(name):
        made = own.resolve(name)(rate, beta, coupled)
        if not isinstance(made, optax.GradientTransformation):
            raise ValueError(
                f"optimizer: {own.label(name)} must return an "
                f"optax.GradientTransformation; got {type(made).__name__}"
            )
        return optax.with_extra_args_support(made)
    match name:
        case "lars":
            return optax.lars(rate, weight_decay=coupled, momentum=beta)
        case "lamb":
            return optax.lamb(rate, b1=beta, weight_decay=coupled)
        case "muon":
            made = _muon(layers, rate, beta)
        case "adamw":  # whose decay is never coupled
            made = optax.adam(rate, b1=beta)
        case _:
            made = optax.sgd(rate, momentum=beta, nesterov=name == "nesterov")
    return optax.chain(optax.add_decayed_weights(coupled), made)


def _muon(layers: Layers, rate: Any, momentum: float) -> optax.GradientTransformation:
    """Muon for the kernels of hidden layers; NAdam, with b1 = 0.9, for all others.

    Hidden are all levels but the first and the last, as Muon's author has it. A kernel
    is read as a matrix of inputs × outputs: a convolution's has height · width · inputs
    rows, that of an attention's query heads · features columns. Updates are made as
    large as Adam's (arXiv:2502.16982), so that one rate serves both. Coupled decay
    comes before momentum: it turns an update and cannot lengthen it.
    """
    hidden = (layers.level > 0) & (layers.level < layers.level.max())

    def matrix(keys: Any, leaf: jax.Array) -> MuonDimensionNumbers | None:
        path = keystr(keys, simple=True, separator="/").removesuffix("/value")
        _, module, name = ("", "", *path.split("/"))[-3:]
        if name != "kernel" or not hidden[layers.members[path]]:
            return None
        inputs = 1 if module in ("query", "key", "value") else leaf.ndim - 1
        axes = tuple(range(leaf.ndim))
        return MuonDimensionNumbers(axes[:inputs], axes[inputs:])

    return optax.contrib.muon(
        rate,
        beta=momentum,
        muon_weight_dimension_numbers=functools.partial(tree_map_with_path, matrix),
        consistent_rms=0.2,
    )
