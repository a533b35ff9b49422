"""The layer policies under comparison, each with what was expected of it beforehand.

A policy has numbers that a configuration may set and `tune` searches: its global rate,
and those that its multipliers are made of. What a policy says of itself holds for the
values given here.

The expectations were written before any study and stay as they are, also where the
runs say otherwise; one that rests on trial runs says so. Unless a policy says more, it
leaves the global schedule to the study and is compared with `uniform`. One that anneals
by itself is compared with uniform rates annealed most alike, or else annealing would be
mistaken for what layer rates do.

Those that measure share the global rate out among the layers: their multipliers are
divided by the mean over the layers, and lie between 0.1 and 10.
"""

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, cast

import jax
import numpy as np
import optax

import optax_llr
from optax_llr import Layers, Rule, contrib, rules

from ..config import own
from ..config.config import PLAIN_NAME, Config, unknown
from .optimizers import Layering, measuring, rotating, scheduled

THREAD = (
    'L. Smith and replies, "Cyclical Layer Learning Rates (a research question)", '
    "fast.ai forums"
)

Multipliers = np.ndarray | jax.Array | optax.Schedule


def _uniform(layers: Layers, total_steps: int) -> Multipliers:
    del total_steps
    return np.ones(len(layers))


@dataclasses.dataclass(frozen=True)
class Number:
    """A number of a policy, and between which values it may lie."""

    name: str
    value: float
    low: float
    high: float
    log: bool = False
    """Whether it is a factor, to be searched on a log scale."""

    def __str__(self) -> str:
        return f"{self.name} {self.value:g} ({self.low:g} to {self.high:g})"

    def at(self, value: float) -> "Number":
        """The same number with another value."""
        return dataclasses.replace(self, value=value)


@dataclasses.dataclass(frozen=True)
class Numbered:
    """Multipliers that are made of numbers."""

    make: Callable[..., Multipliers]
    """(layers, total_steps, **numbers) → an array (L,) or a schedule `count -> (L,)`"""
    numbers: tuple[Number, ...]

    def __call__(self, layers: Layers, total_steps: int) -> Multipliers:
        """The multipliers with these numbers."""
        values = {number.name: number.value for number in self.numbers}
        return self.make(layers, total_steps, **values)


Direction = Literal["higher", "lower", "same", "open"]


class Expects(NamedTuple):
    """Where the two measures of a policy are expected, by those of its control."""

    accuracy: Direction = "open"
    speed: Direction = "open"


ANYTHING = Expects()


@dataclasses.dataclass(frozen=True)
class Policy:
    """How the rates of the layers are to differ, and what should come of it."""

    name: str
    summary: str = ""
    """What it does, in a line."""
    expectation: str = ""
    """What should come of it, and why; written before any run."""
    source: str = ""
    """Whose idea it is."""
    control: str = "uniform"
    """The policy of ours that it is compared with, seed by seed; of uniform, uniform.
    For one that anneals or rotates, the one that does so most alike."""
    expects: Expects = ANYTHING
    """The expectation in two words, read off its sentence."""
    multipliers: Callable[[Layers, int], Multipliers] = _uniform
    """(layers, total_steps) → an array (L,) or a schedule `count -> (L,)`."""
    schedule: str | None = None
    """The global schedule that belongs to it; None for that of the study."""
    layering: Layering = scheduled
    """How the rates of the layers come about, where not by the multipliers alone."""
    rate: float | None = None
    """The largest global rate; None for that of the study."""

    def numbers(self, rate: float) -> tuple[Number, ...]:
        """What it can be tuned by, in a study of this global rate."""
        own = Number("rate", self.rate or rate, rate / 10, 10 * rate, log=True)
        made_of = self.multipliers
        return (own, *(made_of.numbers if isinstance(made_of, Numbered) else ()))

    def having(self, values: Mapping[str, float]) -> "Policy":
        """The same policy with other values of the numbers that are named.

        Its summary, which is about its own, says so.
        """
        made_of = self.multipliers
        if isinstance(made_of, Numbered):
            numbers = (n.at(values.get(n.name, n.value)) for n in made_of.numbers)
            made_of = dataclasses.replace(made_of, numbers=tuple(numbers))
        said = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        return dataclasses.replace(
            self,
            summary=f"{self.summary} Here instead: {said}." if said else self.summary,
            rate=values.get("rate", self.rate),
            multipliers=made_of,
        )


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
                "experiments policies` lists them)"
            )
        if not known[key].low <= value <= known[key].high:
            raise ValueError(f"numbers: expected {_ranged(key, known)}; got {value:g}")
        if value != known[key].value:
            policy, number = key.split(".")
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
        summary = (getattr(found, "__doc__", None) or "").strip().partition("\n")[0]
        name = getattr(found, "__name__", "")
        make = cast(Callable[..., Multipliers], found)
        found = Policy(name, summary, source=own.label(value), multipliers=make)
    if not isinstance(found, Policy) or not PLAIN_NAME.fullmatch(found.name):
        raise ValueError(
            "policies: expected a Policy with a plain name, or a function (layers, "
            f"total_steps) → multipliers; got {found!r:.200}"
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


def _moving(
    layers: Layers,
    total_steps: int,
    *,
    first_start: float,
    first_end: float,
    last_start: float,
    last_end: float,
) -> Multipliers:
    first = optax.linear_schedule(first_start, first_end, total_steps)
    last = optax.linear_schedule(last_start, last_end, total_steps)
    return optax_llr.interpolate_schedule(layers, first, last)


def _static(
    layers: Layers, total_steps: int, *, first: float, last: float
) -> Multipliers:
    del total_steps
    return optax_llr.interpolate_schedule(layers, first, last)


def _three_stage(
    layers: Layers,
    total_steps: int,
    *,
    first_start: float,
    first_end: float,
    first_duration: float,
    last_start: float,
    last_end: float,
) -> Multipliers:
    duration = max(1, _whole_steps(first_duration, total_steps))
    first = optax.linear_schedule(first_start, first_end, duration)
    last = optax.linear_schedule(last_start, last_end, total_steps)
    ends = {0: first, int(layers.level.max()): last}
    levels = zip(layers.names, layers.level.tolist(), strict=True)
    return optax_llr.per_layer_schedule(
        layers, {n: ends.get(level, 1.0) for n, level in levels}
    )


def _cascade(
    layers: Layers, total_steps: int, *, first_peak: float, last_peak: float
) -> Multipliers:
    return optax_llr.cascade_schedule(
        layers,
        _whole_steps(first_peak, total_steps),
        _whole_steps(last_peak, total_steps),
        total_steps,
    )


def _whole_steps(share: float, total_steps: int) -> int:
    """Whole steps in a share of the run, unmoved by the rounding of their product."""
    return int(round(share * total_steps, 6))


def _discriminative(layers: Layers, total_steps: int, *, factor: float) -> Multipliers:
    del total_steps
    return optax_llr.layer_decay(layers, 1 / factor)


def _unfreeze_top_first(
    layers: Layers, total_steps: int, *, duration: float
) -> Multipliers:
    return optax_llr.gradual_unfreeze_schedule(
        layers, _stage(layers, total_steps, duration)
    )


def _unfreeze_bottom_first(
    layers: Layers, total_steps: int, *, duration: float
) -> Multipliers:
    stage = _stage(layers, total_steps, duration)
    return optax_llr.gradual_unfreeze_schedule(layers, stage, top_first=False)


def _stage(layers: Layers, total_steps: int, duration: float) -> float:
    """Steps a stage, such that the last level joins after this share of the run."""
    return duration * total_steps / max(1, int(layers.level.max()))


def _freezeout(
    layers: Layers, total_steps: int, *, t0: float, power: float
) -> Multipliers:
    return optax_llr.freezeout_schedule(layers, total_steps, t0, power)


def _rotation_alpha(layers: Layers, total_steps: int, *, alpha: float) -> Multipliers:
    del total_steps
    return optax_llr.rotation_alpha(layers, alpha)


def _multiplier(name: str, value: float) -> Number:
    return Number(name, value, 0.2, 5.0, log=True)


_DURATION = Number("duration", 0.4, 0.05, 0.9)
"""By default such that the last level to join has a tenth of the run before `piecewise`
first drops the rate."""
_ALPHA = Numbered(_rotation_alpha, (Number("alpha", -0.6, -0.8, 0.8),))
"""Within what the authors tried."""
_PEAKS = (Number("first_peak", 0.2, 0.02, 0.4), Number("last_peak", 0.6, 0.4, 0.9))
"""Ranges that meet but do not cross: the first peak never comes after the last one."""


def _tail_exponent(config: Config) -> Rule:
    return rules.tail_exponent(every=config.steps_per_epoch)


def _learned(config: Config) -> Rule:
    return contrib.learned(config.total_steps)


POLICIES = {
    policy.name: policy
    for policy in (
        Policy(
            name="uniform",
            summary="Every layer at the global rate.",
            expectation="The yardstick. Weights of all layers depend on one another, "
            "which speaks for solving for all of them together.",
            source="common practice",
        ),
        Policy(
            name="uniform-onecycle",
            summary="Every layer at the global rate, which rises and falls once: "
            "uniform annealed most like cascade.",
            expectation="Slow at first, since it warms up, and ahead of uniform under "
            "piecewise at the end, as in two trial runs; what cascade gains beyond "
            "that is owed to its layer rates.",
            expects=Expects("higher", "lower"),
            source="Smith and Topin, Super-Convergence, arXiv:1708.07120",
            schedule="onecycle",
        ),
        Policy(
            name="uniform-cosine",
            summary="Every layer at the global rate, which falls to 0 along a cosine: "
            "uniform annealed most like freezeout.",
            expectation="Behind uniform under piecewise just after half-way, where "
            "that drops its rate at once, and equal or slightly ahead at the end; "
            "what freezeout loses beyond that is the price of freezing.",
            expects=Expects("same", "open"),
            source="Loshchilov and Hutter, SGDR, arXiv:1608.03983",
            schedule="cosine",
        ),
        Policy(
            name="early-first",
            summary="First layer 1.5 → 0.5, last layer 0.5 → 1.5, linear in depth and "
            "time.",
            expectation="Faster to a given accuracy than uniform, equal at the end: "
            "later layers gain little from learning on features that still move.",
            expects=Expects("same", "higher"),
            source=THREAD,
            multipliers=Numbered(
                _moving,
                (
                    _multiplier("first_start", 1.5),
                    _multiplier("first_end", 0.5),
                    _multiplier("last_start", 0.5),
                    _multiplier("last_end", 1.5),
                ),
            ),
        ),
        Policy(
            name="late-first",
            summary="early-first reversed: first layer 0.5 → 1.5, last layer 1.5 → "
            "0.5.",
            expectation="Slower to a given accuracy than uniform, equal at the end: "
            "features keep changing under layers that have already settled.",
            expects=Expects("same", "lower"),
            source=THREAD,
            multipliers=Numbered(
                _moving,
                (
                    _multiplier("first_start", 0.5),
                    _multiplier("first_end", 1.5),
                    _multiplier("last_start", 1.5),
                    _multiplier("last_end", 0.5),
                ),
            ),
        ),
        Policy(
            name="static-decreasing",
            summary="1.5 at the first layer down to 0.5 at the last, all the time.",
            expectation="As fast as early-first in the beginning, since it begins the "
            "same, and no better at the end, where early layers should rest.",
            expects=Expects("same", "higher"),
            source=THREAD,
            multipliers=Numbered(
                _static,
                (
                    _multiplier("first", 1.5),
                    _multiplier("last", 0.5),
                ),
            ),
        ),
        Policy(
            name="static-increasing",
            summary="0.5 at the first layer up to 1.5 at the last, all the time.",
            expectation="Slower in the beginning, like late-first; suited to weights "
            "that are already trained rather than to a start from scratch.",
            expects=Expects("open", "lower"),
            source=THREAD,
            multipliers=Numbered(
                _static,
                (
                    _multiplier("first", 0.5),
                    _multiplier("last", 1.5),
                ),
            ),
        ),
        Policy(
            name="three-stage",
            summary="First layer 2 → 0.5 in the first tenth of the run, last layer "
            "0.5 → 2 over the whole run, those between at 1.",
            expectation="Ahead of uniform early on, as the first layer settles within "
            "the first tenth; equal at the end.",
            expects=Expects("same", "higher"),
            source=THREAD,
            multipliers=Numbered(
                _three_stage,
                (
                    _multiplier("first_start", 2.0),
                    _multiplier("first_end", 0.5),
                    Number("first_duration", 0.1, 0.02, 1.0),
                    _multiplier("last_start", 0.5),
                    _multiplier("last_end", 2.0),
                ),
            ),
        ),
        Policy(
            name="cascade",
            summary="A one-cycle for each layer, with peaks from 20 % of the run "
            "(first layer) to 60 % (last layer), all ending together.",
            expectation="Slow at first, since every layer warms up, and as good as "
            "uniform or better at the end, as a one-cycle often is.",
            control="uniform-onecycle",
            source=THREAD,
            multipliers=Numbered(
                _cascade,
                _PEAKS,
            ),
            schedule="constant",
        ),
        Policy(
            name="discriminative",
            summary="The last layer at 1, each level below at 1/2.6 of the one above.",
            expectation="Worse than uniform from scratch: made for fine-tuning, it "
            "hardly moves the first layers, which here are still random.",
            expects=Expects("lower", "lower"),
            source="Howard and Ruder, ULMFiT, arXiv:1801.06146",
            multipliers=Numbered(
                _discriminative,
                (Number("factor", 2.6, 1.0, 5.0, log=True),),
            ),
        ),
        Policy(
            name="unfreeze-top-first",
            summary="One level after another joins from the last to the first, over "
            "the first 40 % of the run.",
            expectation="Slower and somewhat worse than uniform: the last layers start "
            "by learning from random features.",
            expects=Expects("lower", "lower"),
            source="Howard and Ruder, ULMFiT, arXiv:1801.06146; " + THREAD,
            multipliers=Numbered(
                _unfreeze_top_first,
                (_DURATION,),
            ),
        ),
        Policy(
            name="unfreeze-bottom-first",
            summary="One level after another joins from the first to the last, over "
            "the first 40 % of the run.",
            expectation="Slower than uniform at first, as signals pass through random "
            "layers above, but ahead of unfreeze-top-first; near uniform at the end.",
            expects=Expects("same", "lower"),
            source=THREAD,
            multipliers=Numbered(
                _unfreeze_bottom_first,
                (_DURATION,),
            ),
        ),
        Policy(
            name="freezeout",
            summary="Each layer follows a cosine to 0 of its own; the first is frozen "
            "from 51 % of the run on, the last never.",
            expectation="As good as uniform or slightly worse, in less time: the "
            "gradients of frozen layers are not computed.",
            expects=Expects("same", "open"),
            control="uniform-cosine",
            source="Brock et al., FreezeOut, arXiv:1706.04983",
            multipliers=Numbered(
                _freezeout,
                (Number("t0", 0.8, 0.3, 1.0), Number("power", 3.0, 1.0, 4.0)),
            ),
            schedule="constant",
        ),
        Policy(
            name="rotation-alpha",
            summary="Layer rates (1 + α)^(5l/N) with α = −0.6: 1 at the first layer, "
            "0.01 at the last.",
            expectation="Worse than uniform, as its source reports for layers that "
            "rotate at unequal rates; by how much under plain SGD is open.",
            expects=Expects("lower", "open"),
            source="Carbonnelle and De Vleeschouwer, arXiv:1806.01603",
            multipliers=_ALPHA,
        ),
        Policy(
            name="gradient-norm",
            summary="1 + log(1 + 1/‖g‖), shared out: more for layers whose gradients "
            "are small.",
            expectation="Near uniform: the logarithm evens out all but large "
            "differences. Of use in deep plain nets without norms, where gradients "
            "vanish towards the first layers.",
            expects=Expects("same", "same"),
            source="Singh et al., LSALR, arXiv:1510.04609",
            layering=measuring(lambda config: rules.gradient_norm()),
        ),
        Policy(
            name="curvature",
            summary="Shared out by the rate at which each layer's path would lead to "
            "the bottom of its valley, from two steps in a row.",
            expectation="Near uniform: noise of the batches, not curvature, decides "
            "how much two steps differ, and it is much the same in all layers.",
            expects=Expects("same", "same"),
            source="Smith and Topin, Super-Convergence, arXiv:1708.07120; " + THREAD,
            layering=measuring(lambda config: rules.curvature()),
        ),
        Policy(
            name="hypergradient",
            summary="Each multiplier descends the loss, by sums (β = 1).",
            expectation="Early on more for layers with large gradients, then back "
            "towards uniform; faster at first, equal at the end, as it sees one step "
            "ahead only.",
            expects=Expects("same", "higher"),
            source="Baydin et al., arXiv:1703.04782; " + THREAD,
            layering=measuring(lambda config: rules.hypergradient(1.0)),
        ),
        Policy(
            name="multiplicative-hypergradient",
            summary="Each multiplier descends the loss, by factors of up to 1 %.",
            expectation="As hypergradient, but for all layers alike whatever their "
            "size; some come to the bounds, as cosines keep their sign for long.",
            expects=Expects("same", "higher"),
            source="Baydin et al., arXiv:1703.04782",
            layering=measuring(lambda config: rules.multiplicative_hypergradient(0.01)),
        ),
        Policy(
            name="signal-to-noise",
            summary="Shared out by ‖mean g‖² / mean ‖g‖² over the last steps: less for "
            "layers whose gradients differ from batch to batch.",
            expectation="Favours the last layers, whose gradients agree most; slower "
            "than uniform for it, as it starves the first ones.",
            expects=Expects("open", "lower"),
            source="our own",
            layering=measuring(lambda config: rules.signal_to_noise()),
        ),
        Policy(
            name="trust-ratio",
            summary="Shared out by ‖w‖ / ‖u‖: updates in proportion to the weights.",
            expectation="Slightly better than uniform without norms, as layers then "
            "change at one relative speed; the same with them.",
            expects=Expects("higher", "open"),
            source="You et al., LAMB, arXiv:1904.00962",
            layering=measuring(lambda config: rules.trust_ratio()),
        ),
        Policy(
            name="gradient-trust-ratio",
            summary="Shared out by ‖w‖ / ‖g‖, with the raw gradient.",
            expectation="As trust-ratio, but noisier, as momentum has not yet averaged "
            "the gradient; no better than it.",
            source="You et al., LARS, arXiv:1708.03888",
            layering=measuring(lambda config: rules.gradient_trust_ratio()),
        ),
        Policy(
            name="tail-exponent",
            summary="0.5 to 1.5 by the tail of each layer's spectrum, once an epoch: "
            "more for layers with light tails; shared out.",
            expectation="No difference in a run of few epochs, whose spectra are still "
            "those of random weights; its source reports gains after 200.",
            expects=Expects("same", "same"),
            source="Zhou et al., TempBalance, arXiv:2312.00359",
            layering=measuring(_tail_exponent),
        ),
        Policy(
            name="learned",
            summary="A small network, the same for all layers, maps gradient, weight, "
            "alignment, time and depth to multipliers; the hypergradient trains it.",
            expectation="Faster at first, no better at the end: it learns what helps "
            "the next step. What it finds over time says whether early or late layers "
            "should come first.",
            expects=Expects("same", "higher"),
            source="the second post of " + THREAD,
            layering=measuring(_learned),
        ),
        Policy(
            name="layca",
            summary="Every kernel turns by the same angle a step, the arctangent of a "
            "quarter of the global rate, and keeps its norm.",
            expectation="Better than uniform at its best rotation rate, as its source "
            "reports; at this one open. The quarter rests on trial runs, in which nets "
            "without norms died at the whole rate, and is not tuned.",
            source="Carbonnelle and De Vleeschouwer, arXiv:1806.01603",
            layering=rotating,
        ),
        Policy(
            name="layca-alpha",
            summary="layca with rotation rates (1 + α)^(5l/N), α = −0.6: the last "
            "layer turns at a hundredth of the first one's rate.",
            expectation="Clearly worse than layca: layers that turn at unequal rates "
            "are what its source finds harmful (by 1 to 5 points for this α).",
            expects=Expects("lower", "open"),
            control="layca",
            source="Carbonnelle and De Vleeschouwer, arXiv:1806.01603",
            multipliers=_ALPHA,
            layering=rotating,
        ),
    )
}
