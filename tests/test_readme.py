"""Runs the Python blocks of README.md and of pages of docs/, each page in order."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_llr

ROOT = Path(__file__).parent.parent
GUIDES = ("compatibility", "freezing", "layers", "measured", "range_test")
PAGES = (
    "README.md",
    *(pytest.param(f"docs/{name}.md", marks=pytest.mark.slow) for name in GUIDES),
)


def text_of(page):
    return (ROOT / page).read_text(encoding="utf-8")


def python_blocks(text):
    for block in re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        # Padded, so that a traceback names the line of the page.
        yield "\n" * text.count("\n", 0, block.start(1)) + block[1]


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs_and_prints_what_it_shows(
    page, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)  # what the code writes stays out of the clone
    blocks = list(python_blocks(text_of(page)))
    assert blocks, f"{page} has no ```python block"
    names = {"__name__": "readme"}
    for block in blocks:
        exec(compile(block, ROOT / page, "exec"), names)
    shown = re.findall(r"^```text\n(.*?)^```$", text_of(page), re.DOTALL | re.MULTILINE)
    assert "".join(shown) == capsys.readouterr().out


FORMS = re.findall(
    r"^\| .* \| `(.*adapt_layers.*)` \|$", text_of("docs/measured.md"), re.MULTILINE
)
PARAMS = {"conv": jnp.array([3.0, 4.0]), "head": jnp.array([1.0])}


@pytest.mark.parametrize("form", FORMS)
def test_the_forms_of_measured_rates_compose(form):
    """Each trains, and with multipliers that the rule measured."""
    layers = optax_llr.match_layers(PARAMS, [(name, name) for name in PARAMS])
    names = {**vars(optax), **vars(optax.contrib), **vars(optax_llr)}
    names |= {"η": 0.01, "ρ": 0.05, "λ": 0.1, "k": 2, "m": np.array([0.5, 1.0])}
    names |= {"layers": layers, "rule": optax_llr.rules.gradient_norm()}
    optimizer = eval(form, names)
    params, state = PARAMS, optimizer.init(PARAMS)
    update = jax.jit(optimizer.update)
    for _ in range(4):
        updates, state = update(params, state, params)  # gradients of ‖w‖² / 2
        params = optax.apply_updates(params, updates)
    assert all((abs(params[name]) < abs(PARAMS[name])).all() for name in PARAMS)
    measured = optax.tree.get(state, "measured")
    assert (np.asarray(measured) > 1).all()


def test_the_table_of_forms_was_found():
    assert len(FORMS) == 7


def test_readme_commands_install_what_they_use():
    commands = re.findall(r"^python -m pip install .*$", text_of("README.md"), re.M)
    assert commands == [
        'python -m pip install -e ".[experiments]" && python -m experiments study',
        'python -m pip install -e ".[dev]" && python -m pytest -n 2',
    ]
