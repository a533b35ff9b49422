"""Two groups, two rates: the body of a network learns at a fifth of its head's rate.

    python examples/two_groups.py

Parameters are grouped by patterns over their paths; the optimizer is plain Optax with
one transformation behind it. Prints

    level  layer  parameters  multiplier
        0  body          192         0.2
        1  head          130           1
    step   0: loss 0.69
    step 100: loss 0.20
    step 200: loss 0.07

Losses may differ in their last digit from machine to machine.
"""

import jax
import jax.numpy as jnp
import optax

import optax_llr


def forward(params, points):
    hidden = jnp.tanh(points @ params["body"]["kernel"] + params["body"]["bias"])
    return hidden @ params["head"]["kernel"] + params["head"]["bias"]


def loss(params, points, labels):
    logits = forward(params, points)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


points = jax.random.normal(jax.random.key(0), (500, 2))
labels = (jnp.linalg.norm(points, axis=1) < 1.2).astype(int)  # inside a circle?
kernels = jax.random.split(jax.random.key(1))
params = {
    "body": {"kernel": jax.random.normal(kernels[0], (2, 64)), "bias": jnp.zeros(64)},
    "head": {"kernel": jnp.zeros((64, 2)), "bias": jnp.zeros(2)},
}

layers = optax_llr.match_layers(params, [("body/.*", "body"), ("head/.*", "head")])
multipliers = jnp.array([0.2, 1.0])
optimizer = optax.chain(
    optax.adam(0.02),
    optax_llr.scale_by_layer(layers, multipliers),
)


@jax.jit
def train_step(params, opt_state):
    value, gradients = jax.value_and_grad(loss)(params, points, labels)
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, value


opt_state = optimizer.init(params)
print(optax_llr.layer_table(layers, params, multipliers))
for step in range(201):
    params, opt_state, value = train_step(params, opt_state)
    if step % 100 == 0:
        print(f"step {step:>3}: loss {value:.2f}")
