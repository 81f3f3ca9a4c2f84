"""What `mkdocs` builds the site from: README, docs and docstrings, put together in a folder for a while."""

import re
import shutil
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "README.md": "index.md",
    "sweeps/README.md": "sweeps.md",
    "raydual/embedded/README.md": "embedded.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages that lie outside `docs/`, and what the site calls them."""
_LINK = re.compile(r"(?<!\!)\[([^\]]+)\]\(([^)\s]+)\)")
_IMAGE = re.compile(r"!\[([^\]]*)\]\((?!https?:)(?:docs/)?([^)\s]+)\)")
_made: list[Path] = []


def on_config(config: Any) -> Any:
    """Put the pages together."""
    folder = Path(tempfile.mkdtemp(prefix="raydual-site-"))
    _made.append(folder)
    assemble(folder)
    config["docs_dir"] = str(folder)
    return config


def on_shutdown() -> None:
    """Remove them."""
    while _made:
        shutil.rmtree(_made.pop(), ignore_errors=True)


def assemble(folder: Path) -> None:
    """Write every page, its links leading to pages of the site; what is no page is named without a link."""
    sources = {**{f"docs/{path.name}": path.name for path in (ROOT / "docs").glob("*.md")}, **PAGES}
    for source, target in sources.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        text = _LINK.sub(lambda link, source=source: _relinked(link, source, sources), text)
        (folder / target).write_text(_IMAGE.sub(r"![\1](\2)", text), encoding="utf-8")
    for image in (ROOT / "docs").glob("*.png"):
        shutil.copy(image, folder)
    (folder / "reference.md").write_text(reference(), encoding="utf-8")


def _relinked(link: re.Match[str], source: str, sources: dict[str, str]) -> str:
    words, address = link[1], link[2]
    if re.match(r"https?:|#|mailto:", address):
        return link[0]
    path, _, anchor = address.partition("#")
    parts: list[str] = []
    for part in (PurePosixPath(source).parent / path).parts:
        parts = parts[:-1] if part == ".." else [*parts, part]
    place = "/".join(parts)
    target = sources.get(place) or sources.get(f"{place}/README.md")
    return f"[{words}]({target}{'#' * bool(anchor)}{anchor})" if target else words


def reference() -> str:
    """The page of the programmatic interface: every public name, where it is defined."""
    import raydual

    lines = ["# Python reference", "", "Every name can be had as `raydual.NAME`.", ""]
    for name, module in sorted(raydual._WHERE.items(), key=lambda item: item[0].lower()):
        lines += [f"::: {module}.{name}", ""]
    return "\n".join(lines)
