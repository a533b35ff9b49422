"""What a configuration may name: models, policies, data sets and the like of ours."""

import typing
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from . import own
from .checks import unknown

# fmt: off
Model = Literal[
    "cnn-shallow", "vgg5", "vgg8", "vgg11", "vgg13", "vgg16", "vgg19", "layca-cnn1",
    "layca-cnn2", "plain8", "plain14", "plain20", "resnet8", "resnet14", "resnet20",
    "resnet56", "resnet110", "resnet18", "wrn16-4", "wrn28-10", "densenet76", "vit",
    "vit12", "transformer-rows", "lstm-rows",
]
LanguageModel = Literal["gpt-small", "gpt"]
Scheduled = Literal[
    "uniform", "uniform-onecycle", "uniform-cosine", "early-first", "late-first",
    "static-decreasing", "static-increasing", "three-stage", "cascade",
    "uniform-cascade", "discriminative", "unfreeze-top-first", "unfreeze-bottom-first",
    "freezeout", "rotation-alpha",
]
Measured = Literal[
    "gradient-norm", "curvature", "hypergradient", "multiplicative-hypergradient",
    "signal-to-noise", "trust-ratio", "gradient-trust-ratio", "tail-exponent",
    "learned", "layca", "layca-alpha",
]
FineTuning = Literal[
    "from-scratch", "head-only", "head-first", "ulmfit-rates", "block-decay",
    "uniform-slanted", "ulmfit", "slow-body", "first-block",
]
OfTransformers = Literal["blockwise", "ramped-tail-exponent"]
# fmt: on
Norm = Literal["own", "batch", "group", "layer", "rms", "none"]
Data = Literal["sample", "cifar10", "cifar100", "stdlib", "tiny_shakespeare"]
Shift = Literal["none", "noise", "blur", "invert"]
Optimizer = Literal["sgd", "nesterov", "adamw", "lars", "lamb", "muon"]
Decay = Literal["coupled", "following", "ignoring"]
Schedule = Literal[
    "constant",
    "piecewise",
    "triangular",
    "onecycle",
    "cosine",
    "sgdr",
    "slanted",
    "warmup-cosine",
]
OPTIMIZERS: tuple[str, ...] = typing.get_args(Optimizer)
MODELS: tuple[str, ...] = typing.get_args(Model)
"""The models that take images."""
LANGUAGE_MODELS: tuple[str, ...] = typing.get_args(LanguageModel)
"""The models that take text."""
SCHEDULED: tuple[str, ...] = typing.get_args(Scheduled)
"""Policies that are known before the run."""
MEASURED: tuple[str, ...] = typing.get_args(Measured)
"""Policies whose rates depend on what the layers do."""
FINE_TUNING: tuple[str, ...] = typing.get_args(FineTuning)
"""Policies for weights that were trained before, all of them known before the run."""
OF_TRANSFORMERS: tuple[str, ...] = typing.get_args(OfTransformers)
"""Policies that were made for language models."""
POLICY_NAMES = SCHEDULED + MEASURED + FINE_TUNING + OF_TRANSFORMERS
NORMS = {
    "cnn-shallow": ("none", "batch", "group"),
    **dict.fromkeys(("vit", "vit12", "transformer-rows"), ("layer",)),
    "lstm-rows": ("none",),
    **dict.fromkeys(LANGUAGE_MODELS, ("rms",)),
}
"""The norms that a model can have, its own first."""
CONVOLUTIONAL = ("batch", "group", "none")
"""Those of the other models."""


class Sizes(NamedTuple):
    """What a configuration must know of its data."""

    images: int  # to train on, before the validation split is cut off; or windows
    classes: int  # of an image; or of a byte of text
    shape: tuple[int, ...]  # of an image: height, width, channels; of text: context


SIZES = {
    "sample": Sizes(2_000, 10, (32, 32, 3)),
    "cifar10": Sizes(50_000, 10, (32, 32, 3)),
    "cifar100": Sizes(50_000, 100, (32, 32, 3)),
}
"""Of the data sets that are known, with as many training images of each class."""
CLASSES: dict[Any, tuple[str, ...]] = dict.fromkeys(
    ("sample", "cifar10"),
    (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
)
"""Names of their classes; those of other sets go by numbers."""


def norms(model: Any) -> tuple[str, ...]:
    """The norms that a model of ours can have, its own first; of others nothing is."""
    return () if own.is_own(model) else NORMS.get(model, CONVOLUTIONAL)


def class_numbers(asked: Sequence[int | str], data: Any, count: int) -> list[int]:
    """The numbers of classes that are asked for by name or number; of none, all.

    Raises:
        ValueError: one is not among so many that the data have, or comes twice.
    """
    names = CLASSES.get(data, ())
    found: list[int] = []
    for value in asked:
        number = names.index(value) if value in names else value
        if not isinstance(number, int) or not 0 <= number < count:
            known = (
                f"{unknown(value, names)}, or"
                if names
                else f"unknown {value!r}, expected"
            )
            raise ValueError(f"classes: {known} a number from 0 to {count - 1}")
        if number in found:
            raise ValueError(f"classes must be all distinct; got {value!r} twice")
        found.append(number)
    return found or list(range(count))
