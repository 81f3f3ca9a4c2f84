"""A measured run with every control: what is equal by construction, and what its values by example come to."""

import math

import numpy as np
import pyarrow as pa
import pytest

from raydual.catalogue.entries import OVERALL
from raydual.one_seed.laboratory import Laboratory
from raydual.run_directory.directory import RunDirectory, measurement_table
from raydual.settings.controls import Control, control_named, controls_of
from raydual.settings.reading import validate_config
from raydual.statistics.by_example import SHARES
from raydual.statistics.reduce import can_change, reduce_run

from .default_catalogue import CATALOGUE
from .test_crossed import plain_mean_squares
from .tiny import LABELS, TEMPLATE, label_ids, save_tiny, tiny_examples, tiny_tokenizer

pytestmark = pytest.mark.long

SEEDS, FEWER = 6, 4
ALL = {
    **dict.fromkeys(("layer_causal", "random_step", "other_seed", "untrained", "trained_embeddings"), True),
    "labels": ["random", "flipped", "abstract"],
    "permutations": 1,
    "seeds": FEWER,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Few seeds of a tiny model, every control on fewer of them, reduced."""
    directory = save_tiny(tmp_path_factory.mktemp("model"), loud=label_ids(tiny_tokenizer()))
    data = directory / "reviews.csv"
    data.write_text("text,label\n" + "".join(f'"{t}",{i}\n' for t, i in tiny_examples(90)))
    config = validate_config(
        {
            "name": "crossed",
            "model": str(directory),
            "task": {"name": "tiny", "template": TEMPLATE, "label_words": list(LABELS)},
            "data": str(data),
            "demonstrations": 5,
            "seeds": SEEDS,
            "split": {"measured": 14},
            "finetune": {"learning_rate": 1.0},
            "measures": {"resamples": 200},
            "controls": ALL,
        },
        "test",
    )
    laboratory, run = Laboratory(config), RunDirectory(tmp_path_factory.mktemp("run") / "r")
    run.start(config)
    for control in controls_of(config.controls):
        seeds = config.seeds if control.name == "none" else config.seeds[:FEWER]
        units = [laboratory.study.unit(seed, control, config.seeds) for seed in seeds]
        cases = [laboratory.study.case(laboratory.loaded.tokenizer, unit) for unit in units]
        found = laboratory.measurer.measure_all(control, cases)
        run.write_measurements(measurement_table(found.rows), pa.concat_tables(found.examples))
    reduce_run(run)
    return run


@pytest.fixture(scope="module")
def values(run):
    """The overall value of every seed, by (metric, condition, control)."""
    rows = run.measured(["seed", "control", "metric", "condition", "layer", "value"]).to_pylist()
    found = {}
    for row in rows:
        if row["layer"] == OVERALL:
            found.setdefault((row["metric"], row["condition"], row["control"]), {})[row["seed"]] = row["value"]
    return found


def differences(values, key, control):
    own, other = values[(*key, "none")], values[(*key, control)]
    return np.array([own[seed] - other[seed] for seed in other])


def test_what_is_said_to_be_equal_by_construction_is_and_nothing_else(run, values):
    config, answers = run.config(), []
    for metric in config.catalogue.values():
        for condition in metric.conditions_with_labels(2):
            for control in [c.name for c in controls_of(config.controls)][1:]:
                found = differences(values, (metric.name, condition), control)
                changes = can_change(metric, condition, control, config)
                answers.append(changes)
                equal = np.nanmax(np.abs(found), initial=0.0) <= 1e-6
                if not changes:
                    assert equal, (metric.name, condition, control)
                elif metric.per_layer and not np.isnan(found).all():
                    assert not equal, (metric.name, condition, control)
    assert 0 < sum(answers) < len(answers)


def test_layer_causal_fine_tuning_is_its_own_control():
    control = control_named("layer_causal")
    assert control.changes("ft")
    assert not control.changes("icl-ft", "layer_causal")
    assert control_named("random_step").changes("ft", "layer_causal")
    assert not Control("x", "x", "x").changes("icl-ft")


def by_example(run, name, control="none"):
    table = pa.concat_tables(run.example_tables(["seed", "control", "example", name])).to_pylist()
    rows = [r for r in table if r["control"] == control]
    places = {seed: at for at, seed in enumerate(sorted({r["seed"] for r in rows}))}
    found = np.full((len(places), 14), np.nan)
    for row in rows:
        found[places[row["seed"]], row["example"]] = row[name]
    return found


def overall(rows, **names):
    return next(r for r in rows if r["layer"] == OVERALL and all(r[k] == v for k, v in names.items()))


def test_overall_rows_have_intervals_over_other_examples_and_layers_none(run):
    rows = run.summary().to_pylist()
    missing = {r["metric"] for r in rows if r["layer"] == OVERALL and r["n"] > 1 and r["ci_low_both"] is None}
    assert missing <= {"rec2ftp_both", "rec2ftp_ft"}
    assert all(r["ci_low_both"] is None for r in rows if r["layer"] != OVERALL)
    for row in rows:
        if row["ci_low_both"] is not None:
            assert row["ci_low_both"] - 1e-9 <= row["mean"] <= row["ci_high_both"] + 1e-9, row
        if row["metric"] in SHARES and row["ci_low_both"] is not None:
            assert row["ci_low_both"] < row["ci_high_both"]


@pytest.mark.parametrize("key", [("simaou_raw", "icl-ft"), ("update_norm", "ft"), ("accuracy", "icl")])
def test_the_components_are_those_of_the_kept_values(run, key):
    name = "right.icl" if key[0] == "accuracy" else ".".join(key)
    values = by_example(run, name)
    of_seeds, of_examples, left = plain_mean_squares(values)
    row = overall(run.summary().to_pylist(), metric=key[0], condition=key[1], control="none")
    assert row["examples"] == 14
    assert row["sd_seed"] == pytest.approx(math.sqrt(max(0, (of_seeds - left) / 14)), abs=1e-6)
    assert row["sd_example"] == pytest.approx(math.sqrt(max(0, (of_examples - left) / SEEDS)), abs=1e-6)
    assert row["sd_interaction"] == pytest.approx(math.sqrt(left), abs=1e-6)


def test_comparisons_are_of_the_seeds_that_both_have_and_say_their_means(run, values):
    rows = run.comparisons().to_pylist()
    names = {"metric": "simaou_raw", "condition": "icl-ft", "control": "none", "baseline_control": "untrained"}
    row = overall(rows, **names)
    assert row["n"] == FEWER
    own = [values["simaou_raw", "icl-ft", "none"][seed] for seed in range(FEWER)]
    assert row["mean"] == pytest.approx(np.mean(own))
    assert row["baseline_mean"] == pytest.approx(np.mean(list(values["simaou_raw", "icl-ft", "untrained"].values())))
    assert row["mean"] - row["baseline_mean"] == pytest.approx(row["difference"])
    assert row["sd"] == pytest.approx(differences(values, ("simaou_raw", "icl-ft"), "untrained").std(ddof=1))
    cells = by_example(run, "simaou_raw.icl-ft")[:FEWER] - by_example(run, "simaou_raw.icl-ft", "untrained")
    assert row["sd_interaction"] == pytest.approx(math.sqrt(plain_mean_squares(cells)[2]), abs=1e-6)
    assert row["ci_low_both"] < row["difference"] < row["ci_high_both"]
    assert row["tests"] == sum(
        can_change(CATALOGUE["simaou_raw"], "icl-ft", control.name, run.config())
        for control in list(controls_of(run.config().controls))[1:]
    )


def test_what_is_compared_with_zero_differs_from_it_by_itself(run):
    rows = run.comparisons().to_pylist()
    zero = [r for r in rows if r["baseline"] == "zero"]
    summary = {(r["metric"], r["layer"]): r for r in run.summary().to_pylist() if r["control"] == "none"}
    assert {r["metric"] for r in zero} == {m.name for m in CATALOGUE.values() if m.above_zero}
    assert "rec2ftp" not in {r["metric"] for r in zero}
    for row in zero:
        if row["condition"] == "icl-ft" and row["n"]:
            own = summary[row["metric"], row["layer"]]
            assert (row["difference"], row["ci_low"], row["ci_high"]) == (own["mean"], own["ci_low"], own["ci_high"])
            assert row["baseline_mean"] == 0
