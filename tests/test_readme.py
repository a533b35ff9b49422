"""Runs the Python blocks of README.md, in order, in one namespace."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def python_blocks(text):
    for block in re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        # Padded, so that a traceback names the line of README.md.
        yield "\n" * text.count("\n", 0, block.start(1)) + block[1]


def test_readme_code_runs_and_prints_what_it_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # what the code writes stays out of the clone
    blocks = list(python_blocks(README.read_text(encoding="utf-8")))
    assert blocks, "README.md has no ```python block"
    names = {"__name__": "readme"}
    for block in blocks:
        exec(compile(block, README, "exec"), names)
    shown = re.findall(
        r"^```text\n(.*?)^```$", README.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    assert shown == [capsys.readouterr().out]


def test_readme_commands_install_what_they_use():
    text = README.read_text(encoding="utf-8")
    commands = re.findall(r"^python -m pip install .*$", text, re.MULTILINE)
    assert commands == [
        'python -m pip install -e ".[experiments]" && python -m experiments study',
        'python -m pip install -e ".[dev]" && python -m pytest',
    ]
