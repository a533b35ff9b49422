"""Prints pip constraints that pin every dependency to its floor in pyproject.toml."""

import re
import tomllib
from itertools import chain
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"].values()
for requirement in chain(project["dependencies"], *extras):
    if requirement.startswith(f"{project['name']}["):
        continue  # an extra that includes another one
    floor = re.fullmatch(r"([\w-]+)(\[\w+\])?>=([\d.]+)", requirement)
    if floor is None:
        raise SystemExit(f"expected a requirement 'name>=version', got {requirement!r}")
    print(f"{floor[1]}=={floor[3]}")
