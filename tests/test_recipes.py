"""Runs the blocks of docs/recipes.md and holds them against slow originals."""

import functools
import math
import pathlib
import re

import jax.numpy as jnp
import numpy as np
import optax
import pytest

RECIPES = pathlib.Path(__file__).parents[1] / "docs" / "recipes.md"


def sections():
    """Heading to code; the preamble stands under the heading of the page."""
    parts = re.split(r"^#+ (.*)$", RECIPES.read_text(encoding="utf-8"), flags=re.M)
    fence = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
    return {
        heading: "\n".join(fence.findall(text))
        for heading, text in zip(parts[1::2], parts[2::2], strict=True)
    }


@functools.cache
def run(heading):
    """The names that a recipe defines, run after the preamble and nothing else."""
    names = {}
    code = sections()
    exec(compile(code["Recipes"], f"{RECIPES}: preamble", "exec"), names)
    exec(compile(code[heading], f"{RECIPES}: {heading}", "exec"), names)
    return names


def recipe(start):
    (heading,) = [heading for heading in sections() if heading.startswith(start)]
    return run(heading)


def by_name(names, multipliers):
    """The multiplier of each layer of a recipe."""
    layers = names["layers"]
    return dict(zip(layers.names, np.asarray(multipliers).tolist(), strict=True))


def by_path(layers, multipliers):
    """The multiplier of each parameter of a recipe."""
    return {path: float(multipliers[i]) for path, i in layers.members.items()}


def train(optimizer, params, gradients):
    """The parameters after each step of a loop."""
    state = optimizer.init(params)
    history = []
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        history.append({path: np.asarray(leaf) for path, leaf in params.items()})
    return history


def random_gradients(params, steps):
    rng = np.random.default_rng(0)
    return [
        {
            path: rng.normal(size=leaf.shape).astype(np.float32)
            for path, leaf in params.items()
        }
        for _ in range(steps)
    ]


def only(path, params, gradients):
    """One parameter and its gradients, as a parameter group of its own."""
    return {path: params[path]}, [{path: g[path]} for g in gradients]


@pytest.mark.parametrize("heading", sections())
def test_every_recipe_has_code_that_runs(heading):
    assert sections()[heading], f"no code under {heading!r}"
    run(heading)


def test_bands_differ_by_at_most_one_level():
    names = recipe("Bands")
    multipliers = names["multipliers"].tolist()
    sizes = [multipliers.count(constant) for constant in (1.5, 1.0, 0.5)]
    assert multipliers == [1.5] * sizes[0] + [1.0] * sizes[1] + [0.5] * sizes[2]
    assert sum(sizes) == len(names["layers"])
    assert max(sizes) - min(sizes) == 1


def test_bands_scale_the_optimizer_in_front():
    names = recipe("Bands")
    params = names["net"]
    gradients = random_gradients(params, 3)
    ours = train(names["optimizer"], params, gradients)
    sgd = train(optax.sgd(0.1, momentum=0.9), params, gradients)
    multipliers = by_path(names["layers"], names["multipliers"])
    for path, multiplier in multipliers.items():
        np.testing.assert_allclose(
            ours[-1][path] - 1, multiplier * (sgd[-1][path] - 1), rtol=1e-4, atol=1e-6
        )


def test_changes_of_different_length_are_those_of_the_thread():
    names = recipe("Changes of different length")
    first = [by_name(names, names["multipliers"](t))["conv0"] for t in range(12)]
    expected = [2, 1.85, 1.7, 1.55, 1.4, 1.25, 1.1, 0.95, 0.8, 0.65, 0.5, 0.5]
    np.testing.assert_allclose(first, expected, rtol=1e-6)
    last = [by_name(names, names["multipliers"](t))["head"] for t in (0, 50, 100, 150)]
    np.testing.assert_allclose(last, [0.5, 1.25, 2, 2], rtol=1e-6)
    assert by_name(names, names["multipliers"](7))["conv3"] == 1


def test_cycles_are_triangles_of_different_length():
    names = recipe("Cycles of different length")

    def triangle(t, half):
        cycle = math.floor(1 + t / (2 * half))
        return 0.25 + 0.75 * max(0, 1 - abs(t / half - 2 * cycle + 1))

    for t in [0, 1, 199, 200, 201, 399, 400, 800, 1599, 1600, 2500]:
        multipliers = by_name(names, names["multipliers"](t))
        assert multipliers["conv0"] == pytest.approx(triangle(t, 200), abs=1e-6)
        assert multipliers["head"] == pytest.approx(triangle(t, 800), abs=1e-6)
        middle = triangle(t, 200 + 600 * 3 / 7)
        assert multipliers["conv3"] == pytest.approx(middle, abs=1e-5)


def test_freezing_mirrors_unfreezing():
    names = recipe("Freezing instead of unfreezing")
    layers, multipliers = names["layers"], names["multipliers"]
    steps = names["total_steps"]
    for t in range(steps):
        for i, multiplier in enumerate(multipliers(t).tolist()):
            back, begin = steps - 1 - t, 100 * (len(layers) - 1 - i)
            ramp = min(max((back - begin) / 50, 0), 1) if begin else 1
            assert multiplier == pytest.approx(ramp, abs=1e-6)
    assert multipliers(0).tolist() == [1] * len(layers)
    assert multipliers(steps).tolist() == [0] * (len(layers) - 1) + [1]


def test_slanted_triangular_rates_are_those_of_ulmfit():
    rate = recipe("Slanted triangular")["rate"]
    for t, expected in [(0, 0.0003125), (5, 0.00515625), (10, 0.01), (55, 0.00515625)]:
        assert float(rate(t)) == pytest.approx(expected, rel=1e-6)
    for t in range(101):
        part = t / 10 if t < 10 else 1 - (t - 10) / (100 - 10)
        assert float(rate(t)) == pytest.approx(
            0.01 * (1 + part * (32 - 1)) / 32, rel=1e-5
        )


def test_ulmfit_multiplies_slanted_and_discriminative_rates():
    names = recipe("Slanted triangular")
    params = names["net"]
    (gradient,) = random_gradients(params, 1)
    (after,) = train(names["optimizer"], params, [gradient])
    for path, factor in {"head": 1, "conv6": 1 / 2.6, "conv5": 1 / 2.6**2}.items():
        np.testing.assert_allclose(
            after[path] - 1, -0.0003125 * factor * gradient[path], atol=2e-7
        )


def test_fastai_slices_give_the_rates_of_fastai():
    names = recipe("fastai")
    first, last, groups = names["first"], names["last"], len(names["layers"])
    step = (last / first) ** (1 / (groups - 1))
    rates = [first]
    for _ in range(groups - 1):
        rates.append(rates[-1] * step)
    np.testing.assert_allclose(last * names["multipliers"], rates, rtol=1e-9)
    assert names["body_and_head"].tolist() == [0.1] * (groups - 1) + [1.0]


def test_fastai_slice_of_one_group_is_its_end():
    code = sections()["fastai: `slice(a, b)`"]
    names = {**run("Recipes")}
    names["layers"] = names["optax_llr"].match_layers(names["net"], [(".*", "all")])
    exec(code, names)
    assert names["multipliers"].tolist() == [1.0]
    assert names["body_and_head"].tolist() == [1.0]


def test_beit_decays_by_block():
    names = recipe("BEiT")
    multipliers = by_path(names["layers"], names["multipliers"])

    def scale(path, decay=0.75, depth=12):
        parts = path.split("/")
        if parts[0] in ("cls_token", "mask_token", "pos_embed", "patch_embed"):
            index = 0
        elif parts[0] == "blocks":
            index = int(parts[1]) + 1
        else:
            index = depth + 1
        return decay ** (depth + 1 - index)

    assert multipliers == pytest.approx({path: scale(path) for path in names["beit"]})
    assert multipliers["pos_embed"] == pytest.approx(0.023757, abs=5e-7)
    assert multipliers["blocks/11/mlp"] == 0.75
    for path in ("norm/scale", "rel_pos_bias/table", "head/kernel"):
        assert multipliers[path] == 1


def test_electra_leaves_a_gap_below_the_head():
    names = recipe("ELECTRA")
    multipliers = by_path(names["layers"], names["multipliers"])
    depths = {"embeddings/word": 0, "embeddings_project/kernel": 0}
    depths |= {f"encoder/layer_{j}/kernel": j + 1 for j in range(12)}
    depths |= {"task_specific/kernel": 12 + 2}
    expected = {path: 0.8 ** (12 + 2 - depth) for path, depth in depths.items()}
    assert multipliers == pytest.approx(expected)
    assert multipliers["embeddings/word"] == pytest.approx(0.04398, abs=5e-6)
    assert multipliers["encoder/layer_11/kernel"] == pytest.approx(0.64)
    assert multipliers["task_specific/kernel"] == 1


def timm_scale(path, *, head, decay=0.75, min_scale=0.1, depth=12):
    last = depth + 1 if head else depth
    parts = path.split("/")
    if parts[0] == "blocks":
        index = int(parts[1]) + 1
    elif parts[0] == "norm":
        index = depth
    elif parts[0] == "head":
        index = last
    else:
        index = 0
    return max(min_scale, decay ** (last - index))


def test_timm_joins_the_norm_to_the_last_block_and_has_a_floor():
    names = recipe("timm")
    multipliers = by_path(names["layers"], names["multipliers"])
    expected = {path: timm_scale(path, head=True) for path in names["vit"]}
    assert multipliers == pytest.approx(expected)
    assert multipliers["norm/scale"] == multipliers["blocks/11/attn"] == 0.75
    assert multipliers["pos_embed"] == 0.1


def test_timm_without_a_head_gives_the_last_block_1():
    code = sections()["timm: decay with a floor"].replace(
        '        (r"head/.*", "head"),\n', ""
    )
    names = {**run("Recipes")}
    names["vit"] = {p: leaf for p, leaf in names["vit"].items() if p != "head/kernel"}
    exec(code, names)
    multipliers = by_path(names["layers"], names["multipliers"])
    expected = {path: timm_scale(path, head=False) for path in names["vit"]}
    assert multipliers == pytest.approx(expected)
    assert multipliers["norm/scale"] == multipliers["blocks/11/attn"] == 1


@pytest.mark.parametrize("depth", [1, 6, 24])
def test_timm_joins_the_norm_to_the_last_of_any_number_of_blocks(depth):
    code = sections()["timm: decay with a floor"]
    names = {**run("Recipes")}
    blocks = [f"blocks/{b}/attn" for b in range(depth)]
    paths = ["cls_token", *blocks, "norm/scale", "head/kernel"]
    names["vit"] = {path: jnp.ones(2) for path in paths}
    exec(code, names)
    multipliers = by_path(names["layers"], names["multipliers"])
    expected = {path: timm_scale(path, head=True, depth=depth) for path in paths}
    assert multipliers == pytest.approx(expected)


def test_two_scalings_multiply():
    names = recipe("Rates by depth and by kind")
    params = names["vit"]
    gradients = random_gradients(params, 1)
    (ours,) = train(names["optimizer"], params, gradients)
    (adam,) = train(optax.adam(1e-3), params, gradients)
    for path, factor in {
        "pos_embed": 0.75**13,
        "blocks/0/attn": 0.75**12,
        "blocks/0/norm": 2 * 0.75**12,
        "head/kernel": 1,
        "norm/scale": 2,
    }.items():
        np.testing.assert_allclose(
            ours[path] - 1, factor * (adam[path] - 1), rtol=1e-4, atol=2e-7
        )


def test_airbench_steps_like_sgd_with_parameter_groups():
    names = recipe("airbench")
    params = names["airbench"]
    gradients = random_gradients(params, 160)
    history = train(names["optimizer"], params, gradients)

    kilostep_scale = 1024 * (1 + 1 / (1 - 0.85))
    rate, decay = 11.5 / kilostep_scale, 0.0153 * 1024 / kilostep_scale
    for path, leaf in params.items():
        trained = path != "whiten/kernel" and not path.endswith("norm1/scale")
        group_rate = 64 * rate if path.endswith("norm1/bias") else rate
        group_decay = decay / group_rate
        weight, buffer = np.asarray(leaf, float), 0.0
        for t, gradient in enumerate(gradients):
            if trained and (path != "whiten/bias" or t < 144):
                g = gradient[path] + group_decay * weight
                buffer = 0.85 * buffer + g
                weight = weight - group_rate * (g + 0.85 * buffer)
            np.testing.assert_allclose(history[t][path], weight, rtol=1e-4, atol=1e-4)
        if path == "whiten/bias":
            assert (history[143][path] != history[142][path]).all()
            np.testing.assert_array_equal(history[-1][path], history[143][path])


def test_airbench_decay_is_the_same_for_biases_and_kernels():
    names = recipe("airbench")
    params = names["airbench"]
    still = {path: jnp.zeros_like(leaf) for path, leaf in params.items()}
    (after,) = train(names["optimizer"], params, [still])
    np.testing.assert_allclose(
        after["group1/norm1/bias"], after["head/kernel"], rtol=1e-6
    )
    assert (after["head/kernel"] < 1).all()
    np.testing.assert_array_equal(after["group1/norm1/scale"], 1)


def test_blockwise_raises_the_peaks_and_shares_the_floor():
    names = recipe("Blockwise")
    layers, rates = names["kinds"], names["rates"]
    factors = {
        "norm": 1,
        "value and output": 4,
        "feed-forward": 6,
        "query and key": 8,
        "embedding": 10,
    }
    base, warmup, total = 6e-4, 100, 1000
    for t in [0, 1, 50, 99, 100, 101, 400, 550, 999, 1000, 1200]:
        for name, rate in zip(layers.names, rates(t).tolist(), strict=True):
            peak, floor = base * factors[name], base / 20
            wave = math.cos(math.pi * min(1, (t - warmup) / (total - warmup)))
            expected = floor + (peak - floor) * (1 + wave) / 2
            expected = peak * t / warmup if t < warmup else expected
            assert rate == pytest.approx(expected, rel=1e-5, abs=1e-9)
    kind = {path: layers.names[i] for path, i in layers.members.items()}
    assert kind["blocks/0/norm_1/scale"] == kind["norm/scale"] == "norm"
    assert kind["blocks/1/mlp/up/kernel"] == "feed-forward"
    assert kind["blocks/1/attention/out/kernel"] == "value and output"
    assert kind["blocks/1/attention/key/kernel"] == "query and key"
    assert kind["tokens/embedding"] == kind["head/kernel"] == "embedding"


def test_blockwise_steps_like_adamw_with_parameter_groups():
    names = recipe("Blockwise")
    params, rates = names["gpt"], names["rates"]
    gradients = random_gradients(params, 4)
    history = train(names["optimizer"], params, gradients)
    for path in (
        "tokens/embedding",
        "blocks/0/attention/query/kernel",
        "blocks/1/norm_2/scale",
        "blocks/1/mlp/down/kernel",
    ):
        layer = names["kinds"].members[path]
        group = optax.adamw(
            functools.partial(lambda layer, count: rates(count)[layer], layer),
            b1=0.9,
            b2=0.95,
            weight_decay=0.1,
        )
        expected = train(group, *only(path, params, gradients))
        np.testing.assert_allclose(
            history[-1][path], expected[-1][path], rtol=1e-6, atol=1e-7
        )
        assert (history[-1][path] != 1).all()


def mup_factor(shape, base, *, sgd):
    """The factor on the rate by the case distinctions of the mup package."""
    infinite = [i for i in range(len(shape)) if shape[i] != base[i]]
    if len(infinite) == 2:
        fan_in, fan_out = (shape[i] / base[i] for i in infinite)
        return 1 / (fan_in / fan_out) if sgd else 1 / fan_in
    if len(infinite) == 1 and sgd:
        return shape[infinite[0]] / base[infinite[0]]
    return 1.0


def mup_factors(names, *, sgd):
    wide, narrow = names["wide"], names["narrow"]
    return {p: mup_factor(wide[p].shape, narrow[p].shape, sgd=sgd) for p in wide}


def test_mup_multipliers_follow_the_growth_of_the_shapes():
    names = recipe("μP")
    adam = by_path(names["kinds"], names["adam"])
    sgd = by_path(names["kinds"], names["sgd"])
    assert adam == mup_factors(names, sgd=False)
    assert sgd == mup_factors(names, sgd=True)
    assert (
        adam["conv"] == adam["up"] == 1 / 4
    )  # the width grew by 4, what is hidden by 8
    assert adam["down"] == 1 / 8
    assert (sgd["up"], sgd["down"], sgd["readout"]) == (2, 1 / 2, 4)
    assert adam["readout_bias"] == sgd["readout_bias"] == 1


MUP = {  # shape, shape of the narrow model, factor of Adam, factor of SGD
    "convolution": ((3, 3, 12, 24), (3, 3, 4, 8), 1 / 3, 1),
    "of unequal growth": ((3, 3, 12, 32), (3, 3, 4, 8), 1 / 3, 4 / 3),
    "the first one": ((3, 3, 3, 24), (3, 3, 3, 8), 1, 3),
    "depthwise": ((3, 3, 1, 24), (3, 3, 1, 8), 1, 3),
    "the last one": ((1, 1, 24, 10), (1, 1, 8, 10), 1, 3),
    "in one dimension": ((5, 12, 24), (5, 4, 8), 1 / 3, 1),
    "dense": ((12, 32), (4, 8), 1 / 3, 4 / 3),
    "bias": ((24,), (8,), 1, 3),
    "scalar": ((), (), 1, 1),
    "unchanged": ((3, 3, 4, 8), (3, 3, 4, 8), 1, 1),
}


@pytest.mark.parametrize("case", MUP)
def test_mup_factors_by_hand(case):
    shape, base, adam, sgd = MUP[case]
    names = mup_of({"p": jnp.ones(shape)}, {"p": jnp.ones(base)})
    np.testing.assert_allclose(names["adam"], [adam], rtol=1e-6)
    np.testing.assert_allclose(names["sgd"], [sgd], rtol=1e-6)


def mup_of(wide, narrow):
    """The names of the recipe for other models than its own."""
    (heading,) = [heading for heading in sections() if heading.startswith("μP")]
    own = "wide, narrow = transformer(32, 128), transformer(8, 16)\n"
    code = sections()[heading]
    assert code.count(own) == 1
    names = {**run("Recipes"), "wide": wide, "narrow": narrow}
    exec(code.replace(own, ""), names)
    return names


def test_mup_refuses_growth_that_it_does_not_know():
    with pytest.raises(AssertionError):
        mup_of({"p": jnp.ones((8, 4, 4))}, {"p": jnp.ones((4, 2, 4))})


def test_mup_adamw_steps_like_adamw_with_parameter_groups():
    names = recipe("μP")
    params = names["wide"]
    gradients = random_gradients(params, 5)
    history = train(names["adamw_optimizer"], params, gradients)
    for path, factor in mup_factors(names, sgd=False).items():
        group = optax.adamw(1e-3 * factor, weight_decay=0.1 / factor)
        expected = train(group, *only(path, params, gradients))
        for ours, theirs in zip(history, expected, strict=True):
            np.testing.assert_allclose(ours[path], theirs[path], rtol=1e-5)


def test_mup_sgd_steps_like_sgd_with_parameter_groups():
    names = recipe("μP")
    params = names["wide"]
    gradients = random_gradients(params, 5)
    history = train(names["sgd_optimizer"], params, gradients)
    for path, factor in mup_factors(names, sgd=True).items():
        weight, buffer = np.asarray(params[path], float), 0.0
        for t, gradient in enumerate(gradients):
            buffer = 0.9 * buffer + gradient[path] + 5e-4 / factor * weight
            weight = weight - 0.1 * factor * buffer
            np.testing.assert_allclose(history[t][path], weight, rtol=1e-4, atol=1e-5)


# Of the tables in print, for width 4, depth 4, batch 2 and tokens 8 times as large:
# rate, ε and decay of each kind for α = 1 and α = ½, before batch and tokens.
COMPLETED = {
    "tokens/embedding": [(1, 1 / 4, 1), (1, 1 / 4, 1)],
    "blocks/7/attention/out/kernel": [(1 / 4, 1 / 16, 4), (1 / 8, 1 / 8, 4)],
    "blocks/7/attention/query/bias": [(1, 1 / 16, 1), (1 / 2, 1 / 8, 1)],
    "blocks/0/norm_1/scale": [(1, 1 / 16, 1), (1 / 2, 1 / 8, 1)],
    "norm/scale": [(1, 1, 1), (1, 1, 1)],
    "head/kernel": [(1 / 4, 1, 4), (1 / 4, 1, 4)],
}
COMPLETE = COMPLETED | {  # the only ones that differ
    "tokens/embedding": [(1, 1, 1), (1, 1, 1)],
    "head/kernel": [(1, 1, 1), (1, 1, 1)],
}


def completed_with(*changes):
    """The names of the recipe with some of its lines changed."""
    (heading,) = [
        heading for heading in sections() if heading.startswith("Complete(d)P")
    ]
    code, names = sections()[heading], {**run("Recipes")}
    for old, new in changes:
        assert code.count(old) == 1
        code = code.replace(old, new)
    exec(code, names)
    return names


ALPHAS = [(), (("alpha = 2, 8, 1.0", "alpha = 2, 8, 0.5"),)]
IS_COMPLETE = [  # and neither batch nor tokens
    ("m_B, m_D, alpha = 2, 8,", "m_B, m_D, alpha = 1, 1,"),
    ("[completed[k] * longer", "[complete[k] * longer"),
]


@pytest.mark.parametrize("alpha", [0, 1], ids=["one", "half"])
def test_completed_p_has_the_numbers_of_its_table(alpha):
    names = completed_with(*ALPHAS[alpha])
    kinds, noise = names["kinds"], (1 / 2, 2, 1 / 2)  # √(2/8), √(8/2), √(2/8)
    assert (names["m_N"], names["m_L"]) == (4, 4)
    for path, numbers in COMPLETED.items():
        layer = kinds.members[path]
        found = [names[k][layer] for k in ("rates", "epsilons", "decays")]
        expected = [a * b for a, b in zip(numbers[alpha], noise, strict=True)]
        assert found == pytest.approx(expected), path
    assert names["b1"] == pytest.approx(1 - 0.1 / 4)
    assert names["b2"] == pytest.approx(1 - 0.05 / 4)


@pytest.mark.parametrize("alpha", [0, 1], ids=["one", "half"])
def test_complete_p_has_the_numbers_of_its_table(alpha):
    changes = [
        (IS_COMPLETE[0][0] + " 1.0", IS_COMPLETE[0][1] + (" 1.0", " 0.5")[alpha])
    ]
    names = completed_with(*changes, IS_COMPLETE[1])
    for path, numbers in COMPLETE.items():
        layer = names["kinds"].members[path]
        found = [names[k][layer] for k in ("rates", "epsilons", "decays")]
        assert found == pytest.approx(numbers[alpha]), path
    assert (names["b1"], names["b2"]) == pytest.approx((0.9, 0.95))


def test_completed_p_steps_like_adamw_with_parameter_groups():
    """With an ε that plays a part."""
    names = completed_with(("eps=1e-8", "eps=0.1"))
    params = names["large"]
    gradients = random_gradients(params, 4)
    history = train(names["optimizer"], params, gradients)
    for path, ((rate, epsilon, decay), _) in COMPLETED.items():
        group = optax.adamw(
            1e-3 * rate / 2,
            b1=1 - 0.1 / 4,
            b2=1 - 0.05 / 4,
            eps=0.1 * epsilon * 2,
            weight_decay=0.1 * decay / 2,
        )
        expected = train(group, *only(path, params, gradients))
        for ours, theirs in zip(history, expected, strict=True):
            np.testing.assert_allclose(
                ours[path], theirs[path], rtol=1e-6, err_msg=path
            )
        assert (history[-1][path] != 1).all()
