"""The page of a report in a real browser."""

import base64
import dataclasses
import re

import browser
import pytest
import written

from experiments.records import records
from experiments.report import report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        browser.find() is None, reason=f"none of {', '.join(browser.NAMES)} is here"
    ),
]

ACCURACY = {"uniform": 0.5, "late": 0.25, "early": 0.75}
TABLE = "document.querySelector('table.results')"


STRANGE = "p.q[0] it's </script><script>alert(1)</script>"
UNFOLDED = """
new Promise((resolve) => (function look() {
  const drawn = document.querySelectorAll("details[open] svg.marks").length;
  drawn === 7 ? resolve() : setTimeout(look, 20);
})())
"""


def built(folder, accuracies, rename=lambda recorded: recorded):
    """A report of policies with these accuracies."""
    return report.build(rename(recorded(folder, accuracies)))


def recorded(folder, accuracies, **changes):
    """The records of policies with these accuracies."""
    about = written.CONFIG["policies"]["uniform"]
    policies = dict.fromkeys(accuracies, about)
    config = written.CONFIG | {"policies": policies, "seeds": [0, 1, 2]} | changes
    at = {key: written.TRAIN[key] for key in ("step", "images", "seconds")}
    layers = {
        "gradient_norm": [1.0, 0.1],
        "update_ratio": [0.1, 0.01],
        "step_quantiles": [[0.0, 0.1, 0.2, 0.3, 0.4]] * 2,
        "rotation": [0.0, 0.0],
    }
    told = []
    for policy, accuracy in accuracies.items():
        for seed in range(3):
            look = {"loss": 2.0, "accuracy": accuracy}
            end = written.END | {"test_accuracy": accuracy + 0.01 * seed**2}
            told += [
                event | {"policy": policy, "seed": seed}
                for event in (
                    at | layers | {"kind": "layers", "step": 0},
                    written.TRAIN,
                    at | look | {"kind": "validation"},
                    end,
                )
            ]
    return records.read(written.study(folder, told, config))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report of three policies."""
    return built(tmp_path_factory.mktemp("study"), ACCURACY)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser.tab(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture
def tab(chromium, page):
    return opened(chromium, page)


def opened(chromium, page):
    """The tab, once all that it shows at first is drawn."""
    chromium.events.clear()
    chromium.open(page)
    chromium("Runtime.evaluate", expression="ready", awaitPromise=True)
    return chromium


def screen(tab, width, height):
    size = {"width": width, "height": height, "deviceScaleFactor": 1}
    tab("Emulation.setDeviceMetricsOverride", mobile=width < 600, **size)


def place(tab, selector):
    """Where the first of these elements begins and ends, from the top of the page."""
    box = f"document.querySelector(`{selector}`).getBoundingClientRect()"
    return tab.evaluate(f"(({{top, bottom}}) => [top, bottom])({box})")


def is_quiet(tab):
    """Whether nothing was thrown or logged."""
    told = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    return [event for method in told for event in tab.told(method)] == []


def order(tab):
    """The policies as they stand in the table."""
    rows = f"[...{TABLE}.tBodies[0].rows]"
    return tab.evaluate(f"{rows}.map(row => row.cells[0].textContent)")


def focus(tab, heading):
    """Gives the keyboard to the button of a heading."""
    found = f"[...{TABLE}.querySelectorAll('th button')]"
    is_it = f"button => button.textContent.startsWith('{heading}')"
    assert tab.evaluate(f"({found}.find({is_it}).focus(), true)")


def visible(tab, selector):
    """How many elements take up room."""
    shown = "element => element.getClientRects().length > 0"
    elements = f"[...document.querySelectorAll(`{selector}`)]"
    return tab.evaluate(f"{elements}.filter({shown}).length")


def test_the_page_renders_and_has_nothing_to_complain_about(tab, page):
    assert tab.evaluate("document.querySelector('h1').textContent").startswith("demo")
    folded = tab.evaluate("document.querySelectorAll('details figure').length")
    figures = page.read_text().count("<figure ")
    assert visible(tab, "figure svg.marks") == figures - folded
    assert visible(tab, ".policies input") == len(ACCURACY)
    assert is_quiet(tab)


def test_a_click_on_a_small_map_unfolds_the_policy_and_draws_its_layers(tab):
    inside = "details.policy[data-policy=late] svg.marks"
    assert visible(tab, inside) == 0
    tab.evaluate("[...document.querySelectorAll('.maps a')][1].click()")
    tab("Runtime.evaluate", expression=UNFOLDED, awaitPromise=True)
    assert visible(tab, inside) == 7
    assert is_quiet(tab)


@pytest.mark.parametrize("count", [3, 6])
def test_the_first_screen_has_result_differences_maps_and_table(
    count, chromium, tmp_path
):
    names = ("uniform", "early-first", "late-first", "cascade", "freezeout", "learned")
    accuracies = {name: 0.5 + 0.01 * i for i, name in enumerate(names[:count])}
    page = built(tmp_path / "study", accuracies)
    screen(chromium, 1200, 900)
    tab = opened(chromium, page)
    last = f".maps div:nth-of-type({count}) img"
    for part in (".result", "figure.differences svg", last, "table.results"):
        assert place(tab, part)[1] <= 900, part
    screen(chromium, 390, 844)
    tab = opened(chromium, page)
    assert place(tab, ".result")[1] <= 844
    assert place(tab, "figure.differences svg")[0] <= 844 - 100
    tab("Emulation.clearDeviceMetricsOverride")


def test_hovering_over_a_figure_tells_its_values(tab):
    mark = "document.querySelector('figure.differences path[aria-label*=early]')"
    x, y = tab.evaluate(
        "(({x, y, width, height}) => [x + width / 2, y + height / 2])"
        f"({mark}.getBoundingClientRect())"
    )
    tab("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    text = "document.getElementById('vg-tooltip-element')?.textContent ?? ''"
    assert "early − uniform" in tab.evaluate(text)


def test_names_that_would_be_scripts_stay_text(chromium, tmp_path):
    def rename(recorded):  # past the door, which such a name does not pass
        policies = recorded.config["policies"]
        policies[STRANGE] = policies.pop("other")
        recorded.config["layers"]["names"][0] = STRANGE
        events = [
            event | {"policy": STRANGE} if event["policy"] == "other" else event
            for event in recorded.events
        ]
        return dataclasses.replace(recorded, events=tuple(events))

    tab = opened(
        chromium, built(tmp_path / "study", {"uniform": 0.5, "other": 0.6}, rename)
    )
    assert STRANGE in tab.evaluate("document.body.innerText")
    labels = "[...document.querySelectorAll('figure text')].map(e => e.textContent)"
    assert STRANGE[:30] in "".join(tab.evaluate(labels))
    assert tab.told("Page.javascriptDialogOpening") == []
    assert is_quiet(tab)


def test_no_request_leaves_the_page(tab, page):
    asked = [sent["request"]["url"] for sent in tab.told("Network.requestWillBeSent")]
    assert asked[0] == page.absolute().as_uri()
    assert all(url.startswith("data:") for url in asked[1:])


@pytest.mark.parametrize(("key", "code", "text"), [("Enter", 13, "\r"), (" ", 32, " ")])
def test_a_heading_sorts_the_table_and_once_more_the_other_way(tab, key, code, text):
    assert order(tab) == ["uniform", "late", "early"]
    focus(tab, "test accuracy")
    tab.press(key, code, text)
    assert order(tab) == ["late", "uniform", "early"]
    tab.press(key, code, text)
    assert order(tab) == ["early", "uniform", "late"]
    sorts = f"[...{TABLE}.querySelectorAll('[aria-sort]')].map(e => e.ariaSort)"
    assert tab.evaluate(sorts) == ["descending"]


def test_a_click_on_a_heading_of_words_sorts_by_the_alphabet(tab):
    tab.evaluate(f"{TABLE}.querySelector('th button').click()")
    assert order(tab) == ["early", "late", "uniform"]


def test_bounds_and_missing_numbers_have_their_place_in_the_order(tab):
    texts = [
        "never",
        "> 2,812 steps",
        "−3.0 (−4.0 to −2.0)",
        "1 of 2 diverged",
        "< 0.001",
    ]
    cells = ", ".join(f"{{textContent: '{text}'}}" for text in texts)
    sorting = f"[{cells}].sort((a, b) => compare(sortable(a), sortable(b)))"
    assert tab.evaluate(f"{sorting}.map(cell => cell.textContent)") == [
        *("−3.0 (−4.0 to −2.0)", "< 0.001", "> 2,812 steps", "never", "1 of 2 diverged")
    ]


def test_a_policy_can_be_hidden_in_all_figures_and_shown_again(tab):
    of_early = '[data-policy="early"]'
    marks = "figure path[stroke='#e69f00'], figure path[fill='#e69f00']"
    before = [visible(tab, what) for what in (of_early, "[data-policy]", marks)]
    assert before[0] > 4  # rows, a map and a section
    assert before[2] > 4
    box = "document.querySelector('.policies input[value=early]')"
    tab.evaluate(f"{box}.click()")
    assert visible(tab, of_early) == visible(tab, marks) == 0
    assert visible(tab, "[data-policy]") == before[1] - before[0]
    tab.evaluate(f"{box}.click()")
    assert [visible(tab, what) for what in (of_early, "[data-policy]", marks)] == before
    for box in ACCURACY:
        tab.evaluate(f"document.querySelector('.policies input[value={box}]').click()")
    assert visible(tab, marks) == 0
    assert is_quiet(tab)


@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_runs_over_the_edge(tab, width):
    screen(tab, width, 844)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab("Emulation.clearDeviceMetricsOverride")


@pytest.mark.parametrize("width", [390, 1200])
def test_a_joined_page_shows_what_lies_between_the_studies_first(
    width, chromium, tmp_path
):
    several = [
        recorded(tmp_path / name, ACCURACY, name=name, images_per_class=images)
        for name, images in (("few", 20), ("more", 100), ("many", 500))
    ]
    screen(chromium, width, 900)
    tab = opened(chromium, report.join(several, tmp_path))
    first = "figure[aria-label='test accuracy by images per class'] svg"
    assert place(tab, first)[0] <= 900 - 100
    if width > 390:
        assert place(tab, "figure[aria-label^=difference] svg")[1] <= 900
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    marks = "figure[aria-label$='by images per class'] path[fill='#e69f00']"
    assert visible(tab, marks) == 6  # three studies in two figures
    tab.evaluate("document.querySelector('.policies input[value=early]').click()")
    assert visible(tab, marks) == 0
    assert is_quiet(tab)
    tab("Emulation.clearDeviceMetricsOverride")


def test_dark_pages_have_light_letters(tab):
    def brightness(of):
        style = "getComputedStyle(document.body)"
        numbers = tab.evaluate(f"{style}.{of}.match(/\\d+/g).slice(0, 3).map(Number)")
        return sum(numbers)

    for scheme, lighter, darker in (
        ("dark", "color", "backgroundColor"),
        ("light", "backgroundColor", "color"),
    ):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        tab("Emulation.setEmulatedMedia", features=[feature])
        assert brightness(lighter) > brightness(darker) + 400


def test_print_leaves_the_controls_out_and_keeps_to_five_pages(tab):
    tab("Emulation.setEmulatedMedia", media="print")
    assert visible(tab, ".policies") == 0
    tab("Emulation.setEmulatedMedia", media="")
    printed = base64.b64decode(tab("Page.printToPDF")["data"])
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 5
