"""Which layers a computation applies where: levels, and distances to the output."""

import collections
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

INPUT = 0  # the node of what the model is given


class Front(NamedTuple):
    """The longest path to a node: how many layers, less one, and which are its last."""

    level: int = -1
    layers: frozenset[int] = frozenset()


class Graph:
    """Nodes in the order of the computation, each behind those that it reads.

    A node applies parameters of one layer or joins what others computed. A layer may
    be applied in several nodes; it stands where the longest path reaches it.
    """

    def __init__(self):
        self.reads: list[tuple[int, ...]] = [()]
        self._layer: list[int | None] = [None]
        self._front = [Front()]
        self._lead = [INPUT]
        self._scalars: set[int] = set()

    def add(
        self, reads: Sequence[int], layer: int | None = None, scalar: bool = False
    ) -> int:
        """A node that reads others; `scalar`: the layer has nothing but scalars."""
        if scalar and layer is not None:
            self._scalars.add(layer)
        node, before = len(self.reads), _last(self._front[i] for i in reads)
        front = self._behind(before, layer)
        leads = [self._lead[i] for i in reads] or [INPUT]
        lead = max(leads, key=lambda i: (self._front[i].level, i))
        self.reads.append(tuple(reads))
        self._layer.append(layer)
        self._front.append(front)
        self._lead.append(node if front.level > before.level else lead)
        return node

    def join(self, nodes: Iterable[int]) -> int:
        """The node that all of these lead to."""
        distinct = tuple(dict.fromkeys(nodes))
        read = {i for node in distinct for i in self.reads[node]}
        # More input (a batch statistic, a mask) is no step on the way.
        ends = [node for node in distinct if node not in read and node != INPUT]
        ends = ends or [INPUT]
        return ends[0] if len(ends) == 1 else self.add(ends)

    def front(self, node: int) -> Front:
        return self._front[node]

    def last(self) -> int:
        """The node behind the longest path."""
        return max(range(len(self.reads)), key=lambda i: (self._front[i].level, i))

    def lead_layer(self, node: int) -> int | None:
        """The last layer on the longest path to a node."""
        return self._layer[self._lead[node]]

    def beside(self, node: int, length: int = 1) -> list[tuple[int, ...]]:
        """What each of the last layers on the path to a node reads, the last one last.

        Who reads the same stands beside it. The path may be shorter than `length`.
        """
        leads = [self._lead[node]]
        while len(leads) < length:
            before = [self._lead[i] for i in self.reads[leads[-1]]] or [INPUT]
            leads.append(max(before, key=lambda i: (self._front[i].level, i)))
            if leads[-1] == INPUT:
                leads.pop()
                break
        return [self.reads[lead] for lead in reversed(leads)]

    def levels(self) -> dict[int, int]:
        """For each layer how many lie on the longest path from the input to it."""
        steps = self._steps()
        fronts = [Front()] * len(steps)
        for node, reads in enumerate(self.reads):
            fronts[node] = self._behind(_last(fronts[i] for i in reads), steps[node])
        return _without_gaps(_highest(steps, [front.level for front in fronts]))

    def distances(self) -> dict[int, int]:
        """For each layer how many lie on the longest path from it to an output."""
        steps = self._steps()
        fronts = [Front()] * len(steps)
        distances = [0] * len(steps)
        readers: list[set[Front]] = [set() for _ in steps]
        for node in range(len(steps))[::-1]:
            after, layer = _last(readers[node]), steps[node]
            stepped = _step(after, layer)
            distances[node] = stepped.level
            fronts[node] = after if layer in self._scalars else stepped
            for i in self.reads[node]:
                readers[i].add(fronts[node])
        return _without_gaps(_highest(steps, distances))

    def _steps(self) -> list[int | None]:
        """The layer of each node that counts: its deepest, where it has several."""
        levels = [front.level for front in self._front]
        deepest = _highest(self._layer, levels)
        return [
            layer if layer is not None and level == deepest[layer] else None
            for layer, level in zip(self._layer, levels, strict=True)
        ]

    def _behind(self, front: Front, layer: int | None) -> Front:
        # A scalar (a temperature behind both heads) is no step of the path.
        scalar = layer in self._scalars and front.level >= 0
        return front if scalar else _step(front, layer)


def _step(front: Front, layer: int | None) -> Front:
    if layer is None or front.layers == frozenset([layer]):
        return front
    return Front(front.level + 1, frozenset([layer]))


def _last(fronts: Iterable[Front]) -> Front:
    distinct = set(fronts) or {Front()}
    if len(distinct) == 1:
        return distinct.pop()
    level = max(front.level for front in distinct)
    layers = (front.layers for front in distinct if front.level == level)
    return Front(level, frozenset[int]().union(*layers))


def _highest(layer: Sequence[int | None], levels: Sequence[int]) -> dict[int, int]:
    highest = collections.defaultdict[int, int](int)
    for i, level in zip(layer, levels, strict=True):
        if i is not None:
            highest[i] = max(highest[i], level)
    return highest


def _without_gaps(levels: dict[int, int]) -> dict[int, int]:
    _, rank = np.unique(list(levels.values()), return_inverse=True)
    return dict(zip(levels, rank.tolist(), strict=True))
