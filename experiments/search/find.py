"""What a range test is made of: a configuration, and how far and how often to look."""

from pathlib import Path
from typing import Annotated, Any

import pydantic
import tyro
from pydantic import Field

from ..config.checks import STRICT, checked, must
from ..config.config import Config, check_sizes


@checked
@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Find:
    """One range test: a multiplier for each layer in turn, from one state of training.

    Of a study's fields those that are about policies, seeds, evaluations and records
    play no part.
    """

    config: tyro.conf.OmitArgPrefixes[Config]
    """What is trained."""
    warmup: Annotated[int, Field(ge=0)] = 100
    """Steps with multiplier 1 for all layers before the test; with seed 0."""
    horizon: Annotated[int, Field(ge=1)] = 20
    """Steps with each multiplier, after which the loss is looked at."""
    repeats: Annotated[int, Field(ge=1)] = 5
    """Times that all is tried from the same state, each with other batches."""
    points_per_decade: Annotated[int, Field(ge=1)] = 2
    """Multipliers to try between a power of ten and the next, from 0.01 to 100."""

    def check(self) -> None:
        """Refuses what cannot be done together.

        Raises:
            ValueError: in one line, with the field, what it must be, and what came.
        """
        check_sizes(self.config)
        steps = self.config.total_steps
        if self.warmup + self.horizon > steps:
            raise ValueError(
                f"warmup + horizon must be at most the {steps} steps of a run; got "
                f"{self.warmup} + {self.horizon}"
            )
        for field, wanted in (("devices", 1), ("distributed", False)):
            if getattr(self.config, field) != wanted:
                raise must(self.config, field, f"{wanted} for a range test")

    def record(self) -> dict[str, Any]:
        """What records hold of it."""
        return vars(self) | {"config": self.config.record()}

    @property
    def folder(self) -> Path:
        """Where the test leaves what it found."""
        return self.config.out / f"{self.config.name}.find"
