"""The pages of studies: their numbers are those of the records.

A page NAME.md has its material in NAME/. A table below `<!-- FILE -->` is made of
results/FILE.json, the summary.json of a study, and one below `<!-- FILE QUESTION -->`
of a joined.json; `report` wrote both. Below `<!-- steps: STUDY … -->` are ratios of
results/steps.json, below `<!-- contrasts: STUDY … -->` those of results/contrasts.json.
Each difference with an interval in the text around stands in one of these files too. A
table below `<!-- rates: CELL … -->` has what tuning found, which is in
records/CELL.tune.tar.xz.
"""

import json
import math
import re
import runpy
import tarfile
from pathlib import Path

import pytest

from experiments.analysis import compare, questions
from experiments.config.measures import LOSS, measure_among

STUDIES = Path(__file__).parents[1] / "docs" / "studies"
PAGES = sorted(STUDIES.glob("*.md"))
TABLE = re.compile(r"^<!-- (\S+) (?:(\w+) )?-->\n\n((?:\|.*\n)+)", re.MULTILINE)
LISTED = re.compile(
    r"^<!-- (rates|steps|contrasts): (.+) -->\n\n((?:\|.*\n)+)", re.MULTILINE
)
ASKED = questions.questions(LOSS)
"""Of text, which contrasts are about."""
DIFFERENCE = re.compile(r"[+−]?\d+\.\d+ \([+−]?\d+\.\d+ to [+−]?\d+\.\d+\)")


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def question_of(found, name):
    return questions.questions(measure_among(found["questions"]))[name]


def said(difference, question):
    """With its interval, as pages have it."""
    ends = map(question.signed, difference["interval"])
    return f"{question.signed(difference['mean'])} ({' to '.join(ends)})"


def table(found, name):
    """Of several studies by the name of a question, of one without."""
    return _between(found, name) if name else _of_one(found)


def _of_one(found):
    """Of each policy what it differs by, for every question."""
    asked = {name: question_of(found, name) for name in found["questions"]}
    headings = [question.measure for question in asked.values()]
    rows = [("policy", *headings), ("---",) * (len(headings) + 1)]
    for line in found["rows"]:
        answers = [_cell(line["answers"][name], of) for name, of in asked.items()]
        rows.append((line["policy"], *answers))
    return _written(rows)


def _between(found, name):
    """Of each policy what it differs by in each study, and how much that changes."""
    question, lines = question_of(found, name), found["questions"][name]
    places = [str(place) for place in found["studies"].values()]
    rows = [
        ("policy", *places, f"{places[-1]} − {places[0]}"),
        ("---",) * (len(places) + 2),
    ]
    for line in lines:
        answers = [line["places"].get(study) for study in found["studies"]]
        rows.append((line["policy"], *(_cell(of, question) for of in answers)))
        change = line["change"]
        spread = change and change["interval"]  # none where all pairs differ alike
        rows[-1] += (said(change, question) if spread else "",)
    return _written(rows)


def steps(found, studies):
    """Of each policy its steps by its control's, or how often there were any."""
    shown = [found[study] for study in studies]
    rows = [("policy", *studies), ("---",) * (len(studies) + 1)]
    for policy in dict.fromkeys(policy for of in shown for policy in of):
        rows.append((policy, *(_steps(of.get(policy)) for of in shown)))
    return _written(rows)


def _steps(answer):
    if answer is None:
        return ""
    if answer["ratio"] is None:
        return f"reached in {answer['reached']} of {answer['runs']}"
    return said(answer["ratio"], questions.STEPS)


def contrasts(found, studies):
    """Of each contrast what it comes to in each study, for every question."""
    answers = {(study, name): found[study][name] for study in studies for name in ASKED}
    headings = [f"{study}, {ASKED[name].measure}" for study, name in answers]
    rows = [("contrast", *headings), ("---",) * (len(headings) + 1)]
    for contrast in dict.fromkeys(key for of in answers.values() for key in of):
        cells = [
            said(of[contrast], ASKED[name]) if of.get(contrast) else ""
            for (_, name), of in answers.items()
        ]
        rows.append((contrast, *cells))
    return _written(rows)


def rates(records, cells):
    """Of each policy the global rate that its runs have in each cell.

    With ↓ and ↑ where that is the smallest and the largest that was tried.
    """
    found = [_rates(records / f"{cell}.tune.tar.xz") for cell in cells]
    policies = dict.fromkeys(policy for of in found for policy in of)
    rows = [("policy", *cells), ("---",) * (len(cells) + 1)]
    rows += [(policy, *(of.get(policy, "") for of in found)) for policy in policies]
    return _written(rows)


def _rates(archive):
    with tarfile.open(archive) as opened:
        found = [
            (Path(name).name, json.load(opened.extractfile(name)))
            for name in opened.getnames()
            if name.endswith(".json")
        ]
    named = dict(found)
    numbers = named.get("study.json", named["best.json"])["numbers"]
    searches = [tables for name, tables in found if name == "trials.json"]
    return {
        policy: _marked(
            numbers[f"{policy}.rate"],
            [trial["rate"] for of in searches for trial in of[policy]],
        )
        for policy in searches[0]
    }


def _marked(rate, tried):
    marks = {min(tried): " ↓", max(tried): " ↑"}
    return f"{rate:.3g}{marks.get(rate, '')}"


def _written(rows):
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def _cell(answer, question):
    if answer is None:
        return ""
    if answer["difference"]:
        return said(answer["difference"], question)
    mean = question.shown(answer["mean"])
    if not (interval := answer.get("interval")):
        return mean
    return f"{mean} ({' to '.join(map(question.shown, interval))})"


def differences(found):
    """All that a file tells with an interval, as text."""
    for line in found.get("rows", ()):
        for name, answer in line["answers"].items():
            if answer["difference"]:
                yield said(answer["difference"], question_of(found, name))
    for name, lines in () if "rows" in found else found["questions"].items():
        for line in lines:
            told = [place["difference"] for place in line["places"].values()]
            for difference in filter(None, [*told, line["change"]]):
                if difference["interval"]:
                    yield said(difference, question_of(found, name))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_numbers_of_a_page_are_those_of_its_results(page):
    text, of = page.read_text(encoding="utf-8"), page.with_suffix("")
    found = {path.stem: read(path) for path in (of / "results").glob("*.json")}
    speed, more = found.pop("steps", {}), found.pop("contrasts", {})
    tables = TABLE.findall(text)
    assert tables
    for name, question, lines in tables:
        assert lines == table(found[name], question), f"{name}, {question}"
    make = {"rates": rates, "steps": steps, "contrasts": contrasts}
    taken_from = {"rates": of / "records", "steps": speed, "contrasts": more}
    for kind, names, lines in LISTED.findall(text):
        assert lines == make[kind](taken_from[kind], names.split()), kind
    told = {one for file in found.values() for one in differences(file)}
    told |= {_steps(answer) for file in speed.values() for answer in file.values()}
    told |= {
        said(difference, ASKED[name])
        for file in more.values()
        for name, of in file.items()
        for difference in of.values()
    }
    around = TABLE.sub("", text)
    assert set(DIFFERENCE.findall(around)) <= told


def test_a_table_and_the_differences_of_one_study():
    def answer(mean, difference=None):
        return {"mean": mean, "difference": difference}

    better = {"mean": -0.0312, "interval": [-0.05, -0.01]}
    faster = {"mean": -0.5, "interval": [-0.7, -0.3]}
    found = {
        "questions": {"loss": "…", "speed": "…"},
        "rows": [
            {
                "policy": "uniform",
                "answers": {"loss": answer(1.5), "speed": answer(0.0)},
            },
            {
                "policy": "llr",
                "answers": {
                    "loss": answer(1.4688, better),
                    "speed": answer(-0.5, faster),
                },
            },
        ],
    }
    assert table(found, "").splitlines() == [
        "| policy | test loss | steps to the same loss |",
        "| --- | --- | --- |",
        "| uniform | 1.500 | 1.00 |",
        "| llr | −0.031 (−0.050 to −0.010) | 0.61 (0.50 to 0.74) |",
    ]
    told = {"−0.031 (−0.050 to −0.010)", "0.61 (0.50 to 0.74)"}
    assert set(differences(found)) == told


def test_a_number_that_is_not_in_the_results_is_found():
    place = {"mean": 0.9, "interval": [0.88, 0.92]}
    differs = {"mean": 0.0149, "interval": [0.006, 0.021]}
    shrinks = {"mean": -0.02, "interval": [-0.03, -0.01]}
    found = {
        "studies": {"a": 20, "b": 500},
        "questions": {
            "accuracy": [
                {
                    "policy": "uniform",
                    "places": dict.fromkeys("ab", place | {"difference": None}),
                    "change": None,
                },
                {
                    "policy": "head-first",
                    "places": {"a": place | {"difference": differs}},
                    "change": shrinks,
                },
            ]
        },
    }
    assert table(found, "accuracy").splitlines() == [
        "| policy | 20 | 500 | 500 − 20 |",
        "| --- | --- | --- | --- |",
        "| uniform | 90.0 (88.0 to 92.0) | 90.0 (88.0 to 92.0) |  |",
        "| head-first | +1.5 (+0.6 to +2.1) |  | −2.0 (−3.0 to −1.0) |",
    ]
    told = {"+1.5 (+0.6 to +2.1)", "−2.0 (−3.0 to −1.0)"}
    assert set(differences(found)) == told
    assert set(DIFFERENCE.findall(" and ".join(told))) == told


def test_a_rate_between_those_that_were_tried_is_at_the_top_of_a_parabola(tmp_path):
    script = runpy.run_path(str(STUDIES / "between.py"))
    between, beyond = script["between"], script["beyond"]

    def trials(measure, values, diverged=()):
        return [
            {
                "rate": 0.1 * 2.0**i,
                measure: value,
                "status": "diverged" if i in diverged else "finished",
            }
            for i, value in enumerate(values)
        ]

    heights = [0.9 - (i - 1.75) ** 2 / 100 for i in range(4)]  # highest at 0.1 · 2^1.75
    assert between(trials("accuracy", heights)) == round(0.1 * 2**1.75, 5)
    assert between(trials("loss", [-height for height in heights])) == 0.33636
    assert between(trials("accuracy", heights, diverged=[3])) == 0.4
    assert between(trials("accuracy", heights[:3])) == 0.4  # the largest that was tried

    folders = [tmp_path / "a.tune", tmp_path / "b.tune"]
    for folder, tried in zip(folders, ([0, 1, 3], [2]), strict=True):
        found = {"p": [trials("accuracy", heights)[i] for i in tried]}
        folder.mkdir()
        (folder / "trials.json").write_text(json.dumps(found))
    assert between(script["trials_of"](folders)["p"]) == 0.33636

    inside, above = trials("accuracy", heights), trials("accuracy", heights[:3])
    assert beyond({"a": inside}) == []
    assert beyond({"a": inside, "b": above, "c": above}) == [0.8]
    assert beyond({"a": above, "b": trials("loss", heights[:3])}) == [0.05, 0.8]


def test_steps_to_what_uniform_has_before_the_drop_are_compared_in_pairs():
    ratios = runpy.run_path(str(STUDIES / "layer-rates" / "steps.py"))["ratios"]

    def events(policy, seed, accuracies):
        at = {"policy": policy, "seed": seed, "images": 0, "seconds": 0.0}
        for step, accuracy in zip((10, 20, 40, 60), accuracies, strict=True):
            yield at | {"kind": "validation", "step": step, "accuracy": accuracy}
        end = {"status": "finished", "test_loss": 0.0, "test_accuracy": accuracy}
        yield at | {"kind": "end", "step": 60} | end

    found = ratios(
        compare.runs(
            event
            for seed in range(3)
            for policy, accuracies in {
                "uniform": (0.2, 0.4 + seed / 100, 0.6, 0.7),
                "faster": (0.4 + seed / 100, 0.5, 0.5, 0.5),  # in half the steps
                "slower": (0.2, 0.3 + seed / 100, 0.5 + seed / 100, 0.6),  # in 30
                "never": (0.1, 0.2, 0.3, 0.4),  # enough under the first seed alone
            }.items()
            for event in events(policy, seed, accuracies)
        ),
        {"never": "faster"} | dict.fromkeys(("uniform", "faster", "slower"), "uniform"),
    )
    assert list(found) == ["faster", "slower", "never"]
    assert found["faster"]["ratio"]["mean"] == pytest.approx(math.log(0.5))
    assert found["slower"]["ratio"]["mean"] == pytest.approx(math.log(1.5))
    assert found["never"] == {
        "control": "faster",
        "runs": 3,
        "reached": 1,
        "ratio": None,
    }


def test_a_table_of_steps_says_how_often_they_were_reached_where_there_is_no_ratio():
    ratio = {"mean": -0.5, "interval": [-0.7, -0.3]}
    faster = {"ratio": ratio, "reached": 3, "runs": 3}
    never = {"ratio": None, "reached": 1, "runs": 3}
    found = {"a": {"faster": faster, "never": never}, "b": {"never": never}}
    assert steps(found, ["a", "b"]).splitlines()[2:] == [
        "| faster | 0.61 (0.50 to 0.74) |  |",
        "| never | reached in 1 of 3 | reached in 1 of 3 |",
    ]


def test_contrasts_are_of_methods_to_their_controls_and_of_a_part_to_half_of_a_gain():
    found = runpy.run_path(str(STUDIES / "text-gpt" / "contrasts.py"))["contrasts"]

    def events(policy, seed, losses):
        at = {"policy": policy, "seed": seed, "images": 0, "seconds": 0.0}
        for step, loss in zip((10, 20, 40), losses, strict=True):
            yield at | {"kind": "validation", "step": step, "loss": loss}
        end = {"status": "finished", "test_loss": losses[-1], "test_accuracy": None}
        yield at | {"kind": "end", "step": 40} | end

    losses = {
        "uniform": (3.0, 2.5, 2.0),
        "blockwise": (3.0, 2.0, 1.8),  # with 2.0 in half the steps
        "annealed_as_blockwise": (3.0, 2.0, 1.9),
        "ramped-tail-exponent": (3.0, 2.0, 1.6),  # 0.4 ahead of uniform
        "ends_at_three": (3.0, 2.0, 1.7),  # 0.3 ahead
    }
    runs = compare.runs(
        event
        for seed in range(3)
        for policy, of in losses.items()
        for event in events(policy, seed, [loss + seed * loss / 100 for loss in of])
    )
    told = found(runs, dict.fromkeys(losses, "uniform"))
    means = {key: of.mean for key, of in told["loss"].items()}
    assert means == {  # times the mean over the seeds of 1 + seed/100
        "blockwise − annealed_as_blockwise": pytest.approx(-0.1 * 1.01),
        "ends_at_three − half of ramped-tail-exponent": pytest.approx(-0.1 * 1.01),
    }
    steps = {key: of.mean for key, of in told["speed"].items()}
    assert steps == {
        "blockwise − annealed_as_blockwise": pytest.approx(math.log(30 / 40)),
        "ends_at_three − half of ramped-tail-exponent": pytest.approx(
            math.log(0.5) / 2
        ),
    }


def test_a_table_of_contrasts_has_a_column_for_each_study_and_question():
    better = {"mean": -0.0312, "interval": [-0.05, -0.01]}
    faster = {"mean": -0.5, "interval": [-0.7, -0.3]}
    found = {
        "a": {"loss": {"x − y": better}, "speed": {"x − y": faster}},
        "b": {"loss": {}, "speed": {}},
    }
    assert contrasts(found, ["a", "b"]).splitlines() == [
        "| contrast | a, test loss | a, steps to the same loss "
        "| b, test loss | b, steps to the same loss |",
        "| --- | --- | --- | --- | --- |",
        "| x − y | −0.031 (−0.050 to −0.010) | 0.61 (0.50 to 0.74) |  |  |",
    ]
