"""The tables of a study as headings and cells, for a page and for Markdown."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ..analysis import verdicts
from ..analysis.compare import QUESTIONS, Row
from ..terminal import table

VERDICTS = {None: "–", "none": "no verdict"}
OUTCOMES = ("policy", "expectation", "verdict on accuracy", "verdict on speed")
EXPECTED = (
    "Verdict on what was expected before the runs: supported if the whole 95 % "
    "interval of the difference lies where it was expected, contradicted if no part "
    "of it does, undecided if some. Expected the same means: within 0.5 points.",
    "Where the expectation is open, the difference is found by looking at all "
    "policies: higher or lower where the corrected p is at most 0.05, undecided "
    "elsewhere.",
    "No verdict without an interval, nor where a run of the policy or of its control "
    "diverged, since the runs left over are a choice.",
)
DEMONSTRATION = (
    "Demonstration: no verdict. The numbers show how a study reads; the differences "
    "may as well be chance."
)


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A table.

    Attributes:
        title: what it answers.
        headings: of its columns; the first is "policy".
        lines: the cells, a line a policy.
        notes: what the columns mean, in sentences.
    """

    title: str
    headings: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def sheets(
    config: Mapping[str, Any], rows: Sequence[Row], demonstration: bool
) -> list[Sheet]:
    """The tables of a study: expected and come, how good, how fast, how long.

    Args:
        config: config.json.
        rows: one a policy.
        demonstration: whether there are caveats, so that no verdict is given.
    """
    policies = config["policies"]
    marks = tuple(f"to {100 * mark:g} %" for mark in config["marks"])
    said = {
        (row.policy, name): _verdict(row, name, policies[row.policy], demonstration)
        for row in rows
        for name in QUESTIONS
    }

    def question(name: str, title: str) -> Sheet:
        return Sheet(
            title,
            ("policy", "n", *table.HEADINGS[name], "verdict"),
            tuple(
                (
                    row.policy,
                    str(len(row.answers[name].values)),
                    *table.cells(row, name),
                    said[row.policy, name],
                )
                for row in rows
            ),
            table.NOTES[name] + table.PAIRED,
        )

    return [
        Sheet(
            "What was expected, and what came",
            OUTCOMES,
            tuple(_outcome(row, policies[row.policy], said) for row in rows),
            (DEMONSTRATION,) if demonstration else EXPECTED,
        ),
        question("accuracy", "How good in the end"),
        question("speed", "How fast"),
        Sheet(
            "How long to an accuracy",
            ("policy", *marks, "seconds a run"),
            tuple(
                (
                    row.policy,
                    *("\n".join(table.taken(mark)) for mark in row.marks),
                    table.seconds(row),
                )
                for row in rows
            ),
            table.NOTES["marks"],
        ),
    ]


def joined(studies: Mapping[str, Sequence[Sheet]]) -> list[Sheet]:
    """The tables of several studies as one, with a column for the study's name.

    Those whose columns differ from study to study are left out.

    Args:
        studies: by name, what `sheets` gives for each.
    """
    found: list[Sheet] = []
    for same in zip(*studies.values(), strict=True):
        first = same[0]
        if any(sheet.headings != first.headings for sheet in same):
            continue
        lines = tuple(
            (policy, name, *cells)
            for name, sheet in zip(studies, same, strict=True)
            for policy, *cells in sheet.lines
        )
        headings = ("policy", "study", *first.headings[1:])
        notes = tuple(dict.fromkeys(note for sheet in same for note in sheet.notes))
        found.append(Sheet(first.title, headings, lines, notes))
    return found


def _outcome(
    row: Row, policy: Mapping[str, Any], said: Mapping[tuple[str, str], str]
) -> tuple[str, ...]:
    """One policy: the sentence, and for each question what was expected and came."""
    if row.control == row.policy:
        return row.policy, policy["expectation"], *("baseline" for _ in QUESTIONS)
    answers = (
        f"{said[row.policy, name]}\nexpected: {verdicts.expected(policy, name)}"
        for name in QUESTIONS
    )
    return row.policy, policy["expectation"], *answers


def _verdict(
    row: Row, question: str, policy: Mapping[str, Any], demonstration: bool
) -> str:
    asked = verdicts.expected(policy, question)
    found = verdicts.verdict(row, question, demonstration, asked)
    return VERDICTS.get(found, str(found))
