"""Check the built site: links, anchors, pictures, search, and that pages load nothing from the network.

python docs/check_site.py docs/_build/html
"""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: Attributes of tags that make a browser load a file.
LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}
#: Relations of links that load nothing.
SAID = {"canonical", "author", "license", "next", "prev", "index", "search"}


class Page(HTMLParser):
    """The links, the loaded files and the anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag in LOADED and given.get(LOADED[tag]) and not SAID & set(given.get("rel", "").split()):
            self.loads.append(given[LOADED[tag]])


def faults(site: Path) -> list[str]:
    """One line for each fault."""
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    found = [] if pages else [f"{site} has no pages"]
    for path, page in pages.items():
        name = path.relative_to(site)
        found += [f"{name}: link to {link}" for link in page.links if not _leads(path, link, pages)]
        found += [f"{name}: loads {url}" for url in page.loads if not _is_here(path, url)]
    for path in site.rglob("*.css"):
        fetched = re.findall(r"(?:@import|url\()\s*[\"']?(https?:[^\"')]+)", path.read_text(encoding="utf-8"))
        found += [f"{path.relative_to(site)}: loads {url}" for url in fetched]
    return found + _search(site)


def _leads(path: Path, link: str, pages: dict[Path, Page]) -> bool:
    """Whether a link leads to a page of the site, and to an anchor of it; links elsewhere are not followed."""
    parts = urlsplit(link)
    if parts.scheme in ("http", "https", "mailto", "data"):
        return True
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_file():
        return False
    by_script = "interactive" in target.parts or target.suffix != ".html"
    return not parts.fragment or by_script or unquote(parts.fragment) in pages[target].anchors


def _is_here(path: Path, url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "data" or (
        not parts.scheme and not parts.netloc and (path.parent / unquote(parts.path)).is_file()
    )


def _search(site: Path) -> list[str]:
    """Faults of the search index, which must contain every section, because the search works without a network."""
    index = site / "searchindex.js"
    if not index.is_file():
        return ["there is no index of words for the search"]
    known = json.loads(index.read_text(encoding="utf-8").partition("(")[2].rpartition(")")[0])
    names = set(known["docnames"])
    return [f"the search does not know {name}" for name in ("start", "choose", "ja/start") if name not in names]


if __name__ == "__main__":
    wrong = faults(Path(sys.argv[1]).resolve())
    sys.stdout.write("".join(f"{line}\n" for line in wrong))
    sys.exit(bool(wrong))
