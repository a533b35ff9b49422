"""Layers: which parameters share a multiplier, in what order and at what level."""

import collections
import dataclasses
import functools
import hashlib
import json
import reprlib
import types
from collections.abc import Mapping
from typing import Any, cast

import jax.numpy as jnp
import numpy as np

from .._checks import check_numbers
from ._paths import PyTree, leaves_by_path, quoted

Member = int | tuple[int, ...]
_FROM_LEVEL = cast(np.ndarray, None)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Layers:
    """The ordered layers of a model, made by `trace_layers` or `match_layers`.

    A layer is a set of parameters that share a multiplier. Immutable and hashable;
    it knows the paths of parameters, never their values.

    Attributes:
        names: the L layers' names, in forward order.
        level: int array (L,); how many layers lie between the input and this one on
            the longest path. Parallel branches share a level. The first is 0.
        distance: int array (L,); how many layers lie between this one and an output
            on the longest path. A layer that only outputs read has 0, in a shallow
            tower and a deep one alike. By default, and where the layers come from
            rules or labels, their place from the end: `level.max() - level`.
        members: for each parameter's path the index of its layer; for a stacked
            parameter a tuple of indices, one for each slice of axis 0.

    Raises:
        ValueError: if names repeat, lengths differ, an index is out of range, or a
            layer has no parameter.

    Example:
        >>> import numpy as np, optax_llr
        >>> params = {"stem": {"w": np.ones((4, 4))}, "head": {"w": np.ones((4, 2))}}
        >>> rules = [("stem/.*", "stem"), ("head/.*", "head")]
        >>> layers = optax_llr.match_layers(params, rules)
        >>> layers.names, layers.depth
        (('stem', 'head'), array([0., 1.]))
    """

    names: tuple[str, ...]
    level: np.ndarray
    members: Mapping[str, Member]
    distance: np.ndarray = _FROM_LEVEL

    def __post_init__(self):
        names = tuple(self.names)
        if {type(name) for name in names} - {str}:
            raise ValueError(f"Layers: names must be strings, got {names}")
        members = {
            path: tuple(map(int, m)) if isinstance(m, tuple) else int(m)
            for path, m in sorted(self.members.items())
        }
        repeated = [n for n, times in collections.Counter(names).items() if times > 1]
        if repeated:
            raise ValueError(f"Layers: names must differ; these repeat: {repeated}")
        level = _int_per_layer("level", self.level, len(names))
        given = (
            level.max(initial=0) - level
            if self.distance is _FROM_LEVEL
            else self.distance
        )
        distance = _int_per_layer("distance", given, len(names))
        used = {i for m in members.values() for i in as_indices(m)}
        if used != set(range(len(names))):
            empty = [names[i] for i in range(len(names)) if i not in used]
            outside = sorted(used - set(range(len(names))))
            raise ValueError(
                f"Layers: layers without a parameter: {quoted(empty)}; "
                f"indices that are no layer: {outside[:8]}"
            )
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "level", level)
        object.__setattr__(self, "distance", distance)
        object.__setattr__(self, "members", types.MappingProxyType(members))

    @property
    def depth(self) -> np.ndarray:
        """Float array (L,): `level` scaled to [0, 1]; 0 for a single level."""
        return self.level / max(1, self.level.max(initial=0))

    @functools.cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change with names and members."""
        assignment = self.names, tuple(self.members.items())
        return hashlib.sha256(json.dumps(assignment).encode()).hexdigest()[:16]

    @functools.cached_property
    def _key(self) -> tuple[Any, ...]:
        numbers = tuple(self.level.tolist()), tuple(self.distance.tolist())
        return self.names, *numbers, tuple(self.members.items())

    def __len__(self) -> int:
        return len(self.names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layers) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __reduce__(self):
        return Layers, (self.names, self.level, dict(self.members), self.distance)

    def __repr__(self) -> str:
        width = max(map(len, self.names), default=0)
        paths = collections.defaultdict[int, list[str]](list)
        for path, member in self.members.items():
            if isinstance(member, int):
                paths[member].append(path)
            else:
                for row, index in enumerate(member):
                    paths[index].append(f"{path}[{row}]")
        rows = [
            f"  {level:>3}  {name:<{width}}  {', '.join(paths[i])}"
            for i, (name, level) in enumerate(
                zip(self.names, self.level.tolist(), strict=True)
            )
        ]
        head = f"Layers({len(self)}, {self.fingerprint}: level, name, parameters"
        return "\n".join([head, *rows, ")"])


def _int_per_layer(name: str, values: Any, length: int) -> np.ndarray:
    numbers = np.array(values)
    whole = numbers.dtype.kind in "iu" or not numbers.size
    if numbers.shape != (length,) or not whole or (numbers < 0).any():
        raise ValueError(
            f"Layers: expected an int {name} ≥ 0 for each of {length} layers, "
            f"got {numbers.tolist()}"
        )
    numbers.flags.writeable = False
    return numbers


def as_indices(member: Member) -> tuple[int, ...]:
    """The layers that a parameter belongs to, as a tuple also where it is one."""
    return (member,) if isinstance(member, int) else member


def check_leaf(owner: str, layers: Layers, path: str, leaf: Any) -> None:
    """Refuses a leaf that these `Layers` do not know, or not in this shape."""
    if path not in layers.members:
        raise ValueError(
            f"{owner}: parameter {path!r} is in none of the layers; they know "
            f"{quoted(layers.members)}. Make the layers from the same tree that the "
            "optimizer is given"
        )
    member = layers.members[path]
    if isinstance(member, tuple) and jnp.shape(leaf)[:1] != (len(member),):
        raise ValueError(
            f"{owner}: expected parameter {path!r} to be stacked, with {len(member)} "
            f"slices along axis 0, as it was when the layers were made; got shape "
            f"{jnp.shape(leaf)}"
        )


def check_leaves(owner: str, layers: Layers, tree: PyTree) -> None:
    """Refuses a tree with a leaf that these `Layers` do not know."""
    for path, leaf in leaves_by_path(tree).items():
        check_leaf(owner, layers, path, leaf)


def check_arguments(function: str, layers: object, **numbers: object) -> None:
    """Demands `Layers` and, by the names of the arguments, finite real numbers."""
    if not isinstance(layers, Layers):
        raise ValueError(
            f"{function}: layers: expected Layers, as trace_layers and match_layers "
            f"make them, got {reprlib.repr(layers)}"
        )
    check_numbers(function, **numbers)
