"""From the rows of several studies to what lies between them. Pure functions.

Does what a policy changes depend on how many images there are, or on the network? That
is a difference of differences: to the control, in the last study minus in the first.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from ..config.measures import ACCURACY, Measure
from . import compare, significance, verdicts
from .compare import Answer, Row
from .questions import Question, questions
from .significance import CONFIDENCE, Difference

ASKED = (
    *("model", "norm", "norm_statistics"),
    *("data", "classes", "shift", "train_fraction", "images_per_class", "label_noise"),
    *("context", "flip", "crop_padding", "cutout"),
    *("optimizer", "momentum", "label_smoothing", "ema", "weight_decay", "decay"),
    *("schedule", "rate"),
)
"""The fields that are a question, as the documentation lists them. All others follow
from these (epochs, numbers, the weights to start from) or are manners (name, seeds)."""
SEEDED = ("model", "norm", "data", "classes")
"""What has to be alike for a seed to fix the same weights and images of one task."""
UNCLEAR = "no clear change"


@dataclasses.dataclass(frozen=True)
class Axis:
    """What the studies differ in.

    Attributes:
        field: the one question in which they differ; "study" where there are several,
            or none, or where its values are neither numbers nor words.
        places: by study, in the order in which they are told, its value of that field,
            which rises if it is a number; or its name.
        paired: whether the same seed means the same in the first and the last study.
    """

    field: str
    places: Mapping[str, float | str]
    paired: bool

    @property
    def name(self) -> str:
        """The field in words."""
        return self.field.replace("_", " ")

    @property
    def labels(self) -> list[str]:
        """The places in words."""
        return [
            place if isinstance(place, str) else f"{place:,g}"
            for place in self.places.values()
        ]

    @property
    def ends(self) -> tuple[str, str]:
        """The names of the first and the last study."""
        first, *_, last = self.places
        return first, last


@dataclasses.dataclass(frozen=True)
class Place:
    """One policy in one study.

    Attributes:
        n: how many runs have a measure.
        mean: of the measure.
        interval: the 95 % t interval of that mean; None for fewer than 3 runs.
        difference: to the control; None for a policy that is its own, and without
            pairs.
    """

    n: int
    mean: float | None
    interval: tuple[float, float] | None
    difference: Difference | None


@dataclasses.dataclass(frozen=True)
class Line:
    """One policy across the studies that have it under the same control.

    Attributes:
        policy: its name.
        control: that of the policy it is compared with; its own for the baseline.
        places: by study, in order.
        change: its difference to the control in the last study minus that in the
            first; None where there is none in one of them.
        broken: whether the policy or its control diverged in one of these two.
    """

    policy: str
    control: str
    places: Mapping[str, Place]
    change: Difference | None
    broken: bool


def axis(configs: Sequence[Mapping[str, Any]]) -> Axis:
    """What studies differ in.

    Args:
        configs: their config.json, two or more.
    """
    differ = [
        field
        for field in ASKED
        if any(config.get(field) != configs[0].get(field) for config in configs)
    ]
    field, places = "study", [config["name"] for config in configs]
    if len(differ) == 1:
        values: list[Any] = [config.get(differ[0]) for config in configs]
        kinds = {type(value) for value in values}
        plain = kinds <= {int, float} or kinds == {str}
        if plain and len({*values}) == len(values):  # two alike could not be told apart
            field, places = differ[0], values
    order = [*range(len(configs))]
    if not isinstance(places[0], str):
        order.sort(key=places.__getitem__)
    first, last = configs[order[0]], configs[order[-1]]
    return Axis(
        field,
        {configs[i]["name"]: places[i] for i in order},
        paired=all(first.get(name) == last.get(name) for name in SEEDED)
        and not {*first["seeds"]}.isdisjoint(last["seeds"]),
    )


def lines(
    studies: Mapping[str, Sequence[Row]],
    axis: Axis,
    name: str,
    measure: Measure = ACCURACY,
) -> list[Line]:
    """Each policy that two studies or more have, in the order of its first study.

    Args:
        studies: by name, their rows.
        axis: what they differ in.
        name: of one of `questions`.
        measure: what the runs of all studies are judged by.
    """
    same_within = questions(measure)[name].same_within
    rows = {
        study: {(row.policy, row.control): row for row in studies[study]}
        for study in axis.places
    }
    several = dict.fromkeys(itertools.chain.from_iterable(rows.values()))
    shared = [key for key in several if sum(key in of for of in rows.values()) > 1]
    at_ends = [key for key in shared if all(key in rows[end] for end in axis.ends)]
    before, after = (
        compare.differences(studies[end], name, measure) for end in axis.ends
    )
    changes = significance.corrected(
        {
            policy: _change(after[policy], before[policy], axis.paired, same_within)
            for policy, _ in at_ends
            if policy in before and policy in after
        }
    )
    return [
        Line(
            *key,
            places={
                study: _place(of[key].answers[name])
                for study, of in rows.items()
                if key in of
            },
            change=changes.get(key[0]) if key in at_ends else None,
            broken=key in at_ends
            and any(rows[end][key].broken_pairs for end in axis.ends),
        )
        for key in shared
    ]


def verdict(line: Line, axis: Axis, demonstration: bool = False) -> str | None:
    """What the change of a difference allows to be said.

    Args:
        line: of a policy.
        axis: what the studies differ in.
        demonstration: whether there are caveats.

    Returns:
        If p of the change is at most 0.05 after Holm's correction: "changes sign" where
        both intervals are clear of 0 on either side of it, "shrinks" or "grows" by
        which of the two differences is larger, whatever their signs. "same" if p of
        equivalence is, and "undecided" otherwise. "none" without a test, and where a
        run diverged. "demonstration" whatever the numbers are, if there are caveats.
        None for a policy without a control.
    """
    if line.control == line.policy:
        return None
    if demonstration:
        return "demonstration"
    change = line.change
    if line.broken or change is None or change.p_holm is None:
        return "none"
    if change.p_holm > 1 - CONFIDENCE:
        return "same" if verdicts.is_same(change) else "undecided"
    first, last = _ends(line, axis)
    if max(_sign(first), _sign(last)) > 0 > min(_sign(first), _sign(last)):
        return "changes sign"
    return "shrinks" if abs(last.mean) < abs(first.mean) else "grows"


def result(
    lines: Mapping[str, Sequence[Line]],
    axis: Axis,
    demonstration: bool,
    measure: Measure = ACCURACY,
) -> str:
    """How differences change from the first study to the last, a sentence a question.

    Args:
        lines: by question.
        axis: what the studies differ in.
        demonstration: whether there are caveats: then only how far changes reach.
        measure: what the runs of all studies are judged by.
    """
    say = _reach if demonstration else _sides
    told = (say(of, axis, questions(measure)[name]) for name, of in lines.items())
    return " ".join(filter(None, told))


def summary(
    lines: Mapping[str, Sequence[Line]],
    axis: Axis,
    caveats: Sequence[str],
    measure: Measure = ACCURACY,
) -> dict[str, Any]:
    """joined.json: all that the figure and the tables between the studies show.

    Args:
        lines: by question.
        axis: what the studies differ in.
        caveats: why they are no evidence; empty if they may be.
        measure: what the runs of all studies are judged by.
    """
    return {
        "field": axis.field,
        "studies": dict(axis.places),
        "paired": axis.paired,
        "confidence": CONFIDENCE,
        "same_within": measure.same_within,
        "caveats": list(caveats),
        "questions": {
            name: [
                dataclasses.asdict(line)
                | {"verdict": verdict(line, axis, bool(caveats))}
                for line in of
            ]
            for name, of in lines.items()
        },
    }


def _change(
    after: Mapping[int, float],
    before: Mapping[int, float],
    paired: bool,
    same_within: float,
) -> Difference | None:
    if paired:
        return significance.paired(after, before, margin=same_within)
    samples = after.values(), before.values()
    return significance.unpaired(*samples, margin=same_within)


def _place(answer: Answer) -> Place:
    values = answer.values.values()
    interval = significance.interval(values)
    return Place(len(values), answer.mean, interval, answer.difference)


def _sides(lines: Sequence[Line], axis: Axis, question: Question) -> str:
    """Which differences shrink, which grow, which stay, and which do none of it."""
    words = {
        "shrinks": "shrinks",
        "grows": "grows",
        "changes sign": "changes its sign",
        "same": f"the same {question.within}",
        "undecided": UNCLEAR,
    }
    sides: dict[str, list[str]] = {side: [] for side in words.values()}
    for line in lines:
        if line.change is None:
            continue
        said, text = str(verdict(line, axis)), line.policy
        if said in ("shrinks", "grows", "changes sign"):
            ends = (question.signed(found.mean) for found in _ends(line, axis))
            text += f" ({' to '.join(ends)})"
        sides[words.get(said, UNCLEAR)].append(text)
    if not any(sides.values()):
        return ""
    return f"{_asked(axis, question)}: {verdicts.listed(sides)}."


def _reach(lines: Sequence[Line], axis: Axis, question: Question) -> str:
    """The lowest and the highest change."""
    found = {line.policy: line.change.mean for line in lines if line.change}
    if not found:
        return ""
    order = sorted(found, key=found.__getitem__)
    told = [
        f"{question.signed(found[policy])} {question.unit} ({policy})"
        for policy in dict.fromkeys([order[0], order[-1]])
    ]
    return f"{_asked(axis, question)}: changes by {' to '.join(told)}."


def _asked(axis: Axis, question: Question) -> str:
    return (
        f"Difference in {question.measure} to the baseline, from {axis.name} "
        f"{axis.labels[0]} to {axis.labels[-1]}"
    )


def _ends(line: Line, axis: Axis) -> tuple[Difference, Difference]:
    """Its differences in the first and the last study, of a line that has a change."""
    first, last = (line.places[study].difference for study in axis.ends)
    assert first is not None
    assert last is not None
    return first, last


def _sign(difference: Difference) -> int:
    """On which side of 0 the whole interval lies; 0 for on both."""
    low, high = difference.interval or (0.0, 0.0)
    return (low > 0) - (high < 0)
