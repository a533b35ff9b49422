"""What a range test is made of: a configuration, and how far and how often to look."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import pydantic
import tyro
from pydantic import Field

from ..config.checks import STRICT, checked
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
        if self.config.devices != 1 or self.config.distributed:
            raise ValueError(
                "devices must be 1 for a range test, and distributed absent; got "
                f"{self.config.devices}"
                f"{', distributed' if self.config.distributed else ''}"
            )

    def record(self) -> dict[str, Any]:
        """What records hold of it."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return fields | {"config": self.config.record()}

    @property
    def folder(self) -> Path:
        """Where the test leaves what it found."""
        return self.config.out / f"{self.config.name}.find"
