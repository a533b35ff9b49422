"""Several runs in one program: their states as one, with a leading axis for the run.

Runs can be stacked if they differ in what is data to the step: weights, keys, rates,
multipliers. All of them are at the same step.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from .devices import Devices
from .program import TrainState

Item = TypeVar("Item")
AXES = TrainState._make([0] * len(TrainState._fields))._replace(step=None)
"""The axis of the run in each part of a stacked state; the step is one for all, so that
what happens once an epoch stays a branch."""
GAIN = 1.1
"""A stack twice as large pays if it trains so many times as fast."""


def stacked(states: Sequence[TrainState]) -> TrainState:
    """States of one step as one."""
    joined = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    return joined._replace(step=states[0].step)


def filled(items: Sequence[Item], size: int) -> list[Item]:
    """So many: what is missing is the last one again."""
    return [*items, *[items[-1]] * (size - len(items))]


def member(stacked: Any, index: int) -> Any:
    """The part of one run; what is one for all, as the step is, is a part of each."""
    return jax.tree.map(lambda leaf: leaf[index] if leaf.ndim else leaf, stacked)


def layout(devices: Devices, size: int) -> Any:
    """How a state lies: everywhere; of several runs, the runs divided over devices."""
    if size == 1:
        return devices.everywhere
    across = TrainState._make([devices.divided] * len(AXES))
    return across._replace(step=devices.everywhere)


def size_that_pays(
    speed: Callable[[int], float], most: int, smallest: int = 1
) -> tuple[int, dict[int, float]]:
    """Doubles the size of a stack for as long as that pays.

    Args:
        speed: of all runs of a stack of some size together.
        most: how many runs there are to stack.
        smallest: size of the first real stack.

    Returns:
        The size, and the speeds that were found, as multiples of that of one run.
    """
    one = speed(1)
    found, best, size = {1: 1.0}, 1, max(2, smallest)
    while best < most:
        size = min(size, most)
        try:
            found[size] = speed(size) / one
        except jax.errors.JaxRuntimeError:  # the device's memory is too small
            break
        if found[size] < GAIN * found[best]:
            break
        best, size = size, 2 * size
    return best, found
