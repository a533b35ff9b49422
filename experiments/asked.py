"""What the folder of a study says of what was asked for, written before any run."""

import functools
import shutil
from pathlib import Path
from typing import Any

import optax_llr

from .config import own
from .config.config import Config
from .config.measures import Direction
from .policies.chosen import configured
from .policies.computed import moments, updates
from .policies.policy import Policy
from .records import weights
from .training.compiling import policy_tables
from .training.program import abstract


def asked(config: Config) -> dict[str, Any]:
    """config.json: all that counts, known before anything is compiled.

    The layers are read off the model; and of each policy, what it computes, by which a
    study knows it again.
    """
    _, classes, shape = config.sizes
    layers = abstract(config, classes, shape).layers
    computes = computed(config, layers)
    policies = {
        name: {
            "summary": policy.summary,
            "expectation": policy.expectation,
            "expects": _expected(config, policy),
            "source": policy.source,
            "control": policy.control,
            "computes": computes[name],
        }
        for name, policy in configured(config).items()
    }
    return config.record() | {
        "policies": policies,
        "files": own.hashes(config.own) | weights.hashes(config.init_from),
        "total_steps": config.total_steps,
        "layers": {
            "names": layers.names,
            "level": layers.level,
            "members": layers.members,
        },
    }


def _expected(config: Config, policy: Policy) -> dict[str, Direction]:
    """Where the answers to the two questions are expected, by their names."""
    good, fast = policy.expects
    measure = config.measure
    return {measure.name: measure.expected(good), "speed": measure.expected(fast)}


def computed(config: Config, layers: optax_llr.Layers) -> dict[str, dict[str, Any]]:
    """What the policies compute, by their names."""
    of_updates = functools.cache(functools.partial(updates, config))
    found: dict[str, dict[str, Any]] = {}
    for name, policy in configured(config).items():
        tables = policy_tables(policy, config, layers)
        found[name] = {**moments(tables.rate, tables.multipliers)}
        if not own.is_own(config.optimizer):  # which may want a model of its own kind
            found[name]["updates"] = of_updates(policy.layering)
    return found


def keep_files(config: Config, folder: Path) -> None:
    """Copies of the files of all that is the user's."""
    for name, path in own.files((*config.own, config.logger)).items():
        kept = folder / "files" / name
        kept.parent.mkdir(exist_ok=True)
        if path != kept.resolve():
            shutil.copyfile(path, kept)
