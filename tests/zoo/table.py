"""Writes the page "Models it reads", in the environment of the zoo.

    PYTHONPATH=tests python -W ignore -m zoo.table > docs/models_it_reads.md

Models at real size, from shapes alone. Seconds depend on the machine, so the page says
which it was; a second run is not needed where no model changes.
"""

import importlib.metadata
import os
import platform
import time

import optax_llr
from zoo.expected import NOT_READ
from zoo.models import equimo, haiku, keras, linen, transformers

BERT_LARGE = {
    "vocab_size": 30522,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "max_position_embeddings": 512,
}
VIT_LARGE = BERT_LARGE | {"image_size": 224, "patch_size": 16}
BASE = {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12}
LLAMA_70B = {
    "vocab_size": 32000,
    "hidden_size": 8192,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "intermediate_size": 28672,
    "max_position_embeddings": 4096,
}
T5_LARGE = {
    "vocab_size": 32128,
    "d_model": 1024,
    "d_kv": 64,
    "d_ff": 4096,
    "num_heads": 16,
    "num_layers": 24,
    "num_decoder_layers": 24,
}
BART_LARGE = {
    "vocab_size": 50265,
    "d_model": 1024,
    "max_position_embeddings": 1024,
    **{f"{part}_layers": 12 for part in ("encoder", "decoder")},
    **{f"{part}_attention_heads": 16 for part in ("encoder", "decoder")},
    **{f"{part}_ffn_dim": 4096 for part in ("encoder", "decoder")},
}
GPT2_XL = {"vocab_size": 50257, "n_embd": 1600, "n_layer": 48, "n_head": 25}
CLIP_LARGE = {
    "vision": VIT_LARGE | {"patch_size": 14},
    "text": BERT_LARGE | BASE | {"vocab_size": 49408, "max_position_embeddings": 77},
    "projection_dim": 768,
}
EQUIMO_LARGE = {
    **{"img_size": 224, "dim": 1024, "patch_size": 16, "num_heads": 16},
    **{"depths": [24], "num_classes": 1000},
}

# Package, model, and how it is made.
ROWS = [
    ("transformers", "BERT-large", lambda: transformers.bert(**BERT_LARGE)),
    ("transformers", "ELECTRA-large", lambda: transformers.electra(**BERT_LARGE)),
    ("transformers", "GPT-2 XL", lambda: transformers.gpt2(**GPT2_XL)),
    ("transformers", "Llama, 80 blocks", lambda: transformers.llama(**LLAMA_70B)),
    ("transformers", "T5-large", lambda: transformers.t5(**T5_LARGE)),
    ("transformers", "BART-large", lambda: transformers.bart(**BART_LARGE)),
    ("transformers", "ViT-L/16", lambda: transformers.vit(**VIT_LARGE)),
    ("transformers", "BEiT-L/16", lambda: transformers.beit(**VIT_LARGE)),
    ("transformers", "CLIP ViT-L/14", lambda: transformers.clip(**CLIP_LARGE)),
    ("keras", "ResNet50", keras.resnet50),
    ("keras", "EfficientNetB0", keras.efficientnet_b0),
    ("keras", "ConvNeXtTiny", keras.convnext_tiny),
    ("dm-haiku", "ResNet-200", haiku.resnet200),
    ("equimo", "ViT-L/16", lambda: equimo.vit(**EQUIMO_LARGE)),
    ("flax", "MLP-Mixer-L/16, by hand", linen.mixer_large),
]


def row(package, model, make):
    """One line of the table: both traces, the first one timed."""
    forward, params, inputs = make()
    start = time.perf_counter()
    modules = optax_llr.trace_layers(forward, params, *inputs)
    seconds = time.perf_counter() - start
    blocks = optax_llr.trace_layers(forward, params, *inputs, group="block")
    name = f"{package} {importlib.metadata.version(package)}"
    return f"| {name} | {model} | {len(modules)} | {len(blocks)} | {seconds:.1f} |"


def main():
    """Prints the page."""
    versions = f"jax {importlib.metadata.version('jax')}"
    versions += f" and Python {platform.python_version()}"
    print("# Models it reads\n")
    print(
        "What `trace_layers` finds in models of other people's packages at real size,\n"
        "from shapes alone: how many layers per module, how many by block\n"
        '(`group="block"`), and how long the trace takes. Their tiny relatives are\n'
        "tests: `tests/zoo`.\n"
    )
    print("| package | model | layers | by block | seconds |")
    print("| --- | --- | ---: | ---: | ---: |")
    for package, model, make in ROWS:
        print(row(package, model, make), flush=True)
    print(
        f"\nMeasured once with {versions} on {os.cpu_count()} {platform.machine()} "
        "cores.\n\nNot read:\n"
    )
    for what, why in NOT_READ.items():
        print(f"- {what}: {why}.")


if __name__ == "__main__":
    main()
