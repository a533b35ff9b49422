"""Studies of layer learning rates.

python -m experiments study [PRESET] [--FIELD VALUE …]
    Train every policy under every seed and report.
python -m experiments tune [PRESET] [--trials N] [--FIELD VALUE …]
    Search for the best numbers of every policy, on the validation images;
    write them as a file that `study` takes. The same command goes on, also
    where others are at work on the same search.
python -m experiments find [PRESET] [--horizon K] [--FIELD VALUE …]
    Range test: which multiplier each layer would like best after a short
    warm-up, how sure that is, and how large one may be.
python -m experiments preview POLICY [PRESET] [--FIELD VALUE …]
    Draw what a policy will do to each layer, without training.
python -m experiments report FOLDER [FOLDER …] [--out FOLDER]
    Make tables and report.html again from the records of a study, in its
    folder or in --out; of several studies a joined.html too, which says how
    what policies change depends on what the studies differ in.
python -m experiments policies [NAME …]
    What each policy does; of those named also where it comes from, its numbers
    and what is expected of it.

PRESET is demo (the default), cifar10-shallow, cifar10-measured,
cifar10-resnet20, text-gpt, cifar10-transfer, or a file ending in .json with
fields of a configuration.
Each command explains itself: `python -m experiments study --help`.
"""

import dataclasses
import importlib.metadata
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import tyro

from .config import files
from .config.config import PRESETS, Config
from .search import find, search
from .terminal import display, signals
from .terminal.advice import advised

Asked = TypeVar("Asked", Config, search.Search, find.Find)

REFUSED = 2  # exit status: what was asked for cannot be done
VERSIONED = ("optax_llr", "jax", "flax", "optax")


def main(arguments: Sequence[str]) -> int:
    """Runs one command; returns the exit status."""
    commands: Mapping[str, Callable[[Sequence[str]], int]] = {
        "study": _study,
        "tune": _tune,
        "find": _find,
        "preview": _preview,
        "report": _report,
        "policies": _policies,
    }
    try:
        match arguments:
            case [name, *rest] if name in commands:
                return commands[name](rest)
            case ["-h" | "--help"]:
                print(__doc__)
                return 0
            case ["--version"]:
                print(*(f"{n} {importlib.metadata.version(n)}" for n in VERSIONED))
                return 0
            case _:
                got = " ".join(arguments) or "nothing"
                return _refuse(f"expected {', '.join(commands)} or --help; got {got}")
    except signals.Stop as stop:
        return stop.status
    except (ValueError, OSError) as error:  # the latter: of a file or folder
        return _refuse(error)


def _study(arguments: Sequence[str]) -> int:
    config = _parse("study", arguments, lambda config: config)
    from . import runner

    return runner.study(config, _command("study", arguments))


def _tune(arguments: Sequence[str]) -> int:
    asked = _parse("tune", arguments, search.Search)
    asked.check()
    from . import runner
    from .policies.chosen import with_controls
    from .search import tune

    command = _command("tune", arguments)
    status, config = runner.pretrained(asked.config, command)
    if status:
        return status
    config, joined = with_controls(config)
    dataset = runner.prepared(config)
    runner.say_joined(joined)
    asked = dataclasses.replace(asked, config=config)
    return tune.run(asked, dataset, command)


def _find(arguments: Sequence[str]) -> int:
    asked = _parse("find", arguments, find.Find)
    asked.check()
    from . import runner
    from .search import finding

    command = _command("find", arguments)
    status, config = runner.pretrained(asked.config, command)
    if status:
        return status
    asked = dataclasses.replace(asked, config=config)
    return finding.run(asked, runner.prepared(config), command)


def _preview(arguments: Sequence[str]) -> int:
    """Parses `POLICY [PRESET] [--FIELD VALUE …]`."""
    match arguments:
        case [policy, *rest] if not policy.startswith("-"):
            name = f"preview {policy}"
        case _:
            policy, name, rest = "POLICY", "preview POLICY", arguments
            if not {"-h", "--help"} & {*arguments}:
                raise ValueError("preview: expected the name of a policy first")
    if given := [word for word in rest if word.partition("=")[0] == "--policies"]:
        raise ValueError(
            f"preview: expected one policy, by its name before all else; got {given[0]}"
        )
    config = _parse(name, rest, lambda config: config)
    from . import preview

    return preview.run(dataclasses.replace(config, policies=(policy,)))


def _parse(
    command: str, arguments: Sequence[str], around: Callable[[Config], Asked]
) -> Asked:
    """What a command asks for: what it makes of a preset or a file, and its flags."""
    named = bool(arguments) and not arguments[0].startswith("-")
    preset, *fields = arguments if named else ("demo", *arguments)
    if preset.endswith(".json"):
        with advised(Path(preset), "PRESET"):
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


def _command(command: str, arguments: Sequence[str]) -> list[str]:
    return ["python", "-m", "experiments", command, *arguments]


@dataclasses.dataclass(frozen=True)
class Report:
    """Makes tables and report.html of studies again from their records."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Of studies."""
    out: Path | None = None
    """Where all is written, of several studies in a folder for each; None for the
    folders of the studies themselves."""
    figures: Literal["none", "pdf", "png", "svg"] = "none"
    """Also writes a file for each figure into figures/, for a paper."""


def _report(arguments: Sequence[str]) -> int:
    asked = _asked(Report, "report", arguments)
    from .records import records
    from .report import report

    if not asked.folders:
        raise ValueError("report: expected the folder of a study, or several")
    out = asked.out or asked.folders[0]
    with advised(out, "FOLDER or --out"):
        recorded = [records.read(folder) for folder in asked.folders]
        for study in recorded:
            for line in study.assumed:
                print(line, file=sys.stderr)
        if len(recorded) == 1:
            print(report.build(recorded[0], out, asked.figures))
            return 0
        for study in recorded:
            place = out / study.config["name"] if asked.out else study.folder
            print(report.build(study, place, asked.figures))
        print(report.join(recorded, out, asked.figures))
    return 0


@dataclasses.dataclass(frozen=True)
class Policies:
    """Lists the policies; of those that are named it says all."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Of policies, or FILE.py:NAME."""


def _policies(arguments: Sequence[str]) -> int:
    asked = _asked(Policies, "policies", arguments)
    import rich.table

    from .policies.catalogue import POLICIES
    from .policies.chosen import named

    console = display.console()
    if not asked.names:
        shown = rich.table.Table("policy", "what it does", box=None, pad_edge=False)
        for policy in POLICIES.values():
            shown.add_row(policy.name, policy.summary)
        console.print(shown)
        console.print("\npython -m experiments policies NAME says all of one.")
    for policy in map(named, asked.names):
        told = rich.table.Table("", policy.name, box=None, pad_edge=False)
        for title, text in {
            "does": policy.summary,
            "numbers": ", ".join(["rate", *map(str, policy.numbers(1.0)[1:])]),
            "expected": policy.expectation,
            "control": policy.control,
            "source": policy.source,
        }.items():
            if text:
                told.add_row(title, text)
        console.print(told)
    return 0


def _asked(kind: type[Any], command: str, arguments: Sequence[str]) -> Any:
    return tyro.cli(kind, args=arguments, prog=f"python -m experiments {command}")


def _refuse(reason: object) -> int:
    print(reason, file=sys.stderr)
    return REFUSED


if __name__ == "__main__":
    signals.prepare()
    display.quiet()
    signals.leave(main(sys.argv[1:]))
