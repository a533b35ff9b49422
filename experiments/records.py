"""The run folder: what a study writes down while it runs, and how it is read again.

    config.json    what was asked for: configuration, layers, policies, total_steps
    env.json       where it ran: versions, device, commit, command line, data checksum
    metrics.jsonl  what happened: one line an event, the truth for everything below
    summary.json   the table of `compare`
    plots/, report.html

All JSON is strict: a number that is not finite is written as null.
"""

import dataclasses
import datetime
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TextIO

import jax
import numpy as np

from .config import PLAIN_NAME

Event = dict[str, Any]

# The shapes of what is read. A dict names the keys that must be there, or {str: …} what
# every key holds; a list of one shape holds any number of it. A MEASURED number is None
# where it was not finite.
NUMBER = int | float
MEASURED = int | float | None
CONFIG = {
    "name": str,
    "model": str,
    "source": str,
    "seeds": int,
    "marks": [NUMBER],
    "layers": {"names": [str]},
    "policies": {str: {"summary": str, "expectation": str, "source": str}},
    "total_steps": int,
}
ENVIRONMENT = {
    "started": str,
    "command": [str],
    "commit": str | None,
    "dirty": bool | None,
    "versions": {},
}
EVENT = {
    "kind": str,
    "policy": str,
    "seed": int,
    "step": int,
    "images": int,
    "seconds": NUMBER,
}
KINDS = {
    "train": {
        "loss": MEASURED,
        "accuracy": MEASURED,
        "rate": MEASURED,
        "multipliers": [MEASURED],
    },
    "validation": {"loss": MEASURED, "accuracy": MEASURED},
    "end": {"status": str, "test_loss": MEASURED, "test_accuracy": MEASURED},
}
STATUSES = ("finished", "diverged", "interrupted")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


@dataclasses.dataclass(frozen=True)
class Records:
    """A run folder, read.

    Attributes:
        folder: where it stands.
        config: config.json.
        environment: env.json.
        events: the lines of metrics.jsonl, in order.
    """

    folder: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    events: tuple[Event, ...]


class Log:
    """metrics.jsonl, open for appending; every event reaches the file at once."""

    def __init__(self, folder: Path):
        self._file: TextIO = (folder / "metrics.jsonl").open("a", encoding="utf-8")

    def write(self, event: Mapping[str, Any]) -> None:
        """Appends one event.

        Raises:
            ValueError: if it is not of the shape that its kind has in `KINDS`.
        """
        recorded = plain(event)
        _check_event(recorded, "the event to be recorded")
        line = json.dumps(recorded, allow_nan=False, ensure_ascii=False)
        self._file.write(line + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def create(folder: Path) -> Path:
    """Makes an empty run folder.

    Raises:
        ValueError: if something stands there already: records are never overwritten.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"{str(folder)!r} exists and is not empty; name another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def new_folder(parent: Path, name: str) -> Path:
    """`<parent>/<name>-<UTC time>`, with a counter where two studies share a second."""
    time = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    folder, count = parent / f"{name}-{time}", 1
    while folder.exists():
        count += 1
        folder = folder.with_name(f"{name}-{time}-{count}")
    return folder


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
    """Reads a run folder.

    A last line without its newline is what a crash leaves, and is left out.

    Raises:
        ValueError: naming the file or line that is missing or not as it should be.
    """
    config = _read_json(folder / "config.json", CONFIG)
    for policy in config["policies"]:
        if not PLAIN_NAME.fullmatch(policy):  # it names a file of plots/
            raise ValueError(
                f"{str(folder / 'config.json')!r}: {policy!r} cannot name a policy"
            )
    return Records(
        folder=folder,
        config=config,
        environment=_read_json(folder / "env.json", ENVIRONMENT),
        events=tuple(_read_events(folder / "metrics.jsonl", config)),
    )


def environment(command: Sequence[str], checksum: str) -> dict[str, Any]:
    """What one needs to know to run it again: versions, device, commit, command, data.

    Args:
        command: the command line as the user typed it.
        checksum: of the data, as `data.Dataset` gives it.
    """
    import optax_llr

    devices = jax.devices()
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": list(command),
        **_checkout(Path(__file__).resolve().parent.parent),
        "data_checksum": checksum,
        "versions": {
            "python": platform.python_version(),
            "optax_llr": optax_llr.__version__,
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
        "device": {"kind": devices[0].device_kind, "count": len(devices)},
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
    }


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


def _read_json(path: Path, shape: Any) -> dict[str, Any]:
    value = _parse(_read_bytes(path), repr(str(path)))
    _check(value, shape, repr(str(path)))
    return value


def _read_events(path: Path, config: Mapping[str, Any]) -> Iterator[Event]:
    policies, layers = config["policies"], len(config["layers"]["names"])
    whole_lines = _read_bytes(path).split(b"\n")[:-1]
    for number, line in enumerate(whole_lines, start=1):
        where = f"line {number} of {str(path)!r}"
        event = _parse(line, where)
        _check_event(event, where)
        if event["policy"] not in policies:
            raise ValueError(
                f"{where}: expected a policy of config.json, one of {list(policies)}; "
                f"got {event['policy']!r}"
            )
        if event["kind"] == "train" and len(event["multipliers"]) != layers:
            raise ValueError(
                f"{where}: expected {layers} multipliers, one for each layer of "
                f"config.json; got {len(event['multipliers'])}"
            )
        yield event


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(
            f"{str(path)!r} does not exist: expected the folder of a study, with "
            "config.json, env.json and metrics.jsonl"
        ) from None


def _parse(text: bytes, where: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except ValueError as error:  # also of what is not UTF-8
        raise ValueError(f"{where} is not JSON: {error}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it has no {name}")


def _check_event(event: Any, where: str) -> None:
    _check(event, EVENT, where)
    if event["kind"] not in KINDS:
        raise ValueError(
            f"{where}: expected a kind of {list(KINDS)}, got {event['kind']!r}"
        )
    _check(event, KINDS[event["kind"]], where)
    if event["kind"] == "end" and event["status"] not in STATUSES:
        raise ValueError(
            f"{where}: expected a status of {STATUSES}, got {event['status']!r}"
        )


def _check(value: Any, shape: Any, where: str) -> None:
    """Refuses a value read from JSON that has not the shape, in one line."""
    kind = type(shape) if isinstance(shape, dict | list) else shape
    if not isinstance(value, kind):
        wanted = getattr(kind, "__name__", kind)
        raise ValueError(f"{where}: expected {wanted}, got {value!r:.60}")
    if isinstance(shape, list):
        for item in value:
            _check(item, shape[0], where)
    elif isinstance(shape, dict):
        inners = dict.fromkeys(value, shape[str]) if str in shape else shape
        if missing := [key for key in inners if key not in value]:
            raise ValueError(f"{where} lacks {missing}; it has {sorted(value)}")
        for key, inner in inners.items():
            _check(value[key], inner, f"{where}, {key!r}")


def _checkout(root: Path) -> dict[str, Any]:
    """Commit and whether files differed from it; both None outside our own checkout."""
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root:
        return {"commit": None, "dirty": None}
    commit = _git(root, "rev-parse", "HEAD")
    status = _git(root, "status", "--porcelain")
    return {"commit": commit, "dirty": None if status is None else bool(status)}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
