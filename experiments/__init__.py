"""Studies of layer learning rates: `python -m experiments --help`, or from Python.

>>> from experiments import Config, Policy, study
>>> folder = study(Config(policies=("uniform", Policy("mine", multipliers=…))))
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config.config import Config

if TYPE_CHECKING:
    from .policies.policy import Policy

__all__ = ["Config", "Policy", "study"]


def study(config: Config) -> Path:
    """Runs a study, or goes on with it, and prints its table.

    Args:
        config: what is compared. Its `model`, `data`, `optimizer`, `logger` and
            `policies` take names of ours or objects of one's own, each of which stands
            in a file: the record keeps it.

    Returns:
        The folder of the study, with report.html and all records.

    Raises:
        DataError: the data are missing or damaged.
        ValueError: the configuration does not go together, the folder holds another
            study, or another process is at work there.
        OSError: the folder cannot be made or written.
    """
    import sys

    from . import runner

    runner.study(config, ["python", *sys.argv])
    return config.out / config.name


def __getattr__(name: str) -> Any:
    if name == "Policy":  # it needs JAX, which takes seconds to import
        from .policies.policy import Policy

        return Policy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
