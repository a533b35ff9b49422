"""Runs the examples, and holds what they print against what they say they print."""

import ast
import re
import runpy
import textwrap
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))
LIBRARIES = {"flax", "jax", "optax", "optax_llr"}
STANDARD = {"functools", "itertools"}
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])")
HUNDREDTHS = 0.06
"""By so much, or by a tenth, a number may differ elsewhere; a whole number may not."""

every_example = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)


def docstring(path):
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def promised(text):
    """What a docstring says is printed: the indented block behind "Prints"."""
    block = re.search(r"\bPrints\n\n((?:    .*\n|\n(?=    ))+)", text + "\n")
    return textwrap.dedent(block[1])


def differences(said, printed):
    """Lines that differ in their words, in whole numbers, or by more than rounding."""
    lines = said.splitlines(), printed.splitlines()
    if len(lines[0]) != len(lines[1]):
        return [f"{len(lines[0])} lines were promised, {len(lines[1])} printed"]
    return [
        f"{one!r} was promised, {other!r} printed"
        for one, other in zip(*lines, strict=True)
        if words(one) != words(other) or not close(one, other)
    ]


def words(line):
    return NUMBER.sub("#", line).split()


def close(one, other):
    pairs = zip(NUMBER.findall(one), NUMBER.findall(other), strict=True)
    return all(
        abs(float(a) - float(b)) <= max(HUNDREDTHS, float(a) / 10)
        if "." in a + b
        else a == b
        for a, b in pairs
    )


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.slow] * (path.stem == "fine_tuning"))
        for path in EXAMPLES
    ],
    ids=lambda path: path.stem,
)
def test_an_example_prints_what_it_says(path, capsys):
    runpy.run_path(str(path), run_name="__main__")
    assert differences(promised(docstring(path)), capsys.readouterr().out) == []


@every_example
def test_an_example_is_short_and_says_its_command(path):
    text = path.read_text(encoding="utf-8")
    assert 25 <= len(text.splitlines()) <= 90
    assert f"\n    python examples/{path.name}\n" in docstring(path)


@every_example
def test_an_example_needs_the_library_and_what_trains(path):
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    imported = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
    imported |= {n.module for n in nodes if isinstance(n, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= LIBRARIES | STANDARD


def test_there_are_five_examples():
    assert len(EXAMPLES) == 5


@pytest.mark.parametrize(
    ("printed", "same"),
    [
        ("step 10: loss 0.31  frozen: first", True),
        ("step 10: loss 0.36  frozen: first", True),
        ("step 10: loss 0.40  frozen: first", False),
        ("step 11: loss 0.31  frozen: first", False),
        ("step 10: loss nan  frozen: first", False),
        ("step 10: loss 0.31  frozen: second", False),
        ("step 10: loss 0.31  frozen: first\nstep 20: loss 0.1", False),
        ("", False),
    ],
)
def test_what_differs_is_noticed(printed, same):
    found = differences("step 10: loss 0.31  frozen: first", printed)
    assert (found == []) == same
