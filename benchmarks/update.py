"""What do layers cost an optimizer? Trace, compile and step, as ratios.

Run it on its own:

    python benchmarks/update.py                  # every size, several minutes
    python benchmarks/update.py --layers 500     # one size
    python benchmarks/update.py --profile 500    # where the time to compile goes

For each number of layers (a kernel of 64×64 and a bias of 64 each; `stacked` is one
leaf with as many slices) and for SGD with momentum and Adam, three forms of the same
training update are compared in one process, in turns:

    alone      the optimizer with a scheduled global rate
    layers     the same, and `scale_by_layer` with a schedule for each layer, among them
               layers that stay at exactly 0 and exactly 1
    partition  `optax.partition`, an optimizer with a schedule of its own for each layer

With `--unfreezing 24 96 300` only Adam is measured, alone and within the last phase of
a gradual unfreezing, in which each layer has a count of its own:

    phase      `phases[-1].freeze(adam)`, after a phase for each layer

Printed are medians of the ratios to `alone` of the same round, and their range.
"""

import argparse
import functools
import math
import pathlib
import re
import statistics
import time
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from record import environment, natural, summary, write

import optax_llr

STEPS = 1_000
LIMIT = 5.0  # seconds; a form whose steps take longer is timed over fewer of them
OPTIMIZERS = {
    "sgd+momentum": functools.partial(optax.sgd, momentum=0.9),
    "adam": optax.adam,
}


class Cost(NamedTuple):
    """Seconds, but for the equations."""

    trace: float
    compile: float
    step: float
    equations: float


def make_params(num_layers: int, stacked: bool) -> dict[str, Any]:
    """Parameters of a stack of layers, in one leaf or in two leaves a layer."""
    if stacked:
        return {"blocks": jnp.ones((num_layers, 64, 64))}
    return {
        f"layer{i:04}": {"kernel": jnp.ones((64, 64)), "bias": jnp.ones(64)}
        for i in range(num_layers)
    }


def make_layers(params: dict[str, Any], stacked: bool) -> optax_llr.Layers:
    """The layers of `make_params`."""
    rule = ("blocks", "block[:]") if stacked else (r"(layer\d+)/.*", r"\1")
    return optax_llr.match_layers(params, [rule])


def make_multipliers(num_layers: int) -> optax.Schedule:
    """A linear schedule; each tenth layer stays at 0, the one behind it at 1."""
    first = np.linspace(1.5, 0.5, num_layers)
    last = first[::-1].copy()
    first[::10] = last[::10] = 0
    first[1::10] = last[1::10] = 1
    return optax.linear_schedule(first, last, STEPS)


def make_forms(
    optimizer: Callable[..., optax.GradientTransformation],
    layers: optax_llr.Layers,
    partition: bool,
) -> dict[str, optax.GradientTransformation]:
    """The forms to compare, by name."""
    rate = optax.cosine_decay_schedule(0.1, STEPS)
    multipliers = make_multipliers(len(layers))
    forms = {
        "alone": optimizer(rate),
        "layers": optax.chain(
            optimizer(rate), optax_llr.scale_by_layer(layers, multipliers)
        ),
    }
    if partition:
        rates: dict[Hashable, optax.GradientTransformation] = {
            name: optimizer(
                lambda count, i=i: rate(count) * jnp.asarray(multipliers(count))[i]
            )
            for i, name in enumerate(layers.names)
        }
        forms["partition"] = optax.partition(
            rates, {name: {"kernel": name, "bias": name} for name in layers.names}
        )
    return forms


def unfreezing_forms(layers: optax_llr.Layers) -> dict[str, Any]:
    """Adam alone, and where every layer has joined the others at another step."""
    multipliers = optax_llr.gradual_unfreeze_schedule(layers, 10)
    phases = optax_llr.freeze_phases(layers, multipliers, 10 * len(layers) + 10)
    return {"alone": optax.adam(0.1), "phase": phases[-1].freeze(optax.adam(0.1))}


def equations(jaxpr: Any) -> int:
    """How many a program has, with those of the programs that it calls."""
    called = [
        getattr(part, "jaxpr", part)
        for equation in jaxpr.eqns
        for part in jax.tree.leaves(equation.params, is_leaf=_is_program)
        if _is_program(part)
    ]
    return len(jaxpr.eqns) + sum(map(equations, called))


def _is_program(part: Any) -> bool:
    return hasattr(part, "eqns") or hasattr(part, "jaxpr")


def compiled_update(
    transformation: optax.GradientTransformation, params: Any
) -> tuple[jax.stages.Compiled, Any, Cost]:
    """A compiled update, its first state, and what it costs, but for steps."""
    state = transformation.init(params)

    def update(params: Any, state: Any, gradients: Any) -> tuple[Any, Any]:
        updates, state = transformation.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    jax.clear_caches()
    start = time.perf_counter()
    traced = jax.jit(update, donate_argnums=(0, 1)).trace(params, state, params)
    traced_at = time.perf_counter()
    compiled = traced.lower().compile()
    compile_ = time.perf_counter() - traced_at
    size = equations(traced.jaxpr.jaxpr)
    return compiled, state, Cost(traced_at - start, compile_, math.nan, size)


def measure(
    forms: dict[str, optax.GradientTransformation], params: Any, steps: int
) -> dict[str, Cost]:
    """What each form costs; their steps take turns, so that noise meets all alike."""
    gradients = jax.tree.map(lambda p: 0.01 * p, params)
    built = {name: compiled_update(form, params) for name, form in forms.items()}
    carried = {
        name: (jax.tree.map(jnp.copy, params), state)
        for name, (_, state, _) in built.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(steps + 5):
        for name, (update, *_) in built.items():
            if len(seconds[name]) > 9 and sum(seconds[name]) > LIMIT:
                continue
            start = time.perf_counter()
            carried[name] = jax.block_until_ready(update(*carried[name], gradients))
            seconds[name].append(time.perf_counter() - start)
    return {
        name: cost._replace(step=statistics.median(seconds[name][5:]))
        for name, (_, _, cost) in built.items()
    }


def compare(
    forms: dict[str, optax.GradientTransformation], params: Any, rounds: int, steps: int
) -> dict[str, Any]:
    """Medians of seconds, and of ratios to `alone` in the same round, with range."""
    costs = [measure(forms, params, steps) for _ in range(rounds)]
    return {
        name: {
            phase: summary(
                [getattr(cost[name], phase) for cost in costs],
                [getattr(cost["alone"], phase) for cost in costs],
            )
            for phase in Cost._fields
        }
        for name in forms
    }


def print_row(size: str, optimizer: str, form: str, phases: dict[str, Any]) -> None:
    """One line of the printed table."""
    cells = [
        f"{p['ratio']:5.2f}× ({p['ratio_min']:.2f}–{p['ratio_max']:.2f})"
        + ("" if phase == "equations" else f" {p['seconds'] * 1e3:8.1f} ms")
        for phase, p in phases.items()
    ]
    print(f"{size:>12}  {optimizer:<12}  {form:<9}  " + "  ".join(cells), flush=True)


def profile(num_layers: int, rounds: int, steps: int) -> None:
    """What one more multiplication costs at the least, and the kernels of each form."""
    params = make_params(num_layers, stacked=False)
    layers = make_layers(params, stacked=False)
    for optimizer_name, optimizer in OPTIMIZERS.items():
        forms = make_forms(optimizer, layers, partition=False)
        once_more = optax.scale_by_schedule(optax.linear_schedule(1.5, 0.5, STEPS))
        forms["multiply"] = optax.chain(forms["alone"], once_more)
        for form, phases in compare(forms, params, rounds, steps).items():
            print_row(str(num_layers), optimizer_name, form, phases)
        for form, transformation in forms.items():
            text = compiled_update(transformation, params)[0].as_text() or ""
            kernels = re.findall(r"\n%?fused_computation[^{]*\{\n(.*?)\n\}", text, re.S)
            bodies = [re.sub(r"metadata=\{.*?\}|%?[\w.]+\.\d+", "", k) for k in kernels]
            operations = sum(k.count("\n") + 1 for k in kernels)
            print(
                f"{optimizer_name:<12}  {form:<8}  {len(kernels)} kernels, "
                f"{len(set(bodies))} different, {operations} operations in all"
            )


def main() -> None:
    """Parses the command line, measures, prints, writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--layers", type=natural, nargs="*", default=[10, 100, 500, 1000]
    )
    parser.add_argument("--stacked", type=natural, nargs="*", default=[1000])
    parser.add_argument("--rounds", type=natural, default=5)
    parser.add_argument("--steps", type=natural, default=50, help="timed steps a round")
    parser.add_argument("--partition-up-to", type=int, default=500, metavar="LAYERS")
    parser.add_argument("--profile", type=natural, metavar="LAYERS")
    parser.add_argument("--unfreezing", type=natural, nargs="+", metavar="LAYERS")
    parser.add_argument("--json", type=pathlib.Path, help="write the record here")
    options = parser.parse_args()
    if options.profile:
        return profile(options.profile, options.rounds, options.steps)
    record: dict[str, Any] = {"environment": environment(), "results": []}
    print(record["environment"])
    header = "ratio to alone (range) and median of trace, compile, step; equations"
    print(f"{'layers':>12}  {'optimizer':<12}  {'form':<9}  {header}")
    for num_layers in options.unfreezing or []:
        params = make_params(num_layers, False)
        forms = unfreezing_forms(make_layers(params, False))
        for form, phases in compare(
            forms, params, options.rounds, options.steps
        ).items():
            print_row(str(num_layers), "adam", form, phases)
            record["results"].append({"layers": num_layers, "form": form, **phases})
    if options.unfreezing:
        return write(options.json, record)
    sizes = [(n, False) for n in options.layers] + [(n, True) for n in options.stacked]
    for num_layers, stacked in sizes:
        params = make_params(num_layers, stacked)
        layers = make_layers(params, stacked)
        size = f"{num_layers} stacked" if stacked else str(num_layers)
        for name, optimizer in OPTIMIZERS.items():
            partition = not stacked and num_layers <= options.partition_up_to
            forms = make_forms(optimizer, layers, partition)
            for form, phases in compare(
                forms, params, options.rounds, options.steps
            ).items():
                print_row(size, name, form, phases)
                record["results"].append(
                    {"layers": num_layers, "stacked": stacked, "optimizer": name}
                    | {"form": form, **phases}
                )
    write(options.json, record)


if __name__ == "__main__":
    main()
