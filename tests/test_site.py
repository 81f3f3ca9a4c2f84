"""The documentation site is built from README, docs and docstrings, without a warning and without network."""

import re
import subprocess
import sys

import pytest

import raydual

from .sweeping import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site."""
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package, reason="the extra `docs` is not installed")
    folder = tmp_path_factory.mktemp("site")
    # A proxy that refuses every connection stands for a machine without network.
    environment = {
        "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "https_proxy": "http://127.0.0.1:9",
        "NO_MKDOCS_2_WARNING": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.long
def test_every_public_name_has_its_docstring_in_the_site(site):
    page = (site / "reference" / "index.html").read_text(encoding="utf-8")
    headings = set(re.findall(r'<h2 id="raydual\.[\w.]*\.(\w+)"', page))
    assert set(raydual.__all__) - headings - {"__version__"} == set()


@pytest.mark.long
def test_pages_ask_no_other_host_for_anything(site):
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert re.findall(r'<(?:script|img|link rel="stylesheet")[^>]*(?:src|href)="https?://[^"]*"', text) == []
        assert "fonts.googleapis" not in text
