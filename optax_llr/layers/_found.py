"""The layers that a walk has found so far."""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ._layers import Layers, Member, as_indices
from ._paths import natural_key, quoted
from ._primitives import ADDITIVE, ELEMENTWISE
from ._values import INPUT, Activation, Part, Unit, Value, Weights


class Found:
    """The layers found so far: where each module was first met, and by what."""

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], group: Callable[[str], str] | None
    ):
        self._shapes = shapes
        self._owner = (
            _owning_modules(shapes) if group is None else _named(group, shapes)
        )
        self._owned = collections.defaultdict[str, list[str]](list)
        for path, owner in self._owner.items():
            self._owned[owner].append(path)
        self._norms_join = group is None
        self._names: list[str] = []
        self._levels: list[int] = []
        self._placed: dict[Unit, int] = {}
        # For each parameter, the layer of each slice met; of the whole under None.
        self._layer = collections.defaultdict[str, dict[int | None, int]](dict)

    def meet(self, weights: Weights, x: Activation, primitive: str) -> Activation:
        """Weights meet an activation: their modules are layers from here on."""
        parts = sorted(weights.parts, key=lambda part: natural_key(part[0]))
        units = list(dict.fromkeys(self._unit(part) for part in parts))
        joining = [u for u in units if self._norms_join and self._has_only_vectors(u)]
        proper = [u for u in units if u not in joining]
        for unit in proper:
            matrix = any(not self.is_vector(p) for p in parts if self._unit(p) == unit)
            if matrix and primitive in ("mul", "div") and not weights.applied:
                self._refuse_rescaled(unit, parts, x)
            parallel = weights.applied or (primitive in ADDITIVE and matrix)
            self._place(unit, max(x.level, 0) if parallel else x.level + 1)
        for unit in joining:
            if proper:  # the scale of a normalised weight, say
                self._placed.setdefault(unit, self._placed[proper[0]])
            elif primitive in ELEMENTWISE and x.layer >= 0:
                self._placed.setdefault(unit, x.layer)
            else:
                self._place(unit, x.level + 1)
        for part in parts:
            path, row = part
            layer = self._layer[path].setdefault(row, self._placed[self._unit(part)])
            x = max(x, Activation(self._levels[layer], layer))
        return x

    def finish(self, outputs: Iterable[Value]) -> None:
        """Parameters that are outputs themselves (a learned scale) come last."""
        last = Activation(max(self._levels, default=-1), len(self._levels) - 1)
        for value in outputs:
            if isinstance(value, Activation) and value.waiting:
                self.meet(Weights(value.waiting), INPUT, "output")
            elif isinstance(value, Weights) and value.parts and self._levels:
                self.meet(dataclasses.replace(value, applied=True), last, "output")

    def to_layers(self) -> Layers:
        self._demand_all_used()
        members = {path: self._layers_of(path) for path in self._shapes}
        used = {i for at in members.values() for i in as_indices(at)}
        order = sorted(used, key=lambda i: (self._levels[i], i))
        rank = {old: new for new, old in enumerate(order)}
        return Layers(
            names=tuple(self._names[i] for i in order),
            level=np.array([self._levels[i] for i in order]),
            members={
                path: rank[at] if isinstance(at, int) else tuple(rank[i] for i in at)
                for path, at in members.items()
            },
        )

    def knows(self, weights: Weights) -> bool:
        return all(self._layer[path] for path, _ in weights.parts)

    def is_vector(self, part: Part) -> bool:
        path, row = part
        shape = self._shapes[path] if row is None else self._shapes[path][1:]
        return sum(size > 1 for size in shape) <= 1

    def _refuse_rescaled(
        self, unit: Unit, parts: Sequence[Part], x: Activation
    ) -> None:
        """A kernel times what the same kernel made of an input has no level."""
        ours = [path for path, _ in parts if self._owner[path] == unit[0]]
        if self._placed.get(unit) == x.layer and any(self._layer[p] for p in ours):
            raise ValueError(
                f"trace_layers: {quoted(ours)} are rescaled by what an input makes of "
                "them (as spectral norm does by its state). Close over that input "
                "instead of passing it"
            )

    def _demand_all_used(self) -> None:
        unused = [
            _part_name(path, row)
            for path in self._shapes
            for row in self._rows(path)
            if not {row, None} & self._layer[path].keys()
        ]
        if unused:
            raise ValueError(
                "trace_layers: the computation on the input never uses "
                f"{quoted(unused)}. Leave them out of the parameters, or make the "
                "layers with `match_layers`"
            )

    def _layers_of(self, path: str) -> Member:
        found = self._layer[path]
        at = [found[row] if row in found else found[None] for row in self._rows(path)]
        return at[0] if self._rows(path) == [None] else tuple(at)

    def _rows(self, path: str) -> list[int | None]:
        """The slices of a parameter that some scan has taken; a whole has row None."""
        if any(row is not None for row in self._layer[path]):
            return list(range(self._shapes[path][0]))
        return [None]

    def _unit(self, part: Part) -> Unit:
        path, row = part
        return self._owner[path], row

    def _place(self, unit: Unit, level: int) -> None:
        if unit not in self._placed:
            name, row = unit
            self._placed[unit] = len(self._names)
            self._names.append(_part_name(name, row))
            self._levels.append(level)

    def _has_only_vectors(self, unit: Unit) -> bool:
        name, row = unit
        return all(self.is_vector((path, row)) for path in self._owned[name])


def _owning_modules(paths: Iterable[str]) -> dict[str, str]:
    """The module of each parameter; what lies in a list, or alone, is its own."""

    def owner(path: str) -> str:
        module, _, name = path.rpartition("/")
        return path if not module or name.isdecimal() else module

    owners = {path: owner(path) for path in paths}
    alone = len(set(owners.values())) == 1
    return {path: path for path in owners} if alone else owners


def _named(group: Callable[[str], Any], paths: Iterable[str]) -> dict[str, str]:
    names = {path: group(path) for path in paths}
    for path, name in names.items():
        if not isinstance(name, str):
            raise ValueError(
                f"trace_layers: group must return the name of a layer, a str; got "
                f"{name!r} for {path!r}"
            )
    return names


def _part_name(name: str, row: int | None) -> str:
    return name if row is None else f"{name}[{row}]"
