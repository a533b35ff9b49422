import json
import re
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.records import checksums

RECORDS = [{"step": step, "text": "ü\n" * step, "value": 0.1} for step in range(4)]


@pytest.fixture
def path(tmp_path):
    return written(tmp_path / "lines.jsonl")


def written(path, records=RECORDS):
    writer = checksums.Writer(path, checksums.read(path), keep=0)
    for record in records:
        writer.write(record)
    writer.close()
    return path


def test_what_is_written_is_read_again(path):
    lines = checksums.read(path)
    assert lines.records == RECORDS
    assert lines.damage is None
    assert lines.ends[-1] == path.stat().st_size


def test_every_line_is_json_and_ends_with_the_checksum_of_all_before(path):
    crc = 0
    for line in path.read_bytes().splitlines():
        record = json.loads(line)
        crc = zlib.crc32(re.sub(rb', "crc32".*', b"", line), crc)
        assert record.pop("crc32") == f"{crc:08x}"


def test_a_file_that_does_not_exist_has_no_lines(tmp_path):
    lines = checksums.read(tmp_path / "none")
    assert (lines.records, lines.crcs, lines.ends, lines.damage) == ([], [0], [0], None)


def test_a_last_line_cut_short_is_left_out_and_is_no_damage(path):
    path.write_bytes(path.read_bytes()[:-5])
    lines = checksums.read(path)
    assert lines.records == RECORDS[:-1]
    assert lines.damage is None


@given(data=st.data())
def test_a_flipped_bit_is_noticed_wherever_it_is(tmp_path_factory, data):
    path = written(tmp_path_factory.mktemp("flipped") / "lines.jsonl")
    content = bytearray(path.read_bytes())
    where = data.draw(st.integers(0, len(content) - 1))
    content[where] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    lines = checksums.read(path)
    number = bytes(content[:where]).count(b"\n")
    # The newline of the last line, changed, looks like a line cut short.
    assert lines.records == RECORDS[:number]
    assert lines.damage is None if where == len(content) - 1 else lines.damage


@pytest.mark.parametrize("change", [lambda ls: ls[1:], lambda ls: [*ls[:1], *ls[2:]]])
def test_a_missing_line_is_noticed(path, change):
    lines = change(path.read_bytes().splitlines(keepends=True))
    path.write_bytes(b"".join(lines))
    assert f"{str(path)!r}, line" in checksums.read(path).damage


def test_a_writer_goes_on_behind_the_lines_it_keeps(path, tmp_path):
    writer = checksums.Writer(path, checksums.read(path), keep=2)
    writer.write({"step": "other"})
    writer.close()
    expected = written(tmp_path / "other", [*RECORDS[:2], {"step": "other"}])
    assert path.read_bytes() == expected.read_bytes()


def test_a_line_that_cannot_be_written_leaves_the_others_whole(path, monkeypatch):
    before = path.read_bytes()
    writer = checksums.Writer(path, checksums.read(path), keep=len(RECORDS))
    crc, file = writer.crc, writer._file

    class Full:
        def __init__(self):
            self.room = 10

        def write(self, data):
            if not self.room:
                raise OSError(28, "No space left on device")
            written, self.room = file.write(data[: self.room]), 0
            return written

        truncate = file.truncate

    monkeypatch.setattr(writer, "_file", Full())
    with pytest.raises(OSError, match=r"No space left on device: '.*lines\.jsonl'"):
        writer.write({"step": 5})
    file.close()
    assert path.read_bytes() == before
    assert writer.crc == crc
