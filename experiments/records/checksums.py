"""Lines of JSON with a checksum each: damage shows, and costs the damaged line alone.

A line is a JSON object whose last member, "crc32", is the CRC-32 of the bytes before.
An empty line stands for one that was lost. (The CRC of older versions went on from the
one that the line before states; such lines are read as well.)
"""

import itertools
import json
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Record = dict[str, Any]

_LINE = re.compile(rb'(.*), "crc32": "([0-9a-f]{8})"\}', re.DOTALL)


class Lines(NamedTuple):
    """What a file holds; a last line without its newline, as a crash leaves it, not.

    Attributes:
        objects: the lines, without the checksums; None for one that is lost.
        damaged: whether a line was lost since the file was opened for appending.
    """

    objects: list[Record | None]
    damaged: bool

    @property
    def records(self) -> list[Record]:
        """The objects that are not lost."""
        return [record for record in self.objects if record is not None]


class Writer:
    """A file of lines, open for appending; every line reaches it at once."""

    def __init__(self, path: Path, kept: Sequence[Record | None] = ()):
        """Makes the file hold these lines alone, and opens it behind them."""
        self._path, content = path, b"".join(map(_line, kept))
        if not (path.exists() and path.read_bytes().startswith(content)):
            write_whole(path, content)
        self._end = len(content)
        self._file = path.open("ab", buffering=0)
        self._file.truncate(self._end)

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends a line whole, or leaves the file as it was and raises OSError."""
        line = _line(record)
        try:
            written = self._file.write(line)
            while written < len(line):  # what a disk that fills up does
                written += self._file.write(line[written:])
        except OSError as error:
            self._file.truncate(self._end)
            raise OSError(error.errno, error.strerror, str(self._path)) from None
        self._end += len(line)

    def sync(self) -> None:
        """Returns when all that was written is on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read(path: Path) -> Lines:
    """The lines of a file; of one that does not exist, none."""
    content = path.read_bytes() if path.exists() else b""
    objects, damaged, before = list[Record | None](), False, 0
    for line in content.split(b"\n")[:-1]:
        found, stated = None, 0
        if match := _LINE.fullmatch(line):
            body, stated = match[1], int(match[2], 16)
            if stated in (zlib.crc32(body), zlib.crc32(body, before)):
                found = json.loads(body + b"}")
        objects.append(found)
        damaged, before = damaged or (bool(line) and found is None), stated
    return Lines(objects, damaged)


def _line(record: Mapping[str, Any] | None) -> bytes:
    """A line with its checksum; an empty one for one that is lost."""
    if record is None:
        return b"\n"
    body = json.dumps(record, allow_nan=False, ensure_ascii=False).encode()[:-1]
    return body + f', "crc32": "{zlib.crc32(body):08x}"}}\n'.encode()


def named(numbers: Sequence[int]) -> str:
    """Lines by their ascending numbers, such as "line 3", or "lines 3, 7–9"."""
    groups = itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    ends = ([number for _, number in group] for _, group in groups)
    spans = ", ".join(f"{e[0]}–{e[-1]}" if e[1:] else str(e[0]) for e in ends)
    return f"line{'s' * (len(numbers) > 1)} {spans}"


def write_whole(path: Path, content: bytes) -> None:
    """Writes a whole file, or leaves the old one."""
    draft = path.with_name(path.name + ".part")
    draft.write_bytes(content)
    os.replace(draft, path)
