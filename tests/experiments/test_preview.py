"""What a policy is said to do before it is run: layers, rates, phases, figure, text."""

import contextlib
import dataclasses
import io
import re
import sys

import jax
import numpy as np
import pytest

import optax_llr
from experiments import __main__ as command
from experiments import preview
from experiments.config.config import Config
from experiments.data import dataset as data
from experiments.policies.catalogue import POLICIES
from experiments.policies.chosen import configured
from experiments.report import charts
from experiments.training import compiling, program

CONFIG = Config(policies=("uniform", "early-first", "uniform-cosine", "freezeout"))
LAYERS = ("conv1", "conv2", "conv3", "hidden", "head")


@pytest.fixture(autouse=True)
def no_data(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a preview reads no data")

    monkeypatch.setattr(data, "load", refuse)


def rows(said):
    """The rows of bars by what stands in front of them."""
    return {
        name.strip(): bar
        for name, _, bar in (line.rpartition("  ") for line in said.splitlines())
        if name.strip() in ("global rate", *LAYERS)
    }


def layers_of(names):
    return optax_llr.match_layers(
        {name: np.ones(1) for name in names}, [(name, name) for name in names]
    )


def made(multipliers, rates=None, names=None):
    """A preview of these multipliers (T, L)."""
    multipliers = np.asarray(multipliers, np.float32)
    total, count = multipliers.shape
    layers = layers_of(names or [f"layer{i}" for i in range(count)])
    rates = np.ones(total, np.float32) if rates is None else np.asarray(rates)
    phases = optax_llr.freeze_phases(
        layers, optax_llr.table_schedule(multipliers), total
    )
    return preview.Preview(layers, program.Tables(rates, multipliers), phases)


@pytest.mark.parametrize("changes", [{}, {"norm": "batch", "data": "cifar100"}])
def test_layers_are_those_of_the_study(changes):
    config = dataclasses.replace(CONFIG, **changes)
    sample = data.Split(np.zeros((1, 32, 32, 3), np.uint8), np.zeros(1, np.int32))
    classes = 100 if changes else 10
    dataset = data.Dataset(
        *("any", sample, sample, sample, classes), *(np.ones(3, np.float32),) * 2, ""
    )
    _, classes, shape = config.sizes
    assert program.abstract(config, classes, shape).layers == (
        program.Program(config, dataset).layers
    )


def test_tables_and_phases_are_those_of_the_run():
    shown = preview.foresee(POLICIES["freezeout"], CONFIG)
    told = compiling.policy_tables(POLICIES["freezeout"], CONFIG, shown.layers)
    jax.tree.map(np.testing.assert_array_equal, shown.tables, told)
    frozen = np.zeros((CONFIG.total_steps, len(shown.layers)), bool)
    for phase in shown.phases:
        frozen[phase.start : phase.stop] = phase.frozen
    assert frozen.any()
    assert not (frozen & (told.multipliers > 0)).any()


def test_numbers_of_a_configuration_count():
    config = dataclasses.replace(CONFIG, numbers={"early-first.first_start": 3.0})
    shown = preview.foresee(configured(config)["early-first"], config)
    assert shown.tables.multipliers[0, 0] == 3.0


def test_bars_run_from_the_first_step_to_the_last():
    over_time = np.linspace(1, 2, 500)
    over_time[:7], over_time[-1] = 0, 4
    shown = made(np.stack([over_time, np.ones(500)], axis=1), rates=np.ones(500))
    line = next(
        line
        for line in preview.text(shown, 60, 24, "utf-8").splitlines()
        if line.startswith("layer0")
    )
    assert len(line) == 60
    assert (line.split()[1][0], line[-1]) == (".", "█")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_without_blocks_gets_digits(encoding):
    said = preview.text(made([[2.0, 0.0], [0.25, 1.0]]), 80, 24, encoding)
    said.encode(encoding)
    lines = [line.split() for line in said.splitlines()]
    assert ["layer0", "81"] in lines
    assert ["layer1", ".4"] in lines


def test_what_is_printed_suits_the_terminal(monkeypatch, tmp_path):
    monkeypatch.setattr(charts, "save", lambda chart, path: None)
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    config = dataclasses.replace(CONFIG, out=tmp_path)
    assert preview.run(dataclasses.replace(config, policies=("early-first",))) == 0
    terminal.seek(0)
    assert rows(terminal.read())["conv1"].startswith("888")


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 12), (200, 60), (10, 1)])
def test_many_layers_fit_with_the_first_and_the_last(width, height):
    values = np.ones((300, 110))
    values[150:, :30] = 0
    said = preview.text(made(values), width, height, "utf-8").splitlines()
    shown = [line.split()[0] for line in said if re.match(r"layer\d", line)]
    assert (shown[0], shown[-1]) == ("layer0", "layer109")
    assert len(shown) == len(set(shown))
    assert f"{110 - len(shown)} more layers" in said[0]
    if height >= 24:  # with room for the heading, the figure's path and a prompt
        assert height - 5 <= len(said) + 4 <= height
        assert all(len(line) <= width for line in said[1:])


def test_phases_are_said_with_what_they_freeze():
    values = np.ones((30, 3))
    values[10:, 0] = values[20:, 1] = 0
    said = preview.text(made(values), 200, 24, "utf-8").splitlines()[-1]
    assert said == (
        "frozen and not computed: 0 of 3 layers at first, 1 from step 10, "
        "2 from step 20"
    )
    assert "frozen and" not in preview.text(made(np.ones((9, 2))), 80, 24, "utf-8")


def test_the_figure_draws_every_layer_and_breaks_off_where_it_is_frozen(tmp_path):
    values = np.ones((2_000, 3))
    values[500:, 0] = values[1_500:, 1] = 0
    path = tmp_path / "a.png"
    charts.save(preview.chart(made(values, rates=np.full(2_000, 0.1))), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    spec = charts.spec(preview.chart(made(values, rates=np.full(2_000, 0.1))))
    for drawn in spec["hconcat"]:
        names = next(p["value"] for p in spec["params"] if p["name"] == "names")
        assert len(names) == 3
        data = drawn.get("data", {}).get("name")
        rows = spec["datasets"][data]
        known = np.array([row["value"] for row in rows], float) > 0
        np.testing.assert_allclose(known.mean(axis=0), [0.25, 0.75, 1], atol=0.01)


def test_a_short_run_is_drawn_step_by_step():
    drawn = preview.chart(made([[1.0, 2.0], [3.0, 4.0]], rates=[1.0, 10.0]))
    data = charts.spec(drawn)["datasets"].values()
    rates = [
        (row["step"], row["value"]) for rows in data for row in rows if "step" in row
    ]
    assert rates == [(1, [1, 2]), (2, [30, 40])]


def test_the_command_writes_a_figure_and_a_row_for_each_layer(capsys, tmp_path):
    out = tmp_path / "new" / "folder"
    status = command.main(["preview", "freezeout", "--epochs", "4", "--out", str(out)])
    said = capsys.readouterr().out
    assert status == 0
    assert "200 steps" in said
    assert tuple(rows(said)) == ("global rate", *LAYERS)
    assert rows(said)["conv1"].endswith("..")
    assert not rows(said)["head"].count(".")
    assert [path.name for path in out.iterdir()] == [
        "preview-freezeout-cnn-shallow.png"
    ]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("gradient-norm",), "'gradient-norm' are measured while it trains"),
        (("erly-first",), "did you mean 'early-first'"),
        (("early-first", "--model", "resnet21"), "did you mean 'resnet20'"),
        (("early-first", "nowhere"), "preset must be one of"),
        (("early-first", "--numbers", "early-first.frst_start", "1"), "did you mean"),
    ],
)
def test_what_cannot_be_foreseen_is_refused_in_a_line(
    capsys, tmp_path, arguments, word
):
    if len(arguments) != 2:
        arguments = (*arguments, "--out", str(tmp_path))
    with contextlib.suppress(SystemExit):
        assert command.main(["preview", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert word in " ".join(captured.err.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


def test_layca_turns_by_what_is_known(tmp_path):
    config = dataclasses.replace(CONFIG, policies=("uniform", "layca", "layca-alpha"))
    policy = configured(config)["layca-alpha"]
    multipliers = preview.foresee(policy, config).tables.multipliers
    np.testing.assert_allclose(multipliers[0, [0, -1]], [1, 0.4**5], rtol=1e-6)
