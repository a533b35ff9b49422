"""The schedule that Leslie Smith proposed: early layers fast first, late layers last.

    python examples/three_stage.py

The multiplier of the first layer falls from 2 to 0.5 within the first tenth of the run,
that of the last rises from 0.5 to 2 over the whole of it, and those between stay at 1.
The global rate follows a cosine of its own. A small network learns which of four
spiral arms points lie in. Prints

    step   first  second   third    last    loss  accuracy
       0    2.00    1.00    1.00    0.50   1.70       0.2
      40    0.50    1.00    1.00    0.65   0.70       0.8
      80    0.50    1.00    1.00    0.80   0.34       0.9
     160    0.50    1.00    1.00    1.10   0.07       1.0
     240    0.50    1.00    1.00    1.40   0.05       1.0
     320    0.50    1.00    1.00    1.70   0.04       1.0
     400    0.50    1.00    1.00    2.00   0.04       1.0

Losses and accuracies may differ by some hundredths from machine to machine.

References:
    Smith, Cyclical Layer Learning Rates (a research question), fast.ai forums
"""

import jax
import jax.numpy as jnp
import optax

import optax_llr

SHAPES = {"first": (2, 64), "second": (64, 64), "third": (64, 64), "last": (64, 4)}
STEPS = 400


def forward(params, points):
    x = points
    for name in ("first", "second", "third"):
        x = jax.nn.relu(x @ params[name]["kernel"] + params[name]["bias"])
    return x @ params["last"]["kernel"] + params["last"]["bias"]


def loss(params):
    """The mean loss, and the share of points on the right arm."""
    logits = forward(params, points)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean(), (logits.argmax(-1) == labels).mean()


points = jax.random.normal(jax.random.key(0), (1_000, 2))
turned = jnp.arctan2(points[:, 1], points[:, 0]) + 2 * jnp.linalg.norm(points, axis=1)
labels = (turned // (jnp.pi / 2)).astype(int) % 4

keys = jax.random.split(jax.random.key(1), len(SHAPES))
he = jax.nn.initializers.he_normal()
params = {
    name: {"kernel": he(key, shape), "bias": jnp.zeros(shape[1])}
    for (name, shape), key in zip(SHAPES.items(), keys, strict=True)
}

layers = optax_llr.trace_layers(forward, params, points)
three_stage = optax_llr.per_layer_schedule(
    layers,
    {
        "first": optax.linear_schedule(2.0, 0.5, STEPS // 10),
        "second": 1.0,
        "third": 1.0,
        "last": optax.linear_schedule(0.5, 2.0, STEPS),
    },
)
optimizer = optax.chain(
    optax.sgd(optax.cosine_decay_schedule(0.1, STEPS), momentum=0.9),
    optax_llr.scale_by_layer(layers, three_stage),
)


@jax.jit
def train_step(params, opt_state):
    measured, gradients = jax.value_and_grad(loss, has_aux=True)(params)
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, measured


opt_state = optimizer.init(params)
print("step", *(f"{name:>7}" for name in layers.names), "   loss  accuracy")
for step in range(STEPS + 1):
    params, opt_state, (value, accuracy) = train_step(params, opt_state)
    if step % 80 == 0 or step == STEPS // 10:
        used = optax_llr.layer_multipliers(layers, opt_state).values()
        multipliers = " ".join(f"{multiplier:7.2f}" for multiplier in used)
        print(f"{step:>4} {multipliers}  {value:5.2f}  {accuracy:8.1f}")
