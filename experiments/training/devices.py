"""Where arrays live: a mesh of devices, over which the images of a batch are divided.

All devices hold the same weights. Each holds a part of the data set, and computes on a
part of each batch; XLA adds what they need of one another, so that a step does what it
does on one device, sums apart, which are taken in another order. Where several runs are
trained at once, the runs are divided instead.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import (
    AxisType,
    NamedSharding,
    PartitionSpec,
    Sharding,
    SingleDeviceSharding,
)

from ..config.config import Config

AXIS = "devices"


class Devices:
    """The devices that a study trains on.

    Attributes:
        count: how many.
        divided: how an array is laid out whose first axis is divided over them.
        everywhere: how one is that each of them holds whole.
    """

    def __init__(self, config: Config):
        """Takes the first ones there are; several processes always take all.

        Raises:
            ValueError: there are not as many, or the work cannot be divided evenly.
        """
        available = jax.devices()
        all_of_them = config.devices == "all" or jax.process_count() > 1
        self.count = len(available) if all_of_them else int(config.devices)
        if self.count > len(available):
            raise ValueError(
                f"devices must be at most {len(available)}, the devices that JAX finds "
                f"here ({available[0].device_kind}); got {self.count}"
            )
        if config.stack == 1 and config.batch_size % self.count:
            raise ValueError(
                f"batch_size must be divisible by the number of devices, {self.count}; "
                f"got {config.batch_size}"
            )
        self.divided, self.everywhere = _layouts(available[: self.count])

    def put(self, array: np.ndarray, sharding: Sharding) -> jax.Array:
        """Lays out an array; of several processes each moves only its own part.

        One that is divided is filled up with zeros to what can be.
        """
        if sharding is self.divided and (fill := -len(array) % self.count):
            array = np.pad(array, [(0, fill), *[(0, 0)] * (array.ndim - 1)])
        return jax.make_array_from_callback(
            array.shape, sharding, lambda part: array[part]
        )

    def put_everywhere(self, tree: Any) -> Any:
        """A tree of arrays, the same in all processes, on every device."""

        def put(leaf: Any) -> jax.Array:
            if getattr(leaf, "sharding", None) == self.everywhere:
                return leaf
            if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                return self.put(np.asarray(leaf), self.everywhere)
            data = np.asarray(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(self.put(data, self.everywhere))

        return jax.tree.map(put, tree)


def _layouts(devices: Sequence[Any]) -> tuple[Sharding, Sharding]:
    """Divided, and everywhere; of one device they are the same."""
    if len(devices) == 1:  # older JAX cannot stack convolutions where there is a mesh
        alone = SingleDeviceSharding(devices[0])
        return alone, alone
    axis_types = (AxisType.Auto,)
    mesh = jax.make_mesh((len(devices),), (AXIS,), axis_types, devices=devices)
    divided, everywhere = PartitionSpec(AXIS), PartitionSpec()
    return NamedSharding(mesh, divided), NamedSharding(mesh, everywhere)
