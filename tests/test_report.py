import html.parser
import io
import json
import re

import numpy as np
import pytest
import rich.console
from matplotlib.image import imread

from experiments import compare, figures, records, report, table

NAMES = ["conv1", "conv2", "head"]
EARLY = "Faster than uniform: <later> layers & the first."


def events(policy, seed, steps=64, status="finished"):
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
            "multipliers": [slope, 1.0, 0.0 if policy == "frozen" else 2 - slope],
        }
        if step % 16 == 0:
            accuracy = 0.1 + 0.4 * done + 0.01 * seed
            yield at | {"kind": "validation", "loss": 2.3 - done, "accuracy": accuracy}
    finished = status == "finished"
    yield at | {
        "kind": "end",
        "status": status,
        "test_loss": 1.5 if finished else None,
        "test_accuracy": 0.5 + 0.01 * seed if finished else None,
    }


def study(folder, runs, policies=("uniform", "early-first", "frozen"), seeds=2):
    text = {"summary": "What it does.", "expectation": EARLY, "source": "someone"}
    config = {
        "name": "demo",
        "model": "cnn-shallow",
        "source": "sample",
        "seeds": seeds,
        "marks": [0.3, 0.9],
        "archive": None,
        "layers": {"names": NAMES, "level": [0, 1, 2], "members": {}},
        "policies": dict.fromkeys(policies, text),
        "total_steps": 64,
    }
    records.write_json(folder / "config.json", config)
    environment = records.environment(
        ["python", "-m", "experiments", "study", "--name", "a b"], checksum="c0ffee"
    )
    records.write_json(folder / "env.json", environment)
    with records.Log(folder) as log:
        for run in runs:
            for event in run:
                log.write(event)
    return records.read(folder)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    recorded = study(
        folder,
        [
            *(events("uniform", 0), events("uniform", 1)),
            *(events("early-first", 0), events("early-first", 1, 24, "diverged")),
            *(events("frozen", 0), events("frozen", 1)),
        ],
    )
    report.build(recorded)
    return recorded


def page(recorded):
    return (recorded.folder / "report.html").read_text()


class Page(html.parser.HTMLParser):
    """Collects what a page would load, its ids, and the tags that it left open."""

    EMPTY = ("meta", "img", "br", "link", "hr")

    def __init__(self, text):
        super().__init__()
        self.loaded, self.ids, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag not in self.EMPTY:
            self.open.append(tag)
        for name, value in attributes:
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
    assert not re.search(r"@import|url\((?!#)", page(built))


def test_no_two_elements_share_an_id_and_references_lead_somewhere(built):
    parsed = Page(page(built))
    assert len(set(parsed.ids)) == len(parsed.ids)
    references = {link[1:] for link in parsed.loaded if link.startswith("#")}
    references |= set(re.findall(r"url\(#([^)]+)\)", page(built)))
    assert references <= set(parsed.ids)


def test_the_page_says_that_it_is_a_demonstration(built):
    assert "A demonstration, not evidence" in page(built)
    assert "Demonstration: no verdict" in page(built)


def test_enough_seeds_on_the_whole_set_bring_verdicts(tmp_path):
    policies = ("uniform", "early-first")
    runs = [events(policy, seed) for policy in policies for seed in range(5)]
    recorded = study(tmp_path, runs, policies, seeds=5)
    recorded.config["source"] = "cifar10"
    report.build(recorded)
    assert "emonstration" not in page(recorded)
    assert "undecided: the interval holds 0" in page(recorded)


def test_words_of_policies_are_escaped_and_whole(built):
    assert "Faster than uniform: &lt;later&gt; layers &amp; the first." in page(built)


def test_the_page_tells_how_to_run_it_again(built):
    assert "python -m experiments study --name &#x27;a b&#x27;" in page(built)
    assert "c0ffee" in page(built)


def test_marks_not_reached_and_diverged_runs_are_shown(built):
    assert "not reached" in page(built)
    assert "1 of 2 diverged" in page(built)


def test_every_figure_says_what_it_shows(built):
    assert page(built).count("<svg ") == page(built).count('role="img" aria-label="')
    assert "multipliers of early-first, layer by step" in page(built)


def test_figures_take_their_ink_from_the_page(built):
    assert figures.INK not in re.sub(r"<style>.*?</style>", "", page(built), flags=re.S)
    assert "currentColor" in page(built)


def test_plots_hold_a_picture_for_each_policy(built):
    plots = built.folder / "plots"
    expected = {"curves.png", "uniform.png", "early-first.png", "frozen.png"}
    assert {path.name for path in plots.iterdir()} == expected
    picture = imread(plots / "early-first.png")
    assert picture[..., :3].std() > 0.05
    assert (picture[0, 0, :3] == 1).all()


def test_the_summary_holds_the_table(built):
    summary = json.loads((built.folder / "summary.json").read_text())
    rows = {row["policy"]: row for row in summary["rows"]}
    assert rows["uniform"]["mean"] == pytest.approx(0.505)
    assert rows["early-first"]["diverged"] == 1
    assert len(summary["caveats"]) == 2


def test_building_again_gives_the_same_page(built):
    before = page(built)
    report.build(built)
    assert page(built) == before


def test_a_study_cut_short_still_has_a_report(tmp_path):
    runs = [events("uniform", 0), events("early-first", 0, 24, "interrupted")]
    recorded = study(tmp_path, runs)
    report.build(recorded)
    assert "only 1 of 6 runs came to their end" in page(recorded)
    assert "1 of 1 interrupted" in page(recorded)


def test_a_study_without_a_single_step_still_has_a_report(tmp_path):
    end = {"kind": "end", "policy": "uniform", "seed": 0, "step": 0, "images": 0}
    end |= {"seconds": 0, "status": "interrupted"}
    end |= {"test_loss": None, "test_accuracy": None}
    recorded = study(tmp_path, [[end]])
    report.build(recorded)
    assert "No run came far enough" in page(recorded)


def test_a_study_whose_losses_were_never_finite_still_has_a_report(tmp_path):
    bad = [event | {"loss": None} for event in events("uniform", 0, 16, "diverged")]
    recorded = study(tmp_path, [bad])
    report.build(recorded)
    assert "1 of 1 diverged" in page(recorded)


def test_the_words_for_a_policy_come_from_its_records():
    runs = compare.runs(events("frozen", 0))
    (row,) = compare.rows(runs, ())
    used = np.array([[2.0, 1, 1], [3.0, 1, 0.5], [0.5, 1, 0]])
    text = report.describe(row, used, NAMES)
    assert "conv1 went from 2 to 0.5 (lowest 0.5, highest 3)" in text
    assert "head went from 1 to 0," in text.replace(".", ",")
    assert "Frozen for a part of the run: 1 of 3 layers." in text
    assert "Test accuracy: 50.0 %." in text


def test_the_heat_map_holds_the_multipliers_layer_by_step():
    steps, values = np.array([10, 20]), np.array([[2.0, 1.0, 0.0], [0.5, 1.0, 0.25]])
    drawn = figures.figure(
        lambda axes: figures.draw_multipliers(axes, steps, values, NAMES)
    )
    mesh = drawn.axes[0].collections[0].get_array()
    np.testing.assert_array_equal(mesh.filled(99), [[1, -1], [0, 0], [99, -2]])
    assert drawn.axes[0].yaxis_inverted()
    assert "frozen" in drawn.axes[0].get_title("left")


def test_realised_rates_break_off_where_a_layer_is_frozen():
    steps, rates = np.array([10, 20]), np.array([[0.1, 0.2, 0.0], [0.01, 0.02, 0.03]])
    drawn = figures.figure(lambda axes: figures.draw_rates(axes, steps, rates, NAMES))
    axes = drawn.axes[0]
    assert axes.get_yscale() == "log"
    np.testing.assert_array_equal(axes.get_lines()[2].get_ydata(), [np.nan, 0.03])


def test_rates_that_are_all_zero_can_be_drawn():
    zeros = np.zeros((2, 3))
    drawn = figures.figure(
        lambda axes: figures.draw_rates(axes, np.array([1, 2]), zeros, NAMES)
    )
    assert figures.svg(drawn, "a", "nothing").startswith("<svg")


def test_curves_show_the_mean_and_mark_a_seed_that_ended_early():
    steps = np.array([10.0, 20.0])
    curves = {"uniform": (steps, np.array([[1.0, 3.0], [2.0, np.nan]]))}
    drawn = figures.figure(lambda axes: figures.draw_curves(axes, curves, "t", "q"))
    line, cross = drawn.axes[0].get_lines()
    np.testing.assert_array_equal(line.get_ydata(), [1.5, 3.0])
    assert (cross.get_xdata(), cross.get_ydata()) == ([10.0], [2.0])


@pytest.mark.parametrize("count", [1, 3, 110])
def test_few_and_many_layers_have_legible_ticks(count):
    names = [f"layer{i}" for i in range(count)]
    values = np.ones((2, count))
    drawn = figures.figure(
        lambda axes: figures.draw_multipliers(axes, np.array([1, 2]), values, names)
    )
    labels = [label.get_text() for label in drawn.axes[0].get_yticklabels()]
    assert labels[0] == names[0]
    assert labels[-1] == names[-1]
    assert len(labels) <= 14


def test_an_id_prefix_keeps_figures_apart_and_text_is_escaped():
    drawn = figures.figure(lambda axes: axes.set_title("a < b"))
    text = figures.svg(drawn, "left", 'says "x" & y')
    assert 'aria-label="says &quot;x&quot; &amp; y"' in text
    assert all(found.startswith("left-") for found in re.findall(r' id="([^"]+)', text))


def rows(recorded):
    return compare.rows(compare.runs(recorded.events), recorded.config["marks"])


def test_the_table_puts_figures_in_words(built):
    uniform, early, _ = rows(built)
    assert table.cells(uniform)[:2] == ("50.5 ± 0.7", "baseline")
    assert table.cells(uniform)[2:] == ("32", "not reached", "0.6")
    assert table.cells(early)[:3] == (
        "50.0 (1 of 2 diverged)",
        "+0.0",
        "32 (1 of 2)",
    )


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_terminal_table_keeps_to_its_width_and_drops_nothing(width):
    name = "unfreeze-bottom-first"
    marks = (0.5, 0.6, 0.65, 0.7, 0.75)
    runs = compare.runs(
        [
            *(e for seed in range(3) for e in events("uniform", seed)),
            *(e for seed in range(3) for e in events(name, seed)),
        ]
    )
    expectations = dict.fromkeys((name, "uniform"), EARLY)
    console = rich.console.Console(width=width, file=io.StringIO())
    console.print(table.terminal(compare.rows(runs, marks), marks, expectations))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    words = " ".join(text.split())
    for word in (name, "seconds", "75", "± 1.0", "(+0.0", "baseline", "reached"):
        assert word in words
