"""group="block": the unit that repeats, found from the tree and the trace.

Paths that differ in numbers alone are members of one stack, where their parameters go
by the same names and they follow one another in the computation. The outermost such
unit is the block; only where it changes its sizes from one to the next and consists of
residual blocks (the stages of a ResNet) are these the blocks.
"""

import collections
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ._found import Found, part_name

# A letter right behind a number counts too: `block2a`, `block2b`.
_COUNTER = re.compile(r"\d+|(?<=\d)[a-z](?![a-zA-Z])")
_NUMBER = re.compile(r"_?\d+")


class _Unit(NamedTuple):
    """What stands under one prefix of the paths: a member of a stack."""

    prefix: str
    shapes: dict[str, tuple[int, ...]]  # by what follows the prefix
    paths: frozenset[str]
    end: int  # the level of its last matrix

    def like(self, other: "_Unit") -> bool:
        """Whether one has all parameters of the other (and a shortcut, say)."""
        # Keras numbers variables through the whole model.
        a, b = (
            collections.Counter(_NUMBER.sub("", rest) for rest in unit.shapes)
            for unit in (self, other)
        )
        return a <= b or b <= a

    def same_sizes(self, other: "_Unit") -> bool:
        common = self.shapes.keys() & other.shapes.keys()
        return all(self.shapes[rest] == other.shapes[rest] for rest in common)


def block_names(found: Found) -> Callable[[str], str]:
    """From each parameter's path to the name of its block, or of what is around."""
    names: dict[str, str] = {}
    for stack in found.stacks:
        names |= dict.fromkeys(stack, found.name_together(stack))
    for stack in _stacks(found, names):
        for unit in stack:
            names |= dict.fromkeys(unit.paths, unit.prefix)
    if not names:
        raise ValueError(
            "trace_layers: group='block': expected a block that repeats, with paths "
            "that differ in a number, or a scanned stack; nothing repeats here. Leave "
            "`group` out for one layer a module, or say the layers by a function"
        )
    names |= _around(found, names)
    return lambda path: names.get(path, path)


def _stacks(found: Found, scanned: Iterable[str]) -> list[list[_Unit]]:
    candidates = [
        stack
        for units in _candidates(found, set(scanned))
        for stack in _alike(units)
        if _follow_one_another(found, stack)
    ]
    taken: set[str] = set()
    chosen: list[list[_Unit]] = []
    for stack in candidates:
        paths = frozenset[str]().union(*(unit.paths for unit in stack))
        if not taken & paths and not _are_stages(found, stack, candidates):
            chosen.append(stack)
            taken |= paths
    levels = [(len(s), found.levels_of(s)) for s in found.stacks]
    levels += [(len(s[0].paths), {unit.end for unit in s}) for s in chosen]
    return [stack for stack in chosen if not _spans_larger(stack, levels)]


def _candidates(found: Found, scanned: set[str]) -> list[list[_Unit]]:
    """Units by the pattern of their prefixes, the outermost first."""
    members = collections.defaultdict[str, dict[str, list[str]]](dict)
    for path in found.shapes:
        if path in scanned or not found.knows_path(path):
            continue
        for counter in _COUNTER.finditer(path):
            prefix = path[: counter.end()]
            pattern = _COUNTER.sub("#", prefix)
            members[pattern].setdefault(prefix, []).append(path)
    order = sorted(members, key=lambda pattern: (pattern.count("#"), len(pattern)))
    return [
        [
            _Unit(
                prefix,
                {path[len(prefix) :]: found.shapes[path] for path in paths},
                frozenset(paths),
                max(map(found.level_of, paths)),
            )
            for prefix, paths in members[pattern].items()
        ]
        for pattern in order
        if len(members[pattern]) > 1
    ]


def _alike(units: Sequence[_Unit]) -> list[list[_Unit]]:
    """Units in sets of the same parameters, give or take a shortcut."""
    stacks: list[list[_Unit]] = []
    for unit in sorted(units, key=lambda unit: -len(unit.paths)):
        for stack in stacks:
            if stack[0].like(unit):
                stack.append(unit)
                break
        else:
            stacks.append([unit])
    return [sorted(s, key=lambda unit: unit.end) for s in stacks if len(s) > 1]


def _follow_one_another(found: Found, stack: Sequence[_Unit]) -> bool:
    ends = [unit.end for unit in stack]
    if len(set(ends)) < len(ends) or min(ends) < 0:
        return False
    # What one shortcut spans is one block, not several.
    spanned = set[int]()
    for unit in stack:
        if spanned & found.added_to(unit.paths):
            return False
        spanned |= found.read_by(unit.paths)
    return True


def _spans_larger(
    stack: Sequence[_Unit], others: Iterable[tuple[int, set[int]]]
) -> bool:
    """Whether larger blocks stand within a stack: then it is none (`Dense_0`, …)."""
    first, last = stack[0].end, stack[-1].end
    return any(
        size > len(stack[0].paths) and any(first < level < last for level in levels)
        for size, levels in others
    )


def _are_stages(
    found: Found, stack: Sequence[_Unit], candidates: Sequence[Sequence[_Unit]]
) -> bool:
    """Whether units are made of residual blocks, several of one kind."""
    change = not all(a.same_sizes(b) for a, b in itertools.pairwise(stack))
    for inside in candidates:
        within = [
            [inner for inner in inside if inner.paths <= unit.paths] for unit in stack
        ]
        if sum(map(len, within)) < len(inside):
            continue
        several = [inners for inners in within if len(inners) > 1]
        alike = change or any(
            a.same_sizes(b) for inners in several for a, b in itertools.pairwise(inners)
        )
        residual = any(
            found.read_by(inner.paths) & found.added_to(inner.paths) for inner in inside
        )
        if several and alike and residual:
            return True
    return False


def _around(found: Found, names: dict[str, str]) -> dict[str, str]:
    """The rest: by the blocks before and behind; norms by what feeds them."""
    before, behind = found.reach(names)
    groups = collections.defaultdict[tuple[int, int], list[str]](list)
    around: dict[str, str] = {}
    for path in found.shapes:
        if path in names or not found.knows_path(path):
            continue
        node, (host, row) = found.home_of(found.neighbour(path, names))
        if host in names:
            around[path] = part_name(names[host], row)
        else:
            groups[before[node], behind[node]].append(path)
    for paths in groups.values():
        around |= dict.fromkeys(paths, found.name_together(paths))
    return around
