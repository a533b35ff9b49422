import errno
import math
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboardX.record_writer import RecordWriter

from experiments.records.tensorboard import TensorBoard

LAYERS = ("Conv_0", "blocks/0/Dense_1")


def train(step, loss, multipliers=(0.5, 1.5)):
    return {
        "kind": "train",
        "policy": "early-first",
        "seed": 0,
        "step": step,
        "images": 32 * step,
        "seconds": 0.5,
        "loss": loss,
        "accuracy": 0.25,
        "rate": 0.125,
        "multipliers": list(multipliers),
    }


def validation(step, loss, accuracy):
    return {"kind": "validation", "step": step, "loss": loss, "accuracy": accuracy}


def end(step, loss, accuracy):
    fields = {"test_loss": loss, "test_accuracy": accuracy, "status": "finished"}
    return {"kind": "end", "step": step, **fields}


def curves(folder):
    """Steps and values of each curve, as TensorBoard itself reads them."""
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    reader.Reload()
    return {
        tag: [(point.step, point.value) for point in reader.Scalars(tag)]
        for tag in reader.Tags()["scalars"]
    }


def test_what_the_layers_do_becomes_a_curve_for_each(tmp_path):
    measured = {"gradient_norm": [1.0, 2.0], "update_ratio": [0.5, math.nan]}
    event = {"kind": "layers", "step": 4, **measured, "rotation": [0.0, 0.25]}
    with TensorBoard(tmp_path, 0, LAYERS) as board:
        board.write(event)
    assert curves(tmp_path) == {
        "gradient_norm/Conv_0": [(4, 1.0)],
        "gradient_norm/blocks/0/Dense_1": [(4, 2.0)],
        "update_ratio/Conv_0": [(4, 0.5)],
        "rotation/Conv_0": [(4, 0.0)],
        "rotation/blocks/0/Dense_1": [(4, 0.25)],
    }


def test_numbers_of_a_run_become_curves_over_its_steps(tmp_path):
    with TensorBoard(tmp_path, 0, LAYERS) as board:
        board.write(train(10, 2.5))
        board.write(train(20, 1.5, multipliers=(0, 2)))
        board.write(validation(20, 1.75, 0.375))
        board.write(end(20, 2.25, 0.5))
    assert curves(tmp_path) == {
        "train/loss": [(10, 2.5), (20, 1.5)],
        "train/accuracy": [(10, 0.25), (20, 0.25)],
        "rate": [(10, 0.125), (20, 0.125)],
        "multipliers/Conv_0": [(10, 0.5), (20, 0)],
        "multipliers/blocks/0/Dense_1": [(10, 1.5), (20, 2)],
        "validation/loss": [(20, 1.75)],
        "validation/accuracy": [(20, 0.375)],
        "test/loss": [(20, 2.25)],
        "test/accuracy": [(20, 0.5)],
    }


@pytest.mark.parametrize("number", [None, math.nan, math.inf, -math.inf])
def test_number_that_is_missing_or_not_finite_has_no_point(tmp_path, number):
    with TensorBoard(tmp_path, 0, LAYERS) as board:
        board.write(train(10, number))
        board.write(validation(10, number, 0.5))
        board.write(end(10, number, number))
    read = curves(tmp_path)
    assert read["train/accuracy"] == [(10, 0.25)]
    assert read["validation/accuracy"] == [(10, 0.5)]
    assert not {"train/loss", "validation/loss", "test/loss", "test/accuracy"} & set(
        read
    )


@pytest.mark.parametrize("pause", [0, 1000], ids=["same-second", "later"])
@pytest.mark.parametrize("step", [0, 10, 20])
def test_resumed_run_replaces_what_came_after_its_checkpoint(
    tmp_path, monkeypatch, pause, step
):
    now = 1_700_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    with TensorBoard(tmp_path, 0, LAYERS) as board:
        for before in (10, 20, 30):
            board.write(train(before, 4.0))
        board.write(validation(30, 4.0, 0.5))
    now += pause
    with TensorBoard(tmp_path, step, LAYERS) as board:
        for after in range(step + 10, 50, 10):
            board.write(train(after, 2.0))
    read = curves(tmp_path)
    assert read["train/loss"] == [
        (at, 4.0 if at <= step else 2.0) for at in (10, 20, 30, 40)
    ]
    assert read.get("validation/loss", []) == []


def test_events_are_in_the_file_before_it_is_closed(tmp_path):
    board = TensorBoard(tmp_path, 0, LAYERS)
    board.write(validation(10, 1.0, 0.5))
    assert curves(tmp_path)["validation/loss"] == [(10, 1.0)]
    board.close()


def test_full_disk_is_an_error_and_not_a_wait_for_ever(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with TensorBoard(tmp_path, 0, LAYERS) as board, monkeypatch.context() as patched:
        patched.setattr(RecordWriter, "flush", full)
        with pytest.raises(OSError, match="No space left"):
            board.write(validation(10, 1.0, 0.5))
