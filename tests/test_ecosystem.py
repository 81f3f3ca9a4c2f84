"""Runs in other libraries: `datasets`, xarray, TensorBoard, MLflow; their absence is one line."""

import json
import math
import os

import numpy as np
import pytest
import yaml

import raydual
from raydual.errors import UserError
from raydual.loggers import PACKAGES, check_loggers, log_run, settings_of
from raydual.report.data import RunData
from raydual.settings.reading import load_config, validate_config
from raydual.settings.yaml_text import parse_yaml

from .sweeping import Sweeping, tiny_settings
from .tiny import BASE


def test_a_run_is_a_data_set_in_a_line(plain):
    found = raydual.as_dataset(plain.path)
    assert {"seed", "control", "metric", "condition", "layer", "value"} <= set(found.column_names)
    assert len(found) == plain.measured(["seed"]).num_rows
    row = found.filter(lambda r: (r["metric"], r["condition"], r["layer"]) == ("accuracy", "icl", -1))[0]
    assert 0 <= row["value"] <= 1
    assert len(raydual.as_dataset(str(plain.path), "summary")) == plain.summary().num_rows
    assert len(raydual.as_dataset(plain, "comparisons")) == plain.comparisons().num_rows


def test_a_run_is_an_xarray_in_a_line(plain):
    pytest.importorskip("xarray")
    found = raydual.as_xarray(plain.path)
    assert found.attrs["fingerprint"] == plain.config().fingerprint()
    rows = plain.measured(["seed", "control", "metric", "condition", "layer", "value"]).to_pylist()
    assert {row["metric"] for row in rows} == set(found.data_vars)
    for row in rows[:: max(1, len(rows) // 200)]:
        place = {key: row[key] for key in ("control", "condition", "seed", "layer")}
        np.testing.assert_equal(float(found[row["metric"]].sel(place)), row["value"])
    simaou = found.simaou.sel(control="none", condition="icl-ft", layer=-1).mean("seed")
    summary = {(r["metric"], r["condition"], r["control"], r["layer"]): r["mean"] for r in plain.summary().to_pylist()}
    assert float(simaou) == pytest.approx(summary["simaou", "icl-ft", "none", -1])


def test_what_is_no_run_is_told(tmp_path):
    with pytest.raises(UserError, match="not a run directory"):
        raydual.as_dataset(tmp_path)


@pytest.mark.parametrize("name", list(PACKAGES))
def test_a_logger_that_is_missing_is_one_line_before_ray_starts(name, refused, tmp_path, monkeypatch):
    monkeypatch.setattr("raydual.loggers.find_spec", lambda package: None)
    path = tmp_path / "s.yaml"
    path.write_text(BASE + f"execution: {{loggers: [{name}]}}\n")
    (line,) = refused(path)
    assert line.startswith(f"execution.loggers: {name} needs {PACKAGES[name]}, which is not installed: pip install")


def test_a_logger_with_a_slip_is_told(tmp_path):
    with pytest.raises(UserError, match="did you mean 'tensorboard'"):
        validate_config({**parse_yaml(BASE, "b"), "execution": {"loggers": ["tensorbord"]}}, "b")


def test_loggers_are_no_part_of_what_makes_a_run_what_it_is(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(BASE)
    other = load_config(path, ["execution.loggers=[tensorboard]"])
    assert other.fingerprint() == load_config(path).fingerprint()
    check_loggers(other)  # tensorboardX comes with Ray Tune


def test_a_logger_that_refuses_does_not_undo_the_run(plain, monkeypatch, capsys):
    monkeypatch.setitem(__import__("raydual.loggers").loggers._LOGS, "wandb", lambda *_: 1 / 0)
    data = RunData(plain)
    execution = data.config.execution.model_copy(update={"loggers": ("wandb",)})
    vars(data)["config"] = data.config.model_copy(update={"execution": execution})
    log_run(data, "report.html")
    assert capsys.readouterr().err == "note: wandb was not told of the run: ZeroDivisionError: division by zero\n"


@pytest.mark.slow
def test_tensorboard_and_mlflow_are_told_of_search_numbers_and_report(inputs, tmp_path, environment):
    pytest.importorskip("mlflow")
    store = tmp_path / "mlruns"
    told = {**environment, "MLFLOW_TRACKING_URI": store.as_uri(), "MLFLOW_ALLOW_FILE_STORE": "true"}
    settings = tiny_settings(inputs, controls={}, execution={"loggers": ["tensorboard", "mlflow"]})
    sweep = Sweeping(tmp_path, settings, environment=told)
    done = sweep.finish()
    assert done.returncode == 0, done.stderr
    assert "note: " not in done.stderr
    events = [path.relative_to(sweep.run.path).parts for path in (sweep.run.path / "tensorboard").rglob("events.*")]
    assert {place[1] for place in events} == {"search", "run"}
    assert sum(place[1] == "search" for place in events) == len(settings["seeds"]) + 2
    (metric,) = store.rglob("metrics/accuracy/icl")
    accuracy = next(
        row["mean"]
        for row in json.loads((sweep.run.path / "summary.json").read_text())["metrics"]
        if (row["metric"], row["condition"], row["control"]) == ("accuracy", "icl", "none")
    )
    assert math.isclose(float(metric.read_text().split()[1]), accuracy)
    (report,) = store.rglob("artifacts/report.html")
    assert report.read_text() == (sweep.run.path / "report.html").read_text()


@pytest.mark.parametrize("key", ["model", "task", "seeds"])
def test_a_logger_is_told_what_was_run(key, plain):
    config = plain.config()
    expected = {"model": config.model, "task": config.task.name, "seeds": len(config.seeds)}
    assert settings_of(config)[key] == expected[key]
    assert os.fspath(plain.path) not in str(settings_of(config))
    assert yaml.safe_dump(settings_of(config))
