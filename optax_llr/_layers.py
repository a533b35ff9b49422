"""Layers: which parameters share a multiplier, in what order and at what level."""

import collections
import dataclasses
import difflib
import functools
import hashlib
import json
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.tree_util import DictKey, GetAttrKey, keystr, tree_leaves_with_path

PyTree = Any
Member = int | tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Layers:
    """The ordered layers of a model, made by `trace_layers` or `match_layers`.

    A layer is a set of parameters that share a multiplier. Immutable and hashable;
    it knows the paths of parameters, never their values.

    Attributes:
        names: the L layers' names, in forward order.
        level: int array (L,); how many layers lie between the input and this one on
            the longest path. Parallel branches share a level. The first is 0.
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

    def __post_init__(self):
        names = tuple(self.names)
        level = np.array(self.level)
        if {type(name) for name in names} - {str}:
            raise ValueError(f"Layers: names must be strings, got {names}")
        members = {
            path: tuple(map(int, m)) if isinstance(m, tuple) else int(m)
            for path, m in sorted(self.members.items())
        }
        repeated = [n for n, times in collections.Counter(names).items() if times > 1]
        if repeated:
            raise ValueError(f"Layers: names must differ; these repeat: {repeated}")
        whole = level.dtype.kind in "iu" or not level.size
        if level.shape != (len(names),) or not whole or (level < 0).any():
            raise ValueError(
                f"Layers: expected an int level ≥ 0 for each of {len(names)} layers, "
                f"got {level.tolist()}"
            )
        used = {i for m in members.values() for i in as_indices(m)}
        if used != set(range(len(names))):
            empty = [names[i] for i in range(len(names)) if i not in used]
            outside = sorted(used - set(range(len(names))))
            raise ValueError(
                f"Layers: layers without a parameter: {quoted(empty)}; "
                f"indices that are no layer: {outside[:8]}"
            )
        level.flags.writeable = False
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "level", level)
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
        return self.names, tuple(self.level.tolist()), tuple(self.members.items())

    def __len__(self) -> int:
        return len(self.names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layers) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __reduce__(self):
        return Layers, (self.names, self.level, dict(self.members))

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


def match_layers(params: PyTree, rules: Sequence[tuple[str, str]]) -> Layers:
    r"""Makes layers by ordered rules over the paths of parameters.

    A parameter belongs to the first rule whose pattern matches the whole of its path
    (`re.fullmatch`); parameters that get the same name form one layer. Layers are
    ordered by rule and, within a rule, by name with numbers read as numbers; each
    layer is one level above the one before it.

    Args:
        params: any pytree; arrays or `jax.ShapeDtypeStruct`.
        rules: pairs (pattern, name). The name may refer to groups of the pattern
            (`\1`, `\g<block>`). A name that ends in `[:]` says that the parameters
            are stacked: one layer for each slice of axis 0, `name[0]`, `name[1]`, ….

    Returns:
        The `Layers`.

    Raises:
        ValueError: for a parameter that no rule covers, a rule that covers nothing,
            or stacked parameters of one name with different numbers of slices.

    Example:
        >>> import jax.numpy as jnp, optax_llr
        >>> params = {f"block{i}": {"w": jnp.ones((2, 2))} for i in range(12)}
        >>> rules = [(r"block(\d+)/.*", r"b\1")]
        >>> optax_llr.match_layers(params, rules).names[:4]
        ('b0', 'b1', 'b2', 'b3')
    """
    shapes = {path: np.shape(leaf) for path, leaf in leaves_by_path(params).items()}
    rules = list(rules)
    names: dict[str, str] = {}
    rank: dict[str, int] = {}
    hits: set[int] = set()
    for path in shapes:
        for i, (pattern, template) in enumerate(rules):
            if (name := _named_by(pattern, template, path)) is not None:
                names[path] = name
                rank[name] = min(i, rank.get(name, i))
                hits.add(i)
                break
    _demand_cover(rules, hits, shapes, names)
    layer_names: list[str] = []
    member: dict[str, Member] = {}
    for name in sorted(rank, key=lambda name: (rank[name], natural_key(name))):
        start = len(layer_names)
        if name.endswith("[:]"):
            stacked = {path: shapes[path] for path in shapes if names[path] == name}
            length = _common_length(name, stacked)
            layer_names += [f"{name[:-3]}[{i}]" for i in range(length)]
            member[name] = tuple(range(start, start + length))
        else:
            layer_names.append(name)
            member[name] = start
    return Layers(
        names=tuple(layer_names),
        level=np.arange(len(layer_names)),
        members={path: member[name] for path, name in names.items()},
    )


def _named_by(pattern: str, template: str, path: str) -> str | None:
    try:
        match = re.fullmatch(pattern, path)
        return match and match.expand(template)
    except (re.error, IndexError) as error:
        raise ValueError(
            f"match_layers: the rule {(pattern, template)} is no pattern with a name "
            f"({error})"
        ) from error


def _demand_cover(
    rules: Sequence[tuple[str, str]],
    hits: Iterable[int],
    paths: Iterable[str],
    covered: Iterable[str],
) -> None:
    uncovered = sorted(set(paths) - set(covered))
    idle = [rule for i, rule in enumerate(rules) if i not in set(hits)]
    if uncovered or idle:
        raise ValueError(
            "match_layers: every parameter needs a rule, every rule a parameter. "
            f"Parameters without a rule: {quoted(uncovered)}; rules that cover nothing "
            f"(more than the rules before them do): {quoted(map(str, idle))}; "
            f"all paths: {quoted(paths, limit=32)}"
        )


def _common_length(name: str, shapes: Mapping[str, tuple[int, ...]]) -> int:
    lengths = {shape[:1] for shape in shapes.values()}
    if len(lengths) != 1 or lengths <= {(), (0,)}:
        raise ValueError(
            f"match_layers: parameters stacked as {name!r} need one length of axis 0; "
            f"got {quoted(f'{path}: {shape}' for path, shape in shapes.items())}"
        )
    return lengths.pop()[0]


def as_indices(member: Member) -> tuple[int, ...]:
    """The layers that a parameter belongs to, as a tuple also where it is one."""
    return (member,) if isinstance(member, int) else member


def path_of(keys: Iterable[Any]) -> str:
    """The path of a leaf as text, the same boxed and unboxed.

    `nnx.State` and `linen.Partitioned` box each array in a node with one attribute,
    `value`; `nnx.Optimizer` hands over boxed parameters but bare gradients.
    """
    match tuple(keys):
        case (*inner, DictKey() as last, GetAttrKey(name="value")):
            return keystr((*inner, last), simple=True, separator="/")
        case plain:
            return keystr(plain, simple=True, separator="/")


def leaves_by_path(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by their paths, in the tree's own order."""
    leaves = [(path_of(keys), leaf) for keys, leaf in tree_leaves_with_path(tree)]
    by_path = dict(leaves)
    if len(by_path) < len(leaves):
        counts = collections.Counter(path for path, _ in leaves)
        clash = [path for path, times in counts.items() if times > 1]
        raise ValueError(f"two parameters have the same path: {quoted(clash)}")
    return by_path


def natural_key(text: str) -> list[tuple[int, str]]:
    """Sort key that puts `block2` before `block10`."""
    parts = re.split(r"(\d+)", text)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def quoted(names: Iterable[str], limit: int = 8) -> str:
    """Names for an error message: all of a few, the first of many."""
    names = list(names)
    shown = ", ".join(repr(name) for name in names[:limit])
    return f"[{shown}, … {len(names) - limit} more]" if names[limit:] else f"[{shown}]"


def close_to(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` where something known is spelled nearly so."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
