"""A user's own metrics: measured, reduced and reported like the others, every mistake one line with its place."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import raydual
from raydual.catalogue.entries import CATALOGUE, OVERALL
from raydual.commands import main
from raydual.errors import UserError
from raydual.one_seed.laboratory import Laboratory
from raydual.report.__main__ import main as report
from raydual.run_directory.directory import RunDirectory, measurement_table
from raydual.settings.controls import control_named
from raydual.settings.reading import dump_config, load_config, stored_config, validate_config

from .pages import Page
from .sweeping import tiny_settings
from .tiny import BASE

DOCS = (Path(__file__).parent.parent / "docs" / "own_metric.md").read_text(encoding="utf-8")
SIMRES, FLIPS = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
RANDOM = """
@raydual.of_recordings(raydual.Metric("simres_random", "SimRes, random", "Noise.", random=True, shown="summary"))
def against_noise(found, noise):
    change = found.icl["hidden"] - found.zsl["hidden"]
    return raydual.cosine(change, noise(*change.shape[2:]))
"""
WHOLE = SIMRES.replace("similarity=True", 'similarity=True, baselines=(("simres_random", "icl-ft"),)') + RANDOM + FLIPS
NEEDED = "import raydual\nM = raydual.Metric\n"


@pytest.fixture(scope="module")
def sweep(inputs, tmp_path_factory):
    """A sweep file with the metrics of the docs beside it."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "my_metric.py").write_text(WHOLE, encoding="utf-8")
    changes = {"search": {}, "controls": {}, "seeds": 3, "finetune": {"learning_rate": 0.2}}
    settings = tiny_settings(inputs, **changes, measures={"own": "my_metric.py", "resamples": 200})
    (folder / "sweep.yaml").write_text(yaml.safe_dump(settings))
    return folder / "sweep.yaml"


@pytest.fixture(scope="module")
def laboratory(sweep):
    return Laboratory(load_config(sweep))


@pytest.fixture(scope="module")
def rows(laboratory):
    return {seed: laboratory.measure(seed) for seed in (0, 1, 2)}


def values_of(rows, metric):
    return {row["layer"]: row["value"] for row in rows if row["metric"] == metric}


def test_the_example_of_the_docs_is_a_dozen_lines():
    assert len([line for line in SIMRES.splitlines() if line.strip()]) <= 12


def test_it_is_the_function_of_the_recordings(laboratory, rows):
    """SimRes is SimAOU of the residual stream as it is, which raydual can measure too."""
    config = laboratory.study.config
    same = Laboratory(config.model_copy(update={"measures": config.measures.model_copy(update={
        "own": None, "update_field": "hidden"})}))  # fmt: skip
    expected = values_of(same.measure(1), "simaou_raw")
    assert values_of(rows[1], "simres") == pytest.approx(expected, abs=1e-6)
    assert len(expected) == 1 + 3
    predicted = {row["condition"]: row for row in rows[1] if row["metric"] == "flips"}
    assert list(predicted) == ["icl"]
    assert 0 <= predicted["icl"]["value"] <= 1
    assert predicted["icl"]["examples"] == 13


def test_it_changes_no_other_number_and_its_noise_depends_on_no_batch(sweep, rows):
    without = Laboratory(load_config(sweep, ["measures.own=null"]))
    built_in = [row for row in rows[2] if row["metric"] in CATALOGUE]
    assert [str(row) for row in without.measure(2)] == [str(row) for row in built_in]
    together = Laboratory(load_config(sweep, ["execution.batch_size=4"]))
    study, tokenizer = together.study, together.loaded.tokenizer
    control = control_named("none")
    cases = [study.case(tokenizer, study.unit(seed, control, (0, 1, 2))) for seed in (2, 0)]
    found = [row for row in together.measurer.measure(control, cases) if row["seed"] == 2]
    assert values_of(found, "simres_random") == pytest.approx(values_of(rows[2], "simres_random"), abs=1e-5)
    assert values_of(rows[1], "simres_random") != values_of(rows[2], "simres_random")


def test_what_it_changes_in_place_no_other_metric_sees(sweep, rows, tmp_path):
    vandal = (
        '@raydual.of_recordings(M("v", "V", "V."))\ndef v(found):\n    for shown in (found.zsl, found.icl, found.ft):\n'
    )
    vandal += "        for x in (*shown.fields.values(), shown.label_scores):\n            x.zero_()\n"
    vandal += "    return found.simdual\n"
    (tmp_path / "v.py").write_text(NEEDED + vandal)
    laboratory = Laboratory(load_config(sweep, [f"measures.own={tmp_path / 'v.py'}"]))
    for seed in (0, 1):
        found = [row for row in laboratory.measure(seed) if row["metric"] in CATALOGUE]
        assert [str(row) for row in found] == [str(row) for row in rows[seed] if row["metric"] in CATALOGUE]


def test_it_stands_in_summary_comparisons_and_report_which_need_the_file_no_more(sweep, rows, tmp_path, capsys):
    run = RunDirectory(tmp_path / "run")
    run.start(load_config(sweep))
    run.write_measurements(measurement_table(row for of_seed in rows.values() for row in of_seed))
    moved = run.config_file.read_text(encoding="utf-8").replace(str(sweep.parent), "/gone")
    assert "def residual_changes(found):\n" in moved, "written so that a person can read it"
    run.config_file.write_text(moved, encoding="utf-8")
    for module in [name for name in sys.modules if name.startswith("raydual_own_")]:
        del sys.modules[module]
    assert report([str(run.path)]) == 0
    assert not [name for name in sys.modules if name.startswith("raydual_own_")], "a report runs no one's code"
    summary = {(row["metric"], row["layer"]): row for row in run.summary().to_pylist()}
    assert summary["simres", OVERALL]["n"] == 3
    compared = {(row["metric"], row["baseline"]) for row in run.comparisons().to_pylist()}
    assert ("simres", "simres_random") in compared
    page = run.report_file.read_text(encoding="utf-8")
    assert "Cosine between the changes that context and fine-tuning make to the residual stream." in page
    assert re.search(
        r"SimRes (above all|not above all|not shown) [−.\d]+ .*?[▲▼≈?∅] [a-z ]+ n = \d+", Page(page).text
    ), "it has a verdict"
    assert "/gone/my_metric.py" in page
    assert main(["own", str(run.path), "--seed", "1"]) == 0
    printed = capsys.readouterr().out
    assert f"{values_of(rows[1], 'simres')[OVERALL]:.4f}" in printed


def test_the_command_prints_it_and_the_plan_names_it(sweep, rows, capsys):
    assert main(["own", str(sweep), "--seed", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    line = next(line for line in lines if line.startswith("SimRes, icl-ft"))
    values = values_of(rows[1], "simres")
    assert line[52:].split() == [f"{values[layer]:.4f}" for layer in (-1, 0, 1, 2)]
    assert any(line.startswith("Flips, icl") for line in lines)
    assert main(["plan", str(sweep)]) == 0
    assert "metrics of its own: SimRes, SimRes, random, Flips" in capsys.readouterr().out
    assert main(["own"]) == 2
    assert "names no file with metrics of its own; set measures.own" in capsys.readouterr().err


def test_the_text_is_what_makes_a_sweep_another_and_where_it_lies_does_not(sweep, tmp_path):
    own = load_config(sweep)
    assert stored_config(dump_config(own), "config.yaml") == own
    (tmp_path / "elsewhere.py").write_text(WHOLE)
    assert load_config(sweep, [f"measures.own={tmp_path / 'elsewhere.py'}"]).fingerprint() == own.fingerprint()
    (tmp_path / "elsewhere.py").write_text(WHOLE + "\n# another\n")
    assert load_config(sweep, [f"measures.own={tmp_path / 'elsewhere.py'}"]).fingerprint() != own.fingerprint()
    assert load_config(sweep, ["measures.own=null"]).fingerprint() not in ("", own.fingerprint())


@pytest.mark.parametrize(
    "text",
    [
        "x = 1  \n",
        "# tab\there\n",
        "# Δ λ\r\nx = 1\r\n",
        "'''\n  indented\n'''\n\n\n",
        " # first\n",
        "#\x0c\n",
        "# \x85 \u2028 \ufeff Δ\n",
    ],
)
def test_any_text_is_stored_as_it_is(tmp_path, text):
    source = text + WHOLE
    (tmp_path / "m.py").write_bytes(source.encode())
    config = validate_config({**yaml.safe_load(BASE), "measures": {"own": str(tmp_path / "m.py")}}, "x")
    assert config.measures.own.source == source
    assert stored_config(dump_config(config), "y") == config


M = 'M("m", "M", "An m."'
MISTAKES = {
    "no Python": ("x = (\n", "line 3: not valid Python: '(' was never closed"),
    "an error on import": ("x = 1\ny = x / 0\n", "line 4: ZeroDivisionError: division by zero"),
    "an exit": ("raise SystemExit(3)\n", "line 3: SystemExit: 3"),
    "a package that is not there": ("import nowhere\n", "line 3: ModuleNotFoundError: No module named 'nowhere'"),
    "no metric": ("x = 1\n", "holds no metric; mark a function with @raydual.of_recordings"),
    "a name of raydual's": ('@raydual.of_recordings(M("simaou", "S", "s."))\ndef f(found): ...\n', "raydual has one"),
    "a name twice": (
        "".join(f"@raydual.of_recordings({M}))\ndef {name}(found): ...\n" for name in "fg"),
        "line 5: metric 'm': the one of line 3 has that name",
    ),
    "an odd name": ('M("A b", "S", "s.")\n', "line 3: metric 'A b': a name is of lower-case letters"),
    "an unknown panel": (f'{M}, panel="x")\n', "line 3: metric 'm': panel 'x': is not one of accuracy, updates"),
    "an unknown family": (f'{M}, family="x")\n', "line 3: metric 'm': family 'x': is not one of accuracy"),
    "an unknown condition": (f'{M}, ("icl-zs",))\n', "line 3: metric 'm': conditions: must be some of zsl"),
    "a condition that is no tuple": (f'{M}, ("icl"))\n', "line 3: metric 'm': conditions: must be a tuple"),
    "no label": ('M("m", "", "x")\n', "line 3: metric 'm': label: must be a line of text"),
    "an unknown baseline": (
        f'@raydual.of_recordings({M}, baselines=(("n", "icl-ft"),)))\ndef f(found): ...\n',
        "metric 'm': its baseline 'n', 'icl-ft' is not measured",
    ),
    "an unknown field": (
        f"raydual.of_recordings({M}), fields=['hiden'])\n",
        "line 3: metric 'm': fields: must be some of",
    ),
    "noise that is not said": (f"@raydual.of_recordings({M}))\ndef f(found, noise): ...\n", "says random=True"),
    "noise that is not taken": (f"@raydual.of_recordings({M}, random=True))\ndef f(found): ...\n", "says random=True"),
    "layers of predictions": (
        f"raydual.of_predictions({M}))\n",
        "line 3: metric 'm': a metric of predictions has no layers",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_file_is_one_line_before_anything_is_loaded(tmp_path, refused, mistake):
    text, message = MISTAKES[mistake]
    (tmp_path / "m.py").write_text(NEEDED + text)
    (tmp_path / "s.yaml").write_text(BASE + "measures: {own: m.py}\n")
    (line,) = refused(tmp_path / "s.yaml")
    assert line.startswith(f"{tmp_path / 's.yaml'}: measures.own: {tmp_path / 'm.py'}")
    assert message in line


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ("nowhere.py", "cannot read the file of metrics: it does not exist"),
        (".", "it is a directory, not a file"),
        (3, "input should be a mapping"),
        ({"file": "x"}, "measures.own.source: required"),
    ],
)
def test_what_is_no_file_is_named(tmp_path, refused, own, message):
    (tmp_path / "s.yaml").write_text(BASE + yaml.safe_dump({"measures": {"own": own}}))
    assert any(message in line for line in refused(tmp_path / "s.yaml"))


BAD = {
    "an error": ("return found.icl['hidden'].sum(99)", "line 5: IndexError"),
    "a field that is not recorded": ("return found.icl['query']", "line 5: LookupError: query is not recorded here"),
    "another shape": (
        "return found.simdual[0]",
        "line 3: metric 'm': must give [seeds, examples, layers], here [1, 13, 3], gave [13, 3]",
    ),
    "nothing": ("pass", "line 3: metric 'm': must give an array, gave NoneType"),
    "whole numbers": ("return found.simdual > 0", "line 3: metric 'm': must give floating-point numbers"),
    "outside its bounds": ("return found.simdual + 5", "but its bounds are -1.0 and 1.0"),
    "infinity": ("return found.simdual / 0", "but its bounds"),
    "a condition it has not": ("return {'icl': found.simdual}", "for each of icl-ft, gave those of icl"),
}


@pytest.mark.parametrize("mistake", BAD)
def test_a_mistake_in_the_function_is_one_line(sweep, tmp_path, capsys, mistake):
    body, message = BAD[mistake]
    fields = 'fields=["hidden"]'
    (tmp_path / "m.py").write_text(f"{NEEDED}@raydual.of_recordings({M}), {fields})\ndef f(found):\n    {body}\n")
    assert main(["own", str(sweep), "--set", f"measures.own={tmp_path / 'm.py'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / 'm.py'}, ")
    assert message in line


def test_a_seed_that_diverges_is_not_the_functions_fault(sweep, capsys):
    assert main(["own", str(sweep), "--set", "finetune.learning_rate=1e38"]) == 2
    assert capsys.readouterr().err == "error: seed 0: fine-tuning diverged at learning rate 1e+38\n"


def test_memory_that_runs_out_in_it_is_not_its_fault(sweep, tmp_path):
    text = f"{NEEDED}@raydual.of_recordings({M}))\ndef f(found):\n    if found.shape[0] > 1:\n"
    (tmp_path / "m.py").write_text(text + "        raise RuntimeError('out of memory')\n    return found.simdual\n")
    laboratory = Laboratory(load_config(sweep, [f"measures.own={tmp_path / 'm.py'}", "execution.seeds_per_batch=2"]))
    study, control = laboratory.study, control_named("none")
    cases = [study.case(laboratory.loaded.tokenizer, study.unit(seed, control, (0, 1))) for seed in (0, 1)]
    assert {row["seed"] for row in laboratory.measurer.measure(control, cases) if row["metric"] == "m"} == {0, 1}
    assert laboratory.measurer.groups.size == 1


def test_stored_metrics_that_are_not_those_of_the_text_are_refused(sweep):
    text = dump_config(load_config(sweep)).replace("label: SimRes\n", "label: Other\n")
    with pytest.raises(UserError, match="measures.own: the metrics that are stored are not those of the source"):
        Laboratory(stored_config(text, "config.yaml"))


def test_metrics_of_ranks_and_of_examples_may_be_own(sweep, tmp_path, rows):
    text = f"""{NEEDED}
@raydual.of_ranks(M("k", "K", "Tau again.", family="kendall", panel="ranks"))
def k(ranks):
    return ranks.context.tokens.tau(ranks.tuning.tokens)


@raydual.of_recordings(M("gap", "Gap", "Gain in the right word.", ("icl", "ft"), per_layer=False, bounds=(None, None)))
def gap(found):
    of = lambda shown: shown.label_scores[..., range(len(found.labels)), found.labels]
    return {{"icl": of(found.icl) - of(found.zsl), "ft": of(found.ft) - of(found.zsl)}}
"""
    (tmp_path / "m.py").write_text(text)
    laboratory = Laboratory(load_config(sweep, [f"measures.own={tmp_path / 'm.py'}"]))
    found = laboratory.measure(1)
    assert values_of(found, "k") == values_of(rows[1], "kendall")
    gaps = [row for row in found if row["metric"] == "gap"]
    assert [(row["condition"], row["layer"], row["examples"]) for row in gaps] == [("icl", -1, 13), ("ft", -1, 13)]
    assert all(np.isfinite(row["value"]) for row in gaps)


def test_the_api_has_what_the_docs_name():
    assert all(hasattr(raydual, name) for name in re.findall(r"raydual\.(\w+)\(", SIMRES + FLIPS))
    assert torch.is_tensor(raydual.cosine(torch.ones(2, 3), torch.ones(2, 3)))
