"""From measured rows to the summary and the report: the numbers of pandas, whatever the files and wherever they lie."""

import html
import json
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from raydual.catalogue.entries import CONDITIONS, OVERALL
from raydual.errors import UserError
from raydual.report import write_report
from raydual.report.__main__ import main
from raydual.report.console import headline_lines
from raydual.report.words import digits_of, number
from raydual.run_directory.directory import FAILED, MEASUREMENTS, RunDirectory, measurement_table
from raydual.statistics.reduce import reduce_run

from .default_catalogue import CATALOGUE
from .pages import Page, without_pictures, without_scripts
from .synthetic import REASON, synthetic_rows, synthetic_run

pytestmark = pytest.mark.long

SEEDS, LAYERS, GONE = 11, 5, (4,)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with its summary and report; tests leave it as it is."""
    found = synthetic_run(tmp_path_factory.mktemp("run") / "synthetic", SEEDS, LAYERS, GONE)
    reduce_run(found)
    write_report(found)
    return found


def report_of(run: RunDirectory) -> str:
    reduce_run(run)
    return write_report(run).read_text(encoding="utf-8")


# The summary


def test_the_summary_is_what_pandas_finds(run):
    rows = run.measured(MEASUREMENTS.names).to_pandas()
    key = ["metric", "condition", "control", "layer"]
    groups = rows[rows.metric != FAILED].groupby(key)["value"]
    expected = groups.describe().rename(
        columns={"25%": "q25", "50%": "median", "75%": "q75", "count": "n", "std": "sd"}
    )
    expected["undefined"] = groups.size() - groups.count()
    found = run.summary().to_pandas().set_index(key).sort_index()
    assert found.index.equals(expected.sort_index().index)
    for column in expected:
        np.testing.assert_allclose(found[column], expected.sort_index()[column], rtol=1e-12, atol=1e-12, err_msg=column)
    assert (found.failed == len(GONE)).all()
    assert (found.undefined > 0).any()
    assert (found.n + found.undefined + found.failed == SEEDS).all()


def test_the_summary_has_every_metric_condition_and_layer_in_the_order_of_the_catalogue(run):
    found = [(row["metric"], row["condition"], row["layer"]) for row in run.summary().to_pylist()]
    expected = [
        (metric.name, condition, layer)
        for metric in CATALOGUE.values()
        for condition in metric.conditions_with_labels(2)
        for layer in range(OVERALL, LAYERS if metric.per_layer else 0)
    ]
    assert found == expected


def test_each_interval_holds_its_mean(run):
    rows = [row for row in run.summary().to_pylist() if row["n"] > 4]
    assert all(row["min"] <= row["ci_low"] <= row["mean"] <= row["ci_high"] <= row["max"] for row in rows)


@pytest.mark.parametrize(("per_file", "shuffle"), [(1, None), (SEEDS, 5), (4, 9)])
def test_the_summary_depends_on_neither_files_nor_the_order_of_rows(run, tmp_path, per_file, shuffle):
    other = synthetic_run(tmp_path / "r", SEEDS, LAYERS, GONE, seeds_per_file=per_file, shuffle=shuffle)
    assert reduce_run(other).equals(run.summary())
    for name in ("summary.parquet", "summary.json"):
        assert (other.path / name).read_bytes() == (run.path / name).read_bytes()


def test_other_values_or_other_noise_make_another_summary(run, tmp_path):
    fewer = synthetic_run(tmp_path / "r", SEEDS, LAYERS, failed=(4, 5))
    assert not reduce_run(fewer).equals(run.summary())
    again = tmp_path / "again"
    shutil.copytree(run.path, again)
    config = again / "config.yaml"
    changed = re.sub(r"noise_seed: 0", "noise_seed: 1", config.read_text(encoding="utf-8"))
    config.write_text(changed, encoding="utf-8")
    other, same = reduce_run(RunDirectory(again)).to_pandas(), run.summary().to_pandas()
    assert (other["mean"].dropna() == same["mean"].dropna()).all()
    assert (other["ci_low"] != same["ci_low"]).mean() > 0.5


def test_the_summary_as_json_holds_the_overall_numbers_and_who_failed(run):
    found = json.loads((run.path / "summary.json").read_text(encoding="utf-8"))
    assert found["seeds"] == {
        "asked": SEEDS,
        "measured": SEEDS - len(GONE),
        "failed": [{"seed": 4, "control": "none", "reason": REASON}],
    }
    overall = [row for row in run.summary().to_pylist() if row["layer"] == OVERALL]
    for own, row in zip(found["metrics"], overall, strict=True):
        assert own["label"] == CATALOGUE[row["metric"]].label
        assert all(own[key] == row[key] for key in own if key != "label")


def test_undefined_numbers_are_null_in_json(tmp_path):
    one = synthetic_run(tmp_path / "one", seeds=1, layers=1, failed=())
    reduce_run(one)
    text = (one.path / "summary.json").read_text(encoding="utf-8")
    assert "NaN" not in text
    assert all(metric["sd"] is None and metric["ci_low"] is None for metric in json.loads(text)["metrics"])


# The report


def test_the_report_has_every_headline_number_as_formatted(run):
    page = run.report_file.read_text(encoding="utf-8")
    text = without_pictures(page)
    text = text[text.index('<section id="numbers">') :]
    for row in run.summary().to_pylist():
        metric = CATALOGUE[row["metric"]]
        if row["layer"] != OVERALL or not metric.headline:
            continue
        label, condition = re.escape(metric.label.replace("'", "&#39;")), CONDITIONS[row["condition"]]
        cells = rf'<th scope="row">{label}<small>{condition}</small>'
        line = re.search(rf"{cells}.*?</tr>", text, flags=re.DOTALL)
        assert line, metric.label
        for name in ("mean", "ci_low", "ci_high", "sd", "median", "min", "max"):
            assert number(row[name], digits_of(metric)) in line[0], (metric.label, name)
        assert f">{row['n']}" in line[0]
        for name, condition in metric.baselines:
            if (name, condition) != (metric.name, row["condition"]):
                base = next(
                    r for r in run.summary().to_pylist()
                    if (r["metric"], r["condition"], r["layer"]) == (name, condition, OVERALL)
                )  # fmt: skip
                assert number(base["mean"], digits_of(metric)) in line[0]


def test_the_report_names_who_failed_and_what_was_run(run):
    page = run.report_file.read_text(encoding="utf-8")
    for part in ("1 failed", REASON, "10 measured", "learning rate 0.01", "1 node, 16 CPU, 1 GPU", "measure 6"):
        assert part in page
    assert "1 undefined" in page


def test_numbers_are_written_for_people():
    assert [number(value) for value in (0.12345, -0.5, float("nan"), None)] == ["0.123", "−0.500", "-", "-"]


def assert_self_contained(run: RunDirectory) -> None:
    pictures = sorted(run.figures.glob("*.svg"))
    assert len(pictures) >= 3
    assert [path.with_suffix(".csv") for path in pictures] == sorted(run.figures.glob("*.csv"))
    assert run.report_file.stat().st_size < 5_000_000
    for path in (run.report_file, *pictures):
        source = path.read_text(encoding="utf-8")
        page, still = Page(source), without_scripts(source)
        assert page.loads == []
        assert page.handlers == []
        assert all(link.startswith("#") for link in page.links)
        addresses = set(re.findall(r"https?://[^\s\"'<>)]+", still))
        assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
        assert not re.search(r"@import|url\((?!#)", still)


def test_the_report_is_one_page_that_needs_nothing_else(run):
    assert_self_contained(run)
    assert str(run.path) not in run.report_file.read_text(encoding="utf-8")


def files_of(run: RunDirectory) -> dict[str, bytes]:
    paths = (run.report_file, run.summary_file, run.path / "summary.json", *sorted(run.figures.glob("*")))
    return {path.name: path.read_bytes() for path in paths}


def test_the_report_is_the_same_bytes_each_time_and_wherever_the_run_lies(run, tmp_path):
    before = files_of(run)
    moved = RunDirectory(tmp_path / "elsewhere" / "renamed")
    shutil.copytree(run.path, moved.path)
    for path in (moved.report_file, moved.summary_file):
        path.unlink()
    assert main([str(moved.path)]) == 0
    assert files_of(moved) == before


@pytest.mark.parametrize(
    ("seeds", "layers", "failed"),
    [(3, 2, (0, 1, 2)), (1, 3, ()), (1, 2, (0,)), (2, 1, ()), (5, 64, (1,))],
    ids=["all failed", "one seed", "one seed, failed", "one layer", "64 layers"],
)
def test_a_report_is_made_of_a_run_of_any_size(tmp_path, seeds, layers, failed):
    run = synthetic_run(tmp_path / "r", seeds, layers, failed)
    page = report_of(run)
    assert_self_contained(run)
    assert not re.search(r"\bnan\b", without_scripts(page).lower())
    assert f"{seeds - len(failed)} measured" in page
    assert ("No seed was measured" in page) == (seeds == len(failed))
    assert ("one seed: no number here has an interval" in page) == (seeds - len(failed) == 1)
    assert len(list(headline_lines(run))) > 0


@pytest.mark.parametrize(("search", "manifest"), [(False, True), (True, False), (False, False)])
def test_a_report_is_made_without_a_search_and_of_an_unfinished_run(tmp_path, search, manifest):
    run = synthetic_run(tmp_path / "r", 3, 2, (), search=search, manifest=manifest)
    page = report_of(run)
    assert ("What the search tried" in page) == search
    assert (run.figures / "search-seeds.svg").is_file() == (run.figures / "search-settings.csv").is_file() == search
    assert ("<dt>Finished" in page) == manifest
    assert_self_contained(run)


@pytest.mark.parametrize("gone", ["seeds", "finetune"])
def test_a_report_is_made_of_a_search_over_one_thing(tmp_path, gone):
    run = synthetic_run(tmp_path / "r", 3, 2, ())
    (run.search / f"{gone}.parquet").unlink()
    assert "What the search tried" in report_of(run)


def test_text_of_the_users_is_no_markup(tmp_path):
    run = synthetic_run(tmp_path / "r", 2, 1, ())
    stored = run.config_file.read_text(encoding="utf-8")
    run.config_file.write_text(stored.replace("Sentence: {text}", "<script>{text}</script>"), encoding="utf-8")
    page = report_of(run)
    assert "&lt;script&gt;" in page
    assert "<script>{text}" not in page


@pytest.mark.parametrize("model", ["embedded", "Qwen/Qwen3-0.6B-Base"])
def test_the_report_says_on_top_that_the_embedded_model_is_a_toy_and_of_others_it_does_not(tmp_path, model):
    run = synthetic_run(tmp_path / "r", 2, 1, ())
    stored = run.config_file.read_text(encoding="utf-8")
    run.config_file.write_text(stored.replace("model: embedded", f"model: {model}"), encoding="utf-8")
    page = report_of(run)
    said = "its numbers say nothing about language models"
    assert page.count(said) == (model == "embedded")
    assert said not in page[page.index("What was found") :]


def test_the_console_has_a_line_for_each_headline_number(run):
    lines = list(headline_lines(run))
    headline = [(m, c) for m in CATALOGUE.values() if m.headline for c in m.conditions]
    assert len(lines) == 1 + len(headline)
    rows = {(row["metric"], row["condition"]): row for row in run.summary().to_pylist() if row["layer"] == OVERALL}
    for line, (metric, condition) in zip(lines[1:], headline, strict=True):
        row = rows[metric.name, condition]
        assert line.startswith(metric.label)
        assert number(row["mean"], digits_of(metric)) in line
        assert line.split()[-1] == str(row["n"])


# What is missing


@pytest.mark.parametrize("content", [None, b"", b"PAR1 broken"])
def test_a_missing_or_broken_summary_is_named(tmp_path, content):
    run = synthetic_run(tmp_path / "r", 2, 1, ())
    if content is not None:
        run.summary_file.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(run.summary_file))) as error:
        write_report(run)
    assert "`raydual report" in str(error.value)


def test_the_command_makes_the_summary_and_the_report_and_says_where(tmp_path, capsys):
    run = synthetic_run(tmp_path / "r", 2, 1, ())
    assert main([str(run.path)]) == 0
    assert capsys.readouterr().out.strip() == str(run.report_file)
    assert run.report_file.is_file()
    assert pq.read_table(run.summary_file).num_rows > 0


@pytest.mark.parametrize("there", [True, False])
def test_the_command_refuses_what_is_no_run(tmp_path, capsys, there):
    path = tmp_path / "nothing"
    if there:
        path.mkdir()
    assert main([str(path)]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"error: {path}: not a run directory")
    assert not said.out


def test_a_broken_file_of_measurements_is_named(tmp_path, capsys):
    run = synthetic_run(tmp_path / "r", 2, 1, ())
    broken = next(run.measurements.glob("*.parquet"))
    broken.write_bytes(b"PAR1 broken")
    assert main([str(run.path)]) == 2
    assert str(broken) in capsys.readouterr().err


def test_a_run_that_was_stopped_before_its_first_seed_says_so(tmp_path):
    run = synthetic_run(tmp_path / "r", 2, 1, (), manifest=False)
    for file in run.measurements.glob("*.parquet"):
        file.unlink()
    assert main([str(run.path)]) == 0
    assert "No seed was measured" in run.report_file.read_text(encoding="utf-8")
    assert run.summary().num_rows == 0


def test_every_metric_of_the_catalogue_can_be_looked_up(run):
    page = run.report_file.read_text(encoding="utf-8")
    for metric in CATALOGUE.values():
        assert html.escape(metric.description, quote=False).replace("'", "&#39;") in page


# Several runs


def test_runs_are_compared_from_their_files_which_stay_as_they_are(tmp_path, capsys):
    runs = [synthetic_run(tmp_path / name, 8, 2, (), manifest=False, name=name) for name in ("one", "two")]
    for file in runs[1].measurements.glob("*.parquet"):
        file.unlink()
    rows = [{**row, "value": row["value"] + 0.2} for row in synthetic_rows(8, 2, ()) if row["seed"] != 5]
    runs[1].write_measurements(measurement_table(rows))
    for run in runs:
        reduce_run(run)
    before = [sorted((path, path.stat().st_mtime_ns) for path in run.path.rglob("*")) for run in runs]
    assert main([*(str(run.path) for run in runs), "--into", str(tmp_path / "both")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "both" / "report.html")
    page = Page((tmp_path / "both" / "report.html").read_text(encoding="utf-8"))
    assert "2 runs: run one, two." in page.text
    assert re.search(r"SimDual, in-context against fine-tuned: from [^;]* at run one to [^;]* at two ", page.text)
    assert re.search(r"run two .*? 0\.200 ▲ above .{0,40}\(p = 0\.\d+\), n = 7", page.text)
    assert page.loads == page.links[:0]
    assert before == [sorted((path, path.stat().st_mtime_ns) for path in run.path.rglob("*")) for run in runs]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("a", "b"), "with --into DIR"),
        (("a", "a", "--into", "c"), "named twice"),
        (("a", "b", "--into", "c"), "b: not"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_line(tmp_path, capsys, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    reduce_run(synthetic_run("a", 2, 1, ()))
    assert main(list(arguments)) == 2
    told = capsys.readouterr().err
    assert said in told
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "c").exists()
