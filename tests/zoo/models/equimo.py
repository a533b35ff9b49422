"""equimo: vision models in Equinox."""

import equinox as eqx
import jax
import jax.numpy as jnp
from equimo.models.vit import VisionTransformer


def vit(**sizes):
    """A ViT with a class token, learned positions and the mean over tokens."""
    sizes = {
        **{"img_size": 16, "in_channels": 3, "dim": 8, "patch_size": 8},
        **{"num_heads": 2, "depths": [3], "num_classes": 10, "reg_tokens": 0},
        **sizes,
    }
    key = jax.random.key(0)
    model = eqx.filter_eval_shape(lambda key: VisionTransformer(**sizes, key=key), key)
    image = jax.ShapeDtypeStruct((3, sizes["img_size"], sizes["img_size"]), jnp.float32)

    def forward(model, image):
        return model(image, key=key, inference=True)

    return forward, model, (image,)
