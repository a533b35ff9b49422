"""The policies of a study: ours by their names, and those of one's own."""

import collections
import dataclasses
import difflib
import re
from collections.abc import Mapping
from typing import Any, cast

from ..config import own
from ..config.checks import unknown
from ..config.config import PLAIN_NAME, Config
from .catalogue import POLICIES
from .policy import Number, Policy, described

TAKEN = ("curves", "differences")
"""Names of figures that are not of one policy."""


def configured(config: Config) -> dict[str, Policy]:
    """The policies of a study by name, with the numbers that it sets.

    Raises:
        ValueError: a number is no policy's, or out of its range; or there are two
            policies of one name, or one of one's own is none.
    """
    asked: dict[str, Policy] = {}
    for policy in map(named, config.policies):
        if policy.name in asked or POLICIES.get(policy.name, policy) is not policy:
            raise ValueError(
                f"policies: two are called {policy.name!r}; give the one of your own "
                "another name"
            )
        if policy.scratch and config.norm_statistics == "frozen":
            raise ValueError(
                f"policies: {policy.name!r} starts from random weights, which have no "
                "statistics to freeze; leave it out, or --norm-statistics"
            )
        asked[policy.name] = policy
    known = {
        f"{policy.name}.{number.name}": number
        for policy in (POLICIES | asked).values()
        for number in policy.numbers(config.rate)
    }
    values = collections.defaultdict[str, dict[str, float]](dict)
    for key, value in config.numbers.items():
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {_ranged(nearest[0], known)}?" if nearest else ""
            raise ValueError(
                f"numbers: unknown {key!r}{hint} (expected POLICY.NUMBER; `python -m "
                "experiments policies POLICY` lists them)"
            )
        if not known[key].low <= value <= known[key].high:
            raise ValueError(f"numbers: expected {_ranged(key, known)}; got {value:g}")
        if value != known[key].value:
            policy, _, number = key.rpartition(".")
            values[policy][number] = value
    return {name: policy.having(values[name]) for name, policy in asked.items()}


def named(value: Any) -> Policy:
    """A policy by its name, or one of one's own.

    Args:
        value: a name in `POLICIES`; a `Policy`; a function (layers, total_steps) →
            multipliers; or FILE.py:NAME of the latter two.

    Raises:
        ValueError: it is none of these.
    """
    if not own.is_own(value):
        if value not in POLICIES:
            raise ValueError(f"policies: {unknown(value, tuple(POLICIES))}")
        return POLICIES[value]
    found = own.resolve(value)
    if not isinstance(found, Policy) and callable(found):
        make, (summary, _) = cast(Any, found), described(found)
        name = getattr(found, "__name__", "")
        found = Policy(name, summary, source=own.label(value), multipliers=make)
    if (
        not isinstance(found, Policy)
        or not re.fullmatch(PLAIN_NAME, found.name)
        or found.name in TAKEN
    ):
        raise ValueError(
            "policies: expected a Policy with a plain name, or a function (layers, "
            f"total_steps) → multipliers, not called {' or '.join(TAKEN)}; got "
            f"{found!r:.200}"
        )
    return found


def with_controls(config: Config) -> tuple[Config, list[str]]:
    """The configuration with the policies that its own are compared with.

    Returns:
        That, and the names of those that joined.
    """
    policies, joined = [named(value) for value in config.policies], list[str]()
    for policy in policies:  # which grows
        if policy.control not in [other.name for other in policies]:
            policies.append(named(policy.control))
            joined.append(policy.control)
    # Controls first, as a study that is cut short has them then.
    ordered = (*reversed(joined), *config.policies)
    return dataclasses.replace(config, policies=ordered), joined


def _ranged(key: str, known: Mapping[str, Number]) -> str:
    return f"{key} between {known[key].low:g} and {known[key].high:g}"
