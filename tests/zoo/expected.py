"""What each model's layers are, written down by hand from its architecture.

Each line is a level, from the input on; what stands on one line runs in parallel.

- `a/b` is a layer: all parameters whose paths begin with `a/b/`, or `a/b` itself.
  `a/b,c` is `a/b a/c`; `a[1]` is slice 1 of stacked parameters; `a_*` is all whose
  paths begin with `a_`.
- `a+n` adds the parameters of `n`: a norm, or another vector, joins what feeds it.
- `a|b+n`: `n` may join either. Several layers of one level feed it.

The distance to the output is the number of lines that follow, except for what is on
no longest path: `ends` has the last line of the longest path that leads through it.
"""

import dataclasses
from collections.abc import Callable

# From a part's name and a block's number to the part's path.
Path = Callable[[str, int], str]


@dataclasses.dataclass(frozen=True)
class Expected:
    """Layers per module and by block; None where they must be an error."""

    modules: list[str] | None
    blocks: list[str] | None
    ends: dict[str, int] = dataclasses.field(default_factory=dict)
    block_ends: dict[str, int] = dataclasses.field(default_factory=dict)
    # Parameters that a pass does not use, and the layers that they join.
    unused: dict[str, str] = dataclasses.field(default_factory=dict)
    block_unused: dict[str, str] = dataclasses.field(default_factory=dict)


MODELS: dict[str, Expected] = {}
# What cannot be read here, and why.
NOT_READ = {
    "transformers 5": "has no Flax classes; read at the last 4.x",
    "equimo 2": "needs Python 3.12; read at the last 1.x on Python 3.11",
}


# transformers: encoders whose norms follow the sums -----------------------------------


def _bert_block(i: str) -> list[str]:
    return [
        f"{i}/attention/self/query,key,value",
        f"{i}/attention/output/dense+{i}/attention/output/LayerNorm",
        f"{i}/intermediate/dense",
        f"{i}/output/dense+{i}/output/LayerNorm",
    ]


def _bert_embeddings(name: str) -> str:
    tables = [f"{name}/{kind}_embeddings" for kind in ("word", "position")]
    return f"{'|'.join(tables)}|{name}/token_type_embeddings+{name}/LayerNorm"


_BERT_BLOCKS = [f"bert/encoder/layer/{i}" for i in range(3)]
_BERT = [
    _bert_embeddings("bert/embeddings"),
    *(line for block in _BERT_BLOCKS for line in _bert_block(block)),
]
MODELS["transformers.bert"] = Expected(
    modules=[*_BERT, "bert/pooler/dense", "classifier"],
    blocks=["bert/embeddings", *_BERT_BLOCKS, "bert/pooler+classifier"],
)
# The decoder is the table of words, which stands where it is first used.
MODELS["transformers.bert_masked"] = Expected(
    modules=[
        *_BERT,
        "cls/predictions/transform/dense"
        "+cls/predictions/transform/LayerNorm+cls/predictions/bias",
    ],
    blocks=["bert/embeddings", *_BERT_BLOCKS, "cls/predictions"],
)

_ELECTRA_BLOCKS = [f"electra/encoder/layer/{i}" for i in range(3)]
MODELS["transformers.electra"] = Expected(
    modules=[
        _bert_embeddings("electra/embeddings"),
        "electra/embeddings_project",
        *(line for block in _ELECTRA_BLOCKS for line in _bert_block(block)),
        "classifier/dense",
        "classifier/out_proj",
    ],
    blocks=[
        "electra/embeddings+electra/embeddings_project",
        *_ELECTRA_BLOCKS,
        "classifier",
    ],
)

# Three passes through one block: nothing repeats in the parameters.
_ALBERT = "albert/encoder/albert_layer_groups/0/albert_layers/0"
MODELS["transformers.albert"] = Expected(
    modules=[
        _bert_embeddings("albert/embeddings"),
        "albert/encoder/embedding_hidden_mapping_in",
        f"{_ALBERT}/attention/query,key,value",
        f"{_ALBERT}/attention/dense+{_ALBERT}/attention/LayerNorm",
        f"{_ALBERT}/ffn",
        f"{_ALBERT}/ffn_output+{_ALBERT}/full_layer_layer_norm",
        "albert/pooler",
        "classifier",
    ],
    blocks=None,
)


# transformers: norms before attention join what feeds them ----------------------------


def _gpt2_block(i: int) -> list[str]:
    block, following = f"transformer/h/{i}", f"transformer/h/{i + 1}/ln_1"
    return [
        f"{block}/attn/c_attn",
        f"{block}/attn/c_proj+{block}/ln_2",
        f"{block}/mlp/c_fc",
        f"{block}/mlp/c_proj+{following if i < 2 else 'transformer/ln_f'}",
    ]


MODELS["transformers.gpt2"] = Expected(
    modules=[
        "transformer/wte|transformer/wpe+transformer/h/0/ln_1",
        *(line for i in range(3) for line in _gpt2_block(i)),
    ],
    blocks=[
        "transformer/wte+transformer/wpe",
        "transformer/h/0",
        "transformer/h/1",
        "transformer/h/2+transformer/ln_f",
    ],
)


def _llama_block(i: int) -> list[str]:
    block, following = f"model/layers/{i}", f"model/layers/{i + 1}/input_layernorm"
    return [
        f"{block}/self_attn/q_proj,k_proj,v_proj",
        f"{block}/self_attn/o_proj+{block}/post_attention_layernorm",
        f"{block}/mlp/gate_proj,up_proj",
        f"{block}/mlp/down_proj+{following if i < 2 else 'model/norm'}",
    ]


MODELS["transformers.llama"] = Expected(
    modules=[
        "model/embed_tokens+model/layers/0/input_layernorm",
        *(line for i in range(3) for line in _llama_block(i)),
        "lm_head",
    ],
    blocks=[
        "model/embed_tokens",
        "model/layers/0",
        "model/layers/1",
        "model/layers/2+model/norm",
        "lm_head",
    ],
)


def _vit_block(block: str, following: str, scale: str = "") -> list[str]:
    attention = f"{block}/attention/output/dense+{block}/layernorm_after"
    output = f"{block}/output/dense+{following}"
    return [
        f"{block}/attention/attention/query,key,value",
        attention + (f"+{block}/{scale}_1" if scale else ""),
        f"{block}/intermediate/dense",
        output + (f"+{block}/{scale}_2" if scale else ""),
    ]


_VIT = [f"vit/encoder/layer/{i}" for i in range(3)]
MODELS["transformers.vit"] = Expected(
    modules=[
        "vit/embeddings/patch_embeddings/projection|vit/embeddings/position_embeddings"
        "+vit/encoder/layer/0/layernorm_before "
        "vit/embeddings/patch_embeddings/projection+vit/embeddings/cls_token",
        *_vit_block(_VIT[0], f"{_VIT[1]}/layernorm_before"),
        *_vit_block(_VIT[1], f"{_VIT[2]}/layernorm_before"),
        *_vit_block(_VIT[2], "vit/layernorm"),
        "classifier",
    ],
    blocks=["vit/embeddings", *_VIT[:2], f"{_VIT[2]}+vit/layernorm", "classifier"],
)

_BEIT = [f"beit/encoder/layer/{i}" for i in range(3)]
_BEIT_FIRST, *_BEIT_REST = [
    *_vit_block(_BEIT[0], f"{_BEIT[1]}/layernorm_before", "lambda"),
    *_vit_block(_BEIT[1], f"{_BEIT[2]}/layernorm_before", "lambda"),
    *_vit_block(_BEIT[2], "beit/pooler/layernorm", "lambda"),
]
# All blocks share one table of position biases: it stands beside the first queries,
# where it is first used, and by block with what comes before them.
MODELS["transformers.beit"] = Expected(
    modules=[
        "beit/embeddings/patch_embeddings/projection+beit/embeddings/cls_token"
        f"+{_BEIT[0]}/layernorm_before",
        f"{_BEIT_FIRST} beit/encoder/relative_position_bias",
        *_BEIT_REST,
        "classifier",
    ],
    blocks=[
        "beit/embeddings+beit/encoder/relative_position_bias",
        *_BEIT[:2],
        f"{_BEIT[2]}+beit/pooler/layernorm",
        "classifier",
    ],
)


# transformers: two towers, two stacks, speech -----------------------------------------


def _clip_block(block: str, following: str) -> list[str]:
    return [
        f"{block}/self_attn/q_proj,k_proj,v_proj",
        f"{block}/self_attn/out_proj+{block}/layer_norm2",
        f"{block}/mlp/fc1",
        f"{block}/mlp/fc2+{following}",
    ]


_SEE = [f"vision_model/encoder/layers/{i}" for i in range(3)]
_READ = [f"text_model/encoder/layers/{i}" for i in range(2)]
_SIGHT = [
    "vision_model/embeddings/patch_embedding|vision_model/embeddings/position_embedding"
    f"+vision_model/pre_layrnorm+{_SEE[0]}/layer_norm1 "
    "vision_model/embeddings/patch_embedding+vision_model/embeddings/class_embedding",
    *_clip_block(_SEE[0], f"{_SEE[1]}/layer_norm1"),
    *_clip_block(_SEE[1], f"{_SEE[2]}/layer_norm1"),
    *_clip_block(_SEE[2], "vision_model/post_layernorm"),
    "visual_projection+logit_scale",
]
_TEXT = [
    "text_model/embeddings/token_embedding|text_model/embeddings/position_embedding"
    f"+{_READ[0]}/layer_norm1",
    *_clip_block(_READ[0], f"{_READ[1]}/layer_norm1"),
    *_clip_block(_READ[1], "text_model/final_layer_norm"),
    "text_projection",
]


def _beside(long: list[str], short: list[str]) -> list[str]:
    padded = [*short, *[""] * (len(long) - len(short))]
    return [f"{a} {b}" for a, b in zip(long, padded, strict=True)]


# The temperature multiplies what both towers made, the longer one last.
MODELS["transformers.clip"] = Expected(
    modules=_beside(_SIGHT, _TEXT),
    ends={"text_model": 9, "text_projection": 9},
    blocks=_beside(
        [
            "vision_model/embeddings+vision_model/pre_layrnorm",
            *_SEE[:2],
            f"{_SEE[2]}+vision_model/post_layernorm",
            "visual_projection+logit_scale",
        ],
        [
            "text_model/embeddings",
            _READ[0],
            f"{_READ[1]}+text_model/final_layer_norm",
            "text_projection",
        ],
    ),
    block_ends={"text_model": 3, "text_projection": 3},
)


def _t5_encoder_block(i: int) -> list[str]:
    block, following = f"encoder/block/{i}/layer", f"encoder/block/{i + 1}/layer"
    norm = f"{following}/0/layer_norm" if i < 2 else "encoder/final_layer_norm"
    return [
        f"{block}/0/SelfAttention/q,k,v",
        f"{block}/0/SelfAttention/o+{block}/1/layer_norm",
        f"{block}/1/DenseReluDense/wi",
        f"{block}/1/DenseReluDense/wo+{norm}",
    ]


_T5 = [line for i in range(3) for line in _t5_encoder_block(i)]
_T5_0, _T5_1 = "decoder/block/0/layer", "decoder/block/1/layer"
_BIAS = "SelfAttention/relative_attention_bias"
# The decoder starts beside the encoder and waits for it at the first cross attention:
# keys and values of all its blocks read the encoder's output (level 13).
MODELS["transformers.t5"] = Expected(
    modules=[
        f"shared+encoder/block/0/layer/0/layer_norm+{_T5_0}/0/layer_norm",
        f"{_T5[0]} encoder/block/0/layer/0/{_BIAS} "
        f"{_T5_0}/0/SelfAttention/q,k,v {_T5_0}/0/{_BIAS}",
        f"{_T5[1]} {_T5_0}/0/SelfAttention/o+{_T5_0}/1/layer_norm",
        f"{_T5[2]} {_T5_0}/1/EncDecAttention/q",
        *_T5[3:],
        f"{_T5_0}/1/EncDecAttention/k,v {_T5_1}/1/EncDecAttention/k,v",
        f"{_T5_0}/1/EncDecAttention/o+{_T5_0}/2/layer_norm",
        f"{_T5_0}/2/DenseReluDense/wi",
        f"{_T5_0}/2/DenseReluDense/wo+{_T5_1}/0/layer_norm",
        f"{_T5_1}/0/SelfAttention/q,k,v",
        f"{_T5_1}/0/SelfAttention/o+{_T5_1}/1/layer_norm",
        f"{_T5_1}/1/EncDecAttention/q",
        f"{_T5_1}/1/EncDecAttention/o+{_T5_1}/2/layer_norm",
        f"{_T5_1}/2/DenseReluDense/wi",
        f"{_T5_1}/2/DenseReluDense/wo+decoder/final_layer_norm",
        "lm_head",
    ],
    # The first decoder block's queries, at 3, are read at 14: ten levels are skipped.
    # The second one's keys and values, at 13, are read at 20.
    ends={
        f"{_T5_0}/0/SelfAttention": 13,
        f"{_T5_0}/1/EncDecAttention/q": 13,
        f"{_T5_1}/1/EncDecAttention/k,v": 17,
    },
    blocks=[
        "shared",
        "encoder/block/0",
        "encoder/block/1",
        "encoder/block/2+encoder/final_layer_norm",
        "decoder/block/0",
        "decoder/block/1+decoder/final_layer_norm",
        "lm_head",
    ],
)


def _bart_encoder_block(i: int) -> list[str]:
    block = f"model/encoder/layers/{i}"
    return [
        f"{block}/self_attn/q_proj,k_proj,v_proj",
        f"{block}/self_attn/out_proj+{block}/self_attn_layer_norm",
        f"{block}/fc1",
        f"{block}/fc2+{block}/final_layer_norm",
    ]


def _bart_decoder_block(block: str) -> tuple[list[str], list[str]]:
    """The part before the cross attention's scores, and the part behind."""
    return [
        f"{block}/self_attn/q_proj,k_proj,v_proj",
        f"{block}/self_attn/out_proj+{block}/self_attn_layer_norm",
        f"{block}/encoder_attn/q_proj",
    ], [
        f"{block}/encoder_attn/out_proj+{block}/encoder_attn_layer_norm",
        f"{block}/fc1",
        f"{block}/fc2+{block}/final_layer_norm",
    ]


_BART = [line for i in range(3) for line in _bart_encoder_block(i)]
_BART_0, _BART_1 = "model/decoder/layers/0", "model/decoder/layers/1"
_BEFORE, _BEHIND = _bart_decoder_block(_BART_0)
_BEFORE_1, _BEHIND_1 = _bart_decoder_block(_BART_1)
MODELS["transformers.bart"] = Expected(
    modules=[
        "model/shared|model/encoder/embed_positions+model/encoder/layernorm_embedding "
        "model/shared|model/decoder/embed_positions+model/decoder/layernorm_embedding",
        *_beside(_BART[:3], _BEFORE),
        *_BART[3:],
        f"{_BART_0}/encoder_attn/k_proj,v_proj {_BART_1}/encoder_attn/k_proj,v_proj",
        *_BEHIND,
        *_BEFORE_1,
        *_BEHIND_1[:-1],
        f"{_BEHIND_1[-1]}+final_logits_bias",
    ],
    ends={
        "model/decoder/embed_positions": 12,
        f"{_BART_0}/self_attn": 12,
        f"{_BART_0}/encoder_attn/q_proj": 12,
        f"{_BART_1}/encoder_attn/k_proj,v_proj": 16,
    },
    # The decoder's own positions do not pass through the encoder.
    block_ends={"model/decoder/embed_positions": 2},
    blocks=[
        "model/shared|model/encoder/embed_positions|model/encoder/layernorm_embedding "
        "model/decoder/embed_positions|model/decoder/layernorm_embedding",
        *(f"model/encoder/layers/{i}" for i in range(3)),
        _BART_0,
        f"{_BART_1}+final_logits_bias",
    ],
)


def _wav2vec2_block(i: int) -> list[str]:
    block = f"wav2vec2/encoder/layers/{i}"
    following = f"wav2vec2/encoder/layers/{i + 1}/layer_norm"
    norm = following if i < 2 else "wav2vec2/encoder/layer_norm"
    return [
        f"{block}/attention/q_proj,k_proj,v_proj",
        f"{block}/attention/out_proj+{block}/final_layer_norm",
        f"{block}/feed_forward/intermediate_dense",
        f"{block}/feed_forward/output_dense+{norm}",
    ]


_WAVE = "wav2vec2/feature_extractor/conv_layers"
# Two stacks again: convolutions, then blocks; a projection stands between them.
MODELS["transformers.wav2vec2"] = Expected(
    modules=[
        f"{_WAVE}/0/conv+{_WAVE}/0/layer_norm",
        f"{_WAVE}/1/conv+{_WAVE}/1/layer_norm+wav2vec2/feature_projection/layer_norm",
        "wav2vec2/feature_projection/projection+wav2vec2/masked_spec_embed",
        "wav2vec2/encoder/pos_conv_embed/conv+wav2vec2/encoder/layers/0/layer_norm",
        *(line for i in range(3) for line in _wav2vec2_block(i)),
        "lm_head",
    ],
    unused={"wav2vec2/masked_spec_embed": "wav2vec2/feature_projection/projection"},
    blocks=[
        f"{_WAVE}/0",
        f"{_WAVE}/1",
        "wav2vec2/feature_projection+wav2vec2/encoder/pos_conv_embed",
        "wav2vec2/encoder/layers/0+wav2vec2/masked_spec_embed",
        "wav2vec2/encoder/layers/1",
        "wav2vec2/encoder/layers/2+wav2vec2/encoder/layer_norm",
        "lm_head",
    ],
    block_unused={"wav2vec2/masked_spec_embed": "wav2vec2/encoder/layers/0"},
)


# Keras --------------------------------------------------------------------------------


def _keras_bottleneck(block: str, projected: bool) -> list[str]:
    shortcut = f" {block}_0_conv+{block}_0_bn" if projected else ""
    first, *others = [f"{block}_{i}_conv+{block}_{i}_bn" for i in (1, 2, 3)]
    return [first + shortcut, *others]


MODELS["keras.resnet"] = Expected(
    modules=[
        "conv1_conv+conv1_bn",
        *_keras_bottleneck("conv2_block1", projected=True),
        *_keras_bottleneck("conv2_block2", projected=False),
        *_keras_bottleneck("conv3_block1", projected=True),
        *_keras_bottleneck("conv3_block2", projected=False),
        "predictions",
    ],
    # A shortcut's one convolution beside three.
    ends={"conv2_block1_0_*": 11, "conv3_block1_0_*": 11},
    blocks=[
        "conv1_conv+conv1_bn",
        "conv2_block1_*",
        "conv2_block2_*",
        "conv3_block1_*",
        "conv3_block2_*",
        "predictions",
    ],
)


def _mbconv(block: str, expanded: bool) -> list[str]:
    expand = [f"{block}_expand_conv+{block}_expand_bn"] if expanded else []
    return [
        *expand,
        f"{block}_dwconv+{block}_bn",
        f"{block}_se_reduce",
        f"{block}_se_expand",
        f"{block}_project_conv+{block}_project_bn",
    ]


MODELS["keras.efficientnet"] = Expected(
    modules=[
        "stem_conv+stem_bn",
        *_mbconv("block1a", expanded=False),
        *_mbconv("block2a", expanded=True),
        *_mbconv("block2b", expanded=True),
        "top_conv+top_bn",
        "predictions",
    ],
    blocks=[
        "stem_conv+stem_bn",
        "block1a_*",
        "block2a_*",
        "block2b_*",
        "top_conv+top_bn+predictions",
    ],
)


def _convnext_block(stage: int, i: int, norm: str = "") -> list[str]:
    block = f"convnext_stage_{stage}_block_{i}"
    last = f"{block}_pointwise_conv_2+{block}_layer_scale"
    return [
        f"{block}_depthwise_conv+{block}_layernorm",
        f"{block}_pointwise_conv_1",
        f"{last}+{norm}" if norm else last,
    ]


def _downsampling(i: int, part: str) -> str:
    return f"convnext_downsampling_block_{i}/convnext_downsampling_{part}_{i}"


# What takes one stage to the next is part of no residual block: a layer of its own.
MODELS["keras.convnext"] = Expected(
    modules=[
        "convnext_stem/convnext_stem_conv+convnext_stem/convnext_stem_layernorm",
        *_convnext_block(0, 0),
        *_convnext_block(0, 1, _downsampling(0, "layernorm")),
        _downsampling(0, "conv"),
        *_convnext_block(1, 0, _downsampling(1, "layernorm")),
        _downsampling(1, "conv"),
        *_convnext_block(2, 0, _downsampling(2, "layernorm")),
        _downsampling(2, "conv"),
        *_convnext_block(3, 0, "convnext_head_layernorm"),
        "convnext_head_dense",
    ],
    blocks=[
        "convnext_stem",
        "convnext_stage_0_block_0_*",
        "convnext_stage_0_block_1_*",
        "convnext_downsampling_block_0",
        "convnext_stage_1_block_0_*",
        "convnext_downsampling_block_1",
        "convnext_stage_2_block_0_*",
        "convnext_downsampling_block_2",
        "convnext_stage_3_block_0_*+convnext_head_layernorm",
        "convnext_head_dense",
    ],
)
MODELS["keras.gru"] = Expected(
    modules=["sequential/gru/gru_cell", "sequential/head"], blocks=None
)


# Haiku --------------------------------------------------------------------------------

# In a perceptron each linear layer is the unit that repeats.
_HAIKU_MLP = [f"mlp/~/linear_{i}" for i in range(3)]
MODELS["haiku.mlp"] = Expected(modules=_HAIKU_MLP, blocks=_HAIKU_MLP)


def _haiku_bottleneck(block: str, projected: bool) -> list[str]:
    shortcut = f" {block}/~/shortcut_conv+{block}/~/shortcut_batchnorm"
    first, *others = [f"{block}/~/conv_{i}+{block}/~/batchnorm_{i}" for i in range(3)]
    return [first + (shortcut if projected else ""), *others]


_GROUPS = [f"res_net/~/block_group_{i}/~" for i in range(4)]
_HAIKU_STEM = "res_net/~/initial_conv+res_net/~/initial_batchnorm"
MODELS["haiku.resnet"] = Expected(
    modules=[
        _HAIKU_STEM,
        *_haiku_bottleneck(f"{_GROUPS[0]}/block_0", projected=True),
        *_haiku_bottleneck(f"{_GROUPS[0]}/block_1", projected=False),
        *_haiku_bottleneck(f"{_GROUPS[1]}/block_0", projected=True),
        *_haiku_bottleneck(f"{_GROUPS[2]}/block_0", projected=True),
        *_haiku_bottleneck(f"{_GROUPS[3]}/block_0", projected=True),
        "res_net/~/logits",
    ],
    ends={f"{group}/block_0/~/shortcut_*": 14 for group in _GROUPS},
    blocks=[
        _HAIKU_STEM,
        f"{_GROUPS[0]}/block_0",
        f"{_GROUPS[0]}/block_1",
        f"{_GROUPS[1]}/block_0",
        f"{_GROUPS[2]}/block_0",
        f"{_GROUPS[3]}/block_0",
        "res_net/~/logits",
    ],
)
MODELS["haiku.stacked"] = Expected(
    modules=[
        "embed+blocks/norm[0]",
        "blocks/up[0]",
        "blocks/down[0]+blocks/norm[1]",
        "blocks/up[1]",
        "blocks/down[1]+blocks/norm[2]",
        "blocks/up[2]",
        "blocks/down[2]+norm",
        "head",
    ],
    blocks=["embed", "blocks[0]", "blocks[1]", "blocks[2]+norm", "head"],
)


# Equinox and equimo -------------------------------------------------------------------

_EQUINOX_MLP = [f"layers/{i}" for i in range(4)]
MODELS["equinox.mlp"] = Expected(modules=_EQUINOX_MLP, blocks=_EQUINOX_MLP)
MODELS["equinox.lstm"] = Expected(modules=["cell", "head"], blocks=None)


def _equimo_block(i: int) -> list[str]:
    block, following = f"blocks/0/blocks/{i}", f"blocks/0/blocks/{i + 1}/prenorm"
    return [
        f"{block}/attn/qkv",
        f"{block}/attn/proj+{block}/norm",
        f"{block}/mlp/fc1",
        f"{block}/mlp/fc2+{following if i < 2 else 'norm'}",
    ]


# `blocks/0` is a chunk of all blocks; it is the blocks in it that repeat.
MODELS["equimo.vit"] = Expected(
    modules=[
        "patch_embed/proj+cls_token "
        "patch_embed/proj|global_pos_embed+blocks/0/blocks/0/prenorm",
        *(line for i in range(3) for line in _equimo_block(i)),
        "head",
    ],
    blocks=[
        "patch_embed+cls_token+global_pos_embed",
        "blocks/0/blocks/0",
        "blocks/0/blocks/1",
        "blocks/0/blocks/2+norm",
        "head",
    ],
)


# Flax linen, nnx, and Qwix ------------------------------------------------------------


def _mixer_block(i: int) -> list[str]:
    block, following = f"block_{i}", f"block_{i + 1}/norm_1"
    return [
        f"{block}/tokens/up",
        f"{block}/tokens/down+{block}/norm_2",
        f"{block}/channels/up",
        f"{block}/channels/down+{following if i < 2 else 'norm'}",
    ]


MODELS["linen.mixer"] = Expected(
    modules=[
        "stem+block_0/norm_1",
        *(line for i in range(3) for line in _mixer_block(i)),
        "head",
    ],
    blocks=["stem", "block_0", "block_1", "block_2+norm", "head"],
)


def _flax_block(i: int, mlp: str, path: Path) -> list[str]:
    return [
        " ".join(path(f"attention/{part}", i) for part in ("query", "key", "value")),
        f"{path('attention/out', i)}+{path('norm_2', i)}",
        path(f"{mlp}up", i),
        f"{path(f'{mlp}down', i)}+{path('norm_1', i + 1) if i < 2 else 'norm'}",
    ]


def _transformer(mlp: str, path: Path) -> list[str]:
    return [
        f"tokens|positions+{path('norm_1', 0)}",
        *(line for i in range(3) for line in _flax_block(i, mlp, path)),
        "head",
    ]


def _slice(part: str, i: int) -> str:
    return f"blocks/{part}[{i}]"


def _in_list(part: str, i: int) -> str:
    return f"blocks/{i}/{part}"


_SLICES = ["tokens+positions", "blocks[0]", "blocks[1]", "blocks[2]+norm", "head"]
MODELS["linen.scanned"] = Expected(_transformer("mlp/", _slice), _SLICES)
MODELS["linen.scanned_along_axis_1"] = Expected(None, None)
MODELS["nnx.scanned"] = Expected(_transformer("", _slice), _SLICES)
_LIST = Expected(
    modules=_transformer("", _in_list),
    blocks=["tokens+positions", "blocks/0", "blocks/1", "blocks/2+norm", "head"],
)
# Adapters stand beside the weights they adapt, in the same modules; what is quantised
# and rescaled is the same model.
MODELS |= {"nnx.transformer": _LIST, "qwix.lora": _LIST, "qwix.qat": _LIST}
