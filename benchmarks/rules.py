"""What does each rule cost? Memory and passes in units of the parameters, and time.

Run it on its own:

    python benchmarks/rules.py                  # 100 layers of 256×256, a few minutes
    python benchmarks/rules.py --layers 500 --width 64

The same training update (SGD with momentum, or Adam) is compiled with each rule around
the optimizer, and without any:

    memory   bytes of the state beyond those of the optimizer's own, by bytes of the
             parameters
    passes   bytes that the compiled update reads and writes, as XLA counts them, beyond
             those with a rule that measures nothing (`none`), by bytes of the
             parameters
    trace, compile, step
             medians of the ratios to the optimizer alone in the same round, and range;
             the forms' steps take turns

`tail exponent, between` are the steps between two of its measurements. Weights are
random, as singular values of matrices of low rank are found sooner.
"""

import argparse
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import optax
import update
from record import environment, natural, write

import optax_llr
from optax_llr import Layers, LayerStep, Rule, contrib, rules

NEVER = 2**30


def nothing() -> Rule:
    """A rule that measures nothing: what `adapt_layers` itself costs."""

    def ones(step: LayerStep, state: tuple[()]) -> tuple[jax.Array, tuple[()]]:
        return jnp.ones(len(step.layers)), state

    return Rule(lambda layers, params: (), ones)


RULES = {
    "none": nothing(),
    "gradient norm": rules.gradient_norm(),
    "trust ratio": rules.trust_ratio(),
    "gradient trust ratio": rules.gradient_trust_ratio(),
    "curvature": rules.curvature(),
    "hypergradient": rules.hypergradient(1e-3),
    "multiplicative hypergradient": rules.multiplicative_hypergradient(1e-3),
    "signal to noise": rules.signal_to_noise(),
    "learned": contrib.learned(1000),
    "tail exponent": rules.tail_exponent(1),
    "tail exponent, between": rules.tail_exponent(NEVER),
    "ramped tail exponent": rules.ramped_tail_exponent(1, 1, ()),
    "ramped tail exponent, between": rules.ramped_tail_exponent(NEVER, NEVER, ()),
}


def make_forms(
    optimizer: optax.GradientTransformation, layers: Layers
) -> dict[str, optax.GradientTransformation]:
    """The optimizer alone, and within each rule."""
    forms: dict[str, optax.GradientTransformation] = {"alone": optimizer}
    for name, rule in RULES.items():
        forms[name] = optax_llr.adapt_layers(optimizer, layers, rule, relative=True)
    return forms


def size(tree: Any) -> int:
    """Bytes of all arrays in a tree."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def traffic(transformation: optax.GradientTransformation, params: Any) -> float:
    """Bytes that the compiled update reads and writes, as XLA counts them."""
    compiled = update.compiled_update(transformation, params)[0]
    return (compiled.cost_analysis() or {})["bytes accessed"]


def count(
    forms: dict[str, optax.GradientTransformation], params: Any
) -> dict[str, dict[str, float]]:
    """Memory and passes of each form, in units of the parameters."""
    unit, alone = size(params), size(forms["alone"].init(params))
    base = traffic(forms["none"], params)
    return {
        name: {
            "memory": (size(form.init(params)) - alone) / unit,
            "passes": (traffic(form, params) - base) / unit,
        }
        for name, form in forms.items()
    }


def main() -> None:
    """Parses the command line, measures, prints, writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--layers", type=natural, default=100)
    parser.add_argument("--width", type=natural, default=256)
    parser.add_argument("--rounds", type=natural, default=5)
    parser.add_argument("--steps", type=natural, default=20, help="timed steps a round")
    parser.add_argument("--json", type=pathlib.Path, help="write the record here")
    options = parser.parse_args()
    square = (options.width, options.width)
    keys = jax.random.split(jax.random.key(0), options.layers)
    params = {f"layer{i:04}": jax.random.normal(k, square) for i, k in enumerate(keys)}
    layers = optax_llr.match_layers(params, [(name, name) for name in params])
    record: dict[str, Any] = {"environment": environment(), "results": []}
    print(record["environment"])
    print(f"{options.layers} layers of {options.width}×{options.width}")
    for name, optimizer in update.OPTIMIZERS.items():
        forms = make_forms(optimizer(0.01), layers)
        counted = count(forms, params)
        costs = update.compare(forms, params, options.rounds, options.steps)
        for form, phases in costs.items():
            held = counted[form]
            counts = f"memory {held['memory']:.2f}, passes {held['passes']:.1f}"
            update.print_row(counts, name, f"{form:<28}", phases)
            record["results"].append(
                {"optimizer": name, "form": form, **held, **phases}
            )
    write(options.json, record)


if __name__ == "__main__":
    main()
