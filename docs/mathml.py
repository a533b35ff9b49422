"""Sphinx extension: equations as MathML, which browsers draw without any script."""

import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)


def setup(app: Sphinx) -> dict[str, bool]:
    """Makes `html_math_renderer = "mathml"` known."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    app.add_css_file("mathml.css")
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def visit_inline(translator: HTML5Translator, node: nodes.math) -> None:
    """Writes an equation within a line."""
    translator.body.append(mathml(node, as_block=False))
    raise nodes.SkipNode


def visit_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    """Writes an equation of its own; one too wide for the screen can be pushed."""
    translator.body.append(f'<div class="math">{mathml(node, as_block=True)}</div>\n')
    raise nodes.SkipNode


def mathml(node: nodes.Element, as_block: bool) -> str:
    """The equation of a node; what docutils cannot read is a warning of the build."""
    equation = re.sub("'+", _primes, node.astext())  # as TeX has them
    try:
        written = tex2mathml(equation, as_block=as_block)
    except MathError as error:
        logger.warning("%s: %s", error, equation, location=node)
        return ""
    # To MathML they stretch, one with an exponent does not: two sizes in a pair.
    fence = '<mo stretchy="false" lspace="0" rspace="0">'
    return re.sub("<mo[^>]*>([‖|⟨⟩])</mo>", rf"{fence}\1</mo>", written)


def _primes(found: re.Match[str]) -> str:
    """One superscript for all in a row."""
    return "^{" + r"\prime " * len(found[0]) + "}"
