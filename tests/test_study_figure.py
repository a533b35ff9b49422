"""Figures that are drawn from what was kept of a study, summary.json or joined.json."""

import json
import math
import pathlib
import statistics

import joined_figure
import pytest
import study_figure

from experiments.report import charts

SHALLOW = pathlib.Path(__file__).parents[1] / "docs" / "studies" / "cifar10-shallow"
QUESTIONS = {
    "accuracy": "difference in test accuracy",
    "speed": "difference in learning-curve area",
}
SUMMARY = json.loads((SHALLOW / "summary.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_figure_holds_the_differences_of_the_summary(question):
    spec = charts.spec(study_figure.chart(SUMMARY))
    (found,) = (of for of in spec["hconcat"] if QUESTIONS[question] in json.dumps(of))
    (name,) = {of["data"]["name"] for of in found["layer"] if "transform" in of}
    drawn = {row["policy"]: row for row in spec["datasets"][name]}
    told = {row["policy"]: row for row in SUMMARY["rows"] if row["policy"] != "uniform"}
    assert drawn.keys() == told.keys()
    for policy, row in told.items():
        found = row["answers"][question]["difference"]
        assert len(drawn[policy]["seeds"]) == found["n"]
        ends = [drawn[policy][end] for end in ("low", "high")]
        assert ends == pytest.approx([100 * end for end in found["interval"]], abs=1e-4)
        for mean in (drawn[policy]["mean"], statistics.fmean(drawn[policy]["seeds"])):
            assert mean == pytest.approx(100 * found["mean"], abs=1e-3)
        assert drawn[policy]["label"] == f"{policy} − {row['control']}"


def test_a_policy_without_a_difference_or_an_interval_is_drawn_without_it(tmp_path):
    none = {"values": {"1": 0.5}, "difference": None}
    some = {"values": {"0": 0.5, "1": 0.6}, "difference": {"interval": None}}
    rows = [
        {"policy": name, "control": "uniform", "answers": dict.fromkeys(QUESTIONS, of)}
        for name, of in (("uniform", none), ("a", some), ("b", none))
    ]
    summary = SUMMARY | {"rows": rows}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    path = study_figure.draw(tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")
    data = charts.spec(study_figure.chart(summary))["datasets"].values()
    (row,) = next(rows for rows in data if "policy" in rows[0])
    assert (row["policy"], row["seeds"], row["low"]) == ("a", [pytest.approx(10)], None)


def test_a_study_of_text_is_drawn_in_nats_and_in_ratios_of_steps():
    def answer(values, mean):
        return {"values": values, "difference": {"mean": mean, "interval": None}}

    none = {"values": {"0": 2.0}, "difference": None}
    rows = [
        {"policy": "uniform", "control": "uniform"}
        | {"answers": {"loss": none, "speed": none | {"values": {"0": 0.0}}}},
        {"policy": "a", "control": "uniform"}
        | {"answers": {"loss": answer({"0": 1.5}, -0.5), "speed": answer({"0": 1}, 1)}},
    ]
    summary = {"questions": dict.fromkeys(("loss", "speed")), "rows": rows}
    spec = charts.spec(study_figure.chart(summary))
    data = [of for of in spec["datasets"].values() if "policy" in of[0]]
    assert [row["mean"] for (row,) in data] == [-0.5, pytest.approx(math.e, abs=1e-3)]
    titles = json.dumps(spec)
    assert "difference in test loss, nats" in titles
    assert "steps to the same loss, times as many" in titles


def test_studies_side_by_side_are_drawn_as_joined_json_has_them():
    def line(policy, *means):
        ends = [{"mean": m, "interval": [m - 0.01, m + 0.01]} for m in means]
        places = {f"s{i}": {"difference": end} for i, end in enumerate(ends)}
        return {"policy": policy, "places": places}

    lines = [line("a", 0.02, 0.01), line("b", 0.03), line("far", -0.5, -0.4)]
    found = {"field": "images_per_class", "studies": {"s0": 20, "s1": 100}}
    found["questions"] = {"accuracy": lines, "speed": []}
    panels = {"one": found, "two": found}
    spec = charts.spec(joined_figure.chart(panels, ["a", "b"]))
    assert [panel["title"] for panel in spec["hconcat"]] == ["one", "two"]
    told = [
        [(row["policy"], row["place"], row["mean"], row["low"]) for row in rows]
        for rows in spec["datasets"].values()
        if "policy" in rows[0]
    ]
    assert told == [[("a", "20", 2, 1), ("a", "100", 1, 0), ("b", "20", 3, 2)]]
    assert "difference in test accuracy, points" in json.dumps(spec)
    with pytest.raises(SystemExit, match="--policies: c not among a, b, far"):
        joined_figure.chart(panels, ["a", "c"])
