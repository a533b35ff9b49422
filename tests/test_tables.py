import json
import re
import shutil
import statistics

import pytest
import speedrun_report
import tables

FIGURES = re.compile(r"^\|.* \(\d.*\d\).*\|$", re.M)
"""Lines of tables with a spread."""


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
    written = "".join(found[3] for found in tables.TABLE.finditer(text))
    assert len(FIGURES.findall(text)) == len(FIGURES.findall(written))
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


def test_a_folder_without_all_its_records_is_an_error(results):
    (results / "cpu" / "train_step.json").unlink()
    with pytest.raises(ValueError, match="train_step are missing"):
        tables.filled("<!-- costs: cpu -->\n")


def test_the_loop_is_told_by_time_where_it_was_measured_by_speed(results):
    record = results / "cpu" / "loop.json"
    slower = {"ratio": 0.5, "ratio_min": 0.25, "ratio_max": 1.0}
    changed(record, lambda r: [found.update(slower) for found in r["results"]])
    assert "|  |  | 2.00 (1.00–4.00) | loop |" in tables.filled("<!-- costs: cpu -->\n")


@pytest.mark.parametrize("control", ["airbench", "head-late"])
def test_the_speed_run_is_told_by_policy_with_paired_differences(results, control):
    def run(policy, seed, accuracy):
        seen = {"accuracy": accuracy, "plain": accuracy - 0.01, "seconds": 3.0 + seed}
        look = [10, accuracy / 2]
        return {"policy": policy, "seed": seed, **seen, "curve": [look]}

    ours, theirs = [0.9, 0.92, 0.91], [0.9, 0.9, 0.9]
    runs = [run(control, seed, value) for seed, value in enumerate(theirs)]
    runs += [run("norms-fall", seed, value) for seed, value in enumerate(ours)]
    summary = speedrun_report.summary(runs, [control, "norms-fall"])
    record = {"steps": 20, "results": runs, "summary": summary}
    (results / "speedrun.json").write_text(json.dumps(record))
    text = tables.filled("<!-- speedrun: speedrun.json -->\n")
    difference = "+1.00 (−1.48 to +3.48)"
    assert text.splitlines()[1:] == [
        f"| policy | n | 10 steps | 20 steps, % | by {control}, points | seconds |",
        "| --- | --- | --- | --- | --- | --- |",
        f"| {control} | 3 | 45.0 | 90.00 ± 0.00 |  | 4.00 ± 1.00 |",
        f"| norms-fall | 3 | 45.5 | 91.00 ± 1.00 | {difference} | 4.00 ± 1.00 |",
    ]


@pytest.mark.parametrize(
    ("policy", "sign"), [("cascade", 1), ("late-first", -1), ("freezeout", -1)]
)
def test_the_sentence_on_the_study_says_what_its_summary_holds(policy, sign):
    page = tables.READMES[1].parent / "experiments" / "README.md"
    folder = page.parents[1] / "docs" / "studies" / "cifar10-shallow"
    rows = json.loads((folder / "summary.json").read_text())["rows"]
    (row,) = (row for row in rows if row["policy"] == policy)
    difference = row["answers"]["accuracy"]["difference"]
    low, high = sorted(100 * sign * bound for bound in difference["interval"])
    text = " ".join(page.read_text().split())
    words = {
        "cascade": "by {:.1f} points ({:.1f} to {:.1f})",
        "late-first": "ends {:.1f} points lower (95 % interval {:.1f} to {:.1f})",
        "freezeout": "costs {:.1f} ({:.1f} to {:.1f})",
    }
    assert words[policy].format(100 * sign * difference["mean"], low, high) in text


def test_the_text_on_the_speed_run_says_what_its_records_hold():
    text = " ".join(tables.READMES[0].read_text("utf-8").split())

    def rows(name):
        record = json.loads((tables.RESULTS / "cpu" / f"{name}.json").read_text())
        return {row["policy"]: row for row in record["summary"]}, record["results"]

    def ahead(name):
        return 100 * rows(name)[0]["uniform"]["accuracy"]["minus_airbench"]["mean"]

    def on_the_way(policy):
        runs = [run for run in rows("speedrun")[1] if run["policy"] == policy]
        looks = zip(*(run["curve"] for run in runs), strict=True)
        return {of[0][0]: statistics.fmean(value for _, value in of) for of in looks}

    slow, fast = on_the_way("airbench"), on_the_way("uniform")
    early, later = (f"{100 * looks[48]:.0f}" for looks in (slow, fast))
    assert f"{early} % after 48 steps, against {later}" in text
    assert all(fast[step] > slow[step] for step in slow)
    best = 100 * rows("speedrun_double")[0]["uniform"]["accuracy"]["mean"]
    assert f"ahead by {-ahead('speedrun_half'):.1f} points" in text
    assert f"behind by {ahead('speedrun_double'):.0f}" in text
    assert f"the highest accuracy of all, {best:.1f} on three seeds" in text
    others = rows("speedrun")[0].values()
    assert all(100 * row["accuracy"]["mean"] < best for row in others)
