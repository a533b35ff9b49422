"""The folder of a study: one process at a time, one configuration for ever."""

import contextlib
import json
import os
import textwrap
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from ..terminal.advice import advised
from .records import defaults, plain, read_config, read_json, write_json

UNFINISHED = (".lock", ".process", ".part")
"""How the names of files end that say nothing yet."""
MANNERS = {
    *("out", "archive", "checkpoint_seconds", "logger"),
    *("stack", "devices", "distributed", "keep_weights", "init_from"),
}
"""Fields that change nothing in what a study finds out, but for the last bits; data
and weights to start from have their checksum."""


@contextlib.contextmanager
def claimed(folder: Path) -> Generator[None]:
    """Makes the folder of a study, and keeps every other process out of it.

    Leaves no folder behind where nothing was written into it.

    Raises:
        ValueError: another process is at work there.
        OSError: it cannot be made, or a file in it not be read or written.
    """
    lock, owner = folder / ".lock", folder / ".process"
    with advised(folder), contextlib.ExitStack() as held:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            held.enter_context(filelock.FileLock(lock, timeout=0))
        except filelock.Timeout:
            process = owner.read_text() if owner.exists() else "?"
            raise ValueError(
                f"{str(folder)!r} is in use by process {process}: wait for its end, or "
                "give this study another --name"
            ) from None
        try:
            owner.write_text(str(os.getpid()))
            yield
        finally:
            with contextlib.suppress(OSError):  # of which there may be one already
                owner.unlink()
                if list(folder.iterdir()) == [lock]:
                    lock.unlink()
                    folder.rmdir()


def check_begun(folder: Path, asked: Mapping[str, Any]) -> list[str]:
    """Refuses to go on with what was begun otherwise.

    Args:
        folder: of a study or a run.
        asked: what config.json is to hold.

    Returns:
        What is assumed of a study that an older version began, in lines.

    Raises:
        ValueError: naming the fields that differ, or what else is wrong.
    """
    path = folder / "config.json"
    if not path.exists():
        if not all(file.name.endswith(UNFINISHED) for file in folder.iterdir()):
            raise ValueError(
                f"{str(folder)!r} holds something else than a study, or has lost its "
                "config.json: put that back, or give another --name or --out"
            )
        return []
    begun, assumed = read_config(path, "study")
    before, now = (_deciding(config) for config in (begun, plain(asked)))
    others, unknown = otherwise(begun["policies"], plain(asked["policies"]))
    if unknown:
        assumed.append(
            f"what policies compute is not in {str(path)!r}, which an older version "
            f"wrote; taken as the same of {', '.join(unknown)}"
        )
    # Another rate, say, is all there is to say of policies that compute others by it.
    if differing := differences(before, now) or others:
        raise ValueError(
            f"{str(folder)!r} was begun with another configuration: "
            f"{'; '.join([*differing, *assumed])}. Give the same to go on with it, or "
            "another --name"
        )
    return assumed


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is now asked for otherwise, field by field; it may be a part of all."""
    before = {**defaults(), **before}  # an older version did not know all fields
    return [
        _changed(before[field], now[field])
        if field == "files"
        else f"{field} is {_short(now[field])}, was {_short(before.get(field))}"
        for field in now
        if now[field] != before.get(field)
    ]


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Which files of the user's are other ones."""
    said = [
        f"{name} {'is new' if name not in before else 'has changed'}"
        for name in now
        if now[name] != before.get(name)
    ]
    said += [f"{name} is left out" for name in before if name not in now]
    kept = any(name != "init_from" and now.get(name) != before[name] for name in before)
    hint = " (files/ in that folder holds those of before)" if kept else ""
    return f"files: {', '.join(said)}{hint}"


def otherwise(
    before: Mapping[str, Any], now: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """The policies of which something else is computed, and those not known of."""
    differing, unknown = list[str](), list[str]()
    for name in [name for name in now if name in before]:
        was, computes = before[name].get("computes"), now[name].get("computes", {})
        if computes and was is None:
            unknown.append(name)
        differing += [
            f"the {what} of {name!r} are others"
            for what in computes
            if was is not None and not _close(was.get(what), computes[what])
        ]
    return differing, unknown


def _close(one: Any, other: Any) -> bool:
    """Whether numbers are the same, but for what versions differ by."""
    a, b = np.asarray(one, float), np.asarray(other, float)
    return a.shape == b.shape and np.allclose(a, b, 1e-4, 1e-6, equal_nan=True)


def begin(folder: Path, asked: Mapping[str, Any]) -> None:
    """Writes down what was asked for; checks it where that was done before.

    Raises:
        ValueError: as `check_begun`.
    """
    folder.mkdir(exist_ok=True)
    check_begun(folder, asked)
    if not (folder / "config.json").exists():
        write_json(folder / "config.json", asked)


def check_data(folder: Path, checksum: str) -> list[dict[str, Any]]:
    """The processes that worked on a study or a run before; none where it is new.

    Raises:
        ValueError: they had other data.
    """
    path = folder / "env.json"
    before = read_json(path, "environment")["sessions"] if path.exists() else []
    if before and before[0]["data_checksum"] != checksum:
        raise ValueError(
            f"{str(folder)!r} was begun with other data of the same name; give this "
            "study another --name"
        )
    return before


def add_session(folder: Path, session: Mapping[str, Any]) -> list[str]:
    """Writes down that a process begins a study or a run, or goes on with it.

    Returns:
        What is not as it was when it was begun, in lines.

    Raises:
        ValueError: the data are not those that it was begun with.
    """
    path, before = folder / "env.json", check_data(folder, session["data_checksum"])
    write_json(path, {"sessions": [*before, session]})
    return [
        f"begun with {key} {_short(before[0][key])}, now {_short(plain(session[key]))}"
        for key in ("commit", "dirty", "versions", "device")
        if before and before[0][key] != plain(session[key])
    ]


def _deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    """What must stay; of the policies which they are, for their texts may change."""
    kept = {field: value for field, value in config.items() if field not in MANNERS}
    return kept | {"policies": list(config["policies"])}


def _short(value: Any) -> str:
    return textwrap.shorten(json.dumps(value, ensure_ascii=False), 80)
