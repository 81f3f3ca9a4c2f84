"""What a new user runs first, and what the embedded model must show."""

import json
import os
import re
import secrets
import subprocess
import sys

import pytest

from raydual.files import SWEEPS
from raydual.measure.scoring import Scorer
from raydual.model.loading import load_model
from raydual.run_directory.directory import RunDirectory
from raydual.settings.reading import load_config
from raydual.settings.schema import Finetune
from raydual.study import prepare_study

pytestmark = [pytest.mark.ray, pytest.mark.long]

SEEDS = range(20)


@pytest.mark.filterwarnings("ignore")
def test_the_quickstart_runs_from_anywhere_and_ends_on_the_reports_path(tmp_path):
    token = tmp_path / "token"
    token.write_text(secrets.token_hex(32))
    done = subprocess.run(
        [sys.executable, "-m", "raydual.sweep", "--address", "local"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=400,
        env={**os.environ, "RAY_AUTH_TOKEN_PATH": str(token)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    run = RunDirectory(tmp_path / "runs" / "quickstart")
    assert lines[-1] == str(run.report_file)
    said = "\n".join(lines[:6])
    for part in ("quickstart.yaml", "model embedded", "embedded reviews", "Ray started on this machine", "replica"):
        assert part in said
    assert re.search(r"search: \d+/\d+, about \d+ s left", done.stdout)
    assert re.search(r"measure: \d+/\d+, about \d+ s left", done.stdout)
    manifest = run.manifest()
    assert manifest["seeds"]["measured"] >= 16
    assert manifest["seeds"]["failed"] == []
    assert manifest["seeds"]["controls"] >= 40
    rows = [row for row in run.summary().to_pylist() if row["control"] == "none"]
    summary = {(row["metric"], row["condition"], row["layer"]): row for row in rows}
    zsl, icl, ft = (summary["accuracy", condition, -1] for condition in ("zsl", "icl", "ft"))
    assert zsl["mean"] <= 0.75
    assert icl["mean"] >= max(0.85, zsl["mean"] + 0.15)
    assert ft["ci_low"] > zsl["mean"] + 0.05
    headline = json.loads((run.path / "summary.json").read_text(encoding="utf-8"))
    assert (
        next(m["mean"] for m in headline["metrics"] if (m["metric"], m["control"]) == ("simaou", "none"))
        == summary["simaou", "icl-ft", -1]["mean"]
    )


@pytest.fixture(scope="module", params=["sst2", "sst5"])
def scorer(request):
    overrides = [f"task={request.param}", "split.selection=400", "split.measured=100"]
    study = prepare_study(load_config(SWEEPS / "quickstart.yaml", overrides))
    return request.param, Scorer(load_model(), study)


def test_the_embedded_model_learns_in_context_and_by_fine_tuning(scorer):
    task, scorer = scorer
    count = len(scorer.queries)
    sets = [scorer.demonstrations(seed) for seed in SEEDS]
    # A step too small to move anything is zero-shot.
    zero_shot = scorer.finetuned(sets[:1], Finetune(learning_rate=1e-12)).accuracy
    in_context = sum(scorer.in_context_right(scorer.encode(s), 0, count) for s in sets) / count / len(sets)
    if task == "sst5":
        assert in_context >= zero_shot + 0.10
        return
    assert zero_shot <= 0.75
    assert in_context >= max(0.85, zero_shot + 0.15)
    search = scorer.study.config.search.finetune
    settings = scorer.study.config.finetune
    scores = [
        scorer.finetuned(sets, settings.model_copy(update={"learning_rate": rate})).accuracy
        for rate in search.learning_rate
    ]
    assert max(scores) >= zero_shot + 0.08
