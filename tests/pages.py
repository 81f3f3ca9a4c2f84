"""A report's page, read: its words, its tables and figures, and what it would load."""

import re
from html.parser import HTMLParser
from pathlib import Path

_LOADING = {
    "script": ("src",), "link": ("href",), "img": ("src", "srcset"), "iframe": ("src",), "source": ("src",),
    "object": ("data",), "embed": ("src",), "use": ("href", "xlink:href"), "image": ("href", "xlink:href"),
}  # fmt: skip
_SILENT = ("script", "style", "svg")
_EMPTY = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """What a page holds.

    `text` are its words, without pictures, styles and scripts; `tables`, `figures` and `svgs` dictionaries of what
    matters for each; `loads` the addresses of what a browser would fetch, `links` those that can be followed;
    `pieces` the text of styles and pictures, in which addresses may hide.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.tables: list[dict] = []
        self.figures: list[dict] = []
        self.svgs: list[dict] = []
        self.headers: list[dict] = []
        self.open: list[str] = []
        self._words: list[str] = []
        self.feed(source)
        self.close()
        self.text = re.sub(r"\s+", " ", " ".join(self._words))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag not in _EMPTY:
            self.open.append(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.loads += [found[name] for name in _LOADING.get(tag, ()) if name in found]
        self.links += [found["href"]] if tag == "a" and "href" in found else []
        self.handlers += [name for name in found if name.startswith("on")]
        if tag == "table":
            self.tables.append({**found, "caption": "", "scroll": self.open[-2]})
        if tag == "figure":
            self.figures.append({**found, "caption": "", "label": ""})
        if tag == "svg":
            self.svgs.append({**found, "title": "", "desc": "", "text": 0})
        if tag == "text" and self.svgs:
            self.svgs[-1]["text"] += 1
        if tag == "th":
            self.headers.append(found)
        if self.figures and found.get("class") == "plot":
            self.figures[-1]["label"] = found["data-label"]

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        if "svg" in self.open and inside in ("title", "desc"):
            self.svgs[-1][inside] += data
        if inside == "caption":
            self.tables[-1]["caption"] += data
        if inside == "figcaption":
            self.figures[-1]["caption"] += data
        if not set(_SILENT) & set(self.open):
            self._words.append(data)


def page_of(path: Path) -> Page:
    """The page of a file."""
    return Page(path.read_text(encoding="utf-8"))


def without_scripts(source: str) -> str:
    """The source of a page without what its scripts hold."""
    return re.sub(r"<script\b.*?</script>", "", source, flags=re.DOTALL)


def without_pictures(source: str) -> str:
    """The source of a page without scripts and pictures."""
    return re.sub(r"<svg.*?</svg>", "", without_scripts(source), flags=re.DOTALL)
