import html
import io
import itertools
import re

import numpy as np
import pytest
import vl_convert
from PIL import Image

from experiments.report import charts
from experiments.report.charts import layers, look

STEPS = np.arange(3.0)
NAMES = ["a", "b", "c"]
FROZEN = "#8a9099"


def drawn(chart, **parameters):
    """The chart as SVG, with these values of its parameters."""
    spec = charts.spec(chart)
    for parameter in spec.get("params", []):
        parameter |= {
            "value": parameters.get(parameter["name"], parameter.get("value"))
        }
    return vl_convert.vegalite_to_svg(spec)


def rows(chart):
    """The data of a chart, one list for each set of them."""
    return [*charts.spec(chart)["datasets"].values()]


def cells(text):
    """How often each colour fills a cell of a map."""
    found = re.findall(r'aria-roledescription="rect mark"[^>]* fill="([^"]+)"', text)
    return {colour: found.count(colour) for colour in found}


def rgb(colour):
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def curves(**values):
    return {name: (STEPS, np.array(of, float)) for name, of in values.items()}


def test_a_map_has_a_cell_for_each_layer_and_time_and_grey_ones_where_frozen():
    values = np.array([[1, 4, 0], [1, 0.25, 0]])
    text = drawn(charts.multipliers(np.array([10, 20]), values, NAMES))
    white, violet, orange = (f"rgb{rgb(layers.SHADES[i])}" for i in (2, 4, 0))
    assert cells(text) == {white: 2, violet: 1, orange: 1, FROZEN: 2}
    assert "grey: frozen" in text


def test_a_thumbnail_has_the_colours_of_the_map():
    values = np.array([[1, 4, 0], [1, 0.25, 9]])
    image = Image.open(io.BytesIO(charts.thumbnail(values))).convert("RGB")
    shades = [rgb(shade) for shade in layers.SHADES]
    assert [
        [image.getpixel((step, layer)) for layer in range(3)] for step in (0, 1)
    ] == [
        [shades[2], shades[4], rgb(FROZEN)],
        [shades[2], shades[0], shades[4]],
    ]


def test_a_map_of_many_layers_and_steps_keeps_the_first_and_the_last():
    steps, names = np.arange(10, 10_000, 10), [f"layer{i}" for i in range(110)]
    values = np.ones((len(steps), len(names)))
    (data,) = rows(charts.multipliers(steps, values, names))
    assert len(data) * len(names) <= layers.CELLS + len(names)
    assert (data[0]["from"], data[-1]["to"]) == (0, 9990)
    assert all(a["to"] == b["from"] for a, b in itertools.pairwise(data))


def test_curves_show_the_mean_in_a_band_and_mark_a_seed_that_ended_early():
    chart = charts.curves(curves(p=[[1, 2, 3], [3, 4, np.nan]]), "loss")
    line, crosses = rows(chart)
    assert [(row["mean"], row["low"], row["high"]) for row in line] == [
        *((2, 1, 3), (3, 2, 4), (3, 3, 3))
    ]
    assert crosses == [{"policy": "p", "x": 1, "mean": 4}]


def test_a_hidden_policy_is_in_no_part_of_a_chart():
    pens = charts.pens_for(["a", "b"])
    told = curves(a=[[1, 2, 3]], b=[[2, 3, 4]])
    for chart in (
        charts.curves(told, "loss", legend=False),
        charts.differences({"a": [1.0], "b": [2.0]}, {}, pens, dict(a="x", b="x")),
        charts.across(
            {"a": ends(1, 2), "b": ends(1, 2)}, "xy", "f", "q", pens, legend=False
        ),
    ):
        colour = pens["b"][0]
        assert colour in drawn(chart)
        assert colour not in drawn(chart, hidden=["b"])


def test_differences_show_each_seed_the_mean_and_an_interval_where_there_is_one():
    pairs = {"a": [1.0, 2.0, 6.0], "b": [-1.0]}
    chart = charts.differences(
        pairs, {"a": (-3.5, 9.5)}, charts.pens_for(pairs), {"a": "uniform", "b": "a"}
    )
    (data,) = (data for data in rows(chart) if "seeds" in data[0])
    assert data == [
        dict(
            policy="a", label="a − uniform", seeds=[1, 2, 6], mean=3, low=-3.5, high=9.5
        ),
        dict(policy="b", label="b − a", seeds=[-1], mean=-1, low=None, high=None),
    ]
    text = drawn(chart)
    assert text.count('aria-roledescription="point"') == 4 + 2


def ends(*means):
    """Means with intervals of one to both sides."""
    found = np.array(means, float)
    return found, found - 1, found + 1


def labels(chart):
    """The labels of the horizontal axis, as they are drawn."""
    text = html.unescape(drawn(chart))
    axis = text.split("X-axis")[1].split("role-axis-title")[0]
    return re.findall(r"<text[^>]*>([^<]*)</text>", axis)


@pytest.mark.parametrize(
    ("places", "told", "at"),
    [
        ([20, 100, 500], ["20", "100", "500"], np.log10([20, 100, 500])),
        ([0.0, 0.2, 0.8], ["0", "0.2", "0.8"], [0, 0.2, 0.8]),
        (["plain8", "resnet8", "a"], ["plain8", "resnet8", "a"], [0, 1, 2]),
    ],
)
def test_lines_stand_over_what_differs_and_beside_one_another(places, told, at):
    lines = {"a": ends(1, 2, 3), "b": ends(3, np.nan, 1)}
    pens = charts.pens_for(["c", "b", "a"])
    chart = charts.across(lines, places, "field", "quantity, %", pens)
    (data,) = (data for data in rows(chart) if data and "policy" in data[0])
    assert [(row["policy"], row["place"], row["mean"]) for row in data] == [
        *(("a", told[0], 1), ("a", told[1], 2), ("a", told[2], 3)),
        *(("b", told[0], 3), ("b", told[2], 1)),
    ]
    assert all(row["low"] == row["mean"] - 1 for row in data)
    apart = [data[i]["x"] - at[i] for i in range(3)]
    assert apart == pytest.approx([apart[0]] * 3, abs=1e-6)
    assert data[3]["x"] - at[0] == pytest.approx(-apart[0], abs=1e-6)
    assert labels(chart) == told
    text = drawn(chart)
    assert all(pens[name][0] in text for name in lines)
    assert pens["c"][0] not in text  # nor in its legend


@pytest.mark.parametrize("zero", [False, True])
def test_differences_are_drawn_with_a_line_at_zero(zero):
    pens = charts.pens_for(["a"])
    chart = charts.across({"a": ends(5, 6)}, [1, 2], "f", "q", pens, zero=zero)
    rules = drawn(chart).count('aria-roledescription="rule mark"')
    assert rules == 2 + zero


@pytest.mark.parametrize("count", [2, layers.LAYERS, layers.LAYERS + 1])
@pytest.mark.parametrize("scale", ["log", "linear"])
@pytest.mark.parametrize(
    "values", [[1.0, 2.0], [0.0, 1.0], [0.0, 0.0], [np.nan, 1.0], [np.nan, np.nan]]
)
def test_layers_can_be_drawn_whatever_was_measured(count, scale, values):
    table = np.tile(np.array(values)[:, None], count)
    names = [f"layer{i}" for i in range(count)]
    text = drawn(charts.layer_values(np.array([1, 5]), table, names, "q", scale))
    assert ("rect mark" in text) == (count > layers.LAYERS)
    assert "layer0" in text


def test_quantiles_begin_where_weights_move():
    values = np.array([[0, 0.1, 0.2, 0.3, 0.4], [0, 0, 0, 0, 0], [np.nan] * 5])
    (data,) = rows(charts.quantiles(STEPS, values, "q", "t"))
    assert [data[0][name] for name in ("lowest", "lower", "highest")] == [0.1, 0.1, 0.4]
    assert data[1]["median"] is data[2]["median"] is None
    assert "t" in drawn(charts.quantiles(STEPS, values * 0, "q", "t"))


def test_savings_are_drawn_phase_by_phase():
    shares = np.array([0.0, 0.5]), np.array([1.0, 0.7]), np.array([np.nan, 0.8])
    (data,) = rows(charts.savings(np.array([0, 10, 30]), *shares))
    assert [row["share"] for row in data] == [0, 0.5, 1, 0.7, None, 0.8]
    assert {(row["from"], row["to"]) for row in data} == {(0, 10), (10, 30)}


def test_a_range_test_shows_suggestions_and_what_diverged():
    change = np.array([[-1.0, 0, np.nan], [1.0, 0, 2.0]])
    text = drawn(
        charts.range_test(
            np.array([0.1, 1, 10]),
            change,
            NAMES[:2],
            *(np.array([0.1, 1]), np.array([1e9, 1]), np.array([True, False])),
        )
    )
    assert cells(text)[look.GREY] == 1
    assert text.count('aria-roledescription="point"') == 2


@pytest.mark.parametrize("change", [0.0, 1.0])
def test_a_range_test_names_every_layer_and_is_white_where_nothing_changes(change):
    names = [f"layer{i}" for i in range(60)]
    ones = np.ones(60)
    text = drawn(
        charts.range_test(
            np.array([0.1, 1, 10]),
            np.full((60, 3), change),
            names,
            *(ones, 2 * ones, ones > 0),
        )
    )
    assert all(f">{name}</text>" in text for name in names)
    white = f"rgb{rgb(layers.SHADES[2])}"
    assert (cells(text) == {white: 180}) == (change == 0)


def test_a_search_puts_the_most_important_number_first():
    numbers = {"small": [1.0, 2.0], "rate": [1e-3, 1.0]}
    text = drawn(charts.search(numbers, [0.1, 0.2], {"small": 0.1, "rate": 0.9}))
    assert text.index("rate: importance 90 %") < text.index("small: importance 10 %")


def test_no_two_of_two_dozen_policies_are_drawn_alike():
    names = ["uniform", *(f"p{i}" for i in range(24))]
    pens = charts.pens_for(names)
    assert len({str(pen) for pen in pens.values()}) == 25
    assert pens["uniform"][0] == look.INK
    assert pens == charts.pens_for(iter(names))


@pytest.mark.parametrize(
    "name",
    [
        *("a.b[0]", 'it\'s "so"', "</script><script>&amp;", "datum.x"),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                *(r"$\frac{$", r"a\q", "_private", "层😀", "names[0]", "${x}"),
                'url(#a) id="b" href="#c"',
            )
        ),
    ],
)
def test_names_are_drawn_as_they_stand(name):
    pens = charts.pens_for([name])
    one = np.ones((1, 1))
    for chart in (
        charts.curves({name: (STEPS, np.ones((2, 3)))}, name, name),
        charts.differences({name: [1.0]}, {}, pens, {name: "u"}, name),
        charts.across({name: ends(1, 2)}, [name, "b"], name, name, pens),
        charts.multipliers(np.ones(1), one, [name]),
        charts.layer_values(np.ones(1), one, [name], name, "log"),
        charts.quantiles(STEPS, np.ones((3, 5)), name, name),
        charts.search({name: [1.0, 2.0]}, [0.1, 0.2], {name: 1.0}),
    ):
        assert name in html.unescape(drawn(chart))


@pytest.mark.parametrize(
    ("kind", "first"), [("png", b"\x89PNG"), ("svg", b"<svg"), ("pdf", b"%PDF")]
)
def test_a_chart_is_saved_as_its_file_is_named(kind, first, tmp_path):
    path = tmp_path / f"chart.{kind}"
    charts.save(charts.curves(curves(p=[[1, 2, 3]]), "loss"), path)
    assert path.read_bytes().startswith(first)
