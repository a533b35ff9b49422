"""Keras 3 on JAX: `stateless_call`, with variables by their paths."""

import os
from unittest import mock

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np
from keras.src.applications import convnext as convnexts
from keras.src.applications import efficientnet as efficientnets
from keras.src.applications import resnet as resnets


def _zeros(shape, *args, dtype="float32", **kwargs):
    return np.zeros(shape, dtype)


# Keras compiles an initialiser for each shape, which is all the time it takes to make
# a model; values play no part here.
without_random_numbers = mock.patch.multiple(
    "keras.src.backend.jax.random",
    **dict.fromkeys(["normal", "truncated_normal", "uniform"], _zeros),
)


def _shapes(model, *shape):
    trained, rest = model.trainable_variables, model.non_trainable_variables
    paths = [variable.path for variable in trained]

    def forward(params, rest, x):
        values = [params[path] for path in paths]
        return model.stateless_call(values, rest, x, training=False)[0]

    def shapes(variables):
        return [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in variables]

    params = dict(zip(paths, shapes(trained), strict=True))
    return forward, params, (shapes(rest), jax.ShapeDtypeStruct((2, *shape), "float32"))


@without_random_numbers
def resnet():
    """ResNet50 with two stages of two blocks, and 4 and 8 features."""

    def stack(x):
        x = resnets.stack_residual_blocks_v1(x, 4, 2, stride1=1, name="conv2")
        return resnets.stack_residual_blocks_v1(x, 8, 2, name="conv3")

    model = resnets.ResNet(
        stack, False, True, weights=None, input_shape=(32, 32, 3), classes=10
    )
    return _shapes(model, 32, 32, 3)


@without_random_numbers
def resnet50():
    model = keras.applications.ResNet50(weights=None)
    return _shapes(model, 224, 224, 3)


@without_random_numbers
def efficientnet():
    """EfficientNetB0 with its first two stages only, of one block and of two."""
    blocks = [
        {"kernel_size": 3, "repeats": 1, "filters_in": 32, "filters_out": 16}
        | {"expand_ratio": 1, "id_skip": True, "strides": 1, "se_ratio": 0.25},
        {"kernel_size": 3, "repeats": 2, "filters_in": 16, "filters_out": 24}
        | {"expand_ratio": 6, "id_skip": True, "strides": 2, "se_ratio": 0.25},
    ]
    model = efficientnets.EfficientNet(
        *(0.25, 1.0, 32),
        blocks_args=blocks,
        weights=None,
        input_shape=(32, 32, 3),
        classes=10,
        name="efficientnetb0",  # the name decides how images are normalised
    )
    return _shapes(model, 32, 32, 3)


@without_random_numbers
def efficientnet_b0():
    model = keras.applications.EfficientNetB0(weights=None)
    return _shapes(model, 224, 224, 3)


@without_random_numbers
def convnext():
    """ConvNeXt with four stages (it has four) of two, one, one and one block."""
    model = convnexts.ConvNeXt(
        *((2, 1, 1, 1), (4, 8, 8, 8)),
        weights=None,
        input_shape=(64, 64, 3),
        classes=10,
    )
    return _shapes(model, 64, 64, 3)


@without_random_numbers
def convnext_tiny():
    model = keras.applications.ConvNeXtTiny(weights=None)
    return _shapes(model, 224, 224, 3)


@without_random_numbers
def gru():
    model = keras.Sequential(
        [
            keras.Input((5, 3)),
            keras.layers.GRU(4, name="gru"),
            keras.layers.Dense(2, name="head"),
        ]
    )
    return _shapes(model, 5, 3)
