"""What a range test is made of: a configuration, and how far and how often to look."""

import dataclasses
from pathlib import Path

import tyro

from ..config import config as configuration
from ..config.config import Config


@dataclasses.dataclass(frozen=True)
class Find:
    """One range test: a multiplier for each layer in turn, from one state of training.

    Of a study's fields those that are about policies, seeds, evaluations and records
    play no part.
    """

    config: tyro.conf.OmitArgPrefixes[Config]
    """What is trained."""
    warmup: int = 100
    """Steps with multiplier 1 for all layers before the test; with seed 0."""
    horizon: int = 20
    """Steps with each multiplier, after which the loss is looked at."""
    repeats: int = 5
    """Times that all is tried from the same state, each with other batches."""
    points_per_decade: int = 2
    """Multipliers to try between a power of ten and the next, from 0.01 to 100."""

    @property
    def folder(self) -> Path:
        """Where the test leaves what it found."""
        return self.config.out / f"{self.config.name}.find"


def validate(asked: Find) -> None:
    """Refuses a range test that cannot be made, before anything is compiled.

    Raises:
        ValueError: in one line, with the field, what it must be, and what came.
    """
    config = asked.config
    configuration.validate(config)
    for field, least in (
        ("warmup", 0),
        ("horizon", 1),
        ("repeats", 1),
        ("points_per_decade", 1),
    ):
        if (value := getattr(asked, field)) < least:
            raise ValueError(f"{field} must be {least} or more; got {value}")
    if asked.warmup + asked.horizon > config.total_steps:
        raise ValueError(
            f"warmup + horizon must be at most the {config.total_steps} steps of a "
            f"run; got {asked.warmup} + {asked.horizon}"
        )
    if config.devices != 1 or config.distributed:
        raise ValueError(
            "devices must be 1 for a range test, and distributed absent; "
            f"got {config.devices}{', distributed' if config.distributed else ''}"
        )
