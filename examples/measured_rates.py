"""Rates that are measured while training, with a way back to uniform ones.

    python examples/measured_rates.py

`adapt_layers` measures the multipliers: here by the trust ratio, so that all layers
change at one relative speed, and `relative`, so that they share out the global rate.
`revert_to_uniform` watches the loss. At step 200 the inputs are disturbed; the loss is
worse than its best for a while, and all multipliers are led back to 1 for good. Prints

    step   loss    first  second   third    last   reverting
       0   0.74     2.33    0.83    0.68    0.16          0 of 40
      50   0.44     1.73    1.08    1.01    0.17          0 of 40
     100   0.34     1.48    1.21    1.16    0.15          0 of 40
     150   0.24     1.38    1.09    1.37    0.17          0 of 40
     200   1.35     1.37    0.79    1.52    0.32          0 of 40
     250   0.19     1.18    1.00    1.16    0.66         22 of 40
     300   0.07     1.00    1.00    1.00    1.00         40 of 40

Losses and multipliers may differ by some hundredths from machine to machine.
"""

import jax
import jax.numpy as jnp
import optax

import optax_llr

NAMES = ("first", "second", "third", "last")


def forward(params, x):
    for name in NAMES[:-1]:
        x = jnp.tanh(x @ params[name])
    return x @ params["last"]


def loss(params, x, targets):
    return ((forward(params, x) - targets) ** 2).mean()


keys = jax.random.split(jax.random.key(0), len(NAMES))
shapes = ((8, 32), (32, 32), (32, 32), (32, 1))
lecun = jax.nn.initializers.lecun_normal()
params = {
    name: lecun(key, shape)
    for name, key, shape in zip(NAMES, keys, shapes, strict=True)
}
x = jax.random.normal(jax.random.key(1), (500, 8))
targets = jnp.sin(2 * x[:, :1]) * x[:, 1:2]
disturbed = 3 * jax.random.normal(jax.random.key(2), x.shape)

layers = optax_llr.trace_layers(forward, params, x)
optimizer = optax_llr.contrib.revert_to_uniform(
    optax_llr.adapt_layers(
        optax.sgd(0.05, momentum=0.9),
        layers,
        optax_llr.rules.trust_ratio(),
        relative=True,
    ),
    patience=3,  # checks in a row that were worse than the best one
    steps=40,  # of the way back
    accumulation_size=10,  # losses averaged for a check
)


@jax.jit
def train_step(params, opt_state, x):
    value, gradients = jax.value_and_grad(loss)(params, x, targets)
    updates, opt_state = optimizer.update(gradients, opt_state, params, value=value)
    return optax.apply_updates(params, updates), opt_state, value


opt_state = optimizer.init(params)
print("step   loss ", *(f"{name:>7}" for name in layers.names), "  reverting")
for step in range(301):
    seen = x if step < 200 else disturbed
    params, opt_state, value = train_step(params, opt_state, seen)
    if step % 50 == 0:
        measured = optax_llr.layer_multipliers(layers, opt_state).values()
        shown = " ".join(f"{multiplier:7.2f}" for multiplier in measured)
        print(f"{step:>4}  {value:5.2f}  {shown}  {int(opt_state.reverting):>9} of 40")
