"""Lines of JSON that show damage: each carries a checksum of all up to itself.

A line is a JSON object whose last member, "crc32", is the running CRC-32 of the bytes
of all objects before it and of its own, that member left out. So a changed, missing or
added line shows, and the number at one line stands for the whole file up to there.
"""

import dataclasses
import json
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Record = dict[str, Any]

_LINE = re.compile(rb'(\{.*), "crc32": "([0-9a-f]{8})"\}', re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Lines:
    """What a file of sealed lines holds, up to the first that is damaged.

    Attributes:
        records: the objects of the good lines, without their checksums.
        crcs: the running checksum at each good line, after a 0 for none of them.
        ends: the offset in bytes behind each good line, after a 0 for none of them.
        damage: what is wrong with the line behind them; None if nothing is. A last
            line without its newline, as a crash leaves it, is no damage.
    """

    records: list[Record]
    crcs: list[int]
    ends: list[int]
    damage: str | None


class Writer:
    """A file of sealed lines, open for appending; every line reaches it at once."""

    def __init__(self, path: Path, lines: Lines, keep: int):
        """Cuts off everything behind the first `keep` of the lines that it holds."""
        self._path = path
        self.crc, self._end = lines.crcs[keep], lines.ends[keep]
        self._file = path.open("ab", buffering=0)
        self._file.truncate(self._end)

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends a line whole, or leaves the file as it was and raises OSError."""
        text = json.dumps(record, allow_nan=False, ensure_ascii=False).encode()[:-1]
        crc = zlib.crc32(text, self.crc)
        line = text + f', "crc32": "{crc:08x}"}}\n'.encode()
        try:
            written = self._file.write(line)
            while written < len(line):  # what a disk that fills up does
                written += self._file.write(line[written:])
        except OSError as error:
            self._file.truncate(self._end)
            raise OSError(error.errno, error.strerror, str(self._path)) from None
        self.crc, self._end = crc, self._end + len(line)

    def sync(self) -> None:
        """Returns when all that was written is on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read(path: Path) -> Lines:
    """The good lines of a file; of one that does not exist, none."""
    lines = Lines([], [0], [0], None)
    content = path.read_bytes() if path.exists() else b""
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        if (record := _open(line, lines.crcs[-1])) is None:
            damage = f"{str(path)!r}, line {number}: its checksum does not fit"
            return dataclasses.replace(lines, damage=damage)
        lines.records.append(record)
        lines.crcs.append(int(line[-10:-2], 16))
        lines.ends.append(lines.ends[-1] + len(line) + 1)
    return lines


def _open(line: bytes, before: int) -> Record | None:
    """The object of a line, or None if the checksum does not fit."""
    match = _LINE.fullmatch(line)
    if match is None or zlib.crc32(match[1], before) != int(match[2], 16):
        return None
    return json.loads(match[1] + b"}")
