"""Holds the pages of docs/api against what the library makes public, and links."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import optax_llr

ROOT = Path(__file__).parent.parent
TEXTS = [
    page
    for place in ("*.md", "benchmarks/*.md", "experiments/**/*.md", "docs/**/*.md")
    for page in ROOT.glob(place)
    if not {"templates", "_build"} & {*page.parts}
]
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)(?:#[^)\s]*)?\)")
PAGES = (ROOT / "docs" / "api").glob("*.rst")
INIT = ast.parse((ROOT / "optax_llr" / "__init__.py").read_text(encoding="utf-8"))

DOCUMENTED = [
    name
    for page in PAGES
    for name in re.findall(r"^\.\. auto\w+:: (\S+)$", page.read_text("utf-8"), re.M)
]
PUBLIC = [  # from ._module import name as name
    alias.name
    for node in INIT.body
    for alias in getattr(node, "names", ())
    if alias.name == alias.asname
]
RULES = [name for name, _ in inspect.getmembers(optax_llr.rules, inspect.isfunction)]
CONTRIB = [
    name
    for name, value in vars(optax_llr.contrib).items()
    if name[0] != "_" and inspect.isroutine(value) | inspect.isclass(value)
]


def test_links_between_files_lead_somewhere():
    links = [
        (page, link) for page in TEXTS for link in LINK.findall(page.read_text("utf-8"))
    ]
    assert len(links) > 50
    assert [at for at in links if not (at[0].parent / at[1]).exists()] == []


def test_every_public_name_is_documented_once_and_nothing_else_is():
    assert "scale_by_layer" in PUBLIC
    documented = [name.removeprefix("optax_llr.") for name in DOCUMENTED]
    rules = [f"rules.{name}" for name in RULES]
    contrib = [f"contrib.{name}" for name in CONTRIB]
    assert sorted(documented) == sorted(PUBLIC + rules + contrib)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_says_its_equation_and_what_it_costs(name):
    text = inspect.getdoc(getattr(optax_llr.rules, name))
    assert re.search(r"^\.\. math::\n +\S", text, re.MULTILINE)
    assert re.search(r"^\*Cost\*: ", text, re.MULTILINE)
