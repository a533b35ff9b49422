"""The layer policies under comparison, each with what was expected of it beforehand.

A policy is a function: of the layers and the length of a run, which makes multipliers;
or of a configuration, which makes a rule that measures them. The first paragraph of its
docstring says what it does, the second what is expected; its keywords with a range are
the numbers that a configuration may set and `tune` searches, beside the global rate.
What a policy says of itself holds for the values given here.

The expectations were written before any study and stay as they are, also where the
runs say otherwise; one that rests on trial runs says so. Unless a policy says more, it
leaves the global schedule to the study and is compared with `uniform`. One that anneals
by itself is compared with uniform rates annealed most alike, or else annealing would be
mistaken for what layer rates do.
"""

from ...config.choices import POLICY_NAMES
from ..policy import Policy
from . import fine_tuning as fine_tuning
from . import measured as measured
from . import scheduled as scheduled
from . import transformers as transformers
from .entry import ENTERED
from .entry import whole_steps as whole_steps

POLICIES: dict[str, Policy] = {name: ENTERED[name] for name in POLICY_NAMES}
"""By their names."""
