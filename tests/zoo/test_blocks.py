"""Layers by block: `group="block"` finds what repeats, and what stands around it."""

import pytest

from zoo.comparing import end_of, items, owner, place, trace
from zoo.expected import MODELS

pytestmark = pytest.mark.filterwarnings("ignore")  # of other people's packages

READ = [name for name, model in MODELS.items() if model.blocks]
REFUSED = [name for name, model in MODELS.items() if model.modules and not model.blocks]


@pytest.fixture(params=READ)
def model(request):
    return request.param


def found(model):
    """Layers, and for each item of the table the layers that hold its parameters."""
    layers = trace(model, "block", MODELS[model].block_unused)
    table = items(MODELS[model].blocks)
    names = {name: item for item in table for name in item.names}
    holders = {item.text: set() for item in table}
    for part, index in place(layers).items():
        holders[names[owner(names, part)].text].add(index)
    return layers, holders


def test_blocks_are_layers(model):
    _, holders = found(model)
    alone = {text: at for text, at in holders.items() if "|" not in text}
    assert {text: len(at) for text, at in alone.items()} == dict.fromkeys(alone, 1)
    shared = [
        (a, b) for a in alone for b in holders if a != b and holders[a] & holders[b]
    ]
    assert not shared


def test_levels(model):
    layers, holders = found(model)
    levels = {text: set(layers.level[list(at)]) for text, at in holders.items()}
    assert levels == {item.text: {item.level} for item in items(MODELS[model].blocks)}


def test_distances_to_the_output(model):
    layers, holders = found(model)
    table = MODELS[model]
    last = len(table.blocks) - 1
    distances = {text: set(layers.distance[list(at)]) for text, at in holders.items()}
    assert distances == {
        item.text: {end_of(item.hosts[0], table.block_ends, last) - item.level}
        for item in items(table.blocks)
    }


@pytest.mark.parametrize("model", REFUSED)
def test_a_model_without_repetition_is_refused(model):
    with pytest.raises(ValueError, match="repeat"):
        trace(model, "block")


def test_a_scan_along_axis_1_is_an_error():
    with pytest.raises(ValueError, match=r"blocks/attention.* axis 0"):
        trace("linen.scanned_along_axis_1", "block")
