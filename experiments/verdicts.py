"""What the rows of a study allow to be said, and its summary.json. Pure functions."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from .compare import BASELINE, QUESTIONS, Row
from .significance import CONFIDENCE

FEWEST_FOR_EVIDENCE = 5
SAME = {"versions": "set of versions", "commit": "commit", "device": "device"}
TUNING = "none: every policy ran at the configured global rate"


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
        found.append(f"n = {fewest} runs a policy, fewer than {FEWEST_FOR_EVIDENCE}")
    if source == "sample":
        found.append("trained on the small bundled sample, not on the whole data set")
    found += [
        f"made with more than one {name}"
        for key, name in SAME.items()
        if any(session[key] != sessions[0][key] for session in sessions)
    ]
    return found


def verdict(row: Row, question: str, demonstration: bool) -> str | None:
    """What the difference of a policy to its control allows to be said.

    Args:
        row: the policy's.
        question: one of `QUESTIONS`.
        demonstration: whether there are caveats.

    Returns:
        "higher" or "lower", if p is at most 0.05 after Holm's correction, so that the
        interval is clear of 0 as well; "undecided" if not. "none" without a p, and
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
    if difference.p_holm > 1 - CONFIDENCE:
        return "undecided"
    return "higher" if difference.mean > 0 else "lower"


def summary(rows: Sequence[Row], caveats: Sequence[str]) -> dict[str, Any]:
    """summary.json: all that the tables show, and why it is no evidence if it is none.

    The "value" of a time to a mark, if "censored", is what the median lies above, and
    null where that is infinite.
    """
    return {
        "baseline": BASELINE,
        "confidence": CONFIDENCE,
        "tuning": TUNING,
        "caveats": list(caveats),
        "questions": {name: q.measure for name, q in QUESTIONS.items()},
        "rows": [
            dataclasses.asdict(row)
            | {
                "answers": {
                    name: dataclasses.asdict(answer)
                    | {
                        "n": len(answer.values),
                        "mean": answer.mean,
                        "deviation": answer.deviation,
                        "verdict": verdict(row, name, demonstration=bool(caveats)),
                    }
                    for name, answer in row.answers.items()
                }
            }
            for row in rows
        ],
    }
