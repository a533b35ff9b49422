import csv
import dataclasses
import html.parser
import io
import json
import math
import re

import numpy as np
import pytest
import rich.cells
import rich.console
import written

from experiments import __main__ as command
from experiments.analysis import compare
from experiments.analysis.questions import questions
from experiments.analysis.significance import Difference, Time
from experiments.config.measures import ACCURACY
from experiments.records import records
from experiments.report import charts, contents, report, tables, writers
from experiments.terminal import display

NAMES = ["conv1", "conv2", "head"]
QUESTION = questions(ACCURACY)["accuracy"]
EARLY = "Faster than uniform: <later> layers & the first."


CONTROLS = {"freezeout": "uniform-cosine"}
SESSION = {
    "started": "2026-01-01T00:00:00+00:00",
    "command": ["python", "-m", "experiments", "study", "--name", "a b"],
    "commit": "abc123",
    "dirty": False,
    "data_checksum": "c0ffee",
    "versions": {"jax": "0.10"},
    "device": {"kind": "cpu", "count": 1},
}


def events(policy, seed, steps=64, status="finished", test=0.5):
    """One run; without a status, one that has not ended."""
    run = {"policy": policy, "seed": seed}
    for step in range(8, steps + 1, 8):
        done = step / 64
        at = run | {"step": step, "images": 32 * step, "seconds": step / 100}
        slope = 1.0 if policy == "uniform" else 1.5 - done
        yield at | {
            "kind": "train",
            "loss": 2.3 - done,
            "accuracy": done / 2,
            "rate": 0.02 if done < 0.5 else 0.002,
            "multipliers": [slope, 1.0, 0.0 if policy == "freezeout" else 2 - slope],
        }
        if step % 16 == 0:
            accuracy = 0.1 + 0.4 * done + 0.01 * seed
            yield at | {"kind": "validation", "loss": 2.3 - done, "accuracy": accuracy}
    finished = status == "finished"
    if status:
        yield at | {
            "kind": "end",
            "status": status,
            "test_loss": 1.5 if finished else None,
            "test_accuracy": test + 0.01 * seed if finished else None,
        }


POLICIES = ("uniform", "uniform-cosine", "early-first", "freezeout")


def study(folder, runs, policies=POLICIES, seeds=2, **changes):
    text = {"summary": "What it does.", "expectation": EARLY, "source": "someone"}
    config = {
        "name": "demo",
        "model": "cnn-shallow",
        "data": "sample",
        "seeds": list(range(seeds)),
        "thresholds": [0.3, 0.9],
        "archive": None,
        "layers": {"names": NAMES, "level": [0, 1, 2], "members": {}},
        "policies": {
            name: text | {"control": CONTROLS.get(name, "uniform")} for name in policies
        },
        "total_steps": 64,
    }
    told = tuple(event for run in runs for event in run)
    return records.Records(folder, config | changes, (SESSION,), told)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    recorded = study(
        folder,
        [
            *(events("uniform", 0), events("uniform", 1)),
            *(events("uniform-cosine", 0), events("uniform-cosine", 1)),
            *(events("early-first", 0), events("early-first", 1, 24, "diverged")),
            *(events("freezeout", 0), events("freezeout", 1)),
        ],
    )
    report.build(recorded)
    return recorded


def page(recorded):
    return (recorded.folder / "report.html").read_text()


class Page(html.parser.HTMLParser):
    """Collects what stands in a page, what it would load, and tags left open.

    Attributes:
        loaded: addresses.
        ids: of all elements.
        open: names of tags that were not closed.
        tags: names of all tags, and of their attributes.
        policies: what is marked as belonging to a policy.
        texts: what stands between tags; breaks forbidden or not are spaces.
        tables: their lines, headings first.
    """

    EMPTY = ("meta", "img", "br", "link", "hr", "input")

    def __init__(self, text):
        super().__init__()
        self.loaded, self.ids, self.open, self.tags = [], [], [], set()
        self.policies, self.texts, self.tables = set(), [], []
        self.feed(text)
        self.tables = [tuple(map(tuple, lines)) for lines in self.tables]

    def handle_data(self, text):
        text = text.replace("\xa0", " ")
        self.texts.append(text)
        if self.open and self.open[-1] in ("th", "td"):
            self.tables[-1][-1].append(text)

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag not in self.EMPTY:
            self.open.append(tag)
        self.tags.add(tag)
        for name, value in attributes:
            self.tags.add(name)
            if name == "data-policy":
                self.policies.add(value)
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "srcset", "data"):
                self.loaded.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.EMPTY:
            self.open.pop()


def test_the_page_is_well_formed_and_loads_nothing(built):
    parsed = Page(page(built))
    assert parsed.open == []
    assert all(link.startswith(("#", "data:")) for link in parsed.loaded)
    assert "default-src 'none'" in page(built)


def test_no_two_elements_share_an_id_and_references_lead_somewhere(built):
    parsed = Page(page(built))
    assert len(set(parsed.ids)) == len(parsed.ids)
    references = {link[1:] for link in parsed.loaded if link.startswith("#")}
    assert references <= set(parsed.ids)
    assert len(references) == len(POLICIES)


def tables_of(recorded):
    """The tables, without the figures, which take their time."""
    return contents.Study(recorded).tables


def lines(recorded, title):
    """The cells of the table with a title, by policy."""
    (table,) = (table for table in tables_of(recorded) if table.title == title)
    return {policy: cells for policy, *cells in table.lines}


def test_the_page_says_that_it_is_a_demonstration_once_and_holds_every_table(built):
    assert page(built).count("A demonstration, not evidence") == 1
    parsed = Page(page(built))
    told = contents.Study(built)
    assert all(note in parsed.texts for t in told.tables for note in t.notes)
    for table in (told.shown, *told.tables[1:]):
        assert (table.headings, *table.lines) in parsed.tables
    found = lines(built, "Expected and found")
    assert all("found" not in cell for line in found.values() for cell in line)


def five_seeds(folder, **expects):
    """A study in which early-first is better by 10 points, and not faster."""
    policies = ("uniform", "early-first")
    noise = (0.001, -0.001, 0.002, -0.002, 0.0)
    runs = [
        events(policy, seed, test=0.5 if policy == "uniform" else 0.6 + noise[seed])
        for policy in policies
        for seed in range(5)
    ]
    recorded = study(folder, runs, policies, seeds=5, data="cifar10")
    if expects:
        recorded.config["policies"]["early-first"]["expects"] = expects
    return recorded


def test_enough_seeds_on_the_whole_set_bring_verdicts_on_each_question(tmp_path):
    recorded = five_seeds(tmp_path)
    assert contents.Study(recorded).caveats == []
    control, n, _, *said = lines(recorded, "Results")["early-first"]
    assert (control, n) == ("uniform", "5")
    assert said[:3] == ["+10.0", "+9.8 to +10.2", "< 0.001"]
    assert lines(recorded, "Speed")["early-first"][1:4] == ["+0.0", "–", "1.000"]
    assert lines(recorded, "Expected and found")["early-first"][1:] == [
        "expected: open\nfound: higher",
        "expected: open\nfound: same\nwithin 0.5 points: p < 0.001",
    ]


def test_the_page_leaves_out_columns_of_which_nothing_can_be_said(tmp_path, built):
    intervals = {"95 % interval", "p (Holm)"}
    assert not intervals & {*contents.Study(built).shown.headings}
    assert intervals <= {*contents.Study(five_seeds(tmp_path)).shown.headings}


def test_the_page_begins_with_what_came_out(tmp_path):
    recorded = five_seeds(tmp_path)
    text = " ".join(report.build(recorded).read_text().split())
    said = (
        "2 policies × 5 seeds of cnn-shallow on CIFAR-10, 64 steps a run.</strong> "
        "Test accuracy: higher under early-first (+10.0 against uniform, +9.8 to "
        "+10.2). Learning-curve area: the same within 0.5 points under early-first."
    )
    assert said in text
    assert text.index(said) < text.index("<figure")
    assert "A demonstration" not in text


def test_a_demonstration_says_how_far_differences_reach(built):
    assert contents.Study(built).result.startswith(
        "Test accuracy: +0.0 points (uniform-cosine) to "
    )


def test_expectations_are_held_against_what_was_found(tmp_path):
    recorded = five_seeds(tmp_path, accuracy="lower", speed="same")
    assert lines(recorded, "Expected and found") == {
        "uniform": [EARLY, "baseline", "baseline"],
        "early-first": [
            EARLY,
            "expected: lower\nfound: contradicted",
            "expected: same\nfound: supported\nwithin 0.5 points: p < 0.001",
        ],
    }


def test_what_diverged_brings_no_verdict(tmp_path):
    policies = ("uniform", "early-first")
    runs = [events(policy, seed) for policy in policies for seed in range(5)]
    runs[-1] = events("early-first", 4, 24, "diverged")
    recorded = study(tmp_path, runs, policies, seeds=5, data="cifar10")
    found = lines(recorded, "Expected and found")["early-first"]
    assert found[1].endswith("found: no verdict")


def test_the_page_says_what_pairing_means_and_that_no_rate_was_tuned(built):
    assert "start from the same weights" in " ".join(page(built).split())
    assert "No learning rate was tuned" in page(built)


def test_a_policy_that_anneals_is_compared_with_a_control_that_does(tmp_path):
    policies = ("uniform", "uniform-cosine", "freezeout")
    tests = {"uniform": 0.5, "uniform-cosine": 0.55, "freezeout": 0.52}
    runs = [events(policy, 0, test=test) for policy, test in tests.items()]
    recorded = study(tmp_path, runs, policies, seeds=1)
    found = lines(recorded, "Results")
    assert [found["freezeout"][i] for i in (0, 3)] == ["uniform-cosine", "−3.0"]
    assert [found["uniform-cosine"][i] for i in (0, 3)] == ["uniform", "+5.0"]


def test_words_of_policies_are_escaped_and_whole(built):
    assert "Faster than uniform: &lt;later&gt; layers &amp; the first." in page(built)


def test_the_page_tells_how_to_run_it_again(built):
    parsed = Page(page(built))
    again = "git checkout abc123\npython -m experiments study --name 'a b'"
    assert again in parsed.texts
    assert "c0ffee" in parsed.texts


def test_marks_are_told_in_steps(built):
    reached, missed = lines(built, "Speed")["uniform"][-2:]
    assert (reached, missed) == ("32", "> 64 (0/2)")


def test_diverged_runs_are_shown_and_never_reach_a_mark(built):
    assert "1 of 2 diverged" in page(built)
    reached, missed = lines(built, "Speed")["early-first"][-2:]
    assert reached.endswith("(1/2)")
    assert missed.startswith("> 64")


def test_every_policy_has_its_map_and_its_figures(built):
    text = page(built)
    for policy in POLICIES:
        assert f'alt="multipliers of {policy}, layer by step"' in text
        assert f'aria-label="per-layer learning rate of {policy}"' in text
    held = json.loads(text.split('type="application/json">')[1].split("</script>")[0])
    assert len(held["charts"]) == text.count("<figure ")
    named = {name for chart in held["charts"] for name in chart["datasets"]}
    assert named == held["datasets"].keys()


@pytest.mark.parametrize("load", [None, 0.1, 1.5])
def test_seconds_are_drawn_only_where_the_machine_did_nothing_else(load, tmp_path):
    session = SESSION | ({} if load is None else {"load": load, "cpu_count": 2})
    recorded = study(tmp_path, [events("uniform", 0)], ("uniform",))
    told = contents.Study(dataclasses.replace(recorded, sessions=(session,)))
    curves = told.figures(charts.pens_for(["uniform"]), legend=False).curves
    assert ("seconds" in told.shown.headings) == (load == 0.1)
    assert ("validation accuracy by training" in curves) == (load == 0.1)


def test_single_figures_are_written_for_a_paper(tmp_path):
    recorded = study(tmp_path, [events("uniform", 0), events("early-first", 0)])
    report.build(recorded, figures="svg")
    written = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {
        "difference-test-accuracy.svg",
        "curve-validation-accuracy-by-steps.svg",
        "layers-early-first-multipliers.svg",
    } <= written
    curve = tmp_path / "figures" / "curve-validation-accuracy-by-steps.svg"
    assert ">early-first<" in curve.read_text()  # the legend; the page has its own


def test_the_summary_holds_the_table(built):
    summary = json.loads((built.folder / "summary.json").read_text())
    rows = {row["policy"]: row for row in summary["rows"]}
    assert rows["uniform"]["answers"]["accuracy"]["mean"] == pytest.approx(0.505)
    assert rows["uniform"]["answers"]["speed"]["mean"] == pytest.approx(0.355)
    assert rows["early-first"]["diverged"] == 1
    assert len(summary["caveats"]) == 2


def test_building_again_gives_the_same_page(tmp_path):
    recorded = study(tmp_path, [events("uniform", 0)], ("uniform",))
    report.build(recorded)
    before = page(recorded)
    report.build(recorded)
    assert page(recorded) == before


def test_a_study_cut_short_still_has_a_report(tmp_path):
    runs = [events("uniform", 0), events("early-first", 0, 24, None)]
    recorded = study(tmp_path, runs)
    report.build(recorded)
    assert "only 1 of 8 runs came to their end" in page(recorded)
    assert "1 of 1 interrupted" in page(recorded)


def test_a_study_without_a_single_step_still_has_a_report(tmp_path):
    recorded = study(tmp_path, [])
    report.build(recorded)
    assert "No run came far enough" in page(recorded)


def test_a_run_without_a_single_step_still_has_a_report(tmp_path):
    end = {"kind": "end", "policy": "uniform", "seed": 0, "step": 0, "images": 0}
    end |= {"seconds": 0, "status": "diverged"}
    end |= {"test_loss": None, "test_accuracy": None}
    recorded = study(tmp_path, [[end]])
    report.build(recorded)
    assert "1 of 1 diverged" in page(recorded)


def test_a_study_whose_losses_were_never_finite_still_has_a_report(tmp_path):
    bad = [event | {"loss": None} for event in events("uniform", 0, 16, "diverged")]
    recorded = study(tmp_path, [bad])
    report.build(recorded)
    assert "1 of 1 diverged" in page(recorded)


def test_the_words_for_a_policy_come_from_its_records():
    used = np.array([[2.0, 1, 1], [3.0, 1, 0.5], [0.5, 1, 0]])
    text = contents.describe(used, NAMES)
    assert "conv1 went from 2 to 0.5 (lowest 0.5, highest 3)" in text
    assert "head went from 1 to 0." in text
    assert "Frozen for a part of the run: 1 of 3 layers." in text


def test_the_tables_put_figures_in_words(built):
    found = lines(built, "Results")
    area, seconds = "35.5 ± 0.7", "0.6"
    assert found["uniform"] == [
        *("–", "2", "50.5 ± 0.7", "baseline", "–", "–", area, seconds)
    ]
    early = ["uniform", "1", "50.0 (1 of 2 diverged)", "+0.0", "–", "–"]
    assert found["early-first"][:-2] == early


def test_a_difference_tells_of_pairs_that_are_missing(tmp_path):
    runs = [events("uniform", 0), events("early-first", 0), events("early-first", 1)]
    early = lines(study(tmp_path, runs), "Results")["early-first"]
    assert early[3] == "+0.0, n = 1"


def test_a_policy_without_a_pair_has_no_difference_and_is_no_baseline(tmp_path):
    runs = [events("uniform", 0), events("early-first", 1)]
    early = lines(study(tmp_path, runs), "Results")["early-first"]
    assert early[2:6] == ["51.0", "–", "–", "–"]


@pytest.mark.parametrize(
    ("p", "text"), [(None, "–"), (0.0004, "< 0.001"), (0.0312, "0.031"), (1.0, "1.000")]
)
def test_p_is_told_to_three_decimals(p, text, built):
    row = contents.Study(built).rows[1]
    difference = Difference(5, 0.1, (0.05, 0.15), p=0.0001, p_holm=p)
    assert tables.compared(row, compare.Answer({}, difference), QUESTION)[2] == text


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        (Time(1406.0, False), "1,406"),
        (Time(2812.0, True), "> 2,812"),
        (Time(9.0, False), "9"),
        (Time(math.inf, True), "never"),
    ],
)
def test_times_say_whether_they_are_bounds(steps, text):
    threshold = compare.Threshold(0.5, 3, 3, steps, Time(1, False), Time(7.25, False))
    assert tables.taken(threshold) == text


def shown(recorded, width):
    """What the terminal shows of a study, or a file if it has no width."""
    console = rich.console.Console(
        **{"width": width, "force_terminal": True} if width else {},
        **{"file": io.StringIO(), "color_system": None, "markup": False},
    )
    if not width:
        console.width = display.ENDLESS
    page = recorded.folder / "report.html"
    report.show(contents.Study(recorded), page, console)
    return console.file.getvalue()


def demo(folder, names=None, **changes):
    """Six policies as in the demonstration, or those of these names."""
    early = ("early-first", "late-first", "three-stage")
    names = names or ("uniform", *early, "uniform-cosine", "freezeout")
    noise = (0.001, -0.001, 0.002)
    runs = [
        events(name, seed, test=0.3 + 0.01 * i + i * noise[seed])
        for i, name in enumerate(names)
        for seed in range(3)
    ]
    return study(folder, runs, names, seeds=3, **changes)


def test_a_terminal_of_80_columns_shows_a_study_in_ten_lines(tmp_path):
    said = shown(demo(tmp_path), 80).splitlines()
    *said, read_on = said
    assert read_on == f"Read on: {tmp_path / 'report.html'}"
    *table, caveats = said
    assert caveats == (
        "A demonstration, not evidence: 3 seeds, fewer than 5; "
        "trained on the small bundled sample, not on the whole data set."
    )
    assert len(table) + 2 == 10
    assert max(map(len, table)) <= 80
    assert [re.split(r"\s{2,}", line.strip()) for line in table] == [
        [
            "policy",
            "test accuracy, %",
            "difference, points",
            "95 % interval",
            "seconds",
        ],
        ["uniform", "31.0 ± 1.0", "baseline", "–", "0.6"],
        ["early-first", "32.1 ± 1.1", "+1.1", "+0.7 to +1.4", "0.6"],
        ["late-first", "33.1 ± 1.1", "+2.1", "+1.4 to +2.9", "0.6"],
        ["three-stage", "34.2 ± 1.2", "+3.2", "+2.1 to +4.3", "0.6"],
        ["uniform-cosine", "35.3 ± 1.3", "+4.3", "+2.7 to +5.8", "0.6"],
        ["freezeout", "36.3 ± 1.4", "+1.1", "+0.7 to +1.4", "0.6"],
        [
            "Differences in points, to uniform; freezeout to uniform-cosine.",
        ],
    ]


@pytest.mark.parametrize("name", ["unfreeze-bottom-first", "p" * 100, "层" * 60])
def test_a_long_name_keeps_to_the_width_and_loses_no_letter(name, tmp_path):
    said = shown(demo(tmp_path, ("uniform", name)), 80)
    table = said.splitlines()[:-2]
    assert max(map(rich.cells.cell_len, table)) <= 80
    first = "".join(re.split(r"\s{2,}", line)[0] for line in table[2:-1])
    assert first == name
    assert "+0.7 to +1.4" in said


def test_what_is_no_terminal_gets_whole_lines(tmp_path):
    names = ("uniform", "p" * 100)
    said = shown(demo(tmp_path, names), None)
    assert [line.split()[0] for line in said.splitlines()[1:3]] == [*names]
    assert len(said.splitlines()) == 6


def test_every_process_that_worked_on_a_study_is_shown(tmp_path):
    later = SESSION | {"started": "2031-01-01", "versions": {"jax": "99.9"}}
    recorded = study(tmp_path, [events("uniform", 0)])
    page = report.build(dataclasses.replace(recorded, sessions=(SESSION, later)))
    text = page.read_text()
    assert text.count("Environment when it went on") == 1
    assert "2031-01-01" in text
    assert "99.9" in text
    assert "made with more than one set of versions" in text


def test_the_summary_is_of_the_shape_that_the_schema_promises(tmp_path):
    statuses = ("finished", "diverged", "")
    runs = [
        events(p, seed, status=statuses[seed]) for p in POLICIES for seed in (0, 1, 2)
    ]
    runs += [events(p, seed, test=0.4) for p in POLICIES[:2] for seed in (3, 4, 5)]
    told = contents.Study(study(tmp_path, runs, seeds=6)).summary
    records.check(records.plain(told), "summary", "summary.json")


def test_tables_are_left_behind_as_markdown_and_numbers(built):
    text = (built.folder / "report.md").read_text()
    assert "| early-first | uniform | 1 | 50.0 (1 of 2 diverged) | +0.0 | – |" in text
    assert "**A demonstration, not evidence:** 2 seeds" in text
    with (built.folder / "tables.csv").open() as file:
        uniform, *others = csv.DictReader(file)
    assert (uniform["study"], uniform["accuracy_difference"]) == ("demo", "")
    assert float(uniform["accuracy_mean"]) == pytest.approx(0.505)
    assert uniform["steps_to_90_percent_censored"] == "True"
    assert len(others) == 3


def test_numbers_hold_what_was_expected_and_the_interval(tmp_path):
    told = contents.Study(five_seeds(tmp_path, accuracy="higher"))
    _, early = csv.DictReader(io.StringIO(writers.numbers({"demo": told.summary})))
    assert early["accuracy_expected"] == "higher"
    assert early["accuracy_verdict"] == "supported"
    assert float(early["accuracy_difference"]) == pytest.approx(0.1)
    assert 0.09 < float(early["accuracy_low"]) < 0.1 < float(early["accuracy_high"])


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A study of one policy whose layers were measured, and of one that was not."""
    nothing = [None] * 5
    layers = {
        "kind": "layers",
        **dict(policy="uniform", seed=0, images=0, seconds=0.0),
        "gradient_norm": [1.0, 0.5, None],
        "update_ratio": [1e-3, 0.0, None],
        "step_quantiles": [[0.0, 0.1, 0.2, 0.3, 0.4], [0.0] * 5, nothing],
        "rotation": [0.0, 0.1, None],
    }
    at = [layers | {"step": step} for step in (0, 10)]
    runs = [[*at, *events("uniform", 0)], events("early-first", 0)]
    recorded = study(tmp_path_factory.mktemp("measured"), runs, POLICIES[::2])
    report.build(recorded)
    return recorded


@pytest.mark.parametrize(
    "what",
    [
        *("gradient norm of uniform", "relative update of uniform"),
        *("rotation since the start of uniform", "step sizes in conv1 of uniform"),
    ],
)
def test_what_was_measured_on_layers_is_drawn_where_it_was(what, measured):
    assert f'aria-label="{what}' in page(measured)
    assert what.replace("of uniform", "of early-first") not in page(measured)


def test_several_studies_are_joined_in_one_page(tmp_path, built):
    other = study(tmp_path / "b", [events("uniform", 0)], ("uniform",), name="other")
    path = report.join([built, other], tmp_path / "out")
    parsed = Page(path.read_text())
    assert parsed.open == []
    assert len(set(parsed.ids)) == len(parsed.ids)
    assert all(link.startswith(("#", "data:")) for link in parsed.loaded)
    joined, *_ = re.findall(r"<tbody>.*?</tbody>", path.read_text(), re.S)
    assert re.findall(r'data-label="study">(\w+)<', joined) == ["demo"] * 4 + ["other"]
    with (tmp_path / "out" / "joined.csv").open() as file:
        assert [row["study"] for row in csv.DictReader(file)] == ["demo"] * 4 + [
            "other"
        ]
    assert "| uniform | other |" in (tmp_path / "out" / "joined.md").read_text()


def sizes(folder, **of_last):
    """Studies of 20 and of 500 images a class; early-first is ahead in the first."""
    return [
        study(
            folder / name,
            [
                *(events("uniform", seed) for seed in range(5)),
                *(
                    events("early-first", seed, test=0.5 + difference)
                    for seed, difference in enumerate(differences)
                ),
            ],
            ("uniform", "early-first"),
            seeds=5,
            **{"name": name, "data": "cifar10", "images_per_class": images} | changes,
        )
        for name, images, differences, changes in (
            ("many", 500, (0.0, 0.001, 0.002, 0.004, 0.003), {}),
            ("few", 20, (0.1, 0.101, 0.102, 0.1, 0.102), of_last),
        )
    ]


def test_a_joined_page_begins_with_what_lies_between_the_studies(tmp_path):
    path = report.join(sizes(tmp_path), tmp_path / "out")
    text = " ".join(path.read_text().split())
    assert (
        "2 studies that differ in images per class.</strong> Difference in test "
        "accuracy to the baseline, from images per class 20 to 500: shrinks under "
        "early-first (+10.1 to +0.2)." in text
    )
    assert text.index('aria-label="test accuracy by images per class"') < text.index(
        'aria-label="difference by images per class"'
    )
    first, *_ = Page(path.read_text()).tables
    assert first[0] == (
        *("policy", "baseline", "20", "500", "500 − 20", "p (Holm)", "found"),
    )
    assert first[1][:4] == (
        *("early-first", "uniform", "+10.1 (+10.0 to +10.2)", "+0.2 (+0.0 to +0.4)"),
    )
    assert "The change is paired by seed" in text
    assert "| 20 | 500 | 500 − 20 |" in path.with_suffix(".md").read_text()


def test_what_the_joined_tables_show_is_kept_in_numbers(tmp_path):
    path = report.join(sizes(tmp_path), tmp_path / "out")
    told = records.read_json(path.with_suffix(".json"), "joined")
    assert (told["field"], told["studies"]) == (
        *("images_per_class", {"few": 20, "many": 500}),
    )
    _, early = told["questions"]["accuracy"]
    assert early["places"]["few"]["difference"]["mean"] == pytest.approx(0.101)
    assert early["change"]["mean"] == pytest.approx(-0.099)


def test_studies_that_differ_in_more_than_one_question_go_by_their_names(tmp_path):
    path = report.join(sizes(tmp_path, model="vgg5", rate=0.1), tmp_path / "out")
    text = " ".join(path.read_text().split())
    assert "2 studies.</strong> Difference in test accuracy" in text
    assert "from study many to few" in text
    assert "Welch's t test" in html.unescape(text)


def test_what_lies_between_demonstrations_has_no_verdict(tmp_path):
    many, few = sizes(tmp_path)
    few.config["seeds"] = list(range(6))
    path = report.join([many, few], tmp_path / "out")
    text = " ".join(path.read_text().split())
    assert "evidence: few: only 10 of 12 runs came to their end.</mark>" in text
    assert "changes by −9.9 points (early-first)" in text
    assert Page(path.read_text()).tables[0][0][-1] == "p (Holm)"
    told = json.loads(path.with_suffix(".json").read_text())
    assert told["questions"]["accuracy"][1]["verdict"] == "demonstration"


def test_figures_of_joined_studies_are_written_for_a_paper(tmp_path):
    report.join(sizes(tmp_path), tmp_path / "out", "svg")
    assert {path.name for path in (tmp_path / "out" / "figures").iterdir()} == {
        *("joined-test-accuracy.svg", "joined-difference.svg"),
    }


def test_a_policy_has_one_colour_in_all_studies_of_a_page(tmp_path):
    names = ("uniform", "early-first"), ("uniform", "freezeout", "early-first")
    several = [
        study(tmp_path / name, [events(p, 0) for p in policies], policies, name=name)
        for name, policies in zip("ab", names, strict=True)
    ]
    text = report.join(several, tmp_path / "out").read_text()
    held = json.loads(text.split('type="application/json">')[1].split("</script>")[0])
    colours = {
        pair
        for chart in held["charts"]
        for layer in chart.get("layer", [])
        if (scale := layer["encoding"].get("color", {}).get("scale", {}))
        and "uniform" in scale.get("domain", [])
        for pair in zip(scale["domain"], scale["range"], strict=True)
    }
    assert {name for name, _ in colours} == set(names[1])
    assert len(colours) == 3
    for name, colour in colours:
        assert f'style="--pen: {colour}"></span>{name}<' in text


def test_studies_of_one_name_cannot_be_told_apart(built, tmp_path):
    with pytest.raises(ValueError, match="expected studies with different names"):
        report.join([built, built], tmp_path)


HOSTILE = [
    "</script><b onclick='x'>",
    "=1+cmd|' /C calc'!A0",
    "a|b `c` *d* _e_ [f](g) <i>h</i> &lt; ~i~",
    "\x1b[2J\x00\ud800\u202e",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            '"><script>alert(1)</script>',
            r"a\q \1 \g<0>",
            r"$\frac{$",
            "@SUM(1)",
            "\t=1",
            "\n# heading\n- item",
            "{{ title }}{% if %}",
            "层😀",
        )
    ),
]
"""What the name of a study, policy or layer may be in records written by hand."""


def hostile(folder, name):
    """A study whose every word is this name."""
    policy = name.replace("/", "")
    recorded = study(
        folder,
        [events("uniform", 0), events(policy, 0), events(policy, 1)],
        ("uniform", policy),
        name=name,
        layers={"names": [name, "b", "c"], "level": [0, 1, 2], "members": {}},
    )
    about = {"summary": name, "expectation": name, "source": name, "control": "uniform"}
    recorded.config["policies"][policy] = about
    session = SESSION | {"command": ["python", name], "versions": {name: name}}
    return dataclasses.replace(recorded, sessions=(session,))


@pytest.mark.parametrize("name", HOSTILE)
def test_names_come_out_as_text_in_every_file(name, tmp_path, built):
    recorded, other = hostile(tmp_path, name), study(tmp_path / "b", [], name="other")
    harmless = study(tmp_path / "c", [events("uniform", 0)], ("uniform",))
    tags = Page(report.build(harmless).read_text()).tags
    seen, policy = display.legible(name), display.legible(name.replace("/", ""))
    for path in (report.build(recorded), report.join([recorded, other], tmp_path)):
        parsed = Page(path.read_text())
        assert parsed.open == []
        assert parsed.tags <= tags
        assert policy in parsed.policies
        assert seen in "".join(parsed.texts)
        for line in path.with_suffix(".md").read_text().splitlines():
            letters = line.replace("**A demonstration, not evidence:**", "**")
            letters = re.sub(r"\\.|<br>", "", letters).removeprefix("**")
            assert not re.search("[<`*_[~$]", letters)
            assert line[:3] in ("", "# ", "## ") or line[:2] in ("| ", "- ", "# ", "**")
    for path in (tmp_path / "tables.csv", tmp_path / "joined.csv"):
        with path.open(newline="") as file:
            first, *_ = lines = list(csv.DictReader(file))
        assert first["study"].removeprefix("'") == seen
        for cell in (cell for line in lines for cell in line.values()):
            assert not cell.strip(" ").startswith(tuple("=+-@\t\r\n")) or float(cell)
    assert "\x1b" not in shown(recorded, 80)


def test_negative_numbers_stay_numbers_in_a_spreadsheet(tmp_path):
    runs = [events("uniform", 0), events("early-first", 0, test=0.4)]
    recorded = study(tmp_path, runs, POLICIES[::2], seeds=1, name="-1+1")
    report.build(recorded)
    with (tmp_path / "tables.csv").open() as file:
        _, early = csv.DictReader(file)
    assert early["study"] == "'-1+1"
    assert float(early["accuracy_difference"]) == pytest.approx(-0.1)


def test_lines_of_a_markdown_table_have_as_many_cells_whatever_they_hold():
    table = tables.Table("t", ("policy", "x"), ((r"a|b\|c", "d\ne\r\nf"),), ())
    text = writers.markdown("title", (), [table])
    assert text.splitlines()[-1] == r"| a\|b\\\|c | d<br>e<br>f |"


def test_a_folder_that_may_only_be_read_is_reported_elsewhere(tmp_path):
    folder, out = tmp_path / "study", tmp_path / "new" / "out"
    folder.mkdir()
    recorded = study(folder, [events("uniform", 0)], ("uniform",))
    assert report.build(recorded, out) == out / "report.html"
    assert list(folder.iterdir()) == []
    made = {path.name for path in out.iterdir()}
    assert made == {"report.html", "report.md", "tables.csv", "summary.json"}


@pytest.mark.slow
def test_the_command_joins_several_folders_and_leaves_them_alone_with_out(
    tmp_path, capsys
):
    about = written.CONFIG | {"name": "other"}
    a = written.study(tmp_path / "a", [written.TRAIN, written.END])
    b = written.study(tmp_path / "b", [written.TRAIN, written.END], about)
    out = tmp_path / "out"
    before = {path for folder in (a, b) for path in folder.rglob("*")}
    assert command.main(["report", str(a), str(b), "--out", str(out)]) == 0
    pages = [f"{about['name']}/report.html" for about in (written.CONFIG, about)]
    made = [out / page for page in (*pages, "joined.html")]
    assert capsys.readouterr().out.split() == [str(path) for path in made]
    assert all(path.exists() for path in made)
    assert {path for folder in (a, b) for path in folder.rglob("*")} == before
    assert command.main(["report", str(a), str(b)]) == 0
    made = [a / "report.html", b / "report.html", a / "joined.html"]
    assert capsys.readouterr().out.split() == [str(path) for path in made]


def noisy_run(policy, seed, layers, steps=12_800):
    """A run recorded 128 times, evaluated and measured 64 times.

    From layer to layer values lie decades apart, from step to step they differ by a
    fifth, as under rules that measure.
    """
    rng = np.random.default_rng([seed, *policy.encode()])
    run = {"policy": policy, "seed": seed}
    scale = rng.lognormal(sigma=1.5, size=(9, layers))
    for step in range(100, steps + 1, 100):
        at = run | {"step": step, "images": 128 * step, "seconds": step / 10}
        loss, accuracy = 2.3 * rng.random(2)
        yield at | {
            "kind": "train",
            "loss": loss,
            "accuracy": accuracy / 2.3,
            "rate": 0.1 * (1 - step / (steps + 1)),
            "multipliers": (scale[8] * rng.lognormal(sigma=0.2, size=layers)).tolist(),
        }
        if step % 200 == 0:
            yield at | {"kind": "validation", "loss": loss, "accuracy": accuracy / 2.3}
            values = scale[:8] * rng.lognormal(sigma=0.2, size=(8, layers))
            yield at | {
                "kind": "layers",
                "gradient_norm": values[0].tolist(),
                "update_ratio": values[1].tolist(),
                "rotation": values[2].tolist(),
                "step_quantiles": np.sort(values[3:].T).tolist(),
            }
    yield at | {
        "kind": "end",
        "status": "finished",
        "test_loss": 1.0,
        "test_accuracy": float(0.5 + 0.01 * rng.random()),
    }


@pytest.mark.slow
def test_a_page_of_fifty_runs_keeps_to_five_megabytes(tmp_path):
    names = [f"layer{i}" for i in range(110)]
    layers = {"names": names, "level": list(range(110)), "members": {}}
    policies = ["uniform", *(f"policy{i}" for i in range(24))]  # as many as there are
    runs = [noisy_run(policy, seed, 110) for policy in policies for seed in range(2)]
    recorded = study(tmp_path, runs, policies, layers=layers)
    assert report.build(recorded).stat().st_size < 5_000_000


# A study of text.


@pytest.fixture(scope="module")
def on_text(tmp_path_factory):
    """Five seeds, in which early-first ends 0.1 to 0.14 nats below uniform."""

    def run(policy, seed):
        lower = (0.1 + 0.01 * seed) * (policy == "early-first")
        for event in events(policy, seed):
            if event["kind"] == "validation":
                event["loss"] -= lower
            if event["kind"] == "end":
                event["test_loss"] -= lower
            yield event

    policies = ("uniform", "early-first")
    recorded = study(
        tmp_path_factory.mktemp("text"),
        [run(policy, seed) for seed in range(5) for policy in policies],
        policies=policies,
        seeds=5,
        model="gpt",
        data="stdlib",
    )
    about = recorded.config["policies"]["early-first"]
    about["expects"] = {"loss": "same", "speed": "lower"}
    report.build(recorded)
    return recorded


def test_a_study_of_text_is_told_in_losses_and_steps(on_text):
    results, speed, found = contents.Study(on_text).tables
    cells = dict(zip(results.headings, results.lines[1], strict=True))
    assert cells["test loss, nats a byte"] == "1.380 ± 0.016"
    assert cells["difference, nats"] == "−0.120"
    assert cells["95 % interval"] == "−0.140 to −0.100"
    # The loss falls by 1 over 64 steps, so 0.1 nats are 6.4 of them.
    assert cells["steps to the same loss"] == "0.88"
    assert speed.headings[2:] == (
        "steps, by the baseline's",
        "95 % interval",
        "p (Holm)",
    )
    assert speed.lines[1][2:4] == ("0.88", "0.86 to 0.90")
    assert found.lines[1][2:] == (
        "expected: same\nfound: contradicted",
        "expected: lower\nfound: supported",
    )
    notes = " ".join(note for table in (results, speed, found) for note in table.notes)
    assert "accuracy" not in notes
    assert "Lower is better" in notes
    assert "within 0.01 nats, or within 5 % of the steps" in notes


def test_the_page_of_a_study_of_text_says_loss_where_others_say_accuracy(on_text):
    text = " ".join(Page(page(on_text)).texts)
    assert "source of Python's standard library" in text
    assert "Test loss: lower under early-first (−0.120 against uniform" in text
    assert "Steps to the same loss: lower under early-first (0.88 against" in text
    charts_of = contents.Study(on_text).figures(charts.pens_for(["a"]), legend=True)
    assert [*charts_of.curves] == ["validation loss by steps", "training loss by steps"]
    assert [*charts_of.differences] == ["test loss", "steps to the same loss"]
    drawn = charts.spec(charts_of.differences["steps to the same loss"])
    rows = [row for layer in drawn["datasets"].values() for row in layer]
    assert {"x": 1.0} in rows  # where there is no difference
    assert next(row["mean"] for row in rows if "mean" in row) == pytest.approx(
        0.88, 0.01
    )
    for word in ("images", "accuracy"):
        assert word not in text.replace(EARLY, "")


def test_the_summary_of_a_study_of_text_is_of_the_schema(on_text):
    summary = json.loads((on_text.folder / "summary.json").read_text())
    records.check(summary, "summary", "the summary")
    assert summary["questions"] == {
        "loss": "test loss",
        "speed": "steps to the same loss",
    }


def test_studies_of_images_and_of_text_are_joined_without_common_tables(
    built, on_text, tmp_path
):
    named = dataclasses.replace(on_text, config=on_text.config | {"name": "text"})
    joined = report.join([built, named], tmp_path).read_text()
    assert "test accuracy" in joined
    assert "test loss" in joined


def test_a_terminal_is_told_of_losses(on_text):
    console = rich.console.Console(file=io.StringIO(), width=200)
    study = contents.Study(on_text)
    report.show(study, on_text.folder / "report.html", console)
    told = console.file.getvalue()
    assert "test loss, nats a byte" in told
    assert "Differences in nats, to uniform." in told
