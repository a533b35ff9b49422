"""A figure as text that can stand inside a page."""

import base64
import html
import io
import re
import urllib.parse
from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from .figures import INK, OF, SHADES, save

FONT = 'font-family="DejaVu Sans, sans-serif"'
TICK = "fill: currentColor; stroke: currentColor; stroke-width: 0.8"
OUTLINE = 500  # letters of a path that others use, at most, if it is of a marker
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def svg(page: Figure, prefix: str, description: str) -> str:
    """The figure as an SVG element that takes its ink from the page around it.

    What belongs to one policy is marked by the attribute data-policy.

    Args:
        page: the figure.
        prefix: put before every id, so that several can stand in one page.
        description: what it shows, for those who do not see it.
    """
    file = io.StringIO()
    save(page, file, format="svg", dpi=100, metadata=NO_METADATA)
    text = file.getvalue()
    text = _in_tags(text[text.index("<svg") :], lambda tag: _marked(tag, prefix))
    label = html.escape(description)
    told = f'role="img" aria-label="{label}" {FONT} fill="currentColor"'
    return _lean(text).replace("<svg", f"<svg {told}", 1)


def _in_tags(text: str, change: Callable[[str], str]) -> str:
    """Changes tags and comments, and no letter between them."""
    return re.sub(r"<!--.*?-->|<[^>]+>", lambda found: change(found[0]), text)


def _marked(tag: str, prefix: str) -> str:
    """With the policy in place of an id, or ids that are the figure's own."""
    if of_policy := re.fullmatch(f'<g id="{OF}(.+)">', tag):
        policy = html.escape(urllib.parse.unquote(of_policy[1]))
        return f'<g data-policy="{policy}">'
    tag = tag.replace(INK, "currentColor")
    return re.sub(r' id="|href="#|url\(#', lambda found: f"{found[0]}{prefix}-", tag)


def _lean(text: str) -> str:
    """The same picture in a third as many letters.

    Coordinates to a tenth of a point (places to a hundredth), lines without a letter
    for each of their points, no indentation, no ids that nothing uses, font and ink
    said once, by `svg`, and bitmaps of few colours.
    """
    text = _in_tags(text, _lean_tag)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = _in_tags(text, lambda tag: _without_unused(tag, used))
    return re.sub(r"\s*\n\s*", "\n", text)


def _without_unused(tag: str, used: set[str]) -> str:
    return re.sub(
        r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", tag
    )


def _lean_tag(tag: str) -> str:
    if tag.startswith("<!--"):
        return ""
    tag = re.sub(r' transform="rotate\(-0 [^"]*"', "", tag)
    tag = re.sub(r"font-family: [^;]*; ", "", tag)
    tag = re.sub(rf'^(<use .*) style="{TICK}"', r"\1", tag)  # its path says it too
    tag = tag.replace("; fill: currentColor", "")
    tag = re.sub(
        r' (?:x|y|transform)="[^"]+"',
        lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]),
        tag,
    )
    if ' id="' not in tag or len(tag) > OUTLINE:
        tag = re.sub(r' d="[^"]+"', lambda found: _lean_path(found[0]), tag)
    return re.sub(r"(?<=image/png;base64,)[^\"]+", lambda f: _few_colours(f[0]), tag)


def _lean_path(path: str) -> str:
    """Where one line follows another, SVG takes the point alone."""
    path = re.sub(r"(\.\d)\d+", r"\1", path)
    return re.sub(r"(?<=[ML])([^A-Za-z]+)L", r"\1", path)


def _few_colours(png: str) -> str:
    """The bitmap with a palette if that is shorter: exact, but for blurred lines."""
    image = Image.open(io.BytesIO(base64.b64decode(png)))
    pixels = np.asarray(image).reshape(-1, 4)
    colours, indices = np.unique(pixels, axis=0, return_inverse=True)
    if len(colours) <= 256:
        told = Image.frombytes("P", image.size, indices.astype(np.uint8).tobytes())
        told.putpalette(colours.tobytes(), "RGBA")
    else:
        told = image.quantize(SHADES, Image.Quantize.FASTOCTREE)
    file = io.BytesIO()
    told.save(file, "png", optimize=True)
    return min(png, base64.b64encode(file.getvalue()).decode(), key=len)
