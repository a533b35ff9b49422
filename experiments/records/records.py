"""What a study writes down, and how it is read again.

    <study>/
        config.json     what was asked for: configuration, layers, policies, total_steps
        env.json        the processes that worked on it: versions, device, commit, …
        summary.json    the table of `compare`
        plots/, report.html
        <policy>-<seed>/
            config.json, env.json   the same, of this run
            metrics.jsonl           what happened: a line an event, the truth for all
            timings.jsonl           beside each of its lines, how long it took
            checkpoints/            while it is under way

The same run writes the same metrics.jsonl to the last bit; what cannot be the same, the
time that it took, stands beside it. Both are sealed line by line (`sealed`). All JSON
is strict: a number that is not finite is written as null. records.schema.json describes
every file and every kind of line.
"""

import dataclasses
import functools
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jsonschema
import jsonschema.exceptions
import numpy as np

from . import checksums

Event = dict[str, Any]

LAYERWISE = {
    "train": ("multipliers",),
    "layers": ("gradient_norm", "update_ratio", "step_quantiles", "rotation"),
}
"""By kind of event, its fields that hold one number or row for each layer."""
SCHEMA = Path(__file__).with_name("records.schema.json")


@dataclasses.dataclass(frozen=True)
class Records:
    """The folder of a study, read.

    Attributes:
        folder: where it stands.
        config: config.json.
        sessions: the processes that worked on it, in order.
        events: the lines of every run, run by run, each with its "seconds".
    """

    folder: Path
    config: dict[str, Any]
    sessions: tuple[dict[str, Any], ...]
    events: tuple[Event, ...]

    @property
    def environment(self) -> dict[str, Any]:
        """The process that began it."""
        return self.sessions[0]


def run_folder(study: Path, policy: str, seed: int) -> Path:
    """The folder of one run."""
    return study / f"{policy}-{seed}"


def has_ended(run: Path) -> bool:
    """Whether a run came to its end, and its records are whole."""
    metrics, timings = read_lines(run)
    return (
        not (metrics.damage or timings.damage)
        and len(timings.records) == len(metrics.records) > 0
        and metrics.records[-1]["kind"] == "end"
    )


def read_lines(run: Path) -> tuple[checksums.Lines, checksums.Lines]:
    """The good lines of metrics.jsonl and of timings.jsonl."""
    return checksums.read(run / "metrics.jsonl"), checksums.read(run / "timings.jsonl")


def write_json(path: Path, value: Any) -> None:
    """Writes strict, indented JSON; the file is never seen half written."""
    text = json.dumps(plain(value), allow_nan=False, ensure_ascii=False, indent=2)
    write_text(path, text + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a whole file, or leaves the old one."""
    draft = path.with_name(path.name + ".part")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


def read(folder: Path) -> Records:
    """Reads the folder of a study.

    A last line without its newline is what a crash leaves, and is left out.

    Raises:
        ValueError: naming the file or line that is missing or not as it should be.
    """
    config = read_json(folder / "config.json", "study")
    sessions = read_json(folder / "env.json", "environment")["sessions"]
    runs = [(p, seed) for seed in range(config["seeds"]) for p in config["policies"]]
    return Records(
        folder=folder,
        config=config,
        sessions=tuple(sessions),
        events=tuple(
            event
            for policy, seed in runs
            for event in _read_events(folder, config, policy, seed)
        ),
    )


def plain(value: Any) -> Any:
    """The same value in terms of JSON: arrays as lists, paths as text, NaN as None."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Path():
            return value.as_posix()
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case np.generic() | np.ndarray() | jax.Array():
            return plain(np.asarray(value).tolist())
        case _:
            raise TypeError(f"a record cannot hold {value!r}")


def check_event(event: Any, where: str) -> None:
    """Refuses an event that is not of the shape that its kind has."""
    check(event, "event", where)
    check(event, event["kind"], where)


def check(value: Any, kind: str, where: str) -> None:
    """Refuses a value that is not what the schema calls by this name, in one line."""
    error = jsonschema.exceptions.best_match(_validator(kind).iter_errors(value))
    if error is not None:
        place = ", ".join([where, *(repr(part) for part in error.absolute_path)])
        raise ValueError(f"{place}: {error.message:.200}")


@functools.cache
def _validator(kind: str) -> jsonschema.Draft202012Validator:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(schema | {"$ref": f"#/$defs/{kind}"})


def _read_events(
    study: Path, config: Mapping[str, Any], policy: str, seed: int
) -> Iterator[Event]:
    run, layers = run_folder(study, policy, seed), len(config["layers"]["names"])
    metrics, timings = read_lines(run)
    if damage := metrics.damage or timings.damage:
        raise ValueError(f"{damage}; the command of the study repairs the run")
    if len(timings.records) < len(metrics.records):
        raise ValueError(
            f"{str(run / 'timings.jsonl')!r} ends before metrics.jsonl; the command of "
            "the study repairs the run"
        )
    lines = zip(metrics.records, timings.records, strict=False)
    for number, (event, timing) in enumerate(lines, start=1):
        where = f"{str(run / 'metrics.jsonl')!r}, line {number}"
        check_event(event, where)
        check(timing, "timing", where.replace("metrics", "timings"))
        if (event["policy"], event["seed"]) != (policy, seed):
            raise ValueError(f"{where}: expected {policy}, seed {seed}, got {event}")
        for field in LAYERWISE.get(event["kind"], ()):
            if len(event[field]) != layers:
                raise ValueError(
                    f"{where}, {field}: expected {layers} numbers, one for each layer "
                    f"of config.json; got {len(event[field])}"
                )
        yield event | {"seconds": timing["seconds"]}


def read_json(path: Path, kind: str) -> dict[str, Any]:
    """Reads config.json or env.json.

    Raises:
        ValueError: it is missing, no JSON, or not what the schema calls by this name.
    """
    try:
        value = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(
            f"{str(path)!r} does not exist: expected the folder of a study, with "
            "config.json and env.json"
        ) from None
    except ValueError as error:  # also of what is not UTF-8
        raise ValueError(f"{str(path)!r} is not JSON: {error}") from None
    check(value, kind, repr(str(path)))
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it has no {name}")
