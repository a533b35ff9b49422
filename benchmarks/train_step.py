"""What do layers cost a whole training step?

Run it on its own, from the root of a clone:

    python benchmarks/train_step.py                                  # meant for a GPU
    python benchmarks/train_step.py --models resnet20 --batches 128  # a CPU: minutes

One training step (forward, backward, SGD with momentum under a cosine, batch norm) in
two forms, in turns, in one process:

    alone   the optimizer with its global schedule
    layers  the same, and `scale_by_layer` with a schedule for each layer

A turn is as many steps as take about `--seconds`. Printed are medians over the rounds
of the ratio of `layers` to `alone` in the same round, and their range; and, as how much
noise there is, the same of `alone` compiled a second time.
"""

import argparse
import functools
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from record import environment, natural, positive, summary, write

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import optax_llr
from experiments import models
from experiments.models.convolution import compiler_options

MODELS = ("resnet20", "resnet18")
BATCHES = (128, 256, 512, 1024)
TOTAL = 10_000
"""Steps of the schedules."""
Step = Callable[..., Any]


def make_forms(
    model: str, batch: int, dtype: str
) -> tuple[dict[str, Step], dict[str, Any]]:
    """Each form, compiled, as a function of a state; and the state it starts from."""
    network = models.make(model, 10, nnx.Rngs(0), jnp.dtype(dtype))
    graph, params, statistics = nnx.split(network, nnx.Param, ...)
    images = jnp.ones((batch, 32, 32, 3), dtype)
    network.eval()
    layers = optax_llr.trace_layers(
        functools.partial(forward, nnx.graphdef(network)), params, statistics, images
    )
    first = np.linspace(1.5, 0.5, len(layers))
    alone = optax.sgd(optax.cosine_decay_schedule(0.1, TOTAL), momentum=0.9)
    multipliers = optax.linear_schedule(first, first[::-1], TOTAL)
    scaled = optax.chain(alone, optax_llr.scale_by_layer(layers, multipliers))
    labels = jnp.zeros(batch, jnp.int32)
    steps: dict[str, Step] = {}
    states: dict[str, Any] = {}
    for name, optimizer in {"alone": alone, "layers": scaled, "again": alone}.items():
        weights = jax.tree.map(jnp.copy, (params, statistics))
        states[name] = (weights, optimizer.init(params))
        step = jax.jit(
            functools.partial(train_step, graph, optimizer),
            donate_argnums=0,
            compiler_options=compiler_options(),
        )
        compiled = step.lower(states[name], images, labels).compile()
        steps[name] = functools.partial(_on, compiled, images, labels)
    return steps, states


def _on(compiled: Step, images: jax.Array, labels: jax.Array, state: Any) -> Any:
    return compiled(state, images, labels)


def forward(graph: Any, params: Any, statistics: Any, images: jax.Array) -> jax.Array:
    """The logits of a batch."""
    return nnx.merge(graph, params, statistics)(images)


def train_step(
    graph: Any,
    optimizer: optax.GradientTransformation,
    state: Any,
    images: jax.Array,
    labels: jax.Array,
) -> Any:
    """Weights, statistics and optimizer state after one step on a batch."""
    (params, statistics), opt_state = state

    def loss(params: Any) -> tuple[jax.Array, Any]:
        network = nnx.merge(graph, params, statistics, copy=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(
            network(images), labels
        )
        return losses.mean(), nnx.split(network, nnx.Param, ...)[2]

    gradients, statistics = jax.grad(loss, has_aux=True)(params)
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    return (optax.apply_updates(params, updates), statistics), opt_state


def timed(
    steps: dict[str, Step], states: dict[str, Any], rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Seconds of a step of each form in each round."""

    def turn(name: str, count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            states[name] = steps[name](states[name])
        jax.block_until_ready(states[name])
        return (time.perf_counter() - began) / count

    for name in steps:
        turn(name, 2)  # warm up
    count = max(1, round(seconds / turn("alone", 1)))
    names, times = list(steps), {name: list[float]() for name in steps}
    for number in range(rounds):
        first = number % len(names)  # whoever is first in a round gains or loses by it
        for name in names[first:] + names[:first]:
            times[name].append(turn(name, count))
    return times


def main() -> None:
    """Parses the command line, measures, prints, writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--batches", nargs="+", type=natural, default=BATCHES)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=natural, default=9)
    parser.add_argument("--seconds", type=positive, default=1.0, help="of a turn")
    parser.add_argument("--json", type=pathlib.Path, help="write the record here")
    options = parser.parse_args()
    record: dict[str, Any] = {"environment": environment(), "results": []}
    record |= {"dtype": options.dtype, "rounds": options.rounds}
    print(record["environment"])
    for model in options.models:
        for batch in options.batches:
            steps, states = make_forms(model, batch, options.dtype)
            times = timed(steps, states, options.rounds, options.seconds)
            for form, seconds in times.items():
                found = summary(seconds, times["alone"])
                print(
                    f"{model:<9} {batch:>5}  {form:<7} {found['seconds'] * 1e3:9.2f} ms"
                    f"  {found['ratio']:.3f}× "
                    f"({found['ratio_min']:.3f}–{found['ratio_max']:.3f})",
                    flush=True,
                )
                record["results"].append(
                    {"model": model, "batch": batch, "form": form, **found}
                )
            write(options.json, record)  # what there is, should the rest not come


if __name__ == "__main__":
    main()
