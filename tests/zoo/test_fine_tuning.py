"""Runs docs/fine_tuning.md and holds it against the formulas of its sources.

The sources' parameter groups are written out here once more, as rates and decays by the
path of a parameter, and their optimizers in plain NumPy.
"""

import contextlib
import functools
import io
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_llr
from zoo.comparing import leaves_by_path

pytestmark = pytest.mark.filterwarnings("ignore")  # of other people's packages

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "fine_tuning.md"
PREAMBLE, *PARTS = re.split(r"^## (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.M)
SECTIONS = dict(zip(PARTS[::2], PARTS[1::2], strict=True))


def blocks(language, text):
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S))


@functools.cache
def run(heading):
    """The names that a recipe defines behind the preamble, and what it prints."""
    names, printed = {}, io.StringIO()
    exec(compile(blocks("python", PREAMBLE), f"{PAGE}: preamble", "exec"), names)
    with contextlib.redirect_stdout(printed):
        code = blocks("python", SECTIONS[heading])
        exec(compile(code, f"{PAGE}: {heading}", "exec"), names)
    return names, printed.getvalue()


def section(start):
    (heading,) = [heading for heading in SECTIONS if heading.startswith(start)]
    return heading


def recipe(start):
    return run(section(start))[0]


def block_of(path):
    """The number of the transformer block in a path, or None."""
    number = re.search(r"/layer/(\d+)/", path)
    return number and int(number[1])


@pytest.mark.parametrize("heading", SECTIONS)
def test_a_recipe_prints_what_the_page_shows(heading):
    assert run(heading)[1] == blocks("text", SECTIONS[heading])


# The groups of the sources: multiplier of the rate, and decay, by path and step -------


def bert(path, t):
    """revisit-bert-finetuning: down from the head, times 0.95 at each layer."""
    if "pooler" in path or "classifier" in path:
        return 1.0, 0.0
    block = block_of(path)
    layers_above = 25 if block is None else 24 - block
    plain = path.endswith("bias") or "LayerNorm" in path
    return 0.95**layers_above, 0.0 if plain else 0.01


def mae(path, t):
    """mae: layer ids from 0 for the embeddings to 13 for the head and the norm."""
    block = block_of(path)
    layer_id = 0 if "embeddings" in path else 13 if block is None else block + 1
    token = path.endswith(("cls_token", "position_embeddings"))
    vector = path.endswith(("bias", "scale"))
    return 0.65 ** (13 - layer_id), 0.0 if token or vector else 0.05


def dinov2(path, t):
    """dinov2: ids as above for 24 blocks; patches times 0.2; the last layer waits."""
    block = block_of(path)
    layer_id = 0 if "/embeddings/" in path else 25 if block is None else block + 1
    multiplier = 0.9 ** (25 - layer_id)
    if "patch_embeddings" in path:
        multiplier *= 0.2
    if "last_layer" in path and t < 1250:
        multiplier = 0.0
    plain = path.endswith(("bias", "lambda1")) or "norm" in path
    done = min(t / 125_000, 1.0)
    growing = 0.4 + (0.04 - 0.4) * (1 + math.cos(math.pi * done)) / 2
    return multiplier, 0.0 if plain else growing


def loraplus(path, t):
    """loraplus: 16 for B and for vectors, 1 for other matrices; the base is frozen."""
    if path.endswith("_lora_b") or path == "classifier/bias":
        return 16.0, 0.0
    return float(path.endswith("_lora_a") or path == "classifier/kernel"), 0.0


def siglip_lit(path, t):
    """big_vision: the decay is added to the step, 1e-3 of Adam's, that is scheduled."""
    return float(not path.startswith("img/")), 10.0 * path.endswith("/kernel")


def warm_cosine(t, peak, warmup, steps, end=0.0):
    if t < warmup:
        return peak * t / warmup
    wave = math.cos(math.pi * (t - warmup) / (steps - warmup))
    return end + (peak - end) * (1 + wave) / 2


# Of each recipe: groups, global rate, and the norm to which gradients are clipped.
SOURCES = {
    "BERT": (bert, lambda t: warm_cosine(t, 2e-5, 100, 1000), 1.0),
    "ViT": (mae, lambda t: warm_cosine(t, 2e-3, 6255, 125_100, 1e-6), math.inf),
    "DINOv2": (dinov2, lambda t: warm_cosine(t, 4e-3, 12_500, 125_000, 1e-6), math.inf),
    "SigLIP": (siglip_lit, lambda t: warm_cosine(t, 1e-3, 150, 5000), 1.0),
    "LoRA": (loraplus, lambda t: 2e-4, math.inf),
}
# Where schedules turn: the end of each warm-up, and the last layer of DINOv2.
BEGINNINGS = {"BERT": 99, "ViT": 6254, "DINOv2": 1248, "SigLIP": 149, "LoRA": 0}


def params_of(names):
    if "params" in names:
        return names["params"]
    return names["bert" if "bert" in names else "vit"].params


def random_like(params, count):
    rng = np.random.default_rng(0)

    def draw(leaf):
        return rng.normal(size=leaf.shape).astype(np.float32)

    return [jax.tree.map(draw, params) for _ in range(count)]


def moved_to(state, t):
    """A state in which schedules stand at step t, and Adam's moments at their first."""
    kinds = (
        optax.ScaleByScheduleState,
        optax_llr.ScaleByLayerState,
        optax_llr.AddDecayedWeightsByLayerState,
    )

    def move(node):
        if not isinstance(node, kinds):
            return node
        return node._replace(count=jnp.full_like(node.count, t))

    return jax.tree.map(move, state, is_leaf=lambda node: isinstance(node, kinds))


def clipped(gradients, trains, norm):
    """Gradients by path, of what trains, shrunk to a norm over all of them."""
    gradients = {p: np.float64(g) for p, g in leaves_by_path(gradients).items()}
    gradients = {p: g for p, g in gradients.items() if trains(p)}
    whole = math.sqrt(sum((g**2).sum() for g in gradients.values()))
    return {p: g * min(1.0, norm / whole) for p, g in gradients.items()}


def adamw_with_groups(params, gradients, beginning, groups, rate, norm):
    """The update of each parameter at each step, all weights as they were."""
    weights = {p: np.float64(w) for p, w in leaves_by_path(params).items()}
    first, second = (dict.fromkeys(weights, 0.0) for _ in range(2))
    history = []
    for i, gradient in enumerate(gradients):
        t = beginning + i
        now = clipped(gradient, lambda p: groups(p, math.inf)[0] > 0, norm)
        updates = {p: np.zeros_like(w) for p, w in weights.items()}
        for p, g in now.items():
            first[p] = 0.9 * first[p] + 0.1 * g
            second[p] = 0.999 * second[p] + 0.001 * g**2
            mean = first[p] / (1 - 0.9 ** (i + 1))
            size = np.sqrt(second[p] / (1 - 0.999 ** (i + 1)))
            multiplier, decay = groups(p, t)
            step = mean / (size + 1e-8) + decay * weights[p]
            updates[p] = -rate(t) * multiplier * step
        history.append(updates)
    return history


@pytest.mark.parametrize("start", SOURCES)
def test_each_step_is_that_of_adamw_with_the_groups_of_the_source(start):
    names = recipe(start)
    params, optimizer = params_of(names), names["optimizer"]
    if "phase" in names:
        optimizer = names["phase"].freeze(optimizer)
    # Of random weights, as biases that begin at 0 show no decay.
    beginning, (params, *gradients) = BEGINNINGS[start], random_like(params, 4)
    state = moved_to(optimizer.init(params), beginning)
    expected = adamw_with_groups(params, gradients, beginning, *SOURCES[start])
    for gradient, theirs in zip(gradients, expected, strict=True):
        updates, state = optimizer.update(gradient, state, params)
        for path, ours in leaves_by_path(updates).items():
            # 1 − 0.999ᵗ has four digits in float32.
            scale = np.abs(theirs[path]).max()
            np.testing.assert_allclose(
                ours, theirs[path], rtol=1e-4, atol=1e-5 * scale, err_msg=path
            )


MULTIPLIERS = {  # names of layers, and of their multipliers
    "BERT": [("layers", "multipliers")],
    "ViT": [("layers", "multipliers")],
    "DINOv2": [("depth", "decay"), ("kinds", "factors")],
    "LoRA": [("layers", "multipliers")],
}


@pytest.mark.parametrize(
    ("start", "t"),
    [*((start, 0) for start in MULTIPLIERS), ("DINOv2", 1249), ("DINOv2", 1250)],
)
def test_multipliers_are_those_of_the_source_to_the_last_digit(start, t):
    names = recipe(start)
    found = dict.fromkeys(leaves_by_path(params_of(names)), 1.0)
    for layers, values in MULTIPLIERS[start]:
        values = names[values](t) if callable(names[values]) else names[values]
        for path, index in names[layers].members.items():
            found[path] *= float(values[index])
    groups = SOURCES[start][0]
    expected = {path: groups(path, t)[0] for path in found}
    # A schedule is float32, an array float64.
    assert found == pytest.approx(expected, rel=1e-7 if start == "DINOv2" else 1e-14)


# The tables beside the recipes --------------------------------------------------------


def rows(start, key=0, column=1):
    """Two columns of a section's table as a dict, without its head."""
    lines = [s for s in SECTIONS[section(start)].splitlines() if s.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[key]: row[column] for row in cells[2:]}


def value(formula, b=None):
    """A formula of a table; what is written behind "=" must be its rounding."""
    formula, _, rounded = formula.partition(" = ")
    plain = formula.translate(str.maketrans({"·": "*", "^": "**", "−": "-"}))
    result = eval(plain, {"b": b})
    if rounded:
        digits = len(rounded.lstrip("0.").replace(".", ""))
        assert f"{result:.{digits}g}" == rounded
    return result


FORMULAS = {  # the row, a path that it means, and its block
    "BERT": (
        2e-5,
        {
            "classifier and pooler": ("classifier/kernel", None),
            "embeddings": ("bert/embeddings/word_embeddings/embedding", None),
            "block b of 24, from 0": ("bert/encoder/layer/7/output/dense/kernel", 7),
        },
    ),
    "ViT": (
        1.0,
        {
            "head and final norm": ("vit/layernorm/scale", None),
            "block b of 12, from 0": ("vit/encoder/layer/3/output/dense/kernel", 3),
            "patch embedding, class token, positions": (
                "vit/embeddings/cls_token",
                None,
            ),
        },
    ),
    "DINOv2": (
        1.0,
        {
            "patch embedding": (
                "backbone/embeddings/patch_embeddings/projection/kernel",
                None,
            ),
            "tokens and positions": ("backbone/embeddings/mask_token", None),
            "block b of 24, from 0": ("backbone/encoder/layer/5/mlp/fc1/kernel", 5),
            "final norm, projection head": ("dino_head/mlp_2/bias", None),
        },
    ),
}


@pytest.mark.parametrize("start", FORMULAS)
def test_the_table_beside_a_recipe_says_what_the_source_computes(start):
    table, groups = rows(start), SOURCES[start][0]
    whole, meant = FORMULAS[start]
    for row, (path, b) in meant.items():
        assert value(table[row], b) == pytest.approx(whole * groups(path, 0)[0]), row


# What a recipe has beside rates and decays --------------------------------------------


def dots(function, *args):
    """How many matrix products and convolutions a function computes."""

    def count(jaxpr):
        return sum(
            (equation.primitive.name in ("dot_general", "conv_general_dilated"))
            + sum(map(count, jax.core.jaxprs_in_params(equation.params)))
            for equation in jaxpr.eqns
        )

    return count(jax.make_jaxpr(function)(*args).jaxpr)


def test_a_frozen_image_tower_costs_its_forward_pass():
    names = recipe("SigLIP")
    loss, params = names["loss"], names["params"]
    inputs = names["images"], names["tokens"]

    def of_the_rest(rest, img):
        return loss(rest | {"img": img}, *inputs)

    frozen = dots(names["train_step"], params, names["opt_state"], *inputs)
    rest = {name: tree for name, tree in params.items() if name != "img"}
    assert frozen == dots(jax.grad(of_the_rest), rest, params["img"])
    assert frozen < dots(jax.grad(loss), params, *inputs)


def test_what_lora_adapts_stands_still_and_only_the_rest_trains():
    names = recipe("LoRA")
    params, phase = names["params"], names["phase"]
    at = jnp.arange(12).reshape(2, 6) % 6
    inputs = at + 1, at < 5, at // 3, at, None

    def loss(params):
        logits = names["adapted"].apply({"params": params}, *inputs)[0]
        return (jax.nn.logsumexp(logits, axis=-1) - logits[:, 0]).mean()

    gradients = leaves_by_path(jax.grad(phase.stopped(loss))(params))
    trained = {path for path, gradient in gradients.items() if np.any(gradient)}
    # While B is 0, no gradient reaches A.
    expected = {p for p in gradients if p.endswith("_lora_b") or "classifier" in p}
    assert trained == expected
    assert dots(jax.grad(phase.stopped(loss)), params) < dots(jax.grad(loss), params)


def test_the_last_layer_of_dinov2_waits_for_an_epoch():
    names = recipe("DINOv2")
    first, rest = names["first"], names["rest"]
    assert (first.start, first.stop, rest.start, rest.stop) == (0, 1250, 1250, 125_000)
    params, optimizer = names["params"], names["optimizer"]
    (gradients,) = random_like(params, 1)
    updates, _ = first.freeze(optimizer).update(
        gradients, first.freeze(optimizer).init(params), params
    )
    assert not leaves_by_path(updates)["dino_head/last_layer/kernel"].any()


YOLO = {  # default.yaml
    "warmup_bias_lr": 0.1,
    "lr0": 0.01,
    "lrf": 0.01,
    "warmup_epochs": 3.0,
    "warmup_momentum": 0.8,
    "momentum": 0.937,
    "weight_decay": 0.0005,
}
BATCHES = 1849


def warming_up(t, first, last):
    """ultralytics: np.interp over the warm-up."""
    return float(np.interp(t, [0, YOLO["warmup_epochs"] * BATCHES], [first, last]))


def yolo_rates(path, t):
    """To where the line stands on which rates fall epoch by epoch."""
    line = max(1 - (t // BATCHES) / 300, 0) * (1.0 - YOLO["lrf"]) + YOLO["lrf"]
    first = YOLO["warmup_bias_lr"] if path.endswith("bias") else 0.0
    return warming_up(t, first, YOLO["lr0"] * line)


def test_the_table_of_yolo_is_its_configuration():
    table = rows("YOLO", key=1, column=2)
    assert {key.strip("`"): float(value) for key, value in table.items()} == YOLO


@pytest.mark.parametrize("t", [0, 1, 1848, 1849, 3000, 5546, 5547, 9999, 554_699])
def test_yolo_rates_are_those_of_the_source(t):
    names = recipe("YOLO")
    rates = np.asarray(names["rates"](t))
    for path, index in names["kinds"].members.items():
        assert rates[index] == pytest.approx(yolo_rates(path, t), rel=1e-5), path


def test_yolo_steps_like_sgd_with_parameter_groups():
    names = recipe("YOLO")
    params, optimizer = names["params"], names["optimizer"]
    params, *gradients = random_like(params, 5)
    state = optimizer.init(params)
    weights = {p: np.float64(w) for p, w in leaves_by_path(params).items()}
    buffers = dict.fromkeys(weights, 0.0)
    for t, gradient in enumerate(gradients):
        updates, state = optimizer.update(gradient, state, params)
        momentum = warming_up(t, YOLO["warmup_momentum"], YOLO["momentum"])
        for path, ours in leaves_by_path(updates).items():
            g = np.float64(leaves_by_path(gradient)[path])
            g = g + (
                YOLO["weight_decay"] * weights[path] if path.endswith("kernel") else 0.0
            )
            buffers[path] = momentum * buffers[path] + g
            theirs = -yolo_rates(path, t) * (g + momentum * buffers[path])
            np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-8, err_msg=path)
