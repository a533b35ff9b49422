import functools
import itertools
import json
import sys

import airbench
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import speedrun
import speedrun_data
import speedrun_figure
import speedrun_images
import speedrun_rates
import speedrun_report
from flax import nnx
from speedrun_images import Images, draw, seen, views
from speedrun_program import Fast, Program, Told, pulled

import optax_llr
from experiments.data.cifar import DataError
from experiments.data.dataset import read_sample
from experiments.data.variants import CIFAR10
from experiments.report import charts
from optax_llr.layers._paths import leaves_by_path

BATCH, COUNT, STEPS, PER_EPOCH = 8, 40, 12, 1
SUM = BATCH  # airbench's losses are sums over the batch, ours means


@functools.cache
def data():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (COUNT, 32, 32, 3)).astype(np.uint8)
    return Images(jnp.asarray(pixels), jnp.asarray(rng.integers(0, 10, COUNT)))


@functools.cache
def program(name):
    return Program(name, STEPS, BATCH, width=1 / 16)


@functools.cache
def told(name):
    recipe, layers = speedrun_rates.RECIPES[name], program(name).layers
    tables = speedrun_rates.tables("airbench", recipe, layers, STEPS, BATCH, PER_EPOCH)
    return Told(data(), draw(jax.random.key(0), COUNT, STEPS, BATCH), tables)


@functools.cache
def initial(name):
    make = jax.jit(program(name).initial)
    return make(jax.random.key(1), data().images)


def phase_of(name, step):
    multipliers = optax_llr.table_schedule(told(name).tables.multipliers)
    phases = optax_llr.freeze_phases(program(name).layers, multipliers, STEPS)
    return next(phase for phase in phases if step < phase.stop).key


@functools.cache
def compiled(name):
    return jax.jit(program(name).steps, static_argnames=("phase", "length"))


def stepped(name, state, phase, length=1):
    return compiled(name)(state, told(name), phase=phase, length=length)


@functools.cache
def gradient():
    return jax.jit(jax.grad(program("nesterov").loss, has_aux=True))


def arrays(tree):
    return {path: np.asarray(leaf) for path, leaf in leaves_by_path(tree).items()}


def whitened(kernel, images):
    """The outputs of a convolution without padding, one row a patch."""
    windows = np.lib.stride_tricks.sliding_window_view(images, (2, 2), axis=(1, 2))
    patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 12)
    return patches.astype(np.float64) @ kernel.reshape(12, 24)


def test_whitening_leaves_no_correlations_and_equal_variances():
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(40, 17, 17, 3)) @ rng.normal(size=(3, 3))
    smooth = 10 * (noise + 0.8 * np.roll(noise, 1, 1) + 0.5 * np.roll(noise, 1, 2))
    smooth = smooth[:, 1:, 1:]
    images = jnp.asarray(smooth, jnp.float32)
    kernel = jax.jit(airbench.whitening)(images)
    out = whitened(np.asarray(kernel), smooth)
    moments = out.T @ out / len(out)
    np.testing.assert_allclose(moments[:12, :12], np.eye(12), atol=0.02)
    np.testing.assert_allclose(out[:, 12:], -out[:, :12], rtol=1e-6)
    convolved = jax.lax.conv_general_dilated(
        images, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(convolved.reshape(-1, 24), out, rtol=1e-3, atol=1e-4)


def test_whitening_does_not_blow_up_what_patches_lack():
    images = jnp.ones((4, 8, 8, 3))  # one component, the others are 0
    kernel = np.asarray(jax.jit(airbench.whitening)(images)).reshape(12, 24)
    np.testing.assert_allclose(
        np.linalg.norm(kernel[:, 1:12], axis=0), 0.0005**-0.5, rtol=0.05
    )


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 5), (5, 3)])
def test_convolutions_start_as_copies_of_their_first_inputs(inputs, outputs):
    make = jax.jit(airbench.identity_first, static_argnums=1)
    kernel = make(jax.random.key(0), (3, 3, inputs, outputs))
    x = np.random.default_rng(1).normal(size=(2, 6, 6, inputs)).astype(np.float32)
    out = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    same = min(inputs, outputs)
    np.testing.assert_array_equal(out[..., :same], x[..., :same])
    rest = np.abs(np.asarray(kernel)[..., same:])
    assert (rest <= (9 * inputs) ** -0.5).all()
    assert rest.size == 0 or rest.max() > 0.9 * (9 * inputs) ** -0.5


def test_network_has_the_published_size_and_answers_in_float32():
    def make():
        net = airbench.Net(nnx.Rngs(0), dtype=jnp.bfloat16)
        return nnx.state(net, nnx.Param), net(jnp.zeros((1, 32, 32, 3)))

    params, logits = jax.eval_shape(make)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 1_971_640
    assert (logits.shape, logits.dtype) == ((1, 10), jnp.float32)


def test_layers_are_every_parameter_by_kind():
    layers = program("nesterov").layers
    kinds = {path: layers.names[layer] for path, layer in layers.members.items()}
    assert set(kinds) == set(arrays(initial("nesterov").fast.params))
    assert kinds["whiten/kernel"] == "whitening kernel"
    assert kinds["whiten/bias"] == "whitening bias"
    assert kinds["group2/conv1/kernel"] == "convolutions 2"
    assert kinds["group3/norm2/bias"] == "norm biases 3"
    assert kinds["head/kernel"] == "head"


def torch_settings(name, kind, step):
    """Rate and decay of PyTorch's SGD in airbench's own terms, for sums of losses."""
    if name == "nesterov":
        kilostep = 1024 * (1 + 1 / (1 - 0.85))
        rate, decay = 11.5 / kilostep, 0.0153 * BATCH / kilostep
        rate *= 64 if kind.startswith("norm") else 1
        up = max(1, int(STEPS * 0.23))
        share = step / up if step < up else (step - up) / (STEPS - up)
        shape = 0.2 + 0.8 * share if step < up else 1 - 0.93 * share
        return rate * shape, decay / rate
    decay = 2e-6 * BATCH
    rate = 0.67 * (9 / 256) ** 2  # of the head: theirs has weights of 256/9 the size
    if kind != "head":
        rate *= 64  # 0.053, but for a part in 20,000
    whole, sooner = 1 - step / STEPS, 1 - step / (3 * PER_EPOCH)
    if kind == "whitening bias":  # whose decay is ours, and falls with `whole` only
        return rate * sooner, decay / (rate * sooner / whole)
    return rate * whole, decay / rate


def newton_schulz(matrix):
    x = matrix / (np.linalg.norm(matrix) + 1e-7)
    for _ in range(3):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x


def filters_after(step, weights, gradient):
    """Muon of airbench94_muon, its first step."""
    out = weights.shape[-1]
    w, g = (x.transpose(3, 2, 0, 1).reshape(out, -1) for x in (weights, gradient))
    w = w * out**0.5 / np.linalg.norm(w)
    w = w - 0.24 * (1 - step / STEPS) * newton_schulz(g)
    height, width, inputs, _ = weights.shape
    return w.reshape(out, inputs, height, width).transpose(2, 3, 1, 0)


def random_like(tree, seed, scale):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape, scale=scale), jnp.float32), tree
    )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "steps"), [("nesterov", 5), ("muon", 2)])
def test_updates_are_those_of_pytorch_for_every_kind_of_layer(name, steps):
    layers = program(name).layers
    optimizer = speedrun_rates.optimizer(name, layers, BATCH)

    @functools.partial(jax.jit, static_argnames="phase")
    def update(gradients, state, params, step, phase):
        tables = jax.tree.map(lambda x: x[step], told(name).tables)
        inner = state.inner._replace(hyperparams=tables._asdict())
        state = state._replace(inner=inner)
        updates, state = phase.freeze(optimizer).update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    params, momentum = random_like(initial(name).fast.params, 0, 1), {}
    state = phase_of(name, 0).freeze(optimizer).init(params)
    for step in range(steps):
        gradients = random_like(params, step + 1, 1e-4)  # so small that decay shows
        before, given = arrays(params), arrays(gradients)
        params, state = update(gradients, state, params, step, phase_of(name, step))
        for path, after in arrays(params).items():
            kind = layers.names[layers.members[path]]
            w, g = (x[path].astype(np.float64) for x in (before, given))
            if kind == "whitening kernel" or (kind == "whitening bias" and step >= 3):
                expected = w
            elif name == "muon" and kind.startswith("convolutions"):
                if step:
                    continue  # Optax corrects for the start of momentum
                expected = filters_after(step, w, g)
            else:
                rate, decay = torch_settings(name, kind, step)
                g = SUM * g + decay * w
                momentum[path] = 0.85 * momentum[path] + g if step else g
                expected = w - rate * (g + 0.85 * momentum[path])
                assert decay * np.abs(w).max() > 1e-2 * np.abs(g).max()
            scale = np.abs(expected - w).max()
            np.testing.assert_allclose(
                after, expected, rtol=2e-7, atol=1e-5 * scale, err_msg=f"{path} {step}"
            )


@pytest.mark.slow
def test_steps_are_those_of_pytorch():
    name = "nesterov"
    layers, state, drawn = program(name).layers, initial(name), told(name).draws
    take = jax.jit(lambda step: seen(data(), jax.tree.map(lambda x: x[step], drawn)))
    momentum = {}
    for step in range(4):  # lookahead comes with the fifth
        before = arrays(state.fast.params)
        gradients = arrays(gradient()(*state.fast, *take(step))[0])
        state = stepped(name, state, phase_of(name, step))
        for path, after in arrays(state.fast.params).items():
            kind = layers.names[layers.members[path]]
            w, g = (x[path].astype(np.float64) for x in (before, gradients))
            if kind == "whitening kernel" or (kind == "whitening bias" and step >= 3):
                np.testing.assert_array_equal(after, w)
                continue
            rate, decay = torch_settings(name, kind, step)
            g = SUM * g + decay * w
            momentum[path] = 0.85 * momentum[path] + g if step else g
            expected = -rate * (g + 0.85 * momentum[path])
            scale = np.abs(expected).max()
            assert scale > 0
            np.testing.assert_allclose(
                after - w, expected, atol=1e-3 * scale + 1e-6, err_msg=f"{path} {step}"
            )


@pytest.mark.slow
def test_frozen_whitening_bias_does_not_decay():
    phase = phase_of("nesterov", STEPS - 1)
    assert set(phase.names) == {"whitening kernel", "whitening bias"}
    state = jax.tree.map(jnp.copy, initial("nesterov"))
    state.fast.params["whiten"]["bias"][...] = jnp.ones(24)
    after = stepped("nesterov", state, phase).fast.params
    np.testing.assert_array_equal(after["whiten"]["bias"], 1)
    assert (after["group1"]["norm1"]["bias"][...] != 0).any()


@pytest.mark.parametrize("total", [10, 12])
def test_lookahead_is_that_of_airbench(total):
    rng = np.random.default_rng(2)
    moves = rng.normal(size=(total, 3)).astype(np.float32)
    net, average = np.zeros(3), np.zeros(3)
    fast = Fast({"w": jnp.zeros(3)}, {"mean": jnp.zeros(3)})
    slow = fast
    for done, move in enumerate(moves, 1):
        net = net + move
        fast = jax.tree.map(lambda w, move=move: w + move, fast)
        decays = [0.95**5 * (done / total) ** 3] if done % 5 == 0 else []
        for decay in decays + [1.0] * (done == total):
            average = decay * average + (1 - decay) * net
            net = average
        slow, fast = pulled(slow, fast, jnp.int32(done), total)
        for part in (fast.params["w"], fast.statistics["mean"]):
            np.testing.assert_allclose(part, net, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(slow.params["w"], average, rtol=1e-5, atol=1e-6)


def test_lookahead_leaves_what_stands_still_to_the_bit():
    tree = Fast({"w": jax.random.normal(jax.random.key(0), (100,))}, {})
    slow, fast = pulled(tree, tree, jnp.int32(5), 10)
    for part in (slow, fast):
        np.testing.assert_array_equal(part.params["w"], tree.params["w"])


def test_every_image_comes_once_an_epoch_and_mirrored_every_other_time():
    images, batch, epochs = 400, 50, 5
    drawn = draw(jax.random.key(3), images, epochs * images // batch, batch)
    chosen, mirrored = (
        np.asarray(x).reshape(epochs, images) for x in (drawn.chosen, drawn.mirrored)
    )
    order = np.argsort(chosen, axis=1)
    assert (np.sort(chosen, axis=1) == np.arange(images)).all()
    assert (chosen[0] != chosen[1]).any()
    by_image = np.take_along_axis(mirrored, order, axis=1)
    assert (by_image[1:] != by_image[:-1]).all()
    assert 140 < by_image[0].sum() < 260  # six standard deviations about the half
    offsets = {tuple(offset) for offset in np.asarray(drawn.offset).reshape(-1, 2)}
    assert offsets == set(itertools.product(range(-2, 3), repeat=2))


def test_what_does_not_fill_a_batch_is_left_out_and_a_run_may_end_within_an_epoch():
    drawn = draw(jax.random.key(4), 25, 5, 10)
    assert drawn.chosen.shape == (5, 10)
    assert all(
        len({*epoch.ravel().tolist()}) == 20
        for epoch in drawn.chosen[:4].reshape(2, -1)
    )


def test_images_are_windows_of_the_reflected_image_mirrored_where_they_should_be():
    drawn = jax.tree.map(lambda x: x[0], draw(jax.random.key(5), COUNT, 1, COUNT))
    drawn = jax.tree.map(np.asarray, drawn)
    images, labels = jax.tree.map(np.asarray, jax.jit(seen)(data(), drawn))
    pixels = np.asarray(data().images)
    np.testing.assert_array_equal(labels, np.asarray(data().labels)[drawn.chosen])
    assert 0 < drawn.mirrored.sum() < COUNT
    for image, index, (row, column), mirrored in zip(images, *drawn, strict=True):
        padded = np.pad(pixels[index], ((2, 2), (2, 2), (0, 0)), mode="reflect")
        cut = padded[2 + row : 34 + row, 2 + column : 34 + column]
        cut = cut[:, ::-1] if mirrored else cut
        expected = (cut / 255.0 - CIFAR10.mean) / CIFAR10.std
        np.testing.assert_allclose(image, expected, atol=1e-5)


@pytest.mark.slow
def test_test_time_augmentation_weighs_six_views():
    fast = initial("nesterov").fast
    images = np.asarray(speedrun_images.normalised(data().images))
    answer = jax.jit(program("nesterov").logits)

    def logits(view):
        return np.asarray(answer(fast, jnp.asarray(view)))

    def with_mirror(view):
        return 0.5 * logits(view) + 0.5 * logits(view[:, :, ::-1])

    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    moved = [with_mirror(padded[:, :32, :32]), with_mirror(padded[:, 2:, 2:])]
    together = 0.5 * with_mirror(images) + 0.5 * (moved[0] + moved[1]) / 2
    found = sum(share * logits(view) for share, view in views(jnp.asarray(images)))
    np.testing.assert_allclose(found, together, rtol=1e-4, atol=1e-6)
    best, plain = together.argmax(-1), logits(images).argmax(-1)
    assert (best != plain).any()
    batch = data()._replace(labels=jnp.asarray(best))
    correct = [program("nesterov").correct, program("nesterov").correct_plain]
    found = [int(jax.jit(count)(fast, batch)) for count in correct]
    assert found == [COUNT, int((best == plain).sum())]


@pytest.mark.slow
def test_steps_in_one_call_are_single_steps():
    name = "nesterov"
    one, phase = initial(name), phase_of(name, 0)
    several = stepped(name, one, phase, length=6)
    for _ in range(6):  # with a pull of lookahead on the way
        one = stepped(name, one, phase)
    assert several.step == 6
    for path, expected in arrays(one.fast).items():
        np.testing.assert_allclose(
            arrays(several.fast)[path], expected, rtol=1e-5, atol=1e-5, err_msg=path
        )


def full(policy, name="nesterov", factor=1.0):
    """Tables of a policy over the published number of steps, by layer."""
    layers = program(name).layers
    recipe = speedrun_rates.RECIPES[name]
    per_epoch = 50_000 // recipe.batch
    steps = int(np.ceil(per_epoch * recipe.epochs))
    found = speedrun_rates.tables(
        policy, recipe, layers, steps, recipe.batch, per_epoch, factor
    )
    by_layer = dict(zip(layers.names, np.asarray(found.multipliers).T, strict=True))
    return steps, np.asarray(found.rate), by_layer


def test_global_rate_starts_peaks_and_ends_where_airbench_does():
    steps, rate, _ = full("airbench")
    assert steps == 476
    assert rate.argmax() == 109
    np.testing.assert_allclose(rate[[0, 109]], [0.3, 1.5], rtol=1e-6)
    end = 1 - 0.93 * (475 - 109) / (476 - 109)
    np.testing.assert_allclose(rate[475], 1.5 * end, rtol=1e-5)


@pytest.mark.parametrize("name", speedrun_rates.RECIPES)
def test_another_rate_is_that_of_all_layers(name):
    (_, rate, by_layer), (_, half, same) = (
        full("airbench", name),
        full("airbench", name, 0.5),
    )
    np.testing.assert_array_equal(half, rate / 2)
    for layer, multipliers in by_layer.items():
        np.testing.assert_array_equal(same[layer], multipliers)


def test_airbench_multiplies_norm_biases_and_stops_the_whitening():
    _, _, by_layer = full("airbench")
    assert not by_layer["whitening kernel"].any()
    assert (by_layer["whitening bias"][:144] == 1).all()
    assert not by_layer["whitening bias"][144:].any()
    for group in (1, 2, 3):
        assert (by_layer[f"norm biases {group}"] == 64).all()
        assert (by_layer[f"convolutions {group}"] == 1).all()
    assert (by_layer["head"] == 1).all()


def test_whitening_bias_falls_by_a_line_of_its_own_with_muon():
    steps, rate, by_layer = full("airbench", "muon")
    assert steps == 200
    own = rate * by_layer["whitening bias"]
    expected = 0.053 * 2000 * np.maximum(1 - np.arange(200) / 75, 0)
    np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("policy", "layer", "first", "last"),
    [
        ("uniform", "norm biases 1", 1, 1),
        ("norms-fall", "norm biases 2", 64, 1),
        ("norms-rise", "norm biases 3", 1, 64),
        ("head-late", "head", 0.1, 1),
        ("first-freeze", "norm biases 1", 64, 0),
        ("first-freeze", "convolutions 1", 1, 0),
        ("first-freeze", "whitening bias", 1, 0),
        ("first-freeze", "norm biases 2", 64, 64),
    ],
)
def test_policy_changes_what_it_says(policy, layer, first, last):
    _, _, by_layer = full(policy)
    np.testing.assert_allclose(by_layer[layer][0], first, rtol=1e-6)
    np.testing.assert_allclose(by_layer[layer][-1], last, rtol=0.15)


def test_width_that_leaves_no_channels_is_refused():
    with pytest.raises(ValueError, match=r"width: expected a factor .* got 0\.001"):
        airbench.scaled_widths(0.001)


def test_data_come_back_from_their_parts_in_any_order(tmp_path):
    sample = read_sample()
    paths = speedrun_data.pack(sample, tmp_path, 900)
    assert len(paths) == 3  # 2,000 and 500 images
    assert speedrun_data.unpack(paths).checksum == sample.checksum
    assert speedrun_data.unpack(paths[::-1]).checksum == sample.checksum


@pytest.mark.parametrize("named", [[0, 2], [0, 1, 1], [0, 1, 2, 2]])
def test_parts_that_are_missing_or_named_twice_are_refused(named, tmp_path):
    paths = speedrun_data.pack(read_sample(), tmp_path, 900)
    with pytest.raises(DataError, match="all 3 parts, each once"):
        speedrun_data.unpack([paths[i] for i in named])


@pytest.mark.parametrize("damage", ["missing", "truncated", "array", "others"])
def test_what_is_no_part_is_refused_with_its_path(damage, tmp_path):
    [path] = speedrun_data.pack(read_sample(), tmp_path)
    match damage:
        case "missing":
            path.unlink()
        case "truncated":
            path.write_bytes(path.read_bytes()[:-100])
        case "array":
            with path.open("wb") as file:
                np.save(file, np.zeros(3))
        case "others":
            np.savez(path, images=np.zeros(3))
    with pytest.raises(DataError, match=r"cifar10-0.npz: expected a file of train"):
        speedrun_data.unpack([path])


@pytest.mark.parametrize(
    "words", ["--seeds 0", "--epochs 0", "--batch -1", "--policies none"]
)
def test_command_line_refuses(words, capsys):
    with pytest.raises(SystemExit):
        speedrun.parse(words.split())
    assert words.split()[0] in capsys.readouterr().err


def test_summary_pairs_runs_by_seed():
    results = [
        {"policy": policy, "seed": seed, "accuracy": base + seed / 100, "plain": 0.0}
        | {"seconds": 2.0}
        for policy, base in (("airbench", 0.9), ("uniform", 0.8))
        for seed in range(4)
    ]
    control, other = speedrun_report.summary(results, ["uniform", "airbench"])
    assert (control["policy"], other["policy"]) == ("airbench", "uniform")
    np.testing.assert_allclose(control["accuracy"]["mean"], 0.915)
    np.testing.assert_allclose(other["accuracy"]["minus_airbench"]["mean"], -0.1)
    assert "minus_airbench" not in control["accuracy"]


def test_figure_shows_every_look_by_seed_and_what_differs(tmp_path):
    def run(policy, seed, base):
        seen = {"accuracy": base, "plain": base - 0.02, "seconds": 1.0}
        look = [5, base / 2 + seed / 100]
        return {"policy": policy, "seed": seed, "curve": [look], **seen}

    runs = [run("airbench", seed, 0.8) for seed in (1, 0, 2)]  # in any order
    runs += [run("uniform", seed, 0.6 + 0.01 * seed**2) for seed in (2, 1, 0)]
    summary = speedrun_report.summary(runs, ["uniform", "airbench"])
    record = {"steps": 10, "results": runs, "summary": summary}
    curves = speedrun_figure.curves_of(record)
    assert list(curves) == ["airbench", "uniform"]
    steps, ours = curves["uniform"]
    np.testing.assert_array_equal(steps, [5, 10])
    np.testing.assert_allclose(ours, [[30, 58], [31.5, 59], [34, 62]])
    data = charts.spec(speedrun_figure.chart(record))["datasets"].values()
    curves = [rows for rows in data if rows and {"x", "policy"} <= rows[0].keys()]
    (apart,) = (
        rows for rows in curves if {row["policy"] for row in rows} == {"uniform"}
    )
    means = [row["mean"] for row in apart]
    np.testing.assert_allclose(means, [-55 / 6, -55 / 3], rtol=1e-4)
    alone = record | {"summary": speedrun_report.summary(runs, ["uniform"])}
    assert len(charts.spec(speedrun_figure.chart(alone))["hconcat"]) == 1
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record))
    assert speedrun_figure.draw(path).read_bytes().startswith(b"\x89PNG")


def record_of(words, tmp_path, monkeypatch):
    parts = speedrun_data.pack(read_sample(), tmp_path)
    path = tmp_path / "record.json"
    words = f"speedrun.py --width 0.0625 {words} --json {path} --data".split()
    monkeypatch.setattr(sys, "argv", [*words, *map(str, parts)])
    speedrun.main()
    return json.loads(path.read_text())


@pytest.mark.slow
def test_whole_comparison_is_run_and_recorded(tmp_path, monkeypatch, capsys):
    words = "--batch 500 --epochs 1.5 --seeds 2 --policies airbench first-freeze"
    record = record_of(f"{words} --curve 2", tmp_path, monkeypatch)
    assert "first-freeze minus airbench" in capsys.readouterr().out
    assert record["steps"] == 6
    assert len(record["results"]) == 4
    for run in record["results"]:
        assert 0 <= run["accuracy"] <= 1
        assert run["seconds"] > 0
        ((step, plain),) = run["curve"]
        assert step == 3
        assert 0 <= plain <= 1
    assert [row["n"] for row in record["summary"]] == [2, 2]


@pytest.mark.slow
def test_run_in_calls_of_whole_phases_is_the_same_run(tmp_path, monkeypatch):
    words = "--batch 1000 --epochs 1 --seeds 1 --policies airbench"
    single = record_of(words, tmp_path, monkeypatch)["results"]
    monkeypatch.setattr(speedrun, "steps_per_call", lambda most: most)
    together = record_of(words, tmp_path, monkeypatch)["results"]
    np.testing.assert_allclose(
        together[0]["accuracy"], single[0]["accuracy"], atol=0.01
    )
