"""What a search for the numbers of policies is made of."""

import dataclasses
from pathlib import Path
from typing import Annotated

import pydantic
import tyro
from pydantic import Field

from ..config.checks import STRICT, checked, must
from ..config.config import Config, Positive, Several

TRIALS = 30
ONE_BY_ONE = "whose trials run one by one: give the command once for each worker"


@checked
@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Search:
    """One search: trials × policies, each trial a run with other numbers."""

    config: tyro.conf.OmitArgPrefixes[Config]
    """What is trained, and the policies."""
    trials: Annotated[int, Field(ge=1)] | None = None
    """Finished trials of each policy, None for 30; the first has the policy's own
    numbers. The same search goes on where more are asked for."""
    rates: Annotated[tuple[Positive, ...], *Several] = ()
    """Global rates to try instead, one trial each, other numbers as they are: a grid,
    the same for every policy. The same search goes on where there are more."""
    search_seed: Annotated[int, Field(ge=0)] = 0
    """Decides which numbers are tried. All trials train with one and the same seed."""
    storage: str | None = None
    """URL of a database that Optuna knows, such as mysql://… or postgresql://…, for
    workers on several machines; None for a file in the folder of the search."""

    def check(self) -> None:
        """Refuses what cannot be done together.

        Raises:
            ValueError: in one line, with the field, what it must be, and what came.
        """
        alone = (("stack", 1), ("distributed", False), ("logger", "none"))
        for field, wanted in alone:
            if getattr(self.config, field) != wanted:
                raise must(self.config, field, f"{wanted} in a search, {ONE_BY_ONE}")
        if self.rates and self.trials is not None:
            raise must(self, "trials", "left out where rates says what is tried")
        low, high = self.config.rate / 10, self.config.rate * 10
        if not all(low <= rate <= high for rate in self.rates):
            wanted = f"between {low:g} and {high:g}, a tenth of --rate and ten times it"
            raise must(self, "rates", wanted)
        dataclasses.replace(self.config, name=self.name)  # which refuses a long one

    @property
    def each(self) -> int:
        """Finished trials of each policy."""
        return len(self.rates) or self.trials or TRIALS

    @property
    def folder(self) -> Path:
        """Where the search leaves what it found."""
        return self.config.out / f"{self.config.name}.tune"

    @property
    def name(self) -> str:
        """Of the study with the best numbers."""
        return f"{self.config.name}-tuned"
