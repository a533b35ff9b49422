"""match_layers: layers by ordered rules over the paths of parameters."""

import collections
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ._layers import Layers, Member
from ._paths import PyTree, leaves_by_path, natural_key, quoted


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
    rules = _pairs(rules)
    patterns = [_compiled(rule) for rule in rules]
    by_prefix = collections.defaultdict[str, list[int]](list)
    for i, pattern in enumerate(patterns):
        by_prefix[_literal_prefix(pattern)].append(i)
    names: dict[str, str] = {}
    rank: dict[str, int] = {}
    hits: set[int] = set()
    for path in shapes:
        starts = (path[:end] for end in range(len(path) + 1))
        for i in sorted(i for start in starts for i in by_prefix.get(start, ())):
            if match := patterns[i].fullmatch(path):
                name = names[path] = _expanded(rules[i], match)
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


def _pairs(rules: Any) -> list[tuple[str, str]]:
    """The rules, if they are pairs of strings, in an order."""
    pairs = None if isinstance(rules, str | Mapping) else list(rules)
    for pair in pairs or []:
        if not isinstance(pair, tuple | list) or list(map(type, pair)) != [str, str]:
            pairs = None
            break
    if pairs is None:
        raise ValueError(
            "match_layers: rules: expected a list of pairs (pattern, name), both "
            f"strings, got {reprlib.repr(rules)}"
        )
    return pairs


def _compiled(rule: tuple[str, str]) -> re.Pattern[str]:
    try:
        pattern, _ = rule
        return re.compile(pattern)
    except (re.error, TypeError, ValueError) as error:
        raise _no_rule(rule, error) from error


def _expanded(rule: tuple[str, str], match: re.Match[str]) -> str:
    try:
        return match.expand(rule[1])
    except (re.error, IndexError, TypeError, AttributeError) as error:
        raise _no_rule(rule, error) from error


def _no_rule(rule: object, error: Exception) -> ValueError:
    return ValueError(
        f"match_layers: the rule {rule!r} is no pattern with a name ({error})"
    )


def _literal_prefix(pattern: re.Pattern[str]) -> str:
    """What every path of a pattern begins with: with it many rules are tried fast."""
    if pattern.flags & (re.IGNORECASE | re.VERBOSE) or "|" in pattern.pattern:
        return ""
    [prefix] = re.findall(r"^[\w/]*(?![?*{])", pattern.pattern, re.ASCII)
    return prefix


def _demand_cover(
    rules: Sequence[tuple[str, str]],
    hits: set[int],
    paths: Iterable[str],
    covered: Iterable[str],
) -> None:
    uncovered = sorted(set(paths) - set(covered))
    idle = [rule for i, rule in enumerate(rules) if i not in hits]
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
