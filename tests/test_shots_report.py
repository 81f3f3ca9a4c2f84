"""Numbers after fewer demonstrations: how they are stored, reduced beside each other, and shown."""

import json
import re

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from raydual.commands.program import main
from raydual.report import write_report
from raydual.report.data import RunData
from raydual.report.shots import shots_charts, shots_table
from raydual.run_directory.directory import COMPARISONS, MEASUREMENTS, SUMMARY, RunDirectory, measurement_table
from raydual.statistics.reduce import reduce_run

from .pages import without_pictures
from .synthetic import control_rows, synthetic_rows, synthetic_run
from .tiny import LABELS, TEMPLATE, save_tiny, tiny_examples

SEEDS, LAYERS, K, SHOTS = 9, 2, 8, (2, 4)
RESAMPLES = {"resamples": 200}


def shifted(rows, shots):
    """Rows whose values depend on the number of demonstrations."""
    return [{**row, "shots": shots, "value": row["value"] * (1 + shots / 10)} for row in rows]


def values_at(shots):
    control = control_rows("random_step", 0.3, SEEDS, LAYERS)
    return shifted([*synthetic_rows(SEEDS, LAYERS, ()), *control], shots)


def run_at(folder, numbers, **measures):
    """A run with values after each of these numbers of demonstrations."""
    run = synthetic_run(
        folder, SEEDS, LAYERS, (), manifest=False, demonstrations=numbers[-1], measures={**RESAMPLES, **measures}
    )
    for path in run.measurements.glob("*.parquet"):
        path.unlink()
    for seed in range(SEEDS):
        rows = [row for k in numbers for row in values_at(k) if row["seed"] == seed]
        run.write_measurements(measurement_table(rows))
    reduce_run(run)
    return run


@pytest.fixture(scope="module")
def curve(tmp_path_factory):
    return run_at(tmp_path_factory.mktemp("curve") / "r", [*SHOTS, K], shots=list(SHOTS))


def rows_of(table, shots=None):
    table = table if shots is None else table.filter(pc.field("shots") == shots)
    return [str({**row, "shots": None}) for row in table.to_pylist()]


@pytest.mark.parametrize("shots", [*SHOTS, K])
def test_each_number_is_reduced_as_a_run_of_its_own_would_be(tmp_path, curve, shots):
    alone = run_at(tmp_path / "r", [shots])
    assert set(alone.summary()["shots"].to_pylist()) == {shots}
    assert rows_of(curve.summary(), shots) == rows_of(alone.summary())
    compared = [table.filter(pc.field("shots") == shots) for table in (curve.comparisons(), alone.comparisons())]
    assert sorted(rows_of(compared[0])) == sorted(rows_of(compared[1]))
    assert len(compared[0])
    if shots == K:
        headlines = [json.loads((run.path / "summary.json").read_text()) for run in (curve, alone)]
        assert headlines[0] == headlines[1]


def test_numbers_are_told_apart(curve):
    accuracy = [row for row in curve.summary().to_pylist() if (row["metric"], row["layer"]) == ("simaou", -1)]
    assert [(row["control"], row["shots"]) for row in accuracy] == [
        (control, k) for control in ("none", "random_step") for k in (K, *reversed(SHOTS))
    ]
    assert len({row["mean"] for row in accuracy}) == len(accuracy)


def test_the_report_draws_every_curve_and_its_headline_is_that_of_all_demonstrations(tmp_path, curve):
    data = RunData(curve)
    drawn = {chart.title: chart.rows for chart in shots_charts(data)}
    assert {"Accuracy", "SimAOU", "SimAM", "Recall, %", "Kendall's τ", "λ, attention mass on the demonstrations"} <= {
        *drawn
    }
    curve_of = [row for row in drawn["Accuracy"] if row["series"] == "in-context"]
    assert [row["demonstrations"] for row in curve_of] == [*SHOTS, K]
    assert [row["mean"] for row in curve_of] == [data.after(k).overall("accuracy", "icl")["mean"] for k in (*SHOTS, K)]
    table = shots_table(data)
    assert table["numbers"] == [*SHOTS, K]
    assert {(row["label"], row["name"]) for row in table["rows"]} >= {
        ("SimAOU", "Norm-matched null"), ("SimAOU", "Random step"), ("Kendall's τ", "Random baseline"),
    }  # fmt: skip
    assert {cell["n"] for row in table["rows"] for cell in row["cells"]} <= {f"n = {SEEDS}", f"n = {SEEDS - 1}"}
    assert len({cell["sign"] for row in table["rows"] for cell in row["cells"]}) > 1
    text, alone = (
        without_pictures(write_report(run).read_text(encoding="utf-8"))
        for run in (curve, run_at(tmp_path / "alone", [K]))
    )
    assert "Over the number of demonstrations" in text
    assert "Over the number of demonstrations" not in alone
    text = re.sub(r'<section id="shots">.*?</section>|<li><a href="#shots">.*?</li>', "", text, flags=re.DOTALL)
    assert text.split() == alone.split()


def older(run: RunDirectory) -> None:
    """What a version wrote that knew no numbers of demonstrations."""
    for path in [*run.measurements.glob("*.parquet"), run.summary_file, run.comparisons_file]:
        table = pq.read_table(path)
        path.unlink()
        name = path.name if path.parent == run.path else f"seed-{path.name[5:11]}-{path.stem[-12:]}.parquet"
        pq.write_table(table.drop_columns("shots"), path.with_name(name), write_page_checksum=True)


def test_older_run_directories_are_read_as_measured_with_all_demonstrations(tmp_path):
    run = run_at(tmp_path / "r", [K])
    new = [run.measured(MEASUREMENTS.names), run.summary(), run.comparisons()]
    older(run)
    again = RunDirectory(run.path)
    found = [again.measured(MEASUREMENTS.names), again.summary(), again.comparisons()]
    for table, before, schema in zip(found, new, (MEASUREMENTS, SUMMARY, COMPARISONS), strict=True):
        assert table.schema.names == before.schema.names == schema.names
        assert set(table["shots"].to_pylist()) == {K}
        assert sorted(map(str, table.to_pylist())) == sorted(map(str, before.to_pylist()))
    reduce_run(again)
    for table, before in zip((again.summary(), again.comparisons()), new[1:], strict=True):
        assert rows_of(table) == rows_of(before)
    assert len(write_report(again).read_text(encoding="utf-8")) > 10_000


def test_rows_that_do_not_say_are_stored_with_the_runs_number(tmp_path):
    run = synthetic_run(tmp_path / "r", 3, 2, (1,), demonstrations=K)
    for path in run.measurements.glob("*.parquet"):
        assert set(pq.read_table(path)["shots"].to_pylist()) == {K}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny(folder / "model", layers=1)
    (folder / "reviews.csv").write_text("text,label\n" + "".join(f'"{t}",{i}\n' for t, i in tiny_examples(60)))
    path = folder / "tiny.yaml"
    path.write_text(
        f"name: tiny\nmodel: model\ndata: reviews.csv\ndemonstrations: 5\nseeds: 3\nsplit: {{measured: 6}}\n"
        f"finetune: {{learning_rate: 0.2}}\n"
        f"task: {{name: tiny, template: '{TEMPLATE}', label_words: [{', '.join(LABELS)}]}}\n"
    )
    return path


def test_the_command_prints_the_curve_of_one_seed(tiny, capsys):
    assert main(["shots", str(tiny), "--seed", "1"]) == 0
    printed = capsys.readouterr().out.splitlines()
    heading = next(line for line in printed if line.startswith("demonstrations"))
    assert heading.split()[1:] == ["1", "2", "4", "5"]
    assert main(["shots", str(tiny), "--seed", "1", "--set", "measures.shots=[2]", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["shots"] for row in found["rows"]} == {2, 5}
    for metric, label in (("accuracy", "Accuracy, icl"), ("lambda", "λ, mass on demonstrations")):
        values = {
            row["shots"]: row["value"]
            for row in found["rows"]
            if (row["metric"], row["condition"], row["layer"]) == (metric, "icl", -1)
        }
        line = next(line for line in printed if line.startswith(label))[52:].split()
        assert [float(line[1]), float(line[3])] == pytest.approx([values[2], values[5]], abs=1e-4)


def test_other_commands_print_the_numbers_of_all_demonstrations(tiny, capsys):
    outputs = []
    for more in ([], ["--set", "measures.shots=[1,2]"]):
        assert main(["simaou", str(tiny), *more]) == 0
        outputs.append(capsys.readouterr().out)
        assert main(["finetune-eval", str(tiny), *more]) == 0
        outputs[-1] += capsys.readouterr().out
    assert outputs[0] == outputs[1]


def test_the_spread_over_orders_has_a_command_that_switches_it_on(tiny, capsys):
    assert main(["order", str(tiny), "--set", "measures.order=2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["rows"]
    assert {(row["metric"], row["condition"]) for row in found} == {
        (metric, condition) for metric in ("order_scores", "order_accuracy") for condition in ("icl", "ft", "ft_all")
    }
    assert main(["order", str(tiny), "--seed", "2"]) == 0
    assert "Order spread, label scores, ft_all" in capsys.readouterr().out
