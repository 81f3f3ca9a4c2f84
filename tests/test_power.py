"""What `raydual plan` and the report say that a design can tell."""

import json
import math
import re

import pytest

from raydual.catalogue.entries import CATALOGUE, OVERALL
from raydual.cells import can_change_along
from raydual.commands import main
from raydual.files import SWEEPS
from raydual.plan.power import pilot_contrasts, power, undecidable
from raydual.report import write_report
from raydual.settings.reading import load_config
from raydual.statistics.design import Components, Design, detectable, seeds_for
from raydual.statistics.reduce import reduce_run

from .synthetic import synthetic_config
from .test_control_report import with_controls

PLAN = ["plan", str(SWEEPS / "quickstart.yaml"), "--set", "split.measured=20", "--set", "seeds=24"]


@pytest.mark.parametrize(
    ("seeds", "controls", "said"),
    [
        (24, {"untrained": True}, None),
        (6, {"untrained": True, "permutations": 30}, None),
        (5, {}, "5 seeds can decide nothing: the smallest p that any comparison can have is 0.0625"),
        (1, {}, "1 seed can decide nothing"),
        (24, {"untrained": True, "seeds": 4}, "4 seeds .* any comparison with a control can have"),
        (24, {"seeds": 4}, None),
    ],
)
def test_seeds_that_can_decide_nothing_are_told(seeds, controls, said):
    found = undecidable(synthetic_config(seeds, search=False, controls=controls))
    assert (found is None) == (said is None)
    assert said is None or re.search(f"WARNING: {said}.*; it takes 6 ", found)


def test_the_plan_warns_and_says_what_stated_components_let_it_find(capsys):
    assert main([*PLAN, "--set", "search.seeds.keep=5"]) == 0
    assert "WARNING: 5 seeds can decide nothing" in capsys.readouterr().out
    stated = ["--components", "0.03", "0.1", "0.2", "--difference", "0.1", "--set", "controls.untrained=true"]
    assert main([*PLAN, *stated, "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)["cells"][0]["power"]
    parts = Components(0.03, 0.1, 0.2)
    tests = load_config(SWEEPS / "quickstart.yaml", ["controls.untrained=true"]).controls.number
    assert found["detectable"] == pytest.approx(detectable(parts, Design(24, 20, tests)))
    assert found["detectable_both"] == pytest.approx(detectable(parts, Design(24, 20, tests, True)))
    assert found["seeds_for_wished"] == seeds_for(parts, 0.1, Design(24, 20, tests))
    assert main([*PLAN, *stated]) == 0
    said = capsys.readouterr().out
    assert "smallest difference that 24 seeds and 20 examples find four times of five" in said
    assert re.search(rf"against a control: {found['detectable']:.3f} \(.*\); \d+ seeds for 0.1", said)
    assert "WARNING" not in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pilot", "x", "--components", "1", "1", "1"], "give one of them"),
        (["--components", "-1", "1", "1"], "0 or more"),
        (["--components", "0", "0", "0"], "not all 0"),
        (["--difference", "0.1"], "needs --pilot or --components"),
        (["--components", "1", "1", "1", "--difference", "0"], "must be a positive number"),
        (["--pilot", "/nowhere"], "/nowhere"),
    ],
)
def test_mistakes_are_one_line(arguments, said, capsys):
    assert main([*PLAN, *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_pilot_says_it_of_every_headline_metric(tmp_path, capsys):
    run = with_controls(tmp_path / "r", 12, untrained=0.0, random_step=0.1)
    reduce_run(run)
    config = synthetic_config(24, search=False, controls={"untrained": True, "random_step": True})
    found = {one.label: one for one in pilot_contrasts(run, config, 24, 300)}
    of_simdual = ("simdual", OVERALL, "none")
    rows = [r for r in run.comparisons().to_pylist() if (r["metric"], r["layer"], r["control"]) == of_simdual]
    # Without values by example the spread over seeds stands for its parts.
    designs = [Design(24, 300, 1 if row["baseline"] == "zero" else 2) for row in rows]
    parts = [Components(row["sd"], math.nan, 0.0) for row in rows]
    largest = max(map(detectable, parts, designs))
    assert found["SimDual"].detectable(24, 300) == pytest.approx(largest)
    assert found["SimDual"].against == "0"
    assert {"Accuracy, in-context", "Rec2FTP", "SimAM", "λ, mass on demonstrations, in-context"} <= set(found)
    assert not any("zero-shot" in label for label in found)
    assert math.isnan(power(found["SimDual"], 24, 300).detectable_both)
    assert main([*PLAN, "--pilot", str(run.path), "--difference", "0.05"]) == 0
    assert re.search(r"  SimDual against 0: 0\.\d{3}; \d+ seeds for 0.05", capsys.readouterr().out)
    page = write_report(run).read_text(encoding="utf-8")
    assert "Found four times of five: a difference from 0 of" in page


@pytest.mark.parametrize(
    ("axis", "metric", "condition", "changes"),
    [
        ("finetune.learning_rate", "accuracy", "icl", False),
        ("finetune.learning_rate", "kendall_random", "icl-ft", False),
        ("finetune.epochs", "accuracy", "ft", True),
        ("finetune.loss", "kendall", "icl-ft", True),
        ("demonstrations", "accuracy", "zsl", False),
        ("demonstrations", "simam", "icl-zsl", True),
        ("protocol", "accuracy", "zsl", True),
    ],
)
def test_what_an_axis_cannot_change_is_not_tested(axis, metric, condition, changes):
    assert can_change_along(axis, CATALOGUE[metric], condition) == changes


def test_a_pilot_of_one_seed_is_refused(tmp_path, capsys):
    run = with_controls(tmp_path / "r", 1, untrained=0.0)
    reduce_run(run)
    assert main([*PLAN, "--pilot", str(run.path)]) == 2
    assert "it takes two seeds" in capsys.readouterr().err
