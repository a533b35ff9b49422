"""Runs of ten steps for the tests of training, and how they are compared."""

import contextlib
import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.config.config import Config
from experiments.data import dataset as data
from experiments.models.parts import Parts
from experiments.policies.policy import Policy
from experiments.records.journal import Forgetful, Journal

# Sums are taken in another order. With a last bit of the initial weights changed at
# random, losses of ten steps of a smooth net differed by at most 2.4e-7 (480 runs).
SAME = 1e-5

# Ten steps of twenty images in two epochs; an evaluation each fifth step.
CONFIG = Config(
    epochs=2, batch_size=20, validation=1_900, evaluations=2, rate=0.05, flip=True
)


class SmoothCNN(nnx.Module):
    """Stands in for the shallow CNN where two programs must find the same.

    With ReLU and max-pooling a last bit decides which way a gradient goes: one bit of
    the weights changed a loss of ten steps by up to 5e-3.
    """

    def __init__(self, num_classes, parts):
        self.conv1, self.norm1 = parts.conv(3, 8, stride=2), parts.normalise(8)
        self.conv2, self.norm2 = parts.conv(8, 16, stride=2), parts.normalise(16)
        self.conv3, self.norm3 = parts.conv(16, 16, stride=2), parts.normalise(16)
        self.hidden = parts.hidden(256, 32)
        self.head = parts.dense(32, num_classes)

    def __call__(self, images):
        x = nnx.gelu(self.norm1(self.conv1(images)))
        x = nnx.gelu(self.norm2(self.conv2(x)))
        x = nnx.gelu(self.norm3(self.conv3(x)))
        x = nnx.gelu(self.hidden(x.reshape(len(x), -1)))
        return self.head(x).astype(jnp.float32)


def smooth(num_classes, rngs):
    """The same as a model of one's own, for other processes."""
    return SmoothCNN(num_classes, Parts(rngs, jnp.float32, "none"))


def dataset(config=CONFIG):
    loaded = data.load(config.data, validation=config.validation)
    return dataclasses.replace(
        loaded,
        validation=loaded.validation.take(np.arange(0, 1_900, 19)),
        test=loaded.test.take(np.arange(0, 500, 2)),  # 250: the last batch is filled up
    )


class Events(list, Forgetful):
    """A journal that keeps events only."""

    write = list.append


class Stopping(Journal):
    """Stops, with a checkpoint, once it was asked twice."""

    chances = 0

    def late(self):
        self.chances += 1
        return self.chances >= 2

    def save(self, step, state, seconds):
        super().save(step, state, seconds)
        raise KeyboardInterrupt


def stopped_and_gone_on(trainer, policy, directory, times):
    """The steps at which a run begins that is always stopped; so many at most."""
    begun, like = [], trainer.like(policy)
    for _ in range(times):
        with Stopping(directory, like, 0, pytest.fail) as journal:
            begun.append(journal.step)
            with contextlib.suppress(KeyboardInterrupt):
                trainer.run(policy, 0, journal)
                break
    return begun


def made_up(multipliers):
    """A policy from a function (step, number of layers) → multipliers."""
    return Policy(
        name="made-up",
        summary="",
        expectation="",
        source="",
        multipliers=lambda layers, total: lambda t: multipliers(t, len(layers)),
    )


def without_time(events):
    return [{k: v for k, v in event.items() if k != "seconds"} for event in events]


def assert_alike(found, expected, rtol=SAME):
    """All that is recorded but the seconds and the checksum of the weights."""
    for these, those in zip(found, expected, strict=True):
        for event, other in zip(these, those, strict=True):
            assert event.keys() == other.keys()
            for field in event.keys() - {"seconds", "params_sha256"}:
                if isinstance(event[field], float | list):
                    np.testing.assert_allclose(event[field], other[field], rtol=rtol)
                else:
                    assert event[field] == other[field]
