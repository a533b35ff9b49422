"""The pages of studies: their numbers are those of the records.

A table below `<!-- NAME QUESTION -->` is made of results/NAME.json, which `report`
wrote; each difference with an interval in the text around stands in one of them too.
"""

import json
import re
from pathlib import Path

import pytest

from experiments.analysis.questions import questions
from experiments.config.measures import ACCURACY, LOSS

STUDIES = Path(__file__).parents[1] / "docs" / "studies"
PAGES = sorted(STUDIES.glob("*/README.md"))
TABLE = re.compile(r"^<!-- (\S+) (\w+) -->\n\n((?:\|.*\n)+)", re.MULTILINE)
DIFFERENCE = re.compile(r"[+−]?\d+\.\d+ \([+−]?\d+\.\d+ to [+−]?\d+\.\d+\)")


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def question_of(found, name):
    return questions(LOSS if LOSS.name in found["questions"] else ACCURACY)[name]


def said(difference, question):
    """With its interval, as pages have it."""
    ends = map(question.signed, difference["interval"])
    return f"{question.signed(difference['mean'])} ({' to '.join(ends)})"


def table(found, name):
    """Of each policy what it differs by in each study, and how much that changes."""
    question, lines = question_of(found, name), found["questions"][name]
    places = [str(place) for place in found["studies"].values()]
    change = f"{places[-1]} − {places[0]}"
    rows = [("policy", *places, change), ("---",) * (len(places) + 2)]
    for line in lines:
        answers = [line["places"].get(study) for study in found["studies"]]
        rows.append((line["policy"], *(_cell(of, question) for of in answers)))
        rows[-1] += (said(line["change"], question) if line["change"] else "",)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def _cell(answer, question):
    if answer is None:
        return ""
    if answer["difference"]:
        return said(answer["difference"], question)
    low, high = map(question.shown, answer["interval"])
    return f"{question.shown(answer['mean'])} ({low} to {high})"


def differences(found):
    """All that a file tells with an interval, as text."""
    for name, lines in found["questions"].items():
        for line in lines:
            told = [place["difference"] for place in line["places"].values()]
            for difference in filter(None, [*told, line["change"]]):
                yield said(difference, question_of(found, name))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_numbers_of_a_page_are_those_of_its_results(page):
    text, results = page.read_text(encoding="utf-8"), page.parent / "results"
    found = {path.stem: read(path) for path in results.glob("*.json")}
    tables = TABLE.findall(text)
    assert tables
    for name, question, lines in tables:
        assert lines == table(found[name], question), f"{name}, {question}"
    told = {difference for of in found.values() for difference in differences(of)}
    around = TABLE.sub("", text)
    assert set(DIFFERENCE.findall(around)) <= told


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
