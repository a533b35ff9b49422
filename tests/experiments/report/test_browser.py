"""The page of a report in a real browser."""

import base64

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
TABLE = "document.querySelectorAll('table.results')[1]"  # how good in the end


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report of three policies."""
    about = written.CONFIG["policies"]["uniform"]
    config = written.CONFIG | {"policies": dict.fromkeys(ACCURACY, about)}
    layers = {
        **{key: written.TRAIN[key] for key in ("seed", "images", "seconds")},
        "kind": "layers",
        "step": 0,
        "gradient_norm": [1.0, 0.1],
        "update_ratio": [0.1, 0.01],
        "step_quantiles": [[0.0, 0.1, 0.2, 0.3, 0.4]] * 2,
        "rotation": [0.0, 0.0],
    }
    events = [
        event | {"policy": policy, "test_accuracy": accuracy}
        if event["kind"] == "end"
        else event | {"policy": policy}
        for policy, accuracy in ACCURACY.items()
        for event in (layers, written.TRAIN, written.END)
    ]
    folder = written.study(tmp_path_factory.mktemp("study"), events, config)
    return report.build(records.read(folder))


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser.tab(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture
def tab(chromium, page):
    chromium.events.clear()
    chromium.open(page)
    return chromium


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
    assert visible(tab, "figure svg") == page.read_text().count("<svg ")
    assert visible(tab, "#policies input") == len(ACCURACY)
    assert tab.told("Runtime.exceptionThrown") == []
    assert tab.told("Runtime.consoleAPICalled") == []
    assert tab.told("Log.entryAdded") == []


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


def test_a_policy_can_be_hidden_and_shown_again(tab):
    of_early = '[data-policy="early"]'
    before = visible(tab, of_early), visible(tab, "[data-policy]")
    assert before[0] > 5  # rows, curves and a section
    box = "document.querySelector('#policies input[value=early]')"
    tab.evaluate(f"{box}.click()")
    assert visible(tab, of_early) == 0
    assert visible(tab, "[data-policy]") == before[1] - before[0]
    tab.evaluate(f"{box}.click()")
    assert (visible(tab, of_early), visible(tab, "[data-policy]")) == before


@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_runs_over_the_edge(tab, width):
    screen = {"width": width, "height": 844, "deviceScaleFactor": 1}
    tab("Emulation.setDeviceMetricsOverride", mobile=width < 600, **screen)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
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


def test_print_leaves_the_controls_out(tab):
    tab("Emulation.setEmulatedMedia", media="print")
    assert visible(tab, "#policies") == 0
    tab("Emulation.setEmulatedMedia", media="")
    assert base64.b64decode(tab("Page.printToPDF")["data"]).startswith(b"%PDF")
