"""Fine-tuning: lower layers at smaller rates, and frozen until their turn comes.

    python examples/fine_tuning.py

A network learns task A from many examples. Task B, of which there are few, has the
same features under another head. `layer_decay` says how large the rates are and
`gradual_unfreeze_schedule` when each layer joins; in each of the `freeze_phases` no
gradient of a frozen layer is computed. Prints

    task A: accuracy 0.85
    task B from scratch: accuracy 0.71
    task B, steps   0 to  39: accuracy 0.60, frozen: first, second, third
    task B, steps  40 to  79: accuracy 0.74, frozen: first, second
    task B, steps  80 to 119: accuracy 0.75, frozen: first
    task B, steps 120 to 199: accuracy 0.75, frozen: nothing

Accuracies may differ by some hundredths from machine to machine.

Source: Howard & Ruder, ULMFiT, arXiv:1801.06146
"""

import functools

import jax
import jax.numpy as jnp
import optax

import optax_llr

SHAPES = {"first": (16, 64), "second": (64, 64), "third": (64, 64), "head": (64, 3)}
STEPS = 200


def forward(params, x):
    for name in ("first", "second", "third"):
        x = jax.nn.relu(x @ params[name])
    return x @ params["head"]


def loss(params, x, labels):
    logits = forward(params, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@functools.partial(jax.jit, static_argnames=("optimizer", "phase"))
def train_step(params, state, x, labels, optimizer, phase):
    gradients = jax.grad(phase.stopped(loss))(params, x, labels)
    updates, state = phase.freeze(optimizer).update(gradients, state, params)
    return optax.apply_updates(params, updates), state


def train(params, optimizer, multipliers, x, labels):
    """Yields each phase of a run, and the parameters after it."""
    phases = optax_llr.freeze_phases(layers, multipliers, STEPS)
    optimizer = optax.chain(optimizer, optax_llr.scale_by_layer(layers, multipliers))
    state = phases[0].freeze(optimizer).init(params)
    for phase in phases:
        for _ in range(phase.start, phase.stop):
            params, state = train_step(params, state, x, labels, optimizer, phase)
        yield phase, params


def accuracy(params, labels):
    """On the second half of the examples, which are for tests."""
    return (forward(params, x[2_000:]).argmax(-1) == labels[2_000:]).mean()


x = jax.random.normal(jax.random.key(0), (4_000, 16))
features = jnp.tanh(x @ jax.random.normal(jax.random.key(1), (16, 6)) / 2)
heads = jax.random.normal(jax.random.key(2), (2, 6, 3))
task_a, task_b = ((features @ head).argmax(-1) for head in heads)
keys = jax.random.split(jax.random.key(3), len(SHAPES))
he = jax.nn.initializers.he_normal()
start = {n: he(key, SHAPES[n]) for n, key in zip(SHAPES, keys, strict=True)}

layers = optax_llr.trace_layers(forward, start, x)
adam, uniform = optax.adam(3e-3), jnp.ones(len(layers))
[(_, trained)] = train(start, adam, uniform, x[:2_000], task_a[:2_000])
print(f"task A: accuracy {accuracy(trained, task_a):.2f}")
[(_, alone)] = train(start, adam, uniform, x[:60], task_b[:60])
print(f"task B from scratch: accuracy {accuracy(alone, task_b):.2f}")

decay = optax_llr.layer_decay(layers, 1 / 2.6)
unfreeze = optax_llr.gradual_unfreeze_schedule(layers, steps_per_stage=STEPS // 5)
trained["head"] = start["head"]
phases = train(trained, adam, lambda t: unfreeze(t) * decay, x[:60], task_b[:60])
for phase, tuned in phases:
    frozen = ", ".join(phase.names) or "nothing"
    steps = f"steps {phase.start:>3} to {phase.stop - 1:>3}"
    print(f"task B, {steps}: accuracy {accuracy(tuned, task_b):.2f}, frozen: {frozen}")
