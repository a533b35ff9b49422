"""Models by name, and found layers told in the notation of `expected`."""

import functools
import importlib

import jax

import optax_llr


@functools.cache
def load(name, **sizes):
    """(forward, params, inputs) of `library.model`: shapes only."""
    library, _, model = name.partition(".")
    return getattr(importlib.import_module(f"zoo.models.{library}"), model)(**sizes)


def trace(name, group=None, unused=None):
    return _traced(name, group, tuple((unused or {}).items()))


@functools.cache
def _traced(name, group, unused):
    forward, params, inputs = load(name)
    given = {"group": group, "unused": dict(unused)}
    kwargs = {key: value for key, value in given.items() if value}
    return optax_llr.trace_layers(forward, params, *inputs, **kwargs)


class Item:
    """`a|b+n` on one line: names that may host, and all that belongs to it."""

    def __init__(self, text, level):
        hosts, *self.joined = text.split("+")
        self.text, self.level, self.hosts = text, level, hosts.split("|")

    @property
    def names(self):
        return [*self.hosts, *self.joined]


def items(lines):
    """All items of a table, `a/b,c` written out."""
    return [
        Item(text, level)
        for level, line in enumerate(lines)
        for word in line.split()
        for text in _written_out(word)
    ]


def _written_out(word):
    host, _, joined = word.partition("+")
    before, _, last = host.rpartition("/")
    if "," not in last:
        return [word]
    assert not joined, f"{word}: which of them do they join?"
    return [f"{before}/{name}" for name in last.split(",")]


def place(layers):
    """For each parameter, or slice of one, its layer's index."""
    return {
        (path, row): index
        for path, member in layers.members.items()
        for row, index in (
            enumerate(member) if isinstance(member, tuple) else [(None, member)]
        )
    }


def covers(name, part):
    """How much of a part's path a name takes up; 0 where it is another's."""
    path, row = part
    name, bracket, number = name.partition("[")
    if bracket and row != int(number[:-1]):
        return 0
    if name.endswith("*"):
        return len(name) - 1 if path.startswith(name[:-1]) else 0
    return len(name) if f"{path}/".startswith(f"{name}/") else 0


def owner(names, part):
    """The name that takes up most of a part's path."""
    best = max(names, key=lambda name: covers(name, part))
    assert covers(best, part), f"{part}: not in the table of {names}"
    return best


def end_of(name, ends, default):
    """The last level of the longest path through a layer (see `expected`)."""
    part = name.partition("[")[0], None
    listed = {item.text: end for e, end in ends.items() for item in items([e])}
    best = max(listed, key=lambda name: covers(name, part), default=None)
    return listed[best] if best and covers(best, part) else default


def leaves_by_path(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(k, simple=True, separator="/"): v for k, v in leaves}
