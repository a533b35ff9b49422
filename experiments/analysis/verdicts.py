"""What the rows of a study allow to be said, and its summary.json. Pure functions."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..config.checks import first_of
from ..config.measures import ACCURACY, Measure
from .compare import BASELINE, Row
from .questions import Question, questions
from .significance import CONFIDENCE, Difference

FEWEST_FOR_EVIDENCE = 5
SAME = {"versions": "set of versions", "commit": "commit", "device": "device"}
OPEN = "open"
MOST_NAMED = 4  # policies in a sentence
UNCLEAR = "no clear difference"
UNTUNED = (
    "No learning rate was tuned, neither for a control nor for a policy: all of them "
    "ran at the configured global rate. A policy may differ from its control for no "
    "other reason than that its multipliers suit that rate better or worse."
)


def caveats(
    rows: Sequence[Row],
    source: str,
    planned: int,
    sessions: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Why the study is a demonstration and not evidence; empty if it may be evidence.

    Args:
        rows: the table.
        source: the data's name; "sample" is the small bundled one.
        planned: how many runs the study was to have.
        sessions: the processes that worked on it, as env.json describes them.
    """
    ends = [row.n + row.diverged for row in rows]
    ended, fewest = sum(ends), min(ends, default=0)
    found: list[str] = []
    if ended < planned:
        found.append(f"only {ended} of {planned} runs came to their end")
    if fewest < FEWEST_FOR_EVIDENCE:
        seeds = f"{fewest} seed{'s' * (fewest != 1)}"
        found.append(f"{seeds}, fewer than {FEWEST_FOR_EVIDENCE}")
    if source == "sample":
        found.append("trained on the small bundled sample, not on the whole data set")
    found += [
        f"made with more than one {name}"
        for key, name in SAME.items()
        if any(session[key] != sessions[0][key] for session in sessions)
    ]
    return found


def expected(policy: Mapping[str, Any], question: str) -> str:
    """What is expected of a policy: "higher", "lower", "same", or "open".

    Args:
        policy: the policy's own part of config.json.
        question: one of `questions`.
    """
    return policy.get("expects", {}).get(question, OPEN)


def verdict(
    row: Row,
    question: str,
    demonstration: bool,
    expected: str = OPEN,
    measure: Measure = ACCURACY,
) -> str | None:
    """What the difference of a policy to its control allows to be said.

    Args:
        row: the policy's.
        question: one of `questions`.
        demonstration: whether there are caveats.
        expected: what was expected of the policy before it was run.
        measure: what the runs are judged by.

    Returns:
        "supported" if the whole interval of the difference lies where it was expected,
        "contradicted" if no part of it does, "undecided" if some. Where the expectation
        is open, the policy is picked by looking: "higher" or "lower" if p is at most
        0.05 after Holm's correction, so that the interval is clear of 0 as well;
        "same" if not and `is_same`; else "undecided". "none" without an interval, and
        where a run of either policy diverged: the runs left over are a choice.
        "demonstration" whatever the numbers are, if there are caveats. None for a
        policy without a control.
    """
    if row.control == row.policy:
        return None
    if demonstration:
        return "demonstration"
    difference = row.answers[question].difference
    if row.broken_pairs or difference is None or difference.p_holm is None:
        return "none"
    if expected != OPEN:
        same = questions(measure)[question].same_within
        return _judged(difference, *_region(expected, same))
    if difference.p_holm <= 1 - CONFIDENCE:
        return "higher" if difference.mean > 0 else "lower"
    return "same" if is_same(difference) else "undecided"


def is_same(difference: Difference) -> bool:
    """Whether one that matters is excluded: p of TOST at most 0.05, corrected."""
    p = difference.p_same_holm
    return p is not None and p <= 1 - CONFIDENCE


def result(
    rows: Sequence[Row], demonstration: bool, measure: Measure = ACCURACY
) -> str:
    """What came out, in a sentence for each question.

    Args:
        rows: one a policy.
        demonstration: whether there are caveats: then only how far differences reach.
        measure: what the runs are judged by.
    """
    say = _reach if demonstration else _sides
    told = (say(rows, *asked) for asked in questions(measure).items())
    return " ".join(filter(None, told))


def _region(expected: str, same_within: float) -> tuple[float, float]:
    """Between what the difference to the control has to lie."""
    return {
        "higher": (0.0, math.inf),
        "lower": (-math.inf, 0.0),
        "same": (-same_within, same_within),
    }[expected]


def _reach(rows: Sequence[Row], name: str, question: Question) -> str:
    """The least and the largest difference."""
    found = {row.policy: d for row in rows if (d := row.answers[name].difference)}
    if not found:
        return ""
    order = sorted(found, key=lambda policy: found[policy].mean)
    ends = dict.fromkeys([order[0], order[-1]])
    told = [
        f"{question.signed(found[policy].mean)} {question.unit} ({policy})"
        for policy in ends
    ]
    measure = question.measure.capitalize()
    return f"{measure}: {' to '.join(told)}, each against its own baseline."


def _sides(rows: Sequence[Row], name: str, question: Question) -> str:
    """Which policies lie higher and lower than their baselines, and which do not."""
    same = f"the same {question.within}"
    words = {"higher": "higher", "lower": "lower", "same": same, "undecided": UNCLEAR}
    sides: dict[str, list[str]] = {side: [] for side in words.values()}
    for row in rows:
        if (found := row.answers[name].difference) is None:
            continue
        said, text = str(verdict(row, name, demonstration=False)), row.policy
        if said in ("higher", "lower"):
            ends = " to ".join(map(question.signed, found.interval or ()))
            text += f" ({question.signed(found.mean)} against {row.control}, {ends})"
        sides[words.get(said, UNCLEAR)].append(text)
    measure = question.measure.capitalize()
    return f"{measure}: {listed(sides)}." if any(sides.values()) else ""


def listed(sides: Mapping[str, Sequence[str]]) -> str:
    """What is said of which policies; of all alike where nothing is clear of any.

    Args:
        sides: by what is said, the policies; the last is that nothing is clear.
    """
    told = {side: names for side, names in sides.items() if names}
    unclear = [*sides][-1]
    if [*told] == [unclear]:
        return f"{unclear} under any policy"
    return "; ".join(
        f"{side} under {first_of(names, MOST_NAMED)}" for side, names in told.items()
    )


def _judged(difference: Difference, low: float, high: float) -> str:
    """Where the interval lies; pairs that do not differ at all make it a point."""
    start, stop = difference.interval or (difference.mean, difference.mean)
    if low < start and stop < high:
        return "supported"
    return "contradicted" if stop <= low or start >= high else "undecided"


def tuning(numbers: Mapping[str, float]) -> str:
    """Whether numbers of policies were their own, and what that means.

    Args:
        numbers: those of config.json.
    """
    if not numbers:
        return UNTUNED
    given = ", ".join(f"{name} {value:g}" for name, value in sorted(numbers.items()))
    return (
        f"Numbers of policies were given, by hand or by a search: {given}. Policies "
        "that are not named had their own, at the configured global rate; a difference "
        "may come of that."
    )


def summary(
    rows: Sequence[Row],
    caveats: Sequence[str],
    policies: Mapping[str, Any],
    numbers: Mapping[str, float],
    measure: Measure = ACCURACY,
) -> dict[str, Any]:
    """summary.json: all that the tables show, and why it is no evidence if it is none.

    The "value" of a time to a threshold, if "censored", is what the median lies above,
    and null where that is infinite. "same_within" is of the first question; those of a
    ratio are logarithms.

    Args:
        rows: one a policy.
        caveats: as `caveats` gives them.
        policies: those of config.json, with what is expected of them.
        numbers: those of config.json.
        measure: what the runs are judged by.
    """
    return {
        "baseline": BASELINE,
        "confidence": CONFIDENCE,
        "same_within": measure.same_within,
        "tuning": tuning(numbers),
        "caveats": list(caveats),
        "questions": {name: q.measure for name, q in questions(measure).items()},
        "rows": [
            dataclasses.asdict(row)
            | {
                "answers": {
                    name: dataclasses.asdict(answer)
                    | {
                        "n": len(answer.values),
                        "mean": answer.mean,
                        "deviation": answer.deviation,
                        "expected": (asked := expected(policies[row.policy], name)),
                        "verdict": verdict(row, name, bool(caveats), asked, measure),
                    }
                    for name, answer in row.answers.items()
                }
            }
            for row in rows
        ],
    }
