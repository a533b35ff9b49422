"""Layers and match_layers: identity, order, coverage, and what their errors say."""

import copy
import dataclasses
import pickle
import re
import sys
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

import optax_llr
from optax_llr import Layers, match_layers


def make(**changes):
    fields = {
        "names": ("stem", "left", "right", "head"),
        "level": np.array([0, 1, 1, 2]),
        "members": {"s/w": 0, "s/b": 0, "l": 1, "r": 2, "h": 3},
    }
    return Layers(**(fields | changes))


def shapes(*paths, shape=(2,)):
    """Nested dicts with these paths."""
    tree = {}
    for path in paths:
        *inner, last = path.split("/")
        node = tree
        for key in inner:
            node = node.setdefault(key, {})
        node[last] = jax.ShapeDtypeStruct(shape, jnp.float32)
    return tree


# --- Layers -------------------------------------------------------------------------


def test_layers_cannot_be_changed():
    layers = make()
    with pytest.raises(dataclasses.FrozenInstanceError):
        layers.names = ()
    with pytest.raises(ValueError, match="read-only"):
        layers.level[0] = 5
    with pytest.raises(TypeError):
        layers.members["s/w"] = 3


def test_layers_do_not_share_what_they_were_made_of():
    level, members = np.array([0, 1, 1, 2]), {"a": 0, "b": 1, "c": 2, "d": 3}
    layers = make(level=level, members=members)
    level[0], members["a"] = 9, 3
    assert layers.level[0] == 0
    assert layers.members["a"] == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"names": ("stem", "right", "left", "head")},
        {"level": np.array([0, 1, 2, 3])},
        {"members": {"s/w": 0, "s/b": 1, "l": 1, "r": 2, "h": 3}},
        {"members": {"s/w": 0, "s/b": (0, 0), "l": 1, "r": 2, "h": 3}},
        {"members": {"s/w": 0, "s/c": 0, "l": 1, "r": 2, "h": 3}},
    ],
)
def test_equality_and_fingerprint_know_every_field(changes):
    layers, other = make(), make(**changes)
    assert layers != other
    # Levels only enter into schedules; who belongs where stays the same.
    assert (layers.fingerprint == other.fingerprint) == ("level" in changes)
    assert len({layers, other}) == 2


def test_equal_layers_are_one_key():
    reordered = dict(reversed(list(make().members.items())))
    layers, other = make(), make(members=reordered, level=[0, 1, 1, 2])
    assert layers == other
    assert hash(layers) == hash(other)
    assert layers.fingerprint == other.fingerprint
    assert layers != "stem"


def test_fingerprint_stays_the_same_from_release_to_release():
    """It is written into checkpoints."""
    assert make().fingerprint == "88343f3c329586ad"


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_layers_can_be_copied(duplicate):
    assert duplicate(make()) == make()


def test_layers_can_be_pickled():
    layers = make(members={"s": (0, 1), "r": 2, "h": 3})
    again = pickle.loads(pickle.dumps(layers))
    assert again == layers
    assert again.fingerprint == layers.fingerprint
    assert not again.level.flags.writeable


def test_layers_can_be_a_static_argument():
    traces = []

    def depth(layers):
        traces.append(layers)
        return jnp.asarray(layers.depth)

    jitted = jax.jit(depth, static_argnums=0)
    np.testing.assert_allclose(jitted(make()), [0, 0.5, 0.5, 1])
    jitted(make())
    assert len(traces) == 1


def test_depth_is_the_level_from_0_to_1():
    np.testing.assert_array_equal(make().depth, [0.0, 0.5, 0.5, 1.0])
    assert Layers(("all",), np.zeros(1, int), {"w": 0}).depth.tolist() == [0.0]
    assert len(make()) == 4


def test_repr_names_every_layer_and_path():
    text = repr(make(members={"stack": (0, 1), "r": 2, "h": 3, "hb": 3}))
    for word in ["stem", "left", "right", "stack[0]", "stack[1]", "h, hb"]:
        assert word in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ("stem", "stem", "right", "head")}, r"repeat: \['stem'\]"),
        ({"level": np.array([0, 1, 2])}, "an int level ≥ 0 for each of 4 layers"),
        ({"level": np.array([0, 1, 1, -1])}, "an int level ≥ 0"),
        ({"level": np.array([0.0, 0.7, 1.0, 2.0])}, "an int level ≥ 0"),
        ({"names": ("stem", None, "right", "head")}, "must be strings"),
        ({"members": {"s": 0, "l": 1, "r": 2}}, r"without a parameter: \['head'\]"),
        ({"members": {"s": 0, "l": 1, "r": 2, "h": (3, 4)}}, r"no layer: \[4\]"),
        ({"members": {"s": 0, "l": 1, "r": 2, "h": 3, "x": -1}}, r"no layer: \[-1\]"),
    ],
)
def test_layers_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


# --- match_layers -------------------------------------------------------------------


def test_first_rule_wins():
    params = shapes("block/norm/scale", "block/dense/kernel")
    layers = match_layers(params, [(".*norm.*", "norms"), ("block/.*", "blocks")])
    assert layers.members == {"block/norm/scale": 0, "block/dense/kernel": 1}
    assert layers.names == ("norms", "blocks")


def test_pattern_must_match_the_whole_path():
    """`conv1` must not catch `conv10`."""
    params = shapes("conv1/kernel", "conv10/kernel")
    with pytest.raises(ValueError, match=r"without a rule: \['conv10/kernel'\]"):
        match_layers(params, [("conv1/kernel", "first")])


def test_numbers_in_names_are_read_as_numbers():
    params = shapes(*(f"block{i}/w" for i in range(12)), "stem/w")
    layers = match_layers(params, [("stem/.*", "stem"), (r"block(\d+)/w", r"b\1")])
    assert layers.names == ("stem", *(f"b{i}" for i in range(12)))
    assert layers.level.tolist() == list(range(13))
    assert layers.members["block10/w"] == 11


@given(st.permutations(["stem/w", *(f"block{i}/w" for i in range(11)), "head/w"]))
def test_order_does_not_depend_on_the_order_of_the_tree(paths):
    rules = [
        ("stem/w", "stem"),
        (r"block(?P<n>\d+)/w", r"b\g<n>"),
        ("head/w", "head"),
    ]
    flat = {path: np.ones(2) for path in paths}
    layers = match_layers(flat, rules)
    assert layers.names == ("stem", *(f"b{i}" for i in range(11)), "head")


def test_rules_of_one_name_form_one_layer_at_the_place_of_the_first():
    params = shapes("a/w", "b/w", "c/w")
    rules = [("a/w", "ends"), ("b/w", "middle"), ("c/w", "ends")]
    layers = match_layers(params, rules)
    assert layers.names == ("ends", "middle")
    assert layers.members == {"a/w": 0, "b/w": 1, "c/w": 0}


def test_stacked_parameters_have_a_layer_for_each_slice():
    params = {
        "blocks": {"kernel": np.ones((3, 4, 4)), "bias": np.ones((3, 4))},
        "head": np.ones(2),
    }
    layers = match_layers(params, [("blocks/.*", "block[:]"), ("head", "head")])
    assert layers.names == ("block[0]", "block[1]", "block[2]", "head")
    assert layers.members["blocks/bias"] == (0, 1, 2)
    assert layers.members["head"] == 3
    assert layers.level.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("bias", [np.ones((4, 3)), np.float32(1.0)])
def test_stacked_parameters_need_one_height(bias):
    params = {"kernel": np.ones((3, 4)), "bias": bias}
    with pytest.raises(ValueError, match=r"stacked as 'b\[:\]' need one length"):
        match_layers(params, [(".*", "b[:]")])


def test_uncovered_parameters_and_idle_rules_are_named_together():
    params = shapes("stem/w", "neck/w", "head/w")
    with pytest.raises(ValueError, match="every parameter needs a rule") as error:
        match_layers(params, [("stem/.*", "stem"), ("haed/.*", "head")])
    message = str(error.value)
    assert "without a rule: ['head/w', 'neck/w']" in message
    assert "('haed/.*', 'head')" in message
    assert "all paths: ['head/w', 'neck/w', 'stem/w']" in message


def test_rule_hidden_by_those_before_it_is_idle():
    params = shapes("stem/w", "head/w")
    with pytest.raises(ValueError, match=r"rules that cover nothing .*'head'\)"):
        match_layers(params, [(".*", "all"), ("head/w", "head")])


def test_many_uncovered_parameters_are_cut_short():
    params = shapes(*(f"w{i}" for i in range(40)), "stem")
    with pytest.raises(ValueError, match=r"32 more"):
        match_layers(params, [("stem", "stem")])


def test_no_parameters_and_no_rules_are_no_layers():
    assert len(match_layers({}, [])) == 0


def test_two_parameters_of_one_path_are_refused():
    """`{"a": {"b/c": …}}` and `{"a/b": {"c": …}}` read alike."""
    params = {"a": {"b/c": np.ones(2)}, "a/b": {"c": np.ones(2)}}
    with pytest.raises(ValueError, match=r"same path: \['a/b/c'\]"):
        match_layers(params, [(".*", "all")])


def test_attribute_called_value_belongs_to_the_path_where_it_is_no_box():
    """A dict key `value` is a name like any other."""
    params = {"attention": {"value": np.ones(2), "key": np.ones(2)}}
    layers = match_layers(params, [(".*/key", "k"), (".*/value", "v")])
    assert layers.names == ("k", "v")


def test_values_of_the_parameters_do_not_matter():
    rules = [("stem", "stem"), ("head", "head")]
    arrays = {"stem": jnp.full(3, jnp.nan), "head": jnp.ones(2)}
    abstract = jax.eval_shape(lambda: arrays)
    assert match_layers(arrays, rules) == match_layers(abstract, rules)


def test_layers_are_exported():
    assert optax_llr.Layers is Layers


def test_rules_may_come_from_a_generator():
    rules = (rule for rule in [("a", "A"), ("b", "B"), ("c", "C")])
    with pytest.raises(ValueError, match=r"cover nothing .*'c'"):
        optax_llr.match_layers({"a": 1.0, "b": 2.0}, rules)


@pytest.mark.parametrize("rule", [("(", "a"), ("a", r"\1")])
def test_a_rule_that_is_no_pattern_is_named(rule):
    with pytest.raises(ValueError, match="is no pattern with a name"):
        optax_llr.match_layers({"a": 1.0}, [rule])


def test_a_stack_without_slices_is_refused():
    with pytest.raises(ValueError, match=r"one length of axis 0.*w: \(0, 3\)"):
        optax_llr.match_layers({"w": np.ones((0, 3))}, [("w", "w[:]")])


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Attention:
    query: jax.Array
    key: jax.Array
    value: jax.Array


@dataclasses.dataclass
class Value:
    """A pytree of one leaf that is called `value`, and no box."""

    value: jax.Array


jax.tree_util.register_dataclass(Value)


def test_a_field_called_value_keeps_its_name():
    w = jnp.ones((2, 2))
    params = {"a": Attention(w, w, w), "b": Value(w), "c": {"value": w}}
    layers = optax_llr.match_layers(params, [(".*", "all")])
    fields = ["a/query", "a/key", "a/value", "b/value", "c/value"]
    assert sorted(layers.members) == sorted(fields)
    state = nnx.State({"value": nnx.Param(w), "a": {"value": nnx.Param(w)}})
    layers = optax_llr.match_layers(state, [(".*", "all")])
    assert sorted(layers.members) == ["a/value", "value"]


def test_boxes_are_known_by_type():
    class Mine(nnx.Param):
        pass

    w = jnp.ones((2, 2))
    boxed = {"a": Mine(w), "b": nn.LogicallyPartitioned(w, ("x", "y")), "c": [Mine(w)]}
    layers = optax_llr.match_layers(boxed, [(".*", "all")])
    assert sorted(layers.members) == ["a", "b", "c/0"]


def test_only_paths_that_clash_are_named():
    params = {"a/b": jnp.ones(2), "a": {"b": jnp.ones(2)}, "innocent": jnp.ones(2)}
    with pytest.raises(ValueError, match=r"the same path: \['a/b'\]$"):
        optax_llr.match_layers(params, [(".*", "all")])


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("layer1/.*", {"layer1/w"}),
        ("layer1?.*/w", {"layer1/w", "layer12/w"}),
        ("layer1*2/w", {"layer12/w"}),
        ("layer12{0}/w", {"layer1/w"}),
        ("stem|layer12/w", {"stem", "layer12/w"}),
        ("(?i)LAYER1/W", {"layer1/w"}),
        ("(?x) layer1 /w", {"layer1/w"}),
        ("layer1[/]w", {"layer1/w"}),
        (r"layer1\d/w", {"layer12/w"}),
        ("stem+", {"stem"}),
        ("s?stem", {"stem"}),
        ("^stem$", {"stem"}),
        ("", set()),
    ],
)
def test_rules_are_found_by_what_their_patterns_begin_with(pattern, matched):
    params = {name: jnp.ones(2) for name in ("layer1/w", "layer12/w", "stem")}
    if not matched:
        with pytest.raises(ValueError, match="rules that cover nothing"):
            optax_llr.match_layers(params, [(pattern, "a"), (".*", "rest")])
        return
    rules = [(pattern, "matched"), (".*", "rest")]
    layers = optax_llr.match_layers(params, rules)
    found = {p for p, i in layers.members.items() if layers.names[i] == "matched"}
    assert found == matched


def test_a_rule_for_each_of_many_layers_is_cheap(monkeypatch):
    tried = []

    class Counting:
        def __init__(self, pattern):
            self.compiled = re.compile(pattern)
            self.pattern, self.flags = pattern, self.compiled.flags

        def fullmatch(self, path):
            tried.append(path)
            return self.compiled.fullmatch(path)

    module = sys.modules["optax_llr.layers._match"]
    fake = types.SimpleNamespace(**vars(re) | {"compile": Counting})
    monkeypatch.setattr(module, "re", fake)
    params = {f"layer{i}": {"w": np.ones(1)} for i in range(700)}
    rules = [(rf"layer{i}/.*", f"l{i}") for i in range(700)]
    assert len(optax_llr.match_layers(params, rules)) == 700
    assert len(tried) < 4 * 700


@pytest.mark.parametrize(
    "rules", [["abc"], [("a",)], [(1, "a")], [(".*", 1)], [None], {"a": "a"}, "ab"]
)
def test_what_are_no_rules_is_named(rules):
    with pytest.raises(ValueError, match=r"^match_layers: rules: expected a list of"):
        optax_llr.match_layers({"a": np.ones(1)}, rules)


def test_layers_made_by_hand_count_distances_from_the_end():
    layers = optax_llr.Layers(("a", "b", "c"), [0, 1, 1], {"x": 0, "y": 1, "z": 2})
    assert layers.distance.tolist() == [1, 0, 0]
    assert not layers.distance.flags.writeable
    other = optax_llr.Layers(layers.names, layers.level, layers.members, [2, 1, 0])
    assert other != layers
    assert other.fingerprint == layers.fingerprint
    assert pickle.loads(pickle.dumps(other)) == other
    with pytest.raises(ValueError, match=r"^Layers: expected an int distance"):
        optax_llr.Layers(layers.names, layers.level, layers.members, [0.5, 1, 2])
    with pytest.raises(ValueError, match=r"^Layers: expected an int distance"):
        optax_llr.Layers(layers.names, layers.level, layers.members, [0, 1])
