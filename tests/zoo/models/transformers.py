"""Hugging Face's Flax classes, from tiny configurations; shapes only."""

import functools

import jax
import jax.numpy as jnp
import transformers as hf
from transformers.models.t5 import modeling_flax_t5

TINY = {
    "vocab_size": 32,
    "hidden_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 16,
}
TOKENS = jax.ShapeDtypeStruct((2, 6), jnp.int32)


def _shapes(model, *inputs, names=()):
    """The forward pass, the shapes of its parameters, and its inputs (some named)."""
    init = functools.partial(model.init_weights, input_shape=model.input_shape)
    params = jax.eval_shape(init, jax.random.key(0))

    def forward(params, *inputs):
        split = len(inputs) - len(names)
        named = dict(zip(names, inputs[split:], strict=True))
        # Caches and hidden states are no outputs to train on.
        return model(*inputs[:split], **named, params=params)[0]

    return forward, params, inputs


def bert(**sizes):
    config = hf.BertConfig(**TINY | sizes)
    model = hf.FlaxBertForSequenceClassification(config, _do_init=False)
    return _shapes(model, TOKENS)


def bert_masked(**sizes):
    config = hf.BertConfig(**TINY | sizes)
    return _shapes(hf.FlaxBertForMaskedLM(config, _do_init=False), TOKENS)


def electra(**sizes):
    config = hf.ElectraConfig(**TINY | {"embedding_size": 4} | sizes)
    model = hf.FlaxElectraForSequenceClassification(config, _do_init=False)
    return _shapes(model, TOKENS)


def albert(**sizes):
    config = hf.AlbertConfig(**TINY | {"embedding_size": 4} | sizes)
    model = hf.FlaxAlbertForSequenceClassification(config, _do_init=False)
    return _shapes(model, TOKENS)


def gpt2(**sizes):
    config = hf.GPT2Config(
        **{"vocab_size": 32, "n_embd": 8, "n_layer": 3, "n_head": 2, "n_positions": 16}
        | sizes
    )
    return _shapes(hf.FlaxGPT2LMHeadModel(config, _do_init=False), TOKENS)


def llama(**sizes):
    config = hf.LlamaConfig(**TINY | sizes)
    return _shapes(hf.FlaxLlamaForCausalLM(config, _do_init=False), TOKENS)


class _Numpy:
    """jax.numpy with the argument of `clip` that T5 passes and JAX no longer has."""

    def __getattr__(self, name):
        return getattr(jnp, name)

    def clip(self, x, a_max):
        return jnp.minimum(x, a_max)


modeling_flax_t5.jnp = _Numpy()


def t5(**sizes):
    config = hf.T5Config(
        **{"vocab_size": 32, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_heads": 2}
        | {"num_layers": 3, "num_decoder_layers": 2, "tie_word_embeddings": False}
        | sizes
    )
    model = hf.FlaxT5ForConditionalGeneration(config, _do_init=False)
    return _shapes(model, TOKENS, TOKENS, names=["decoder_input_ids"])


def bart(**sizes):
    config = hf.BartConfig(
        **{"vocab_size": 32, "d_model": 8, "max_position_embeddings": 16}
        | {"encoder_layers": 3, "decoder_layers": 2}
        | {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
        | {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
        | sizes
    )
    return _shapes(hf.FlaxBartForConditionalGeneration(config, _do_init=False), TOKENS)


IMAGES = {"image_size": 16, "patch_size": 8}


def vit(**sizes):
    config = hf.ViTConfig(**TINY | IMAGES | sizes)
    model = hf.FlaxViTForImageClassification(config, _do_init=False)
    return _shapes(model, _images(config))


def beit(**sizes):
    config = hf.BeitConfig(
        **TINY | IMAGES | {"use_shared_relative_position_bias": True} | sizes
    )
    model = hf.FlaxBeitForImageClassification(config, _do_init=False)
    return _shapes(model, _images(config))


def clip(**sizes):
    config = hf.CLIPConfig(
        text_config=TINY | {"num_hidden_layers": 2} | sizes.get("text", {}),
        vision_config=TINY | IMAGES | sizes.get("vision", {}),
        projection_dim=sizes.get("projection_dim", 4),
    )
    model = hf.FlaxCLIPModel(config, _do_init=False)
    return _shapes(model, TOKENS, _images(config.vision_config))


def wav2vec2(**sizes):
    config = hf.Wav2Vec2Config(
        **TINY
        | {"conv_dim": (8, 8), "conv_kernel": (4, 2), "conv_stride": (4, 2)}
        | {"num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4}
        | {"num_conv_pos_embedding_groups": 2}
        | {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}
        | sizes
    )
    model = hf.FlaxWav2Vec2ForCTC(config, _do_init=False)
    return _shapes(model, jax.ShapeDtypeStruct((2, 400), jnp.float32))


def _images(config):
    return jax.ShapeDtypeStruct((2, 3, config.image_size, config.image_size), "float32")
