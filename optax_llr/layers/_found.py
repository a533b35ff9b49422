"""The layers that a walk has found so far."""

import collections
import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ._graph import Graph
from ._layers import Layers, Member, as_indices
from ._paths import natural_key, quoted
from ._primitives import ADDITIVE, ELEMENTWISE, OPAQUE
from ._values import Activation, Part, Unit, Value, Weights


class Found:
    """The layers found so far: where each module was first met, and by what."""

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], group: Callable[[str], str] | None
    ):
        self.shapes = shapes
        self._module = _owning_modules(shapes)
        self._size = collections.Counter(self._module.values())
        self._owner = self._module if group is None else _named(group, shapes)
        self._owned = collections.defaultdict[str, list[str]](list)
        for path, owner in self._owner.items():
            self._owned[owner].append(path)
        # Of these modules only the own parameters form a layer, which is named by them.
        inner = {self._owner[path].rpartition("/")[0] for path in shapes}
        self._outer = {at for path in inner for at in _prefixes(path)}
        self._norms_join = group is None
        self.graph = Graph()
        self._names: list[str] = []
        self._placed: dict[str, int] = {}  # the layer of a unit, by its name
        self._home: list[tuple[int, Part]] = []  # where each layer stands, and by what
        self.stacks: list[set[str]] = []  # of paths that a scan slices together
        # For each parameter, the layer of each slice met; of the whole under None.
        self._layer = collections.defaultdict[str, dict[int | None, int]](dict)
        self._node: dict[Part, int] = {}  # where each was first met

    def meet(self, weights: Weights, x: int, primitive: str) -> int:
        """Weights meet the activation of a node: they are layers from here on.

        Returns the node that they lead to.
        """
        if not weights.stages:
            return self._apply(weights, x, primitive)
        # Layers of a constant end beside what they meet first, as a learned query
        # does beside the keys. The path there may be shorter than theirs.
        beside = self.graph.beside(x, len(weights.stages))
        early = len(weights.stages) - len(beside) + 1
        first = frozenset[Part]().union(*weights.stages[:early])
        before: list[int] = []
        for parts, reads in zip((first, *weights.stages[early:]), beside, strict=True):
            before = [self._apply(Weights(parts), x, primitive, (*reads, *before))]
        return self.graph.join([x, *before, *(self._node[p] for p in weights.parts)])

    def _apply(
        self,
        weights: Weights,
        x: int,
        primitive: str,
        beside: tuple[int, ...] | None = None,
    ) -> int:
        parts = sorted(weights.parts, key=lambda part: natural_key(part[0]))
        units = collections.defaultdict[Unit, list[Part]](list)
        for part in parts:
            units[self.unit(part)].append(part)
        joining = [u for u in units if self._norms_join and self._has_only_vectors(u)]
        proper = [u for u in units if u not in joining]
        for unit in proper:
            if beside is None and primitive in ("mul", "div"):
                full = weights.full.intersection(units[unit])
                self._refuse_rescaled(unit, full, x)
            self._place(unit, units[unit], x, primitive, beside)
        lead = self.graph.lead_layer(x)
        feeding = primitive in ELEMENTWISE or primitive == OPAQUE
        for unit in joining:
            if proper:  # the scale of a normalised weight, say
                at = x if beside is None else self._node[units[proper[0]][0]]
                self._join(unit, units[unit], self._placed[part_name(*proper[0])], at)
            elif beside is None and part_name(*unit) in self._placed:
                self._join(unit, units[unit], self._placed[part_name(*unit)], x)
            elif beside is None and feeding and lead is not None:
                self._join(unit, units[unit], lead, x)
            else:
                self._place(unit, units[unit], x, primitive, beside)
        nodes = [self._node[part] for part in parts]
        return self.graph.join(nodes if beside else [x, *nodes])

    def _place(
        self,
        unit: Unit,
        parts: Sequence[Part],
        x: int,
        primitive: str,
        beside: tuple[int, ...] | None,
    ) -> None:
        """The first meeting of parameters with what the model is given."""
        new = [part for part in parts if part not in self._node]
        if not new:
            return
        name, at = part_name(*unit), self.graph.front(x)
        known = name in self._placed
        if not known:
            self._placed[name] = len(self._names)
            self._names.append(part_name(self._name_of(unit[0]), unit[1]))
            self._home.append((-1, new[0]))
        layer = self._placed[name]
        behind = layer in at.layers or (self._norms_join and known)
        if beside is None and behind and all(map(self.is_vector, new)):
            self._join(unit, new, layer, x)  # a bias behind its own kernel
            return
        parallel = primitive in ADDITIVE and not self._has_only_vectors(unit)
        if beside is None and parallel:
            [beside] = self.graph.beside(x)
        scalar = all(self._is_scalar((path, unit[1])) for path in self._owned[unit[0]])
        node = self.graph.add((x,) if beside is None else beside, layer, scalar)
        if (
            self.graph.front(node).level
            >= self.graph.front(max(self._home[layer][0], 0)).level
        ):
            self._home[layer] = node, new[0]
        self._meet_first(new, layer, node)

    def _join(self, unit: Unit, parts: Sequence[Part], layer: int, x: int) -> None:
        self._meet_first(parts, self._placed.setdefault(part_name(*unit), layer), x)

    def _meet_first(self, parts: Sequence[Part], layer: int, node: int) -> None:
        for path, row in parts:
            self._layer[path].setdefault(row, layer)
            self._node.setdefault((path, row), node)

    def as_layer_of(self, a: Weights, b: Weights) -> tuple[frozenset[Part], ...]:
        """The product of weights: a layer of a learned constant, if of two modules.

        Within a module it is a factor of the kernel (LoRA). A constant is a vector, or
        alone in its module, or stands on the left.
        """
        of_a, of_b = ({self._module[path] for path, _ in w.parts} for w in (a, b))
        if of_a & of_b:
            return ()

        def like_a_kernel(w: Weights) -> tuple[bool, bool]:
            matrices = [self._module[p[0]] for p in w.parts if not self.is_vector(p)]
            return bool(matrices), any(self._size[module] > 1 for module in matrices)

        constant, kernel = sorted([a, b], key=like_a_kernel)
        return constant.parts, kernel.parts

    def finish(self, outputs: Iterable[Value]) -> None:
        """Parameters that are outputs themselves (a learned scale) come last."""
        last = self.graph.last()
        for value in outputs:
            if isinstance(value, Activation) and value.waiting:
                self.meet(Weights(value.waiting), value.node, "output")
            elif isinstance(value, Weights) and value.parts and self._names:
                own = dataclasses.replace(value, stages=(value.parts,))
                self.meet(own, last, "output")

    def to_layers(self, unused: Mapping[str, str]) -> Layers:
        self._join_unused(unused)
        members = {path: self._layers_of(path) for path in self.shapes}
        used = {i for at in members.values() for i in as_indices(at)}
        levels, distances = self.graph.levels(), self.graph.distances()
        order = sorted(used, key=lambda i: (levels[i], i))
        rank = {old: new for new, old in enumerate(order)}
        return Layers(
            names=tuple(self._names[i] for i in order),
            level=np.array([levels[i] for i in order]),
            members={
                path: rank[at] if isinstance(at, int) else tuple(rank[i] for i in at)
                for path, at in members.items()
            },
            distance=np.array([distances[i] for i in order]),
        )

    # For `_blocks`.

    def stack(self, weights: Iterable[Weights]) -> None:
        """A scan slices these together."""
        paths = {path for w in weights for path, _ in w.parts}
        apart = [stack for stack in self.stacks if not stack & paths]
        self.stacks = [*apart, paths.union(*(s for s in self.stacks if s & paths))]

    def knows_path(self, path: str) -> bool:
        return bool(self._layer[path])

    def home_of(self, path: str) -> tuple[int, Part]:
        """Where the layer of a parameter stands, and by which parameter."""
        return self._home[max(self._layer[path].values())]

    def neighbour(self, path: str, blocks: Mapping[str, str]) -> str:
        """For a vector in a module with matrices and no blocks one of these."""
        outer = path.rpartition("/")[0].rpartition("/")[0]
        inside = [p for p in self.shapes if outer and p.startswith(f"{outer}/")]
        matrices = [p for p in inside if self.level_of(p) >= 0]
        if self.level_of(path) >= 0 or any(p in blocks for p in inside):
            return path
        return matrices[0] if matrices else path

    def levels_of(self, paths: Iterable[str]) -> set[int]:
        """The levels at which matrices are applied."""
        return {self.graph.front(node).level for node in self._applying(paths)}

    def level_of(self, path: str) -> int:
        """The last of these; -1 for a vector."""
        return max(self.levels_of([path]), default=-1)

    def read_by(self, paths: Iterable[str]) -> set[int]:
        """What the layers of matrices read."""
        return {i for node in self._applying(paths) for i in self.graph.reads[node]}

    def added_to(self, paths: Iterable[str]) -> set[int]:
        """What the outputs of matrices are joined with."""
        own = self._applying(paths)
        readers = {reader for node in own for reader in self._readers[node]}
        return {i for reader in readers for i in self.graph.reads[reader]} - own

    def reach(self, names: Mapping[str, str]) -> tuple[list[int], list[int]]:
        """For each node the blocks before it and behind it, as bits."""
        reads, number = self.graph.reads, collections.defaultdict[str, int](int)
        bits = [0] * len(reads)
        for path, name in names.items():
            bit = 1 << number.setdefault(name, len(number))
            for node in self._applying([path]):
                bits[node] |= bit
        before, behind = [0] * len(reads), [0] * len(reads)
        for node in range(len(reads)):
            for i in reads[node]:
                before[node] |= before[i] | bits[i]
        for node in range(len(reads))[::-1]:
            for i in reads[node]:
                behind[i] |= behind[node] | bits[node]
        return before, behind

    def name_together(self, paths: Iterable[str]) -> str:
        """A name for parameters: the modules that hold these and no others."""
        own = collections.Counter(at for path in paths for at in _prefixes(path))
        every = collections.Counter(
            at for path in self.shapes for at in _prefixes(path)
        )
        modules = dict.fromkeys(
            next(at for at in _prefixes(path) if own[at] == every[at]) for path in paths
        )
        first, rest = list(modules)[:3], list(modules)[3:]
        return "+".join([*first, "…"] if rest else first)

    def _applying(self, paths: Iterable[str]) -> set[int]:
        return {
            self._node[path, row]
            for path in paths
            for row in self._layer[path]
            if not self.is_vector((path, row))
        }

    @functools.cached_property
    def _readers(self) -> list[list[int]]:
        readers: list[list[int]] = [[] for _ in self.graph.reads]
        for node, reads in enumerate(self.graph.reads):
            if len(reads) > 1:
                for i in reads:
                    readers[i].append(node)
        return readers

    def knows(self, weights: Weights) -> bool:
        return all(self._layer[path] for path, _ in weights.parts)

    def is_vector(self, part: Part) -> bool:
        path, row = part
        shape = self.shapes[path] if row is None else self.shapes[path][1:]
        return sum(size > 1 for size in shape) <= 1

    def unit(self, part: Part) -> Unit:
        path, row = part
        return self._owner[path], row

    def _is_scalar(self, part: Part) -> bool:
        path, row = part
        shape = self.shapes[path] if row is None else self.shapes[path][1:]
        return shape in ((), (1,))

    def _refuse_rescaled(self, unit: Unit, full: Iterable[Part], x: int) -> None:
        """A kernel times what the same kernel made of an input has no level."""
        kernels = [p for p in full if p in self._node and not self.is_vector(p)]
        known = sorted(path for path, _ in kernels)
        if known and self._placed[part_name(*unit)] == self.graph.lead_layer(x):
            raise ValueError(
                f"trace_layers: {quoted(known)} are rescaled by what an input makes of "
                "them (as spectral norm does by its state). Close over that input "
                "instead of passing it"
            )

    def _join_unused(self, unused: Mapping[str, str]) -> None:
        """Parameters that the pass does not use join the layers that were named."""
        rest = {
            part_name(path, row): (path, row)
            for path in self.shapes
            for row in self._rows(path)
            if not {row, None} & self._layer[path].keys()
        }
        for key, name in unused.items():
            hits = [key] if key in rest else [n for n in rest if re.fullmatch(key, n)]
            if not hits or name not in self._names:
                what = f"no layer {name!r}" if hits else "no such parameter is unused"
                raise ValueError(
                    "trace_layers: unused: expected a path or pattern of parameters "
                    "that the computation never uses, and the layer that they join; "
                    f"got {key!r}: {name!r}, but there is {what}. Unused: "
                    f"{quoted(rest)}; layers: {quoted(self._names, limit=32)}"
                )
            for hit in hits:
                path, row = rest.pop(hit)
                self._layer[path][row] = self._names.index(name)
        if rest:
            example = {next(iter(rest)): next(iter(self._names), "…")}
            raise ValueError(
                "trace_layers: the computation on the input never uses "
                f"{quoted(rest)}. Say which layer they join, as unused={example}; or "
                "leave them out of the parameters"
            )

    def _layers_of(self, path: str) -> Member:
        found = self._layer[path]
        at = [found[row] if row in found else found[None] for row in self._rows(path)]
        return at[0] if self._rows(path) == [None] else tuple(at)

    def _rows(self, path: str) -> list[int | None]:
        """The slices of a parameter that some scan has taken; a whole has row None."""
        if any(row is not None for row in self._layer[path]):
            return list(range(self.shapes[path][0]))
        return [None]

    def _name_of(self, owner: str) -> str:
        """The name of a module; of one with modules inside, that of its parameter."""
        own = self._owned[owner]
        if not self._norms_join or owner not in self._outer:
            return owner
        return min(own, key=lambda path: self.is_vector((path, None)))

    def _has_only_vectors(self, unit: Unit) -> bool:
        name, row = unit
        return all(self.is_vector((path, row)) for path in self._owned[name])


def _owning_modules(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """The module of each parameter; what lies in a list, or alone, is its own.

    So is a vector of a module that holds modules.
    """
    modules = {path: path.rpartition("/")[0] for path in shapes}
    inner = {module.rpartition("/")[0] for module in modules.values()}
    outer = {at for module in inner for at in _prefixes(module)}

    def owner(path: str, module: str) -> str:
        vector = sum(size > 1 for size in shapes[path]) <= 1
        own = path.rpartition("/")[2].isdecimal() or (vector and module in outer)
        return path if not module or own else module

    owners = {path: owner(path, module) for path, module in modules.items()}
    alone = len(set(owners.values())) == 1
    return {path: path for path in owners} if alone else owners


def _prefixes(path: str) -> list[str]:
    """A path and all that contains it."""
    keys = path.split("/")
    return ["/".join(keys[:i]) for i in range(1, len(keys) + 1)]


def _named(group: Callable[[str], Any], paths: Iterable[str]) -> dict[str, str]:
    names = {path: group(path) for path in paths}
    for path, name in names.items():
        if not isinstance(name, str):
            raise ValueError(
                f"trace_layers: group must return the name of a layer, a str; got "
                f"{name!r} for {path!r}"
            )
    return names


def part_name(name: str, row: int | None) -> str:
    return name if row is None else f"{name}[{row}]"
