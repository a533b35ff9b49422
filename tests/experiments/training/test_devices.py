"""On eight devices, which conftest.py asks for, runs find what they find on one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import CONFIG, Events, assert_alike, dataset

from experiments import runner
from experiments.data.dataset import load
from experiments.policies.catalogue import POLICIES
from experiments.training import compiling
from experiments.training.devices import Devices
from experiments.training.stacking import layout
from experiments.training.trainer import Run, Trainer

# Ten steps of forty images, five on each of eight devices.
EIGHT = dataclasses.replace(CONFIG, batch_size=40, epochs=5, devices=8)

pytestmark = pytest.mark.usefixtures("smooth")


def on(devices, policy="uniform", **changes):
    config = dataclasses.replace(EIGHT, devices=devices, **changes)
    events = Events()
    Trainer(config, dataset()).run(POLICIES[policy], 0, events)
    return events


# ----- where arrays lie


@pytest.mark.parametrize("length", [16, 17, 23, 3])
def test_each_device_holds_its_part_of_what_is_divided(length):
    devices = Devices(EIGHT)
    array = np.arange(1, 2 * length + 1, dtype=np.int32).reshape(length, 2)
    found = devices.put(array, devices.divided)
    each = -(-length // 8)
    assert [s.data.shape for s in found.addressable_shards] == [(each, 2)] * 8
    assert len({s.device for s in found.addressable_shards}) == 8
    np.testing.assert_array_equal(found[:length], array)
    assert not np.asarray(found[length:]).any()  # filled up with zeros


def test_what_is_everywhere_lies_whole_on_every_device():
    devices = Devices(EIGHT)
    tree = {
        "array": np.arange(3.0),
        "scalar": jnp.int32(3),
        "none": None,
        "key": jax.random.key(5),
    }
    found = devices.put_everywhere(tree)
    assert found["none"] is None
    for name in ("array", "scalar", "key"):
        assert found[name].sharding == devices.everywhere
        assert len(found[name].sharding.device_set) == 8
    np.testing.assert_array_equal(found["array"], tree["array"])
    assert (int(found["scalar"]), found["scalar"].dtype) == (3, jnp.int32)
    np.testing.assert_array_equal(
        *(jax.random.normal(t["key"], (3,)) for t in (tree, found))
    )
    again = devices.put_everywhere(found)
    assert again["array"] is found["array"]  # nothing moves that is there
    assert again["key"] is found["key"]


def test_a_stacked_state_has_its_runs_divided_and_one_step():
    devices = Devices(dataclasses.replace(EIGHT, stack=16))
    across = layout(devices, 16)
    assert (across.params, across.key) == (devices.divided, devices.divided)
    assert across.step == devices.everywhere


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({}, 1),
        ({"devices": 5}, 5),
        ({"devices": "all"}, 8),
        ({"devices": 3, "batch_size": 32, "stack": 2}, 3),  # the runs are divided
    ],
)
def test_so_many_devices_are_taken_as_asked_for(changes, count):
    devices = Devices(dataclasses.replace(CONFIG, **{"batch_size": 40, **changes}))
    assert devices.count == count
    assert devices.everywhere.device_set == set(jax.devices()[:count])


@pytest.mark.parametrize("training_images", [100, 96])
def test_the_training_images_are_divided_over_the_devices(training_images):
    config = dataclasses.replace(EIGHT, train_fraction=training_images / 100)
    data = dataset(config)
    some = data.train.take(np.arange(training_images))
    trainer = Trainer(config, dataclasses.replace(data, train=some))
    images, labels = trainer._train
    each = -(-training_images // 8)
    for array in (images, labels):
        assert [len(s.data) for s in array.addressable_shards] == [each] * 8
    np.testing.assert_array_equal(images[:training_images], some.images)
    np.testing.assert_array_equal(labels[:training_images], some.labels)


def test_stacked_runs_have_all_images_on_every_device():
    trainer = Trainer(dataclasses.replace(EIGHT, stack=8), dataset())
    shards = trainer._train.images.addressable_shards
    assert [len(shard.data) for shard in shards] == [100] * 8


# ----- what is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"batch_size": 20, "devices": 8},
            r"^batch_size must be divisible by the number of devices, 8; got 20$",
        ),
        (
            {"batch_size": 32, "devices": 3},
            r"^batch_size must be divisible by the number of devices, 3; got 32$",
        ),
        (
            {"batch_size": 20, "devices": "all"},
            r"^batch_size must be divisible by the number of devices, 8; got 20$",
        ),
        (
            {"devices": 9, "batch_size": 18},
            r"^devices must be at most 8, the devices that JAX finds here "
            r"\(cpu\); got 9$",
        ),
        ({"devices": 9, "stack": 9}, r"^devices must be at most 8"),
    ],
)
def test_what_cannot_be_divided_is_refused_before_anything_compiles(
    changes, message, monkeypatch, tmp_path
):
    monkeypatch.setattr(compiling, "Program", lambda *_: pytest.fail("built"))
    config = dataclasses.replace(CONFIG, out=tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        runner.run(config, dataset(), [])
    assert list(tmp_path.iterdir()) == []


# ----- what comes of it


@pytest.fixture(scope="module")
def eight():
    return Trainer(EIGHT, dataset())


@pytest.fixture(scope="module")
def alone():
    return Trainer(dataclasses.replace(EIGHT, devices=1), dataset())


class Keeping(Events):
    """Makes a checkpoint after four steps, and looks at how the state lies."""

    def late(self):
        return len(self) == 4

    def save(self, step, state, seconds):
        self.state = jax.tree.map(jnp.copy, state)


@pytest.mark.slow
def test_on_eight_devices_a_run_finds_what_it_finds_on_one(alone, eight):
    found, expected = Keeping(), Events()
    alone.run(POLICIES["early-first"], 0, expected)
    eight.run(POLICIES["early-first"], 0, found)
    assert_alike([found], [expected])
    for leaf in jax.tree.leaves(found.state):
        assert leaf.sharding.is_fully_replicated
        assert len(leaf.sharding.device_set) == 8


def test_devices_share_the_work_of_a_step(alone, eight):
    runs = [Run(POLICIES["uniform"], 0)]
    work = [t.begin(runs).stages[0].step.work for t in (alone, eight)]
    assert work[1] < 0.2 * work[0]  # an eighth, and what none can be spared


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "changes"),
    [
        ("uniform", {"norm": "batch"}),
        ("uniform", {"norm": "batch", "ema": 0.9, "crop_padding": 4, "cutout": 8}),
        ("gradient-norm", {}),
        ("layca", {"weight_decay": 0.0}),
        ("freezeout", {"shortest_phase": 0.5}),
    ],
)
def test_every_kind_of_run_is_the_same_on_eight_devices(policy, changes):
    assert_alike([on(8, policy, **changes)], [on(1, policy, **changes)])


def test_images_that_fill_up_are_never_trained_on(eight):
    """Of 100 images on eight devices four are filled in: an epoch orders 100."""
    assert len(eight._train.labels) == 104
    assert eight.like(POLICIES["uniform"]).order.shape == (100,)


@pytest.mark.slow
def test_runs_come_apart_no_further_than_the_page_says():
    """docs/scaling.md: equal at first, and then as rounding grows."""
    config = dataclasses.replace(
        CONFIG,
        model="cnn-shallow",
        batch_size=160,
        validation=1_200,
        epochs=5,
        rate=0.1,
    )
    whole = load(config.data, validation=config.validation)
    some = np.arange(100)
    images = dataclasses.replace(
        whole, validation=whole.validation.take(some), test=whole.test.take(some)
    )

    def losses(devices):
        events = Events()
        chosen = dataclasses.replace(config, devices=devices)
        Trainer(chosen, images).run(POLICIES["uniform"], 0, events)
        return np.array([e["loss"] for e in events if e["kind"] == "train"])

    one, eight = losses(1), losses(8)
    assert len(one) == 25
    np.testing.assert_allclose(eight[:4], one[:4], rtol=1e-6)
    np.testing.assert_allclose(eight, one, rtol=1e-2)
