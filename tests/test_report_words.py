"""Intervals and verdicts in words: what has no width says so, and what the table says the sentences say."""

import json
import math

import numpy as np
import pytest

from raydual.report.console import headline_lines
from raydual.report.controls import control_table, standing_table
from raydual.report.data import RunData
from raydual.report.standing import ABOVE, standings
from raydual.report.words import ALIKE, interval, interval_both, layers_in_words, standing_lines
from raydual.run_directory.directory import measurement_table
from raydual.statistics.proportions import exact
from raydual.statistics.reduce import reduce_run

from .synthetic import control_rows, synthetic_rows, synthetic_run

SEEDS, LAYERS = 12, 4


def row(low, high):
    return {"ci_low": low, "ci_high": high, "ci_low_both": low, "ci_high_both": high}


def test_an_interval_is_never_written_without_a_width():
    assert interval(row(0.1, 0.25)) == "[0.100, 0.250]"
    assert interval(row(0.7131, 0.7133)) == "[0.7131, 0.7133]"
    assert interval(row(0.713, 0.713)) == ALIKE
    assert interval(row(math.nan, math.nan)) == "-"
    assert interval_both(row(None, None)) == "-"
    assert interval_both(row(99.96, 99.99), 1) == "[99.96, 99.99]"


@pytest.mark.parametrize(
    ("layers", "said"),
    [([2], "layer 2"), ([2, 3], "layers 2, 3"), ([0, 2, 3, 4, 7], "layers 0, 2 to 4, 7"), ([1, 2, 3], "layers 1 to 3")],
)
def test_layers_in_words(layers, said):
    assert layers_in_words(layers) == said


def agreeing(rows):
    """All seeds answer alike: accuracy .713 in context, Rec2FTP 100."""
    for one in rows:
        fixed = {("accuracy", "icl"): 0.713, ("rec2ftp", "icl-ft"): 100.0}.get((one["metric"], one["condition"]))
        yield one if fixed is None else {**one, "value": fixed, "examples": 300, "undefined": 0}


def test_seeds_that_agree_have_no_interval_without_width_anywhere(tmp_path):
    run = synthetic_run(tmp_path / "r", 1, LAYERS, (), search=False)
    for file in run.measurements.glob("*.parquet"):
        file.unlink()
    run.write_measurements(measurement_table(agreeing(synthetic_rows(SEEDS, LAYERS, ()))))
    reduce_run(run)
    found = json.loads((run.path / "summary.json").read_text())["metrics"]
    by_key = {(one["metric"], one["condition"]): one for one in found}
    for one in found:
        assert one["ci_low"] is None or one["ci_low"] < one["ci_high"]
        assert one["ci_low_both"] is None or one["ci_low_both"] < one["ci_high_both"]
    recall = by_key["rec2ftp", "icl-ft"]
    assert (recall["ci_low"], recall["ci_high"]) == (None, None)
    assert recall["ci_low_both"] == pytest.approx(100 * exact(300, 300)[0])
    assert 0.65 < by_key["accuracy", "icl"]["ci_low_both"] < 0.713 < by_key["accuracy", "icl"]["ci_high_both"] < 0.77
    lines = {line[:50].strip(): line for line in headline_lines(run)}
    assert ALIKE in lines["Rec2FTP, in-context against fine-tuned"]
    assert "[98.8, 100.0]" in lines["Rec2FTP, in-context against fine-tuned"]
    assert "[100.0, 100.0]" not in "\n".join(lines.values())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Untrained models are below by .3 in layers 1 and 2 alone, other seeds' demonstrations nowhere."""
    run = synthetic_run(tmp_path_factory.mktemp("r") / "r", SEEDS, LAYERS, ())

    def only_some(rows):
        for one in rows:
            yield {**one, "value": one["value"] + 0.3} if one["layer"] in (0, 3) else one

    run.write_measurements(measurement_table(only_some(control_rows("untrained", 0.3, SEEDS, LAYERS))))
    run.write_measurements(measurement_table(control_rows("labels_random", 0.1, SEEDS - 4, LAYERS)))
    reduce_run(run)
    return RunData(run)


def test_the_layers_above_all_are_named(data):
    [simdual] = [s for s in standings(data) if s.metric.name == "simdual"]
    untrained = simdual.verdicts["Untrained model"]
    assert untrained.layers == {1, 2}
    assert set(simdual.layers) == untrained.layers & simdual.verdicts["Zero"].layers
    assert simdual.layers
    said = [line for line in standing_lines(data) if line.startswith("Layer by layer")]
    assert f"SimDual in {layers_in_words(simdual.layers)}" in said[0]
    table = {one["label"]: one for one in standing_table(data)["rows"]}
    assert table["SimDual"]["layers"] == layers_in_words(simdual.layers)
    assert table["Rec2FTP"]["layers"] == "", "it has none"


def test_rec2ftp_is_held_against_controls_alone(data):
    [recall] = [s for s in standings(data) if s.metric.name == "rec2ftp"]
    assert list(recall.verdicts) == ["Untrained model"]
    assert all(one.is_control for one in recall.verdicts.values())


def test_every_verdict_of_the_table_is_in_the_sentence_of_its_control(data):
    [sentence] = [line for line in standing_lines(data) if line.startswith("In-context learning and fine-tuning are ")]
    answers = {s.metric.label: s.verdicts["Untrained model"].verdict for s in standings(data)}
    above = [label for label, answer in answers.items() if answer == ABOVE]
    assert set(answers.values()) == {ABOVE}
    assert sentence.endswith(f"more alike than in untrained models by all {len(above)} similarities.")


def test_a_controls_mean_is_of_the_seeds_that_it_shares_and_the_measurements_beside(data):
    table = {(one["label"], one["condition"]): one for one in control_table(data)}
    cell = table["SimDual", "in-context against fine-tuned"]["cells"][1]
    values = data.seed_values["simdual", "icl-ft"][: SEEDS - 4]
    assert cell.n == str(SEEDS - 4)
    assert cell.measured == f"{np.mean(values):.3f}"
    assert cell.measured != f"{np.mean(data.seed_values['simdual', 'icl-ft']):.3f}"
    assert float(cell.mean.replace("−", "-")) == pytest.approx(np.mean(values) - 0.1, abs=0.01)
