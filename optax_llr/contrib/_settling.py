"""Settling: layers that have come to rest are frozen while a run is under way."""

import dataclasses
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_counts, require
from ..freezing._phases import Phase
from ..inspection._rotation import kernels
from ..layers._layers import Layers, check_arguments
from ..layers._paths import PyTree
from ..layers._sums import layer_sum


@dataclasses.dataclass(frozen=True)
class Settling:
    r"""Freezes layers whose rotation has come to rest; `Settling.begin` starts it.

    For multipliers that nobody knows before: a layer whose kernels turned by less than
    a threshold a step, at several checks in a row, is frozen from then on. Each change
    of what is frozen is a phase, and each phase is compiled once, so their number is
    bounded. The last layer that still moves is never frozen.

    Immutable; all fields are plain data, so that it can be pickled into a checkpoint.

    Attributes:
        phases: the phases so far; the last one is under way and lasts to the end of the
            run unless another begins. As many as there were compilations.
        rates: (L,) the angle, in radians a step, by which each layer turned between the
            last two checks; NaN before there are two, and for a layer without kernels.
        calm: for each layer, at how many checks in a row it was below the threshold.
        threshold: radians a step, above 0.
        checks: how many checks in a row make a layer settled.
        most: how many phases there may be; with as many, nothing more is frozen.
        step: that of the last check.
        params: the parameters then.

    Example:
        >>> import jax.numpy as jnp, optax, optax_llr
        >>> params = {"conv": jnp.eye(2), "head": jnp.eye(2)}
        >>> layers = optax_llr.match_layers(params, [(k, k) for k in params])
        >>> settling = optax_llr.contrib.Settling.begin(
        ...     layers, params, total_steps=100, threshold=1e-3, checks=2)
        >>> for step in (10, 20, 30):  # the head goes on turning
        ...     params["head"] = params["head"] + jnp.array([[0.0, 0.1], [-0.1, 0.0]])
        ...     settling = settling.check(step, params)
        ...     print(step, settling.phase.names)
        10 ()
        20 ('conv',)
        30 ('conv',)
        >>> len(settling.phases)  # as many as there were compilations
        2
    """

    phases: tuple[Phase, ...]
    rates: tuple[float, ...]
    calm: tuple[int, ...]
    threshold: float
    checks: int
    most: int
    step: int
    params: PyTree

    @classmethod
    def begin(
        cls,
        layers: Layers,
        params: PyTree,
        total_steps: int,
        threshold: float,
        checks: int = 3,
        most: int = 8,
    ) -> Self:
        """At step 0, with nothing frozen.

        Args:
            layers: the L `Layers` of the model.
            params: the initial parameters.
            total_steps: the length of the run.
            threshold: radians a step, above 0.
            checks: how many checks in a row make a layer settled, at least 1.
            most: how many phases there may be, and so compilations, at least 1.

        Raises:
            ValueError: for numbers that are none of these.
        """
        check_arguments("Settling", layers, threshold=threshold)
        check_counts("Settling", checks=checks, most=most)
        require(
            threshold > 0, f"Settling: expected a threshold above 0, got {threshold}"
        )
        none = (False,) * len(layers)
        return cls(
            phases=(Phase(layers, 0, total_steps, none),),
            rates=(float("nan"),) * len(layers),
            calm=(0,) * len(layers),
            threshold=threshold,
            checks=checks,
            most=most,
            step=0,
            params=jax.tree.map(jnp.copy, params),
        )

    @property
    def phase(self) -> Phase:
        """The phase that the next step belongs to."""
        return self.phases[-1]

    def check(self, step: int, params: PyTree) -> Self:
        """Looks how far layers have turned since the last check.

        Args:
            step: how many steps are done, more than at the last check.
            params: the parameters now.

        Returns:
            The next state, with another phase if a layer has settled.

        Raises:
            ValueError: if step is not after the last check, or after the end.
        """
        phase = self.phase
        if not self.step < step <= phase.stop:
            raise ValueError(
                f"Settling: expected a step after the last check, at {self.step}, and "
                f"up to the end, at {phase.stop}; got {step}"
            )
        angles = np.asarray(_angles(phase.layers, self.params, params))
        rates = tuple((angles / (step - self.step)).tolist())
        calm = tuple(
            before + 1 if rate < self.threshold else 0  # NaN is not below it
            for before, rate in zip(self.calm, rates, strict=True)
        )
        after = dataclasses.replace(
            self,
            rates=rates,
            calm=calm,
            step=step,
            params=jax.tree.map(jnp.copy, params),
        )
        frozen = tuple(
            still or count >= self.checks
            for still, count in zip(phase.frozen, calm, strict=True)
        )
        if all(frozen):
            last = np.argmax(np.where(phase.frozen, -1, rates))
            frozen = tuple(i != last for i in range(len(frozen)))
        over = step == phase.stop or len(self.phases) >= self.most
        if over or frozen == phase.frozen:
            return after
        return dataclasses.replace(after, phases=_followed(self.phases, step, frozen))


def _followed(
    phases: tuple[Phase, ...], step: int, frozen: tuple[bool, ...]
) -> tuple[Phase, ...]:
    """The phases, the last of them ended at a step where another one begins."""
    *before, last = phases
    return (
        *before,
        dataclasses.replace(last, stop=step),
        dataclasses.replace(last, start=step, frozen=frozen),
    )


@jax.jit
def _turned(dot: jax.Array, square: jax.Array, old: jax.Array) -> jax.Array:
    """The angle from products of the change with itself and with the old weights."""
    # 1 − cos would leave nothing of an angle of 1e-4 in float32.
    length = jnp.sqrt(old)
    across = jnp.sqrt(jnp.maximum(square - (dot / length) ** 2, 0))
    return jnp.arctan2(across, length + dot / length)


def _angles(layers: Layers, old: PyTree, new: PyTree) -> jax.Array:
    """By how much the kernels of each layer have turned, (L,), in radians."""
    before, after = kernels(layers, old), kernels(layers, new)
    change: dict[str, Any] = {path: after[path] - before[path] for path in before}
    return _turned(
        layer_sum(layers, jnp.multiply, change, before),
        layer_sum(layers, jnp.square, change),
        layer_sum(layers, jnp.square, before),
    )
