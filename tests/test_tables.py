import json
import shutil

import pytest
import tables


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A copy of the records, to be changed."""
    folder = shutil.copytree(tables.RESULTS, tmp_path / "results")
    monkeypatch.setattr(tables, "RESULTS", folder)
    return folder


def changed(path, change):
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


@pytest.mark.parametrize("page", tables.READMES, ids=["benchmarks", "root"])
def test_a_page_holds_what_the_records_say(page):
    text = page.read_text()
    assert tables.TABLE.search(text)
    assert tables.filled(text) == text, "python benchmarks/tables.py writes them anew"


def test_every_record_is_linked():
    text = tables.READMES[0].read_text()
    for path in tables.RESULTS.rglob("*.json"):
        assert f"]({path.relative_to(tables.HERE).as_posix()})" in text


def test_a_figure_written_by_hand_is_replaced():
    text = tables.READMES[0].read_text()
    figure = tables.TABLE.search(text)[3].splitlines()[2]
    assert tables.filled(text.replace(figure, "| 0 | by hand |")) == text


def test_another_record_makes_another_table(results):
    changed(results / "cpu" / "loop.json", lambda r: r["results"][1].update(ratio=7.7))
    assert "| 7.70 (0.85–1.01) |" in tables.filled(tables.READMES[0].read_text())


def test_tables_end_where_the_text_goes_on():
    text = "a\n<!-- loop: cpu/loop.json -->\nb | c\n"
    filled = tables.filled(text)
    assert filled.startswith("a\n<!-- loop: cpu/loop.json -->\n| model |")
    assert filled.endswith(" |\nb | c\n")


def test_records_of_two_machines_share_no_table(results):
    changed(results / "cpu" / "loop.json", lambda r: r["environment"].update(cpus=64))
    with pytest.raises(ValueError, match=r"one machine and one JAX.*64"):
        tables.filled("<!-- costs: cpu -->\n")


@pytest.mark.parametrize(
    ("comment", "error", "said"),
    [
        ("lop: cpu/loop.json", ValueError, r"expected one of update.*'<!-- lop: "),
        ("loop: cpu/lop.json", OSError, "lop.json"),
    ],
)
def test_a_comment_that_names_nothing_is_an_error(comment, error, said):
    with pytest.raises(error, match=said):
        tables.filled(f"<!-- {comment} -->\n")
