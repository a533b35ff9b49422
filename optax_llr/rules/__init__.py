r"""Rules for `adapt_layers`: multipliers measured while training.

Each function makes a `Rule`. Norms, sums and products are those of a whole layer, over
all its leaves (or its slices of stacked leaves), formed in float32. g is the raw
gradient, u the update of the inner optimizer (negative, times the rate), w the
parameters, m the multiplier. float32 cannot hold the squares of norms below 1e-19 and
above 1e19: what is smaller counts as 1e-19 in a logarithm and as 0 in a cosine or a
ratio; what is larger leaves a layer the multiplier it had.

*Cost*: memory in units of the parameters, and how often the rule reads or writes
arrays as large as all of them; `benchmarks/rules.py` measures both.
"""

from ._curvature import curvature as curvature
from ._gradients import gradient_norm as gradient_norm
from ._gradients import signal_to_noise as signal_to_noise
from ._hypergradient import hypergradient as hypergradient
from ._hypergradient import multiplicative_hypergradient as multiplicative_hypergradient
from ._ramped_tail_exponent import ramped_tail_exponent as ramped_tail_exponent
from ._tail_exponent import tail_exponent as tail_exponent
from ._trust_ratio import gradient_trust_ratio as gradient_trust_ratio
from ._trust_ratio import trust_ratio as trust_ratio
