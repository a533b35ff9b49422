"""Qwix: the transformer in nnx with low-rank adapters, and trained quantised."""

import jax.numpy as jnp
import qwix
from flax import nnx

from zoo.models.nnx import TOKENS, Transformer, split

PROJECTIONS = ".*(attention|up|down).*"


def lora():
    """Adapters are trained and stand beside the weights that they adapt."""
    rule = qwix.LoraRule(module_path=PROJECTIONS, rank=2, alpha=4.0)

    def make():
        return qwix.apply_lora_to_model(
            Transformer(False, nnx.Rngs(0)),
            qwix.LoraProvider([rule]),
            jnp.zeros(TOKENS.shape, TOKENS.dtype),
            rngs=nnx.Rngs(1),
        )

    forward, params, rest = split(nnx.eval_shape(make))
    return forward, params, (rest, TOKENS)


def qat():
    """Weights and activations are quantised to int8 and back in the forward pass."""
    rule = qwix.QtRule(
        module_path=PROJECTIONS, weight_qtype=jnp.int8, act_qtype=jnp.int8
    )

    def make():
        return qwix.quantize_model(
            Transformer(False, nnx.Rngs(0)),
            qwix.QtProvider([rule]),
            jnp.zeros(TOKENS.shape, TOKENS.dtype),
        )

    forward, params, rest = split(nnx.eval_shape(make))
    return forward, params, (rest, TOKENS)
