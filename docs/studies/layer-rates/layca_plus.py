"""Layca with the other sign of α, as a policy of its own beside the one of ours."""

import dataclasses

from experiments.policies.catalogue import POLICIES

layca_plus = dataclasses.replace(
    POLICIES["layca-alpha"].having({"alpha": 0.6}),
    name="layca-alpha-plus",
    summary="layca with rotation rates that fall from the last layer to the first, "
    "α = 0.6.",
    expectation="Clearly worse than layca, as with α = −0.6 (by 1 to 5 points).",
)
