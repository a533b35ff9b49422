"""gradient_faults: which layers have gradients that cannot be right."""

import jax
import jax.numpy as jnp
import numpy as np

from ..layers._layers import Layers
from ..layers._paths import PyTree
from ..layers._sums import layer_sum
from ._arguments import check_layers, known_leaves


def gradient_faults(layers: Layers, gradients: PyTree) -> dict[str, str]:
    """Names the layers whose gradients cannot be right, and says why.

    For the moment when a loss turns NaN, or does not move: which layer is it? Looks at
    values, so call it outside `jit`.

    Args:
        layers: the `Layers` of the parameters.
        gradients: the gradients of a step.

    Returns:
        For each layer at fault, by name and in forward order, what is wrong, elements
        that are NaN or infinite, or all of them 0. Empty where all is well.

    Raises:
        ValueError: for a leaf that `layers` does not know, or no gradients at all.

    Example:
        >>> import jax.numpy as jnp, optax_llr
        >>> gradients = {"conv": jnp.zeros(3), "head": jnp.array([1.0, jnp.nan])}
        >>> layers = optax_llr.match_layers(gradients, [(k, k) for k in gradients])
        >>> for name, fault in optax_llr.gradient_faults(layers, gradients).items():
        ...     print(f"{name}: {fault}")
        conv: all 3 elements are 0
        head: 1 of 2 elements is not finite
    """
    check_layers("gradient_faults", layers, gradients=gradients)
    leaves = known_leaves("gradient_faults", layers, "gradients", gradients)
    size, bad, nonzero = (
        np.asarray(layer_sum(layers, count, leaves))
        for count in (jnp.ones_like, _not_finite, jnp.bool_)
    )
    faults: dict[str, str] = {}
    for i, name in enumerate(layers.names):
        if bad[i]:
            verb = "is" if bad[i] == 1 else "are"
            faults[name] = f"{bad[i]:.0f} of {size[i]:.0f} elements {verb} not finite"
        elif size[i] and not nonzero[i]:
            faults[name] = f"all {size[i]:.0f} elements are 0"
    return faults


def _not_finite(array: jax.Array) -> jax.Array:
    return ~jnp.isfinite(array)
