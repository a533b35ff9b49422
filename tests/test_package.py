"""The package as a whole: its names, its version and what it drags in."""

import importlib.metadata
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import optax_llr

ROOT = Path(__file__).parent.parent


def names_of(module, prefix=""):
    """What a module offers, by name, but for other modules and what it imports."""
    return {
        f"{prefix}{name}": value
        for name, value in vars(module).items()
        if name[0] != "_" and getattr(value, "__module__", "").startswith("optax_llr")
    }


RULES = names_of(optax_llr.rules, "rules.")
CONTRIB = names_of(optax_llr.contrib, "contrib.")
PUBLIC = names_of(optax_llr) | RULES | CONTRIB
FUNCTIONS = [name for name, value in PUBLIC.items() if inspect.isfunction(value)]


def test_every_rule_makes_a_rule():
    made = [inspect.signature(rule).return_annotation for rule in RULES.values()]
    assert made == [optax_llr.Rule] * 9


def numbers(version):
    return tuple(map(int, version.split(".")))


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_has_a_docstring_of_its_own(name):
    doc = inspect.getdoc(PUBLIC[name])
    assert doc
    assert not doc.startswith(f"{name}(")  # what dataclass and NamedTuple make up


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_function_documents_arguments_and_shows_an_example(name):
    doc = inspect.getdoc(PUBLIC[name])
    arguments = inspect.signature(PUBLIC[name]).parameters
    assert "\nArgs:\n" in doc or not arguments
    assert "\n    >>> " in doc
    for argument in arguments:
        assert re.search(rf"\b{argument}\b.*:", doc), argument


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_is_re_exported_and_lives_in_a_private_module(name):
    module = PUBLIC[name].__module__
    assert re.fullmatch(r"optax_llr\.(schedules|[a-z]+\._[a-z_]+)", module)


def test_changelog_leads_up_to_the_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first, *released = re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)
    assert first == "Unreleased"
    assert released == sorted(released, key=numbers, reverse=True)
    pending = text.split("## [Unreleased]")[1].split("\n## ")[0].strip()
    newest = max(map(numbers, released), default=(0,))
    if pending:
        assert numbers(optax_llr.__version__) > newest
    else:
        assert numbers(optax_llr.__version__) == newest


def test_citation_and_metadata_have_the_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {optax_llr.__version__}\n" in citation
    assert importlib.metadata.version("optax_llr") == optax_llr.__version__


def test_runtime_dependencies_are_jax_numpy_optax():
    requirements = importlib.metadata.requires("optax_llr")
    runtime = [line for line in requirements if "extra ==" not in line]
    names = {re.match(r"[\w-]+", line)[0] for line in runtime}
    assert names == {"jax", "numpy", "optax"}


def test_import_brings_nothing_beside_jax_numpy_optax():
    code = """
import sys
import jax, numpy, optax
before = set(sys.modules)
import optax_llr
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(new - sys.stdlib_module_names - {"jax", "numpy", "optax"}))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout == "['optax_llr']\n", ran.stderr
