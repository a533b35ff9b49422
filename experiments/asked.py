"""What the folder of a study says of what was asked for, written before any run."""

import functools
import shutil
from pathlib import Path
from typing import Any

import optax_llr

from .config import own
from .config.config import Config
from .policies.chosen import configured
from .policies.computed import moments, updates
from .training.compiling import policy_tables


def asked(config: Config) -> dict[str, Any]:
    """config.json, but for what is only known once the model is made."""
    policies = {
        name: {
            "summary": policy.summary,
            "expectation": policy.expectation,
            "expects": policy.expects._asdict(),
            "source": policy.source,
            "control": policy.control,
        }
        for name, policy in configured(config).items()
    }
    files = {name: own.sha256(path) for name, path in config.own_files().items()}
    return config.record() | {
        "policies": policies,
        "files": files,
        "total_steps": config.total_steps,
    }


def add_what_is_known(
    config: Config, layers: optax_llr.Layers, asked: dict[str, Any]
) -> None:
    """Adds the layers, and what policies compute: by that a study knows them again."""
    asked["layers"] = {
        "names": layers.names,
        "level": layers.level,
        "members": layers.members,
    }
    of_updates = functools.cache(functools.partial(updates, config))
    for name, policy in configured(config).items():
        tables = policy_tables(policy, config, layers)
        asked["policies"][name]["computes"] = {
            **moments(tables.rate, tables.multipliers),
            "updates": of_updates(policy.layering),
        }


def keep_files(config: Config, folder: Path) -> None:
    """Copies of the files of all that is the user's."""
    for name, path in config.own_files().items():
        (folder / "files").mkdir(exist_ok=True)
        shutil.copyfile(path, folder / "files" / name)
