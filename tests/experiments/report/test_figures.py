import base64
import html
import io
import re
from unittest import mock
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from experiments.report import figures, svg
from experiments.report.layer_figures import (
    draw_layer_lines,
    draw_layer_map,
    draw_multipliers,
    draw_quantiles,
    draw_rates,
    draw_savings,
)
from experiments.report.policy_figures import (
    FEW_CURVES,
    draw_curves,
    draw_differences,
    draw_key,
    draw_marks,
)

NAMES = ["conv1", "conv2", "head"]
STEPS = np.array([0.0, 10.0, 20.0])
PENS = figures.pens_for(["uniform", "a", "b"])


def axes_of(draw, *arguments):
    return figures.figure(lambda axes: draw(axes, *arguments)).axes[0]


def test_the_heat_map_holds_the_multipliers_layer_by_step():
    steps, values = np.array([10, 20]), np.array([[2.0, 1.0, 0.0], [0.5, 1.0, 0.25]])
    drawn = figures.figure(lambda axes: draw_multipliers(axes, steps, values, NAMES))
    mesh = drawn.axes[0].collections[0].get_array()
    np.testing.assert_array_equal(mesh.filled(99), [[1, -1], [0, 0], [99, -2]])
    assert drawn.axes[0].yaxis_inverted()
    assert "frozen" in drawn.axes[0].get_title("left")


def test_realised_rates_break_off_where_a_layer_is_frozen():
    steps, rates = np.array([10, 20]), np.array([[0.1, 0.2, 0.0], [0.01, 0.02, 0.03]])
    drawn = figures.figure(lambda axes: draw_rates(axes, steps, rates, NAMES))
    axes = drawn.axes[0]
    assert axes.get_yscale() == "log"
    np.testing.assert_array_equal(axes.get_lines()[2].get_ydata(), [np.nan, 0.03])


@pytest.mark.parametrize(("points", "marker"), [(1, "o"), (2, "None")])
def test_a_curve_of_one_point_is_a_mark(points, marker):
    curves = {"uniform": (STEPS[:points], np.ones((1, points)))}
    (line,) = axes_of(draw_curves, curves, "title", "quantity").get_lines()
    assert line.get_marker() == marker
    assert line.get_linestyle() == "-"


def test_rates_that_are_all_zero_can_be_drawn():
    zeros = np.zeros((2, 3))
    drawn = figures.figure(
        lambda axes: draw_rates(axes, np.array([1, 2]), zeros, NAMES)
    )
    assert svg.svg(drawn, "a", "nothing").startswith("<svg")


def test_curves_show_the_mean_and_mark_a_seed_that_ended_early():
    steps = np.array([10.0, 20.0])
    curves = {"uniform": (steps, np.array([[1.0, 3.0], [2.0, np.nan]]))}
    drawn = figures.figure(lambda axes: draw_curves(axes, curves, "t", "q"))
    line, cross = drawn.axes[0].get_lines()
    np.testing.assert_array_equal(line.get_ydata(), [1.5, 3.0])
    assert (cross.get_xdata(), cross.get_ydata()) == ([10.0], [2.0])


@pytest.mark.parametrize("count", [1, 3, 110])
def test_few_and_many_layers_have_legible_ticks(count):
    names = [f"layer{i}" for i in range(count)]
    values = np.ones((2, count))
    drawn = figures.figure(
        lambda axes: draw_multipliers(axes, np.array([1, 2]), values, names)
    )
    labels = [label.get_text() for label in drawn.axes[0].get_yticklabels()]
    assert labels[0] == names[0]
    assert labels[-1] == names[-1]
    assert len(labels) <= 14


def test_an_id_prefix_keeps_figures_apart_and_text_is_escaped():
    drawn = figures.figure(lambda axes: axes.set_title("a < b"))
    text = svg.svg(drawn, "left", 'says "x" & y')
    assert 'aria-label="says &quot;x&quot; &amp; y"' in text
    assert all(found.startswith("left-") for found in re.findall(r' id="([^"]+)', text))


@pytest.mark.parametrize("draw", [draw_layer_lines, draw_layer_map])
@pytest.mark.parametrize("scale", ["log", "linear"])
@pytest.mark.parametrize("values", [0.0, 1.0, np.nan])
@pytest.mark.parametrize("points", [1, 3])
def test_layers_can_be_drawn_whatever_was_measured(draw, scale, values, points):
    told = np.full((points, 3), values)
    axes = axes_of(draw, STEPS[:points], told, NAMES, "title", "unit", scale)
    assert svg.svg(axes.figure, "a", "b").startswith("<svg")


def test_a_map_of_layers_leaves_out_what_a_log_scale_has_no_place_for():
    values = np.array([[1.0, 0.0, 0.1], [2.0, np.nan, 0.2], [4.0, 8.0, 0.4]])
    axes = axes_of(draw_layer_map, STEPS, values, NAMES, "norm", "n", "log")
    (mesh,) = axes.collections
    expected = [[1, 2, 4], [-1, -1, 8], [0.1, 0.2, 0.4]]
    np.testing.assert_array_equal(mesh.get_array().filled(-1), expected)
    np.testing.assert_allclose(mesh.get_clim(), (0.1, 8))
    assert axes.get_title("left") == "norm; grey: 0 or none"


def test_lines_of_layers_stand_on_a_scale_with_names():
    values = np.ones((3, 3))
    page = figures.figure(
        lambda axes: draw_layer_lines(
            axes, STEPS, values, NAMES, "rotation", "1 − cos", "linear"
        )
    )
    axes, bar = page.axes
    assert (axes.get_yscale(), axes.get_ylabel()) == ("linear", "1 − cos")
    assert [label.get_text() for label in bar.get_yticklabels()] == NAMES


def test_quantiles_draw_the_median_within_two_bands():
    values = np.array([[0.0, 1, 2, 3, 4], [1, 2, 3, 4, 5], [2, 3, 4, 5, 6]])
    axes = axes_of(draw_quantiles, STEPS, values, "steps", "size")
    (median,) = axes.get_lines()
    np.testing.assert_array_equal(median.get_ydata(), [2, 3, 4])
    outer, inner = (band.get_datalim(axes.transData) for band in axes.collections)
    assert (outer.y0, outer.y1, inner.y0, inner.y1) == (1, 6, 1, 5)


def test_a_mark_that_was_not_reached_is_hollow_and_one_that_never_is_at_the_edge():
    times = {"uniform": [(10, False), (40, True)], "a": [(20, False), (np.inf, True)]}
    axes = axes_of(draw_marks, times, [0.3, 0.5], PENS)
    points = [line for line in axes.get_lines() if len(line.get_xdata()) == 1]
    hollow = [line.get_markerfacecolor() == "none" for line in points]
    assert hollow == [False, True, False, True]
    assert points[3].get_xdata()[0] > 40
    assert [text.get_text().strip() for text in axes.texts] == ["→", "∞"]


def test_savings_are_drawn_phase_by_phase():
    measured = np.array([1.0, np.nan])
    shares = np.array([0, 0.5]), np.array([1, 0.6]), measured
    axes = axes_of(draw_savings, np.array([0, 10, 20]), *shares)
    frozen, predicted, _ = (patch.get_data() for patch in axes.patches)
    np.testing.assert_array_equal(frozen.values, [0, 0.5])
    np.testing.assert_array_equal(predicted.values, [1, 0.6])
    np.testing.assert_array_equal(predicted.edges, [0, 10, 20])


def test_a_policy_keeps_its_pen_and_no_two_of_two_dozen_share_one():
    names = ["uniform", *(f"policy-{i}" for i in range(24))]
    pens = figures.pens_for(names)
    assert pens["uniform"] == ("-", figures.INK)
    assert len(set(pens.values())) == 25


@pytest.mark.parametrize("count", [1, 4, 5, 25])
def test_many_curves_are_not_squeezed_by_their_legend(count):
    curves = {f"policy-{i}": (STEPS, np.ones((2, 3))) for i in range(count)}
    axes = axes_of(draw_curves, curves, "title", "quantity")
    axes.figure.draw_without_rendering()
    assert axes.get_position().height > 0.7
    assert (axes.get_legend() is None) == (count > FEW_CURVES)


def test_what_belongs_to_a_policy_is_marked():
    curves = {"a & b": (STEPS, np.ones((2, 3))), "c": (STEPS, np.ones((2, 3)))}
    text = svg.svg(
        figures.figure(lambda axes: draw_curves(axes, curves, "t", "q")),
        "x",
        "",
    )
    found = re.findall(r'<g data-policy="([^"]+)"', text)
    assert set(found) == {"a &amp; b", "c"}


@pytest.mark.parametrize("count", [1, 5, 240, 241, 10_000])
def test_thinning_keeps_the_first_and_the_last_point(count):
    kept = figures.thinned(count)
    assert (kept[0], kept[-1]) == (0, count - 1)
    assert len(kept) == min(count, figures.POINTS)
    assert (np.diff(kept) > 0).all()


def test_a_picture_loses_no_letter_of_its_words_when_it_is_made_small():
    words = "0.123456 at d L; font-family: Serif; fill: currentColor"
    drawn = figures.figure(lambda axes: axes.set_title(words))
    text = svg.svg(drawn, "a", "0.654321")
    assert f">{words}<" in text
    assert "0.654321" in text
    assert not re.search(r' [dxy]="[^"]*\.\d{3}', text)


def test_differences_show_each_seed_the_mean_and_an_interval_where_there_is_one():
    pairs = {"a": [1.0, 2.0, 6.0], "b": [-1.0]}
    axes = axes_of(
        draw_differences,
        *(pairs, {"a": (-3.5, 9.5)}, "accuracy", figures.pens_for(pairs)),
        {"b": "b − a"},
    )
    drawn = [line.get_xdata().tolist() for line in axes.lines[1:]]
    assert drawn == [[1.0, 2.0, 6.0], [3.0], [-3.5, 9.5], [-1.0], [-1.0]]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b − a"]
    assert axes.lines[0].get_xdata() == [0, 0]


def pixels(told):
    with Image.open(io.BytesIO(base64.b64decode(told))) as image:
        return np.array(image.convert("RGBA"))


def test_maps_keep_their_colours_to_the_last_bit_in_fewer_letters():
    values = np.random.default_rng(0).lognormal(size=(40, 80))
    names = [f"layer{i}" for i in range(80)]
    page = figures.figure(
        lambda axes: draw_multipliers(axes, np.arange(40), values, names)
    )
    with mock.patch.object(svg, "_few_colours", side_effect=str) as asked:
        svg.svg(page, "p", "maps")
    whole = [call.args[0] for call in asked.call_args_list]
    assert len(whole) == 2  # of the map and of its bar
    for told in whole:
        few = svg._few_colours(told)
        np.testing.assert_array_equal(pixels(few), pixels(told))
        assert len(few) <= len(told)
    assert len(svg._few_colours(whole[0])) < len(whole[0]) / 2


def test_lines_are_the_same_without_a_letter_for_every_point():
    page = figures.figure(lambda axes: axes.plot([0, 1, 2, 3], [0, 2, 1, 3]))
    text = svg.svg(page, "p", "line")
    [line] = re.findall(r'd="M ([^"]*)"[^>]* stroke: #1f77b4', text)
    assert "L" not in line
    numbers = np.array(line.split(), float).reshape(-1, 2)
    x, y = numbers.T
    assert np.allclose(np.diff(x), np.diff(x)[0], atol=0.2)
    assert np.allclose(np.diff(y) / (y[-1] - y[0]), [2 / 3, -1 / 3, 2 / 3], atol=0.01)


STRANGE = [
    r"$\frac{$",
    r"a\q",
    "$x$",
    r"\$5 and $",
    "_private",
    figures.INK,
    'url(#a) id="b" href="#c"',
    "<script>&amp;",
    "层😀",
]


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.parametrize("kind", ["png", "svg"])
def test_names_are_drawn_as_they_stand(name, kind):
    """Warnings are errors here: of letters that the font lacks none is said."""
    layers, values = [name, "b"], np.full((3, 2), 0.5)
    curves = {name: (STEPS, np.ones((2, 3)))}
    pens = figures.pens_for(curves)
    page = figures.figure(
        lambda axes: draw_multipliers(axes, STEPS + 1, values, layers),
        lambda axes: draw_quantiles(axes, STEPS, np.ones((3, 5)), name, name),
        lambda axes: draw_curves(axes, curves, name, name),
        lambda axes: draw_key(axes, pens),
        lambda axes: draw_differences(axes, {name: [1.0]}, {}, "t", pens, {}),
        lambda axes: draw_marks(axes, {name: [(1.0, False)]}, [0.5], pens),
    )
    if kind == "png":
        figures.save(page, io.BytesIO())
        return
    text = svg.svg(page, "a", name)
    assert len(re.findall(f">{re.escape(html.escape(name, quote=False))}<", text)) >= 9
    root = ElementTree.fromstring(text)
    marked = {element.get("data-policy") for element in root.iter()} - {None}
    assert marked == {name}


def test_powers_of_ten_are_plain_letters():
    steps, values = np.array([1, 2]), np.array([[1e-3, 1.0], [1e-9, 0.1]])
    page = figures.figure(
        lambda axes: draw_rates(axes, steps, values, ["a", "b"]),
        lambda axes: draw_layer_map(
            axes, steps, np.array([[2.0, 3], [4, 5]]), ["a", "b"], "t", "q", "log"
        ),
    )
    text = svg.svg(page, "a", "b")
    assert ">10⁻⁸<" in text
    assert ">3×10⁰<" in text
    assert "mathdefault" not in text
