"""The models, for images of 32 × 32 or for text: `make` builds each by its name.

| module      | models, with their parameters in millions for ten classes            |
| ----------- | -------------------------------------------------------------------- |
| plain       | cnn-shallow .16; vgg5 4.5, vgg8 4.4, vgg11 9.8, vgg13 9.9, vgg16     |
|             | 15.2, vgg19 20.6; layca-cnn1 4.3, layca-cnn2 15.0                    |
| residual    | resnet8 .078, resnet14 .18, resnet20 .27, resnet56 .86, resnet110    |
|             | 1.7, resnet18 11.2; the same without shortcuts plain8 .075, plain14  |
|             | .17, plain20 .27; wrn16-4 2.7, wrn28-10 36.5                         |
| densenet    | densenet76 .49                                                       |
| sequences   | vit 2.7 and vit12 5.4, of 6 and 12 blocks, on patches of 4 × 4;      |
|             | transformer-rows .81 and lstm-rows .25 on rows of pixels             |
| gpt         | gpt-small .13, of 2 blocks, and gpt .86, of 4, on bytes of text      |

`parts` has what they share: what is a layer's norm, and what stands in for it.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from ..config import own
from ..config.choices import norms
from .densenet import DenseNet
from .gpt import GPT
from .parts import Parts
from .plain import CNN1, CNN2, VGG, VGG_STAGES, ShallowCNN
from .residual import ResNet, WideResNet
from .sequences import RowsLSTM, Transformer

_BUILD: dict[str, Callable[[int, Parts], nnx.Module]] = {
    "cnn-shallow": ShallowCNN,
    **{f"vgg{depth}": functools.partial(VGG, depth) for depth in VGG_STAGES},
    "layca-cnn1": CNN1,
    "layca-cnn2": CNN2,
    **{
        f"plain{6 * n + 2}": functools.partial(ResNet, (16, 32, 64), n, plain=True)
        for n in (1, 2, 3)
    },
    **{
        f"resnet{6 * n + 2}": functools.partial(ResNet, (16, 32, 64), n)
        for n in (1, 2, 3, 9, 18)
    },
    "resnet18": functools.partial(ResNet, (64, 128, 256, 512), 2),
    "wrn16-4": functools.partial(WideResNet, 16, 4),
    "wrn28-10": functools.partial(WideResNet, 28, 10),
    "densenet76": functools.partial(DenseNet, 76, 12),
    "vit": functools.partial(Transformer, (4, 4), 192, 3, 6),
    "vit12": functools.partial(Transformer, (4, 4), 192, 3, 12),
    "transformer-rows": functools.partial(Transformer, (1, 32), 128, 4, 4),
    "lstm-rows": functools.partial(RowsLSTM, 128),
    "gpt-small": functools.partial(GPT, 64, 2, 2),
    "gpt": functools.partial(GPT, 128, 4, 4),
}


def make(
    model: Any,
    num_classes: int,
    rngs: nnx.Rngs,
    dtype: DTypeLike = jnp.float32,
    norm: str = "own",
) -> nnx.Module:
    """Makes a model by its name in `choices`, or one of one's own.

    Args:
        model: see above; or a function (num_classes, rngs) → nnx.Module, or
            FILE.py:NAME, of which neither dtype nor norm are asked.
        num_classes: how many logits an image, or a byte of text, gets.
        rngs: where the initial weights are drawn from.
        dtype: of the arithmetic; parameters and logits are float32 in any case.
        norm: "batch", "group", "layer", "rms" or "none", as far as the model can have
            it; or "own", the one that it is known with.

    Returns:
        A module: normalised images (n, height, width, channels) → logits (n,
        num_classes), or bytes (n, length) → logits (n, length, num_classes). All its
        variables but the parameters are batch statistics.

    Raises:
        ValueError: for one's own that cannot be called so, or is no module.
    """
    if own.is_own(model):
        build = own.resolve(model)
        try:
            inspect.signature(build).bind(num_classes, rngs)
        except TypeError as error:
            raise ValueError(
                f"model: {own.label(model)} must take (num_classes, rngs); {error}"
            ) from None
        made = build(num_classes, rngs)
        if not isinstance(made, nnx.Module):
            raise ValueError(
                f"model: {own.label(model)} must return a flax.nnx.Module; got "
                f"{type(made).__name__}"
            )
        return made
    parts = Parts(rngs, dtype, norms(model)[0] if norm == "own" else norm)
    return _BUILD[model](num_classes, parts)
