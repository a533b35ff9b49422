"""Cascade with its layers taken out of it."""

import dataclasses

import jax.numpy as jnp

from experiments.policies.catalogue import POLICIES
from experiments.policies.policy import ANYTHING

CASCADE = POLICIES["cascade"]


def _mean_of_cascade(layers, total_steps):
    schedule = CASCADE.multipliers(layers, total_steps)
    return lambda count: jnp.full(len(layers), schedule(count).mean())


annealed_as_cascade = dataclasses.replace(
    CASCADE,
    name="annealed-as-cascade",
    summary="Every layer at the mean over the layers of cascade, at every step.",
    expectation="As good as cascade, within half a point: what that gains on a "
    "one-cycle is the course of its rate over time, not its layers.",
    control="cascade",
    expects=ANYTHING,
    multipliers=_mean_of_cascade,
)
