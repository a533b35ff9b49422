import json
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
    writer = checksums.Writer(path)
    for record in records:
        writer.write(record)
    writer.close()
    return path


def in_the_old_way(path):
    """Lines whose checksums go on from one another, as older versions wrote them."""
    crc, lines = 0, []
    for record in RECORDS:
        text = json.dumps(record, ensure_ascii=False)[:-1]
        crc = zlib.crc32(text.encode(), crc)
        lines.append(f'{text}, "crc32": "{crc:08x}"}}\n')
    path.write_text("".join(lines))
    return path


WAYS = {"new": written, "old": in_the_old_way}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_written_is_read_again(tmp_path, way):
    lines = checksums.read(WAYS[way](tmp_path / "lines.jsonl"))
    assert lines.records == lines.objects == RECORDS
    assert not lines.damaged


def test_a_file_that_does_not_exist_has_no_lines(tmp_path):
    assert checksums.read(tmp_path / "none") == ([], False)


def test_a_last_line_cut_short_is_left_out(path):
    path.write_bytes(path.read_bytes()[:-5])
    assert checksums.read(path).objects == RECORDS[:-1]


@pytest.mark.parametrize("way", WAYS)
@given(data=st.data())
def test_a_flipped_bit_costs_the_line_that_it_is_in(tmp_path_factory, way, data):
    path = WAYS[way](tmp_path_factory.mktemp("flipped") / "lines.jsonl")
    content = bytearray(path.read_bytes())
    where = data.draw(st.integers(0, len(content) - 1))
    number, newline = content[:where].count(b"\n"), content[where] == ord("\n")
    content[where] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    lines, after = checksums.read(path), RECORDS[number + 1 :]
    assert lines.damaged or (newline and not after)
    # A newline costs the line behind it too, as does an old checksum that is lost.
    costs = {"new": [newline], "old": [newline, True]}[way]
    assert lines.records in [RECORDS[:number] + after[cost:] for cost in costs]


def test_a_line_of_another_object_is_no_line(path):
    path.write_bytes(path.read_bytes().replace(b"}\n", b"]\n", 1) + b"[1]\n1\n\xff\n\n")
    assert checksums.read(path).objects == [None, *RECORDS[1:], *[None] * 4]


def test_a_writer_goes_on_behind_the_lines_it_keeps(path, tmp_path):
    first, second, *_ = path.read_bytes().splitlines(keepends=True)
    other = written(tmp_path / "other", [{"step": "other"}]).read_bytes()
    for kept, lines in ((RECORDS[:2], second), ([RECORDS[0], None], b"\n")):
        writer = checksums.Writer(path, kept)
        writer.write({"step": "other"})
        writer.close()
        assert path.read_bytes() == first + lines + other


def test_a_line_that_cannot_be_written_leaves_the_others_whole(path, monkeypatch):
    before = path.read_bytes()
    writer = checksums.Writer(path, RECORDS)
    file, room = writer._file, [10, 0]

    class Full:
        truncate = file.truncate

        def write(self, data):
            if not room[0]:
                raise OSError(28, "No space left on device")
            return file.write(data[: room.pop(0)])

    monkeypatch.setattr(writer, "_file", Full())
    with pytest.raises(OSError, match=r"No space left on device: '.*lines\.jsonl'"):
        writer.write({"step": 5})
    file.close()
    assert path.read_bytes() == before


def test_lines_are_named_in_short():
    assert checksums.named([3, 7, 8, 9, 11, 12]) == "lines 3, 7–9, 11–12"
    assert checksums.named([3]) == "line 3"
