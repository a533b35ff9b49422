"""Studies of layer learning rates.

python -m experiments study [PRESET] [--FIELD VALUE …]
    Train every policy under every seed and report. PRESET is one of
    demo (the default), cifar10-shallow, cifar10-measured, cifar10-resnet20;
    `study PRESET --help` explains every field and shows its value there.

python -m experiments report FOLDER
    Make plots and report.html again from the records in FOLDER.

python -m experiments policies
    What each policy does, where it comes from and what is expected of it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from . import shell
from .config import PRESETS, Config, validate

REFUSED = 2  # exit status: what was asked for cannot be done


def main(arguments: Sequence[str]) -> int:
    """Runs one command; returns the exit status."""
    try:
        match arguments:
            case ["study", *rest]:
                return _study(rest)
            case ["report", folder] if not folder.startswith("-"):
                return _report(Path(folder))
            case ["policies"]:
                return _policies()
            case ["-h" | "--help"] | ["report" | "policies", "-h" | "--help"]:
                print(__doc__)
                return 0
            case _:
                got = " ".join(arguments) or "nothing"
                return _refuse(f"expected study, report FOLDER or policies; got {got}")
    except shell.Stop as stop:
        return stop.status
    except OSError as error:  # a file or folder that cannot be read or written
        return _refuse(error)


def _study(arguments: Sequence[str]) -> int:
    named = bool(arguments) and not arguments[0].startswith("-")
    preset, *fields = arguments if named else ("demo", *arguments)
    if preset not in PRESETS:
        return _refuse(f"preset must be one of {', '.join(PRESETS)}; got {preset!r}")
    config = tyro.cli(
        Config,
        default=PRESETS[preset],
        args=fields,
        prog=f"python -m experiments study {preset}",
        description=f"Presets: {', '.join(PRESETS)}. Defaults are those of {preset}.",
    )
    try:
        validate(config)
        from . import data

        dataset = data.load(
            config.source,
            archive=config.archive,
            validation=config.validation,
            train_fraction=config.train_fraction,
            label_noise=config.label_noise,
        )
    except ValueError as error:
        return _refuse(error)
    from . import study, train

    shell.check()
    train.use_compilation_cache()
    command = ["python", "-m", "experiments", "study", *arguments]
    try:
        return study.run(config, dataset, command)
    except ValueError as error:
        return _refuse(error)


def _report(folder: Path) -> int:
    from . import records, report

    try:
        recorded = records.read(folder)
    except ValueError as error:
        return _refuse(error)
    print(report.build(recorded))
    return 0


def _policies() -> int:
    from .policies import POLICIES

    for policy in POLICIES.values():
        print(policy.name)
        print(f"  does      {policy.summary}")
        print(f"  expected  {policy.expectation}")
        print(f"  control   {policy.control}")
        print(f"  source    {policy.source}\n")
    return 0


def _refuse(reason: object) -> int:
    print(reason, file=sys.stderr)
    return REFUSED


if __name__ == "__main__":
    shell.prepare()
    shell.leave(main(sys.argv[1:]))
