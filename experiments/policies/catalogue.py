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

from optax_llr import Rule, contrib, rules

from ..config.config import Config
from .multipliers import (
    ALPHA,
    DURATION,
    PEAKS,
    cascade,
    discriminative,
    freezeout,
    moving,
    multiplier,
    static,
    three_stage,
    unfreeze_bottom_first,
    unfreeze_top_first,
)
from .optimizers import measuring, rotating
from .policy import Expects, Number, Numbered, Policy

THREAD = (
    'L. Smith and replies, "Cyclical Layer Learning Rates (a research question)", '
    "fast.ai forums"
)


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
                moving,
                (
                    multiplier("first_start", 1.5),
                    multiplier("first_end", 0.5),
                    multiplier("last_start", 0.5),
                    multiplier("last_end", 1.5),
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
                moving,
                (
                    multiplier("first_start", 0.5),
                    multiplier("first_end", 1.5),
                    multiplier("last_start", 1.5),
                    multiplier("last_end", 0.5),
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
                static,
                (
                    multiplier("first", 1.5),
                    multiplier("last", 0.5),
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
                static,
                (
                    multiplier("first", 0.5),
                    multiplier("last", 1.5),
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
                three_stage,
                (
                    multiplier("first_start", 2.0),
                    multiplier("first_end", 0.5),
                    Number("first_duration", 0.1, 0.02, 1.0),
                    multiplier("last_start", 0.5),
                    multiplier("last_end", 2.0),
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
                cascade,
                PEAKS,
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
                discriminative,
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
                unfreeze_top_first,
                (DURATION,),
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
                unfreeze_bottom_first,
                (DURATION,),
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
                freezeout,
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
            multipliers=ALPHA,
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
            multipliers=ALPHA,
            layering=rotating,
        ),
    )
}
