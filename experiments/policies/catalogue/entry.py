"""How a function is entered into the catalogue, and what several entries share."""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from optax_llr import Layers

from ...config.measures import Direction
from ..optimizers import MakeRule, measuring
from ..policy import Expects, Policy, Range, described, uniform

Made = TypeVar("Made", bound=Callable[..., Any])

ENTERED: dict[str, Policy] = {}
"""By their names."""
THREAD = (
    'L. Smith and replies, "Cyclical Layer Learning Rates (a research question)", '
    "fast.ai forums"
)
SMITH_TOPIN = "Smith and Topin, Super-Convergence, arXiv:1708.07120"
ULMFIT = "Howard and Ruder, ULMFiT, arXiv:1801.06146"
CARBONNELLE = "Carbonnelle and De Vleeschouwer, arXiv:1806.01603"
Multiplier = Annotated[float, Range(0.2, 5.0, log=True)]
Duration = Annotated[float, Range(0.05, 0.9)]
Factor = Annotated[float, Range(1.0, 5.0, log=True)]
Alpha = Annotated[float, Range(-0.8, 0.8)]
"""Within what the authors tried."""


def policy(
    source: str,
    accuracy: Direction = "open",
    speed: Direction = "open",
    **fields: Any,
) -> Callable[[Made], Made]:
    """Enters a function (layers, total_steps) → multipliers as a policy.

    Args:
        source: whose idea it is.
        accuracy: where it is expected, by that of its control.
        speed: likewise.
        **fields: others of `Policy`.
    """

    def enter(make: Made) -> Made:
        name = make.__name__.replace("_", "-")
        given: dict[str, Any] = {"multipliers": make, **fields}
        expects = Expects(accuracy, speed)
        ENTERED[name] = Policy(name, *described(make), source, expects=expects, **given)
        return make

    return enter


def measured(
    source: str, accuracy: Direction = "open", speed: Direction = "open"
) -> Callable[[MakeRule], MakeRule]:
    """Enters a function (config, layers) → rule as a policy."""

    def enter(rule: MakeRule) -> MakeRule:
        fields = {"multipliers": uniform, "layering": measuring(rule)}
        return policy(source, accuracy, speed, **fields)(rule)

    return enter


def whole_steps(share: float, total_steps: int) -> int:
    """Whole steps in a share of the run, unmoved by the rounding of their product."""
    return int(round(share * total_steps, 6))


def stage_steps(layers: Layers, total_steps: int, duration: float) -> float:
    """Steps a stage, such that the last level joins after this share of the run."""
    return duration * total_steps / max(1, int(layers.level.max()))
