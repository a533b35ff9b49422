"""What a study writes down, and how it is read again.

    <study>/
        config.json     what was asked for: configuration, layers, policies, total_steps
        env.json        the processes that worked on it: versions, device, commit, …
        summary.json    the table of `compare`; of joined studies joined.json
        report.html
        <policy>-<seed>/
            config.json, env.json   the same, of this run
            metrics.jsonl           what happened: a line an event, the truth for all
            timings.jsonl           beside each of its lines, how long it took
            weights.npz             those of its end, where they are to be kept
            checkpoints/            while it is under way

The same run writes the same metrics.jsonl to the last bit; what cannot be the same, the
time that it took, stands beside it. Each line has a checksum (`checksums`); one that is
lost costs itself alone, and readers say so. All JSON is strict: a number that is not
finite is written as null. records.schema.json describes every file and kind of line.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import jax
import jsonschema
import jsonschema.exceptions
import numpy as np

from ..config.config import Config
from . import checksums

Event = dict[str, Any]

LAYERWISE = {
    "train": ("multipliers",),
    "layers": ("gradient_norm", "update_ratio", "step_quantiles", "rotation"),
}
"""By kind of event, its fields that hold one number or row for each layer."""
SCHEMA = Path(__file__).with_name("records.schema.json")
RENAMED = {"source": "data", "marks": "thresholds"}
"""Fields of config.json that older versions called otherwise: their names today."""


@dataclasses.dataclass(frozen=True)
class Records:
    """The folder of a study, read.

    Attributes:
        folder: where it stands.
        config: config.json, with a default for what an older version did not know.
        sessions: the processes that worked on it, in order.
        events: the lines of every run, run by run, each with its "seconds".
        assumed: in words, which fields of the configuration are defaults.
        lost: in words, what of the runs cannot be read.
    """

    folder: Path
    config: dict[str, Any]
    sessions: tuple[dict[str, Any], ...]
    events: tuple[Event, ...]
    assumed: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()

    @property
    def environment(self) -> dict[str, Any]:
        """The process that began it."""
        return self.sessions[0]


def run_folder(study: Path, policy: str, seed: int) -> Path:
    """The folder of one run."""
    return study / f"{policy}-{seed}"


def has_ended(run: Path) -> bool:
    """Whether a run came to its end."""
    events = read_lines(run)[0].records
    return bool(events) and events[-1]["kind"] == "end"


def read_lines(run: Path) -> tuple[checksums.Lines, checksums.Lines]:
    """The lines of metrics.jsonl and of timings.jsonl."""
    return checksums.read(run / "metrics.jsonl"), checksums.read(run / "timings.jsonl")


def write_json(path: Path, value: Any) -> None:
    """Writes strict, indented JSON; the file is never seen half written."""
    text = json.dumps(plain(value), allow_nan=False, ensure_ascii=False, indent=2)
    write_text(path, text + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a whole file, or leaves the old one."""
    checksums.write_whole(path, text.encode())


def read(folder: Path) -> Records:
    """Reads the folder of a study, as far as it can be read.

    Raises:
        ValueError: naming the file or line that is missing or not as it should be.
    """
    config, assumed = read_config(folder / "config.json", "study")
    sessions = read_json(folder / "env.json", "environment")["sessions"]
    runs = [(p, seed) for seed in config["seeds"] for p in config["policies"]]
    found = [_read_run(folder, config, policy, seed) for policy, seed in runs]
    return Records(
        folder=folder,
        config=config,
        sessions=tuple(sessions),
        events=tuple(event for events, _ in found for event in events),
        assumed=tuple(assumed),
        lost=tuple(line for _, lost in found for line in lost),
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


def _read_run(
    study: Path, config: Mapping[str, Any], policy: str, seed: int
) -> tuple[list[Event], list[str]]:
    """The events of a run; and what of them is lost, in words."""
    run, layers = run_folder(study, policy, seed), len(config["layers"]["names"])
    metrics, timings = read_lines(run)
    times: dict[int, float] = {}
    for timing in timings.records:
        times.setdefault(timing["step"], timing["seconds"])
    for number, event in enumerate(metrics.objects, start=1):
        if event is None:
            continue
        where = f"{str(run / 'metrics.jsonl')!r}, line {number}"
        check_event(event, where)
        if (event["policy"], event["seed"]) != (policy, seed):
            got = f"{event['policy']}, seed {event['seed']}"
            raise ValueError(f"{where}: expected {policy}, seed {seed}; got {got}")
        for field in LAYERWISE.get(event["kind"], ()):
            if len(event[field]) != layers:
                raise ValueError(
                    f"{where}, {field}: expected {layers} numbers, one for each layer "
                    f"of config.json; got {len(event[field])}"
                )
    events, lost = metrics.records, list[str]()
    # A crash may leave timings.jsonl one line more.
    missing = [None] * (len(timings.objects) - 1 - len(metrics.objects))
    objects = enumerate([*metrics.objects, *missing], start=1)
    if gone := [number for number, event in objects if event is None]:
        lost.append(f"{run.name}/metrics.jsonl has lost {checksums.named(gone)}")
    steps, known = [event["step"] for event in events], sorted(times)
    if untimed := sum(step not in times for step in steps):
        lost.append(
            f"{run.name}/timings.jsonl has lost the times of {untimed} events, which "
            "are interpolated"
        )
    seconds = np.interp(steps, known or [0], [times[at] for at in known] or [math.nan])
    timed = zip(events, seconds.tolist(), strict=True)
    return [event | {"seconds": at} for event, at in timed], lost


def read_config(path: Path, kind: str) -> tuple[dict[str, Any], list[str]]:
    """Reads config.json, also of an older version.

    Returns:
        It, with today's names, and today's defaults of the fields that are not in it;
        and what is assumed so, in words.

    Raises:
        ValueError: as `read_json`.
    """
    given = read_json(path, kind)
    unknown = {
        field: value for field, value in defaults().items() if field not in given
    }
    if not unknown:
        return given, []
    taken = ", ".join(
        f"{field} {json.dumps(value, ensure_ascii=False)}"
        for field, value in unknown.items()
    )
    return given | unknown, [
        f"{str(path)!r} is of an older version; what it does not say is taken as the "
        f"default: {taken}"
    ]


def defaults() -> dict[str, Any]:
    """What config.json holds of each field of which nothing is asked."""
    return plain(Config().record() | {"files": {}})


def read_json(path: Path, kind: str) -> dict[str, Any]:
    """Reads config.json or env.json, with today's names.

    Raises:
        ValueError: it is missing, no JSON, or not what the schema calls by this name.
    """
    try:
        value = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
        value = plain(value)  # whatever is too deeply nested to be shown, fails here
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(
            f"{str(path)!r} does not exist: expected the folder of a study, with "
            "config.json and env.json"
        ) from None
    except (ValueError, RecursionError) as error:  # also of what is not UTF-8
        raise ValueError(f"{str(path)!r} is not JSON: {error}") from None
    if isinstance(value, dict):
        fields = cast(dict[str, Any], value)
        value = {RENAMED.get(name, name): item for name, item in fields.items()}
    check(value, kind, repr(str(path)))
    if isinstance(count := value.get("seeds"), int):  # as older versions had it
        value["seeds"] = list(range(count))
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it has no {name}")
