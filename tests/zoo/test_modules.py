"""Layers per module: which they are, their levels, and their distances."""

import pytest

from zoo.comparing import end_of, items, owner, place, trace
from zoo.expected import MODELS

pytestmark = pytest.mark.filterwarnings("ignore")  # of other people's packages

READ = [name for name, model in MODELS.items() if model.modules]


@pytest.fixture(params=READ)
def model(request):
    return request.param


def found(model):
    return trace(model, unused=MODELS[model].unused)


def test_levels(model):
    layers = found(model)
    table = items(MODELS[model].modules)
    expected = {name: item.level for item in table for name in item.hosts}
    assert dict(zip(layers.names, layers.level.tolist(), strict=True)) == expected


def test_norms_join_what_feeds_them(model):
    layers = found(model)
    hosts = {}
    for item in items(MODELS[model].modules):
        hosts |= {name: item.hosts for name in item.joined}
        hosts |= {name: [name] for name in item.hosts}
    wrong = {
        part: layers.names[index]
        for part, index in place(layers).items()
        if layers.names[index] not in hosts[owner(hosts, part)]
    }
    assert not wrong


def test_distances_to_the_output(model):
    layers = found(model)
    table = MODELS[model]
    last = len(table.modules) - 1
    expected = {
        name: end_of(name, table.ends, last) - item.level
        for item in items(table.modules)
        for name in item.hosts
    }
    assert dict(zip(layers.names, layers.distance.tolist(), strict=True)) == expected


def test_a_model_that_is_used_in_part_says_how_to_go_on():
    with pytest.raises(ValueError, match=r"masked_spec_embed.*unused="):
        trace("transformers.wav2vec2")


def test_a_scan_along_axis_1_is_an_error():
    with pytest.raises(ValueError, match=r"blocks/attention.* axis 0"):
        trace("linen.scanned_along_axis_1")
