"""Fine-tuning: a new head on a trained body, and three ways to train the two.

    python examples/fine_tuning.py

A network learns task A from many examples. Its body, which you would load from a file,
goes on to task B, of which there are few: all layers at once; the new head first, then
all; or layer after layer, the lower ones slower. Frozen layers cost nothing. Prints

    A                            steps   0 to 199: accuracy 0.84, 0 of 4 layers frozen
    B, from scratch              steps   0 to 199: accuracy 0.70, 0 of 4 layers frozen
    B, all layers at once        steps   0 to 199: accuracy 0.75, 0 of 4 layers frozen
    B, head first, then all      steps   0 to  99: accuracy 0.65, 3 of 4 layers frozen
    B, head first, then all      steps 100 to 199: accuracy 0.75, 0 of 4 layers frozen
    B, one layer after the other steps   0 to  39: accuracy 0.62, 3 of 4 layers frozen
    B, one layer after the other steps  40 to  79: accuracy 0.72, 2 of 4 layers frozen
    B, one layer after the other steps  80 to 119: accuracy 0.75, 1 of 4 layers frozen
    B, one layer after the other steps 120 to 199: accuracy 0.75, 0 of 4 layers frozen

Accuracies may differ by some hundredths from machine to machine.
Sources: Kumar et al., LP-FT, arXiv:2202.10054; Howard & Ruder, ULMFiT, arXiv:1801.06146
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import optax_llr

STEPS = 200


class Net(nnx.Module):
    def __init__(self, seed):
        rngs = nnx.Rngs(seed)
        self.body = nnx.List([nnx.Linear(n, 64, rngs=rngs) for n in (16, 64, 64)])
        self.head = nnx.Linear(64, 3, rngs=rngs)

    def __call__(self, x):
        for layer in self.body:
            x = nnx.relu(layer(x))
        return self.head(x)


def loss(model, x, labels):
    return optax.softmax_cross_entropy_with_integer_labels(model(x), labels).mean()


@nnx.jit
def train_step(model, optimizer, x, labels):
    optimizer.update(model, nnx.grad(loss)(model, x, labels))


def train(name, model, multipliers, labels, examples):
    """Trains on the first examples; prints each phase, with the accuracy on others."""
    tx = optax.chain(optax.adam(3e-3), optax_llr.scale_by_layer(layers, multipliers))
    phases = optax_llr.freeze_phases(layers, multipliers, STEPS)
    optimizer = nnx.Optimizer(model, phases[0].freeze(tx), wrt=nnx.Param)
    for phase in phases:
        optimizer.tx = phase.freeze(tx)
        for _ in range(phase.start, phase.stop):
            train_step(model, optimizer, x[:examples], labels[:examples])
        accuracy = (model(x[2_000:]).argmax(-1) == labels[2_000:]).mean()
        steps = f"steps {phase.start:>3} to {phase.stop - 1:>3}"
        frozen = f"{len(phase.names)} of {len(layers)} layers frozen"
        print(f"{name:<28} {steps}: accuracy {accuracy:.2f}, {frozen}")


x = jax.random.normal(jax.random.key(0), (4_000, 16))
features = jnp.tanh(x @ jax.random.normal(jax.random.key(1), (16, 6)) / 2)
heads = jax.random.normal(jax.random.key(2), (2, 6, 3))
task_a, task_b = ((features @ head).argmax(-1) for head in heads)

source = Net(seed=1)
graph, params = nnx.split(source)
layers = optax_llr.trace_layers(lambda p, x: nnx.merge(graph, p)(x), params, x)
uniform, head = jnp.ones(len(layers)), jnp.where(layers.distance == 0, 1.0, 0.0)
unfreeze = optax_llr.gradual_unfreeze_schedule(layers, steps_per_stage=STEPS // 5)
decay = optax_llr.layer_decay(layers, 1 / 2.6)

train("A", source, uniform, task_a, examples=2_000)
train("B, from scratch", Net(seed=2), uniform, task_b, examples=60)
for name, multipliers in {
    "B, all layers at once": uniform,
    "B, head first, then all": lambda t: jnp.where(t < STEPS // 2, head, uniform),
    "B, one layer after the other": lambda t: unfreeze(t) * decay,
}.items():
    model = Net(seed=2)
    nnx.update(model.body, nnx.state(source.body))
    train(name, model, multipliers, task_b, examples=60)
