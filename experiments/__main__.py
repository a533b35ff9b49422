"""Studies of layer learning rates.

python -m experiments study [PRESET] [--FIELD VALUE …]
    Train every policy under every seed and report. PRESET is one of
    demo (the default), cifar10-shallow, cifar10-measured, cifar10-resnet20,
    or a file ending in .json with fields of a configuration;
    `study PRESET --help` explains every field and shows its value there.

python -m experiments tune [PRESET] [--trials N] [--FIELD VALUE …]
    Search for the best numbers of every policy, on the validation images;
    write them as a file that `study` takes. The same command goes on, also
    where others are at work on the same search.

python -m experiments find [PRESET] [--horizon K] [--FIELD VALUE …]
    Range test: which multiplier each layer would like best after a short
    warm-up, how sure that is, and how large one may be.

python -m experiments preview POLICY [PRESET] [--FIELD VALUE …]
    Draw what a policy will do to each layer, without training and without data.

python -m experiments report FOLDER [FOLDER …] [--out FOLDER]
    Make plots, tables and report.html of each study again from its records; of
    several studies a joined.html too, in the first folder or in --out.

python -m experiments policies
    What each policy does, where it comes from and what is expected of it.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import tyro

from .config import files
from .config.config import CONTROLS, PRESETS, Config, validate
from .search import find, search
from .terminal import display, signals

if TYPE_CHECKING:  # it needs JAX, which takes seconds to import
    from .data import dataset as data

Asked = TypeVar("Asked", Config, search.Search, find.Find)

REFUSED = 2  # exit status: what was asked for cannot be done


def main(arguments: Sequence[str]) -> int:
    """Runs one command; returns the exit status."""
    try:
        match arguments:
            case ["study", *rest]:
                return _study(rest)
            case ["tune", *rest]:
                return _tune(rest)
            case ["find", *rest]:
                return _find(rest)
            case ["preview", policy, *rest] if not policy.startswith("-"):
                return _preview(policy, rest)
            case ["report", *folders, "--out", out] if _are_folders(folders, out):
                return _report(folders, out)
            case ["report", *folders] if _are_folders(folders):
                return _report(folders, folders[0])
            case ["policies"]:
                return _policies()
            case ["-h" | "--help"] | [
                "preview" | "report" | "policies",
                "-h" | "--help",
            ]:
                print(__doc__)
                return 0
            case _:
                got = " ".join(arguments) or "nothing"
                return _refuse(
                    "expected preview POLICY, study, tune, find, report FOLDER or "
                    f"policies; got {got}"
                )
    except signals.Stop as stop:
        return stop.status
    except (ValueError, OSError) as error:  # the latter: of a file or folder
        return _refuse(error)


def _study(arguments: Sequence[str]) -> int:
    config = _parse("study", arguments, lambda config: config)
    validate(config)
    from . import study
    from .training import hosts

    if config.distributed:
        hosts.join()
    dataset = _prepare(config)
    if not hosts.lead():
        return study.follow(config, dataset)
    return study.run(config, dataset, _command("study", arguments))


def _tune(arguments: Sequence[str]) -> int:
    asked = _parse("tune", arguments, search.Search)
    search.validate(asked)
    dataset = _prepare(asked.config)
    from .search import tune

    return tune.run(asked, dataset, _command("tune", arguments))


def _find(arguments: Sequence[str]) -> int:
    asked = _parse("find", arguments, find.Find)
    find.validate(asked)
    dataset = _prepare(asked.config)
    from .search import finding

    return finding.run(asked, dataset, _command("find", arguments))


def _preview(policy: str, arguments: Sequence[str]) -> int:
    config = _parse(f"preview {policy}", arguments, lambda config: config)
    # The controls, which a valid configuration holds; those asked for play no part.
    control = CONTROLS.get(policy, "uniform")
    policies = tuple(dict.fromkeys(("uniform", control, policy)))
    config = dataclasses.replace(config, policies=policies)
    validate(config)
    from . import preview

    return preview.run(policy, config)


def _parse(
    command: str, arguments: Sequence[str], around: Callable[[Config], Asked]
) -> Asked:
    """What a command asks for: what it makes of a preset or a file, and its flags."""
    named = bool(arguments) and not arguments[0].startswith("-")
    preset, *fields = arguments if named else ("demo", *arguments)
    if preset.endswith(".json"):
        config = files.read(Path(preset))
    elif preset in PRESETS:
        config = PRESETS[preset]
    else:
        raise ValueError(
            f"preset must be one of {', '.join(PRESETS)}, or a file ending in .json; "
            f"got {preset!r}"
        )
    # A dictionary that is not empty would have a flag for each key, and no more keys.
    default = around(dataclasses.replace(config, numbers={}))
    asked = tyro.cli(
        type(default),
        default=default,
        args=fields,
        prog=f"python -m experiments {command} {preset}",
        description=f"Presets: {', '.join(PRESETS)}. Defaults are those of {preset}.",
    )
    return _having(asked, config.numbers)


def _having(asked: Asked, numbers: Mapping[str, float]) -> Asked:
    """The same, with these numbers where the command line says nothing of them."""
    if isinstance(asked, Config):
        return dataclasses.replace(asked, numbers={**numbers, **asked.numbers})
    return dataclasses.replace(asked, config=_having(asked.config, numbers))


def _prepare(config: Config) -> "data.Dataset":
    """Checks what needs JAX to be checked, and reads the data."""
    from .data import dataset as data
    from .policies.catalogue import configured
    from .training import compiling

    configured(config)
    dataset = data.load(
        config.source,
        archive=config.archive,
        validation=config.validation,
        train_fraction=config.train_fraction,
        label_noise=config.label_noise,
    )
    signals.check()
    compiling.use_compilation_cache()
    return dataset


def _command(command: str, arguments: Sequence[str]) -> list[str]:
    return ["python", "-m", "experiments", command, *arguments]


def _are_folders(folders: Sequence[str], *others: str) -> bool:
    named = [*folders, *others]
    return bool(folders) and not any(name.startswith("-") for name in named)


def _report(folders: Sequence[str], out: str) -> int:
    from .records import records
    from .report import report

    if len(folders) == 1 and out != folders[0]:
        return _refuse("--out is for the joined report of several folders; got one")
    recorded = [records.read(Path(folder)) for folder in folders]
    for study in recorded:
        print(report.build(study))
    if len(recorded) > 1:
        print(report.join(recorded, Path(out)))
    return 0


def _policies() -> int:
    from .policies.catalogue import POLICIES

    for policy in POLICIES.values():
        print(policy.name)
        print(f"  does      {policy.summary}")
        print(f"  numbers   {', '.join(['rate', *map(str, policy.numbers(1.0)[1:])])}")
        print(f"  expected  {policy.expectation}")
        print(f"  control   {policy.control}")
        print(f"  source    {policy.source}\n")
    return 0


def _refuse(reason: object) -> int:
    print(reason, file=sys.stderr)
    return REFUSED


if __name__ == "__main__":
    signals.prepare()
    display.quiet()
    signals.leave(main(sys.argv[1:]))
