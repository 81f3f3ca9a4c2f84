"""The report in a real browser: narrow and wide, light and dark, on paper, and as a screen reader is given it."""

import base64
import time

import pytest

from raydual.report import write_report
from raydual.report.cells import write_comparison
from raydual.report.compared import Compared
from raydual.run_directory.directory import measurement_table
from raydual.run_directory.storage import storage_at
from raydual.statistics.reduce import reduce_run

from .browser import PATIENCE, browser
from .pages import page_of
from .synthetic import control_rows, synthetic_run

pytestmark = pytest.mark.slow

TALL = 30000
BEYOND = """[...document.body.querySelectorAll('*')].filter(one => {
  const box = one.getBoundingClientRect();
  return box.width && !one.closest('.quiet, .stack thead, svg *') && (box.right > innerWidth + 1 || box.left < -1);
}).map(one => one.tagName + ' ' + one.className + ' ' + one.textContent.slice(0, 40))"""
SHOWN = "[...document.querySelectorAll('.plot svg text')].filter(one => one.getBoundingClientRect().width)"
CUT = f"""{SHOWN}.filter(one => {{
  const box = one.getBoundingClientRect(), svg = one.ownerSVGElement.getBoundingClientRect();
  return box.left < svg.left - 1 || box.right > svg.right + 1;
}}).map(one => one.textContent)"""
SMALL = """[...document.body.querySelectorAll('*')].filter(one => {
  const own = [...one.childNodes].some(node => node.nodeType === 3 && node.data.trim());
  const silent = ['SCRIPT', 'STYLE', 'title', 'desc'].includes(one.tagName);
  if (!own || silent || !one.getBoundingClientRect().width) return false;
  const turned = one.ownerSVGElement ? one.getScreenCTM() : { a: 1, b: 0 };
  const scale = Math.hypot(turned.a, turned.b);
  return parseFloat(getComputedStyle(one).fontSize) * scale < 9;
}).map(one => one.tagName + ' ' + one.textContent.slice(0, 40))"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    runs = {}
    for name in ("one", "two"):
        run = synthetic_run(folder / name, 9, 6, (4,), data="embedded", model="embedded", search=True)
        for control in ("random_step", "untrained", "labels_flipped", "layer_causal"):
            run.write_measurements(measurement_table(control_rows(control, 0.3, 9, 6)))
        reduce_run(run)
        write_report(run)
        runs[name] = run
    target = storage_at(folder / "both")
    target.make("figures")
    return {"run": runs["one"].report_file, "runs compared": write_comparison(Compared.of_runs(runs), target)}


@pytest.fixture(scope="module")
def opened():
    with browser() as found:
        yield found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 800, 1400, 2000])
@pytest.mark.parametrize("kind", ["run", "runs compared"])
def test_everything_fits_and_can_be_read(pages, opened, kind, width, scheme):
    opened.show(pages[kind], width, TALL, scheme)
    assert opened.run("document.documentElement.scrollWidth") <= width
    assert opened.run(BEYOND) == []
    assert opened.run(SMALL) == []
    assert opened.run(CUT) == []
    assert opened.complaints() == []
    dark = opened.run("getComputedStyle(document.body).backgroundColor") != "rgb(245, 246, 248)"
    assert dark == (scheme == "dark")


@pytest.mark.parametrize("kind", ["run", "runs compared"])
@pytest.mark.parametrize("width", [390, 1400])
def test_a_screen_reader_is_given_every_figure_and_table_by_name(pages, opened, kind, width):
    page = page_of(pages[kind])
    opened.show(pages[kind], width, TALL, "light")
    tree = opened.tree()
    for role, names in (
        ("table", [one["caption"] for one in page.tables]),
        ("figure", [one["caption"] for one in page.figures]),
        ("image", [one["label"] for one in page.figures if "moving" not in one.get("class", "")]),
    ):
        assert sorted(name for found, name in tree if found == role) == sorted(names), role
    assert sum(role == "columnheader" for role, _ in tree) >= len(page.tables)


def test_what_moves_moves(pages, opened):
    opened.show(pages["run"], 1400, TALL, "light")
    shown = "[...document.querySelectorAll('#numbers tbody tr')].filter(row => !row.hidden).length"
    everything = opened.run(shown)
    select = "const s = document.getElementById('metric'); s.value = name"
    pick = f"(name => {{ {select}; s.dispatchEvent(new Event('change')) }})"
    opened.run(f"{pick}('simdual')")
    assert opened.run(shown) == 1 < everything
    opened.run(f"{pick}('')")
    number = "parseFloat(row.cells[1].innerText.replace('−', '-'))"
    means = f"[...document.querySelectorAll('#numbers tbody tr')].map(row => {number})"
    before = opened.run(means)
    opened.run("document.querySelectorAll('#numbers thead button')[1].click()")
    assert opened.run(means) == sorted(before) != before
    assert opened.run("document.querySelectorAll('.vega-bindings select').length") == 2


def test_without_scripts_the_pictures_stand(pages, opened):
    opened.ask("Emulation.setScriptExecutionDisabled", value=True)
    try:
        opened.ask("Page.navigate", url=pages["run"].as_uri())
        expected, end = {one["title"] for one in page_of(pages["run"]).svgs}, time.monotonic() + PATIENCE
        while not expected <= {name for role, name in opened.tree() if role == "image"}:
            assert time.monotonic() < end, "pictures are missing"
        assert opened.run(f"{SHOWN}.length") > 100
        assert opened.run(CUT) == []
    finally:
        opened.ask("Emulation.setScriptExecutionDisabled", value=False)


def test_it_can_be_printed(pages, opened):
    opened.show(pages["run"], 1400, TALL, "dark")
    opened.ask(
        "Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}]
    )
    opened.ask("Emulation.setDeviceMetricsOverride", width=700, height=TALL, deviceScaleFactor=1, mobile=False)
    assert opened.run(BEYOND) == []
    assert opened.run("document.documentElement.scrollWidth") <= 700
    assert opened.run("getComputedStyle(document.documentElement).getPropertyValue('--ink').trim()") == "#1b2330"
    pdf = base64.b64decode(opened.ask("Page.printToPDF", printBackground=True)["data"])
    opened.ask("Emulation.setEmulatedMedia", media="")
    assert pdf.startswith(b"%PDF")
    assert len(pdf) > 50_000
