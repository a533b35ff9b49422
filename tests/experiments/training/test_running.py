"""What runs record, and how a group of them is kept."""

import itertools
import math
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.records import checkpoint
from experiments.training.program import Tables, TrainState
from experiments.training.running import Fetched, Group, Run

TABLES = Tables(
    rate=np.array([0.1, 0.2, 0.4], np.float32),
    multipliers=np.array([[1, 2], [3, 4], [5, 6]], np.float32),
)


class Log:
    """A journal that notes, under one name in one list, what it is asked."""

    start = None

    def __init__(self, name="", log=None, due=False):
        self.events, self.name, self.is_due = [], name, due
        self.log = [] if log is None else log

    def write(self, event):
        self.events.append(event)

    def due(self, step):
        return self.is_due

    def save(self, step, state, seconds):
        self.log.append(("save", self.name, step, int(state.correct), seconds))

    def rest(self):
        self.log.append(("rest", self.name))


def run(journal=None, **changes):
    given = {
        "policy": "uniform",
        "seed": 3,
        "batch_size": 20,
        "tables": TABLES,
        "journal": journal or Log(),
        "seconds": 1.5,
    }
    return Run(**given | changes)


def fetched(loss=6.0, correct=30, diverged=-1, multipliers=None):
    return Fetched(np.float32(loss), np.int32(correct), np.int32(diverged), multipliers)


def state(*runs):
    """The state of one run, or of several, told apart by their correct answers."""
    stacked = jnp.asarray(runs if len(runs) > 1 else runs[0], jnp.int32)
    return TrainState(
        params={"w": stacked.astype(jnp.float32)},
        statistics={},
        average=None,
        opt_state=(),
        step=jnp.int32(2),
        key=stacked,
        order=stacked,
        loss=stacked,
        correct=stacked,
        diverged=stacked,
    )


def group(runs, size=None, stages=()):
    size = size or len(runs)
    numbers = [10 * (index + 1) for index in range(size)]
    return Group(
        runs=runs,
        size=size,
        compiled=None,
        stages=stages,
        state=state(*numbers),
        initial=None,
        step=2,
    )


def test_a_training_line_has_means_and_what_the_last_step_was_told():
    one = run()
    one.trained(2, 2, fetched())
    (event,) = one.journal.events
    assert event.pop("rate") == pytest.approx(0.2)
    assert event == {
        "kind": "train",
        "policy": "uniform",
        "seed": 3,
        "step": 2,
        "images": 40,
        "seconds": 1.5,
        "loss": 3.0,  # of two steps
        "accuracy": 0.75,  # 30 of 2 × 20
        "multipliers": [3.0, 4.0],
    }
    assert one.end is None


def test_what_a_rule_measured_stands_in_place_of_the_table():
    one = run()
    one.trained(1, 1, fetched(multipliers=np.array([0.5, 1.5], np.float32)))
    assert one.journal.events[0]["multipliers"] == [0.5, 1.5]


def test_a_run_that_diverged_ends_at_its_fatal_step_without_a_training_line():
    one = run()
    one.trained(3, 3, fetched(loss=math.nan, diverged=1))
    (event,) = one.journal.events
    assert (event["kind"], event["status"], event["step"]) == ("end", "diverged", 1)
    assert event["images"] == 20
    assert one.end is event
    assert (
        event["test_loss"] is event["test_accuracy"] is event["params_sha256"] is None
    )


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_an_evaluation_that_is_not_finite_ends_the_run(loss):
    one = run()
    one.validated(2, loss, 0.1)
    assert [event["kind"] for event in one.journal.events] == ["validation", "end"]
    assert one.end["status"] == "diverged"


def test_an_evaluation_is_recorded_and_the_run_goes_on():
    one = run()
    one.validated(2, 1.25, 0.5)
    (event,) = one.journal.events
    assert (event["kind"], event["loss"], event["accuracy"]) == (
        "validation",
        1.25,
        0.5,
    )
    assert one.end is None


def test_the_end_has_test_and_checksum():
    one = run()
    last = state(7)
    one.finish(3, 1.0, 0.25, last)
    assert one.end is one.journal.events[-1]
    assert one.end["status"] == "finished"
    assert (one.end["test_loss"], one.end["test_accuracy"]) == (1.0, 0.25)
    assert one.end["params_sha256"] == checkpoint.sha256(last.params)


def test_each_run_is_given_its_own_part_while_it_goes_on():
    runs = [run(policy=name) for name in "abc"]
    of = group(runs, size=4)  # filled up by one
    stacked = (np.arange(4), {"of": np.arange(8).reshape(4, 2)}, None)

    def found():
        return {
            one.policy: (int(part[0]), part[1]["of"].tolist())
            for one, part in of.each(stacked)
        }

    assert found() == {"a": (0, [0, 1]), "b": (1, [2, 3]), "c": (2, [4, 5])}
    runs[1].diverge(1)
    assert found() == {"a": (0, [0, 1]), "c": (2, [4, 5])}
    assert of.going == [runs[0], runs[2]]
    assert {one.policy: int(s.correct) for one, s in of.states()} == {"a": 10, "c": 30}


def test_a_run_alone_is_not_stacked():
    one = run()
    of = group([one])
    ((same, part),) = of.each(np.arange(5))
    assert same is one
    np.testing.assert_array_equal(part, np.arange(5))
    ((_, whole),) = of.states()
    assert whole is of.state


def test_what_the_device_says_is_fetched_for_each_run_that_goes_on():
    runs = [run(policy=name) for name in "ab"]
    found = {one.policy: part for one, part in group(runs).fetched()}
    assert {name: int(part.loss) for name, part in found.items()} == {"a": 10, "b": 20}
    assert found["a"].multipliers is None  # no rule measures


def test_all_have_their_checkpoint_before_any_ends_for_a_signal():
    log = []
    runs = [run(Log(name, log), seconds=2.0) for name in "abc"]
    runs[0].diverge(1)
    of = group(runs)
    of.save()
    assert log == [
        ("save", "b", 2, 20, 2.0),
        ("save", "c", 2, 30, 2.0),
        ("rest", "b"),
        ("rest", "c"),
    ]


@pytest.mark.parametrize(
    ("due", "ended", "expected"),
    [
        ((False, False), (), False),
        ((False, True), (), True),
        ((False, True), (1,), False),  # one that has ended needs none
        ((True, True), (0, 1), False),
    ],
)
def test_a_checkpoint_is_due_once_it_is_for_one_that_goes_on(due, ended, expected):
    runs = [run(Log(due=is_due)) for is_due in due]
    for index in ended:
        runs[index].diverge(1)
    assert group(runs).due() is expected


def test_the_next_step_belongs_to_the_stage_it_lies_in():
    stages = [
        SimpleNamespace(phase=SimpleNamespace(start=start, stop=stop))
        for start, stop in itertools.pairwise((0, 2, 5, 6))
    ]
    of = group([run()], stages=stages)
    found = []
    for of.step in range(6):
        found.append(stages.index(of.stage))
    assert found == [0, 0, 1, 1, 1, 2]
