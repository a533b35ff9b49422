"""Builds the site of the documentation: `python -m sphinx -W -n docs docs/_build`.

A page of the site asks for nothing but files beside it, so that it reads the same on a
machine without a network: no fonts and no scripts from elsewhere, equations as MathML.
"""

import sys
from pathlib import Path

from sphinx.application import Sphinx

import optax_llr

sys.path.append(str(Path(__file__).parent))

project = "optax_llr"
release = version = optax_llr.__version__
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "docstrings",
    "mathml",
]
exclude_patterns = ["_build"]
nb_execution_mode = "force"  # the tour is run each time the site is built
nb_execution_raise_on_error = True
nb_execution_timeout = 300
smartquotes_action = "D"  # dashes; quotes are typed as they are meant
myst_heading_anchors = 2  # pages link to headings by the names that GitHub gives them

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
# JAX's aliases would be written out, ten types for an `ArrayLike`; what may be given is
# said with each argument.
autodoc_typehints = "none"
napoleon_attr_annotations = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_math_renderer = "mathml"
html_title = f"optax_llr {version}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_show_copyright = False
html_show_sourcelink = False


def setup(app: Sphinx) -> None:
    """Makes pages of what stands outside of docs/."""
    app.connect("source-read", pages_from_elsewhere)


def pages_from_elsewhere(app: Sphinx, page: str, source: list[str]) -> None:
    """Leads links, which work where files are read, to the pages of the site."""
    if page == "run_experiments":
        readme = Path(__file__).parents[1] / "experiments" / "README.md"
        source[0] = readme.read_text(encoding="utf-8").replace("](../docs/", "](")
    source[0] = source[0].replace("](../benchmarks/README.md", "](benchmarks.md")
