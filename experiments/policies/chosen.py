"""The policies of a study: ours by their names, and those of one's own."""

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Any, cast

from ..config import own
from ..config.checks import unknown
from ..config.config import PLAIN_NAME, Config
from .catalogue import POLICIES
from .policy import Multipliers, Number, Policy, described

TAKEN = ("curves", "differences")
"""Names of figures that are not of one policy."""


def configured(config: Config) -> dict[str, Policy]:
    """The policies of a study by name, with the numbers that it sets.

    Raises:
        ValueError: a number is no policy's, or out of its range; or there are two
            policies of one name, or one of one's own is none.
    """
    asked = [named(value) for value in config.policies]
    every = POLICIES | {policy.name: policy for policy in asked}
    known = {
        f"{policy.name}.{number.name}": number
        for policy in every.values()
        for number in policy.numbers(config.rate)
    }
    values: dict[str, dict[str, float]] = {name: {} for name in every}
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
    found: dict[str, Policy] = {}
    for policy in asked:
        if policy.name in found or POLICIES.get(policy.name, policy) is not policy:
            raise ValueError(
                f"policies: two are called {policy.name!r}; give the one of your own "
                "another name"
            )
        found[policy.name] = policy.having(values[policy.name])
    return found


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
        make = cast(Callable[..., Multipliers], found)
        summary, _ = described(make)
        name = getattr(make, "__name__", "")
        found = Policy(name, summary, source=own.label(value), multipliers=make)
    if (
        not isinstance(found, Policy)
        or not PLAIN_NAME.fullmatch(found.name)
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
    names = dict.fromkeys(policy.name for policy in map(named, config.policies))
    policies, joined = list(config.policies), list[str]()
    for value in policies:  # which grows
        if (control := named(value).control) not in names:
            names[control] = None
            policies.append(control)
            joined.append(control)
    # Controls first, as a study that is cut short has them then.
    ordered = (*reversed(policies[len(config.policies) :]), *config.policies)
    return dataclasses.replace(config, policies=ordered), joined


def _ranged(key: str, known: Mapping[str, Number]) -> str:
    return f"{key} between {known[key].low:g} and {known[key].high:g}"
