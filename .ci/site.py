"""Fails if a page of a built site loads anything from elsewhere: `site.py FOLDER`."""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

ELSEWHERE = re.compile(r"\s*(https?:)?//")
LOADED = ("src", "srcset", "data", "poster")
LINKS = ("href", "xlink:href")
IN_STYLES = re.compile(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\s\"')]*)")


class Page(HTMLParser):
    """Gathers what a browser loads by itself; what one clicks on may lead elsewhere."""

    def __init__(self, text: str):
        super().__init__()
        self.elsewhere = IN_STYLES.findall(text)
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Looks at all addresses of a tag but those of links in the text."""
        for name, value in attrs:
            loads = name in LOADED or (name in LINKS and tag not in ("a", "area"))
            if loads and ELSEWHERE.match(value or ""):
                self.elsewhere.append(f"<{tag} {name}={value!r}>")


folder = Path(sys.argv[1])
pages = sorted(folder.rglob("*.html"))
if not pages:
    raise SystemExit(f"expected the pages of a site in {folder}, found none")
found = {path: Page(path.read_text(encoding="utf-8")).elsewhere for path in pages}
for path in folder.rglob("*.css"):
    found[path] = IN_STYLES.findall(path.read_text(encoding="utf-8"))
faults = [f"{path}: loads {it}" for path, several in found.items() for it in several]
if faults:
    raise SystemExit("\n".join(["expected a site that needs no network", *faults]))
print(f"{len(pages)} pages, which load nothing from elsewhere")
