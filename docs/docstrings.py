"""Sphinx extension: docstrings of the library as they are meant.

`name` links to what the library documents. A property's first line has no type in front
of its colon. A named tuple shows its fields, with the comments that its source has.
"""

import ast
import inspect
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment


def setup(app: Sphinx) -> dict[str, bool]:
    """Connects what is below."""
    app.connect("config-inited", backticks_are_names)
    app.connect("missing-reference", name_of_the_library)
    app.connect("warn-missing-reference", any_other_name)
    # Before Napoleon, which would take "(L,): how far" for a type.
    app.connect("autodoc-process-docstring", property_without_type, priority=400)
    app.connect("autodoc-process-docstring", fields_of_named_tuple)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def backticks_are_names(app: Sphinx, config: Any) -> None:
    """Reads single backticks as the name of an object."""
    config.default_role = "py:obj"


def name_of_the_library(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """Finds a public name also from within another module of the library."""
    domain = env.domains.python_domain
    for module in ("optax_llr", "optax_llr.rules"):
        target = f"{module}.{node['reftarget']}"
        if node["reftype"] == "obj" and target in domain.objects:
            return domain.resolve_xref(
                env, node["refdoc"], app.builder, "obj", target, node, content
            )
    return None


def any_other_name(app: Sphinx, domain: Any, node: pending_xref) -> bool | None:
    """Lets arguments, values and names of Optax and JAX be code without a link."""
    return True if node["reftype"] == "obj" else None


def property_without_type(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Puts a comment first, as Napoleon looks for a type in the first line alone."""
    if what == "property":
        lines[:0] = ["..", ""]


def fields_of_named_tuple(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Adds the fields, a line of the source each."""
    if what != "class" or not hasattr(obj, "_fields"):
        return
    source = inspect.getsource(obj)
    written = source.replace("# pyright: ignore  ", "").splitlines()
    parts = ast.walk(ast.parse(source))
    rows = [part.lineno - 1 for part in parts if isinstance(part, ast.AnnAssign)]
    lines += [".. code-block:: python", "", *(written[row] for row in rows), ""]
