"""A policy of this study: LLR's extremes without its measurements."""

import numpy as np


def ends_at_three(layers, total_steps):
    """Embedding and head 3, all others 1, divided by their mean.

    At least half of what ramped-tail-exponent gains, which has the same extremes.
    """
    ends = (layers.level == 0) | (layers.distance == 0)
    multipliers = np.where(ends, 3.0, 1.0)
    return multipliers / multipliers.mean()
