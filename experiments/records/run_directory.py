"""The folder of a study: one process at a time, one configuration for ever."""

import contextlib
import fcntl
import json
import os
import textwrap
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from .records import plain, read_json, write_json

UNFINISHED = (".lock", ".part")
"""How the names of files end that say nothing yet."""
MANNERS = {
    *("out", "archive", "checkpoint_seconds", "tensorboard"),
    *("stack", "devices", "distributed"),
}
"""Fields that change nothing in what a study finds out, but for the last bits; data
have their checksum."""


@contextlib.contextmanager
def claimed(folder: Path) -> Generator[None]:
    """Makes the folder of a study, and keeps every other process out of it.

    Leaves no folder behind where nothing was written into it.

    Raises:
        ValueError: another process is at work there.
        OSError: it cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / ".lock"
    with lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ValueError(
                f"{str(folder)!r} is in use by process {file.read() or '?'}: wait for "
                "its end, or give this study another --name"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            if list(folder.iterdir()) == [lock]:
                lock.unlink()
                folder.rmdir()


def check_begun(folder: Path, asked: Mapping[str, Any]) -> None:
    """Refuses to go on with what was begun otherwise.

    Args:
        folder: of a study or a run.
        asked: what config.json is to hold, or a part of it.

    Raises:
        ValueError: naming the fields that differ, or what else is wrong.
    """
    path = folder / "config.json"
    if not path.exists():
        if not all(file.name.endswith(UNFINISHED) for file in folder.iterdir()):
            raise ValueError(
                f"{str(folder)!r} holds something else than a study; give another "
                "--name or --out"
            )
        return
    begun = read_json(path, "study")
    before, now = (_deciding(config) for config in (begun, plain(asked)))
    if differing := differences(before, now):
        raise ValueError(
            f"{str(folder)!r} was begun with another configuration: "
            f"{'; '.join(differing)}. Give the same to go on with it, or another --name"
        )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is now asked for otherwise, field by field; it may be a part of all."""
    return [
        f"{field} is {_short(now[field])}, was {_short(before.get(field))}"
        for field in now
        if now[field] != before.get(field)
    ]


def begin(folder: Path, asked: Mapping[str, Any]) -> None:
    """Writes down what was asked for; checks it where that was done before.

    Raises:
        ValueError: as `check_begun`.
    """
    folder.mkdir(exist_ok=True)
    check_begun(folder, asked)
    if not (folder / "config.json").exists():
        write_json(folder / "config.json", asked)


def add_session(folder: Path, session: Mapping[str, Any]) -> list[str]:
    """Writes down that a process begins a study or a run, or goes on with it.

    Returns:
        What is not as it was when it was begun, in lines.

    Raises:
        ValueError: the data are not those that it was begun with.
    """
    path = folder / "env.json"
    before = read_json(path, "environment")["sessions"] if path.exists() else []
    if before and before[0]["data_checksum"] != session["data_checksum"]:
        raise ValueError(
            f"{str(folder)!r} was begun with other data of the same name; give this "
            "study another --name"
        )
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
