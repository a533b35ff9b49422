"""What a search for the numbers of policies is made of."""

import dataclasses
from pathlib import Path

import tyro

from ..config import config as configuration
from ..config.config import Config

ONE_BY_ONE = "whose trials run one by one: give the command once for each worker"


@dataclasses.dataclass(frozen=True)
class Search:
    """One search: trials × policies, each trial a run with other numbers."""

    config: tyro.conf.OmitArgPrefixes[Config]
    """What is trained, and the policies."""
    trials: int = 30
    """Finished trials of each policy; the first has the policy's own numbers. The same
    search goes on where more are asked for."""
    search_seed: int = 0
    """Decides which numbers are tried. All trials train with one and the same seed."""
    storage: str | None = None
    """URL of a database that Optuna knows, such as mysql://… or postgresql://…, for
    workers on several machines; None for a file in the folder of the search."""

    @property
    def folder(self) -> Path:
        """Where the search leaves what it found."""
        return self.config.out / f"{self.config.name}.tune"

    @property
    def name(self) -> str:
        """Of the study with the best numbers."""
        return f"{self.config.name}-tuned"


def validate(search: Search) -> None:
    """Refuses a search that cannot be made, before anything is compiled.

    Raises:
        ValueError: in one line, with the field, what it must be, and what came.
    """
    config = search.config
    configuration.validate(config)
    for ok, field, wanted, got in [
        (search.trials >= 1, "trials", "at least 1", search.trials),
        (search.search_seed >= 0, "search_seed", "0 or more", search.search_seed),
        (config.stack == 1, "stack", f"1 in a search, {ONE_BY_ONE}", config.stack),
        (
            not config.distributed,
            "distributed",
            f"absent in a search, {ONE_BY_ONE}",
            True,
        ),
    ]:
        if not ok:
            raise ValueError(f"{field} must be {wanted}; got {got}")
    configuration.validate(dataclasses.replace(config, name=search.name))
