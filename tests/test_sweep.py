"""The whole run on Ray: the same numbers however it is laid out, interrupted or moved."""

import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import raydual
from raydual.errors import UserError
from raydual.pipeline import execute
from raydual.run_directory.directory import RunDirectory
from raydual.run_directory.measurements import units_of
from raydual.settings.reading import load_config, validate_config
from raydual.study import prepare_study
from raydual.sweep import main

from .default_catalogue import CATALOGUE
from .sweeping import SEEDS, tiny_settings
from .tiny import ANATOMIES, save_tiny
from .tolerance import Rounding, assert_same_run

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def one_ray(tmp_path_factory):
    """One Ray for all tests of the module, with a token file of its own."""
    token = tmp_path_factory.mktemp("ray") / "token"
    token.write_text(secrets.token_hex(32))
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
    from raydual.cluster.connect import connect

    with connect("local"):
        yield


def run_to(path, inputs, resume=False, **changes):
    return execute(validate_config(tiny_settings(inputs, **changes), "test"), RunDirectory(path), resume=resume)


@pytest.fixture(scope="module")
def uninterrupted(inputs, tmp_path_factory):
    return run_to(tmp_path_factory.mktemp("run") / "plain", inputs)


def assert_same_summary(run, other, tolerance):
    found, expected = (r.summary().to_pylist() for r in (run, other))
    assert len(found) == len(expected) > 50
    for row, wanted in zip(found, expected, strict=True):
        assert row == pytest.approx(wanted, abs=tolerance, nan_ok=True) if tolerance else str(row) == str(wanted)


def test_a_run_leaves_what_it_should(uninterrupted):
    seeds = uninterrupted.seed_search().to_pylist()
    assert [row["seed"] for row in seeds] == sorted(SEEDS)
    assert sum(row["kept"] for row in seeds) == 6
    settings = uninterrupted.finetune_search().to_pylist()
    assert sorted(row["learning_rate"] for row in settings) == [0.02, 0.2]
    chosen = [row for row in settings if row["chosen"]]
    assert len(chosen) == 1
    assert chosen[0]["accuracy"] == max(row["accuracy"] for row in settings)
    manifest = uninterrupted.manifest()
    assert manifest["seeds"]["measured"] == 6
    assert manifest["seeds"]["chosen"] == [row["seed"] for row in seeds if row["kept"]]
    assert manifest["finetune"]["learning_rate"] == chosen[0]["learning_rate"]
    chosen = manifest["seeds"]["chosen"]
    controls = ("random_step", "other_seed", "untrained", "permutation_1")
    assert uninterrupted.finished() == {(s, "none") for s in chosen} | {(s, c) for s in chosen[:4] for c in controls}
    assert len(list(uninterrupted.measurements.iterdir())) == 3 + 4 * 2
    units = uninterrupted.finished()
    table = raydual.examples(uninterrupted, ["seed", "control", "example"])
    found = [tuple(row.values()) for row in table.to_pylist()]
    assert sorted(found) == sorted((*unit, example) for unit in units for example in range(13))
    assert uninterrupted.report_file.stat().st_size > 20_000
    assert load_config(uninterrupted.config_file).fingerprint() == manifest["fingerprint"]


def test_the_search_takes_in_every_report_up_to_the_last_slice(uninterrupted, inputs):
    import json

    from raydual.measure.scoring import Scorer
    from raydual.model.loading import load_model

    study = prepare_study(validate_config(tiny_settings(inputs), "test"))
    scorer = Scorer(load_model(study.config.model), study)
    rows = uninterrupted.seed_search().to_pylist()
    for row in rows:
        right = scorer.in_context_right(scorer.encode(scorer.demonstrations(row["seed"])), 0, row["examples"])
        assert row["accuracy"] == pytest.approx(right / row["examples"])
        assert row["examples"] == (row["stopped_at"] or 12)
        assert row["stopped_at"] is None or not row["kept"]
    lines = [json.loads(line) for line in (uninterrupted.search / "journal.jsonl").read_text().splitlines() if line]
    assert sum("settings" in entry["report"] for entry in lines) == 2
    assert {e["report"]["seed"] for e in lines if e["report"].get("examples") == 12} == {
        row["seed"] for row in rows if row["stopped_at"] is None
    }


def test_seeds_may_be_scored_on_the_whole_selection_set_at_once(inputs, tmp_path):
    search = {"seeds": {"keep": 1, "slices": None}, "finetune": {"learning_rate": [0.02, 0.2], "seeds": 1}}
    run = run_to(tmp_path / "dai", inputs, protocol="dai", seeds=5, split={"measured": 9}, search=search, controls={})
    rows = run.seed_search().to_pylist()
    assert [row["examples"] for row in rows] == [9] * 5
    best = max(row["accuracy"] for row in rows)
    assert [row["seed"] for row in rows if row["kept"]] == [min(r["seed"] for r in rows if r["accuracy"] == best)]
    assert run.manifest()["seeds"]["measured"] == 1
    assert "which inflates the numbers" in run.report_file.read_text(encoding="utf-8")


def test_the_numbers_depend_on_neither_layout_nor_order(uninterrupted, inputs, tmp_path):
    other = run_to(
        tmp_path / "other", inputs, seeds=sorted(SEEDS, reverse=True),
        execution={"seeds_per_batch": 3, "batch_size": 5, "replicas": 2},
    )  # fmt: skip
    assert [r["kept"] for r in other.seed_search().to_pylist()] == [
        r["kept"] for r in uninterrupted.seed_search().to_pylist()
    ]
    assert_same_run(other, uninterrupted, Rounding.of_run(uninterrupted))


def test_resuming_computes_only_what_is_missing(uninterrupted, inputs, tmp_path, capsys):
    import shutil

    moved = RunDirectory(tmp_path / "moved")
    shutil.copytree(uninterrupted.path, moved.path)
    kept, lost, partly = sorted(moved.measurements.iterdir())[:3]
    lost.unlink()
    partly.rename(moved.measurements / f".{partly.name}.1.tmp")
    moved.manifest_file.unlink()
    moved.summary_file.unlink()
    before = kept.stat().st_mtime_ns
    run_to(moved.path, inputs, resume=True)
    said = capsys.readouterr().out
    assert "18 of 22 are there already" in said
    assert "search:" not in said
    assert kept.stat().st_mtime_ns == before
    assert_same_summary(moved, uninterrupted, 0)
    run_to(moved.path, inputs, resume=True)
    assert "everything has been measured" in capsys.readouterr().out


def test_a_search_that_was_interrupted_repeats_no_report(uninterrupted, inputs, tmp_path):
    import json
    import shutil

    run = RunDirectory(tmp_path / "again")
    shutil.copytree(uninterrupted.path, run.path)
    journal = run.search / "journal.jsonl"
    lines = [line for line in journal.read_text().splitlines() if line]
    # Reports that were never computed: were they computed again, the true ones would take their place.
    told = [json.loads(line) for line in lines[:5]]
    for entry in told:
        entry["report"]["right"] = 0
    journal.write_text("\n".join(json.dumps(entry) for entry in told) + '\n{"key": "seed 1 at')
    for name in ("seeds.parquet", "finetune.parquet"):
        (run.search / name).unlink()
    run_to(run.path, inputs, resume=True)
    after = {e["key"]: e["report"] for e in map(json.loads, filter(_whole, journal.read_text().splitlines()))}
    assert all(after[entry["key"]] == entry["report"] for entry in told)
    assert len(after) >= len(lines) - 3


def _whole(line):
    return line.endswith("}")


def test_a_killed_run_goes_on_to_the_same_summary(uninterrupted, inputs, tmp_path):
    sweep = tmp_path / "tiny.yaml"
    sweep.write_text(yaml.safe_dump(tiny_settings(inputs)))
    run = RunDirectory(tmp_path / "killed")
    arguments = [
        sys.executable,
        "-m",
        "raydual.sweep",
        str(sweep),
        "--output",
        str(run.path),
        "--address",
        "local",
    ]
    process = subprocess.Popen(
        arguments, cwd=tmp_path, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (run.measurements.is_dir() and list(run.measurements.glob("*.parquet"))):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "no batch was finished in two minutes"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = {p: p.stat().st_mtime_ns for p in run.measurements.glob("*.parquet")}
    run_to(run.path, inputs, resume=True)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in finished.items())
    assert_same_summary(run, uninterrupted, 0)


def test_seeds_and_controls_that_are_added_give_the_rows_of_one_go(inputs, tmp_path, monkeypatch):
    settings = {"search": {}, "finetune": {"learning_rate": 0.1}}
    more = {"seeds": 4, "controls": {"other_seed": True, "permutations": 1}}
    run = run_to(tmp_path / "run", inputs, seeds=3, controls={"other_seed": True}, **settings)
    kept = {path: path.stat().st_mtime_ns for path in run.measurements.glob("*.parquet")}
    written, write = [], RunDirectory.write_measurements
    monkeypatch.setattr(
        RunDirectory, "write_measurements", lambda run, *tables: written.append(tables[0]) or write(run, *tables)
    )
    run_to(run.path, inputs, resume=True, **more, **settings)
    units = [unit for rows in written for unit in units_of(rows)]
    # The one seed's measurement, its order and other seed, three other orders, and the last seed, whose next is new.
    assert sorted(units) == sorted(
        [(3, "none"), *((seed, "permutation_1") for seed in range(4)), (3, "other_seed"), (2, "other_seed")]
    )
    assert sum(path.exists() and path.stat().st_mtime_ns == stamp for path, stamp in kept.items()) >= 2
    whole = run_to(tmp_path / "whole", inputs, **more, **settings)
    assert_same_run(run, whole, Rounding.of_run(whole))
    assert run.manifest()["additions"][0]["measured_again"] == [[2, "other_seed"]]


def test_seeds_that_do_not_fit_are_counted_and_the_run_goes_on(inputs, tmp_path):
    config = validate_config(tiny_settings(inputs, seeds=6, search={}, controls={}, split={"measured": 9}), "test")
    study = prepare_study(config)
    tokenizer = study.source.tokenizer()
    queries = study.queries(tokenizer, "measured")
    lengths = [len(study.demonstrations(tokenizer, seed).prefix) for seed in range(6)]
    limit = sorted(lengths)[3] + len(queries.separator) + queries.longest
    fitting = sum(length <= sorted(lengths)[3] for length in lengths)
    assert 0 < fitting < 6
    model = save_tiny(tmp_path / "short", max_position_embeddings=limit)
    run = run_to(tmp_path / "run", (model, inputs[1]), seeds=6, search={}, controls={}, split={"measured": 9})
    assert [reason for *_, reason in run.failures()] == [
        f"its longest prompt has {limit - sorted(lengths)[3] + length} tokens, but the model's context holds {limit}"
        for length in lengths
        if length > sorted(lengths)[3]
    ]
    row = next(r for r in run.summary().to_pylist() if r["metric"] == "accuracy")
    assert (row["n"], row["failed"]) == (fitting, 6 - fitting)
    assert f"context holds {limit}" in run.report_file.read_text(encoding="utf-8")


OWN = """
import raydual
simres = raydual.Metric("simres", "SimRes", "Cosine between the changes of the residual stream.", similarity=True)
@raydual.of_recordings(simres, fields=["hidden"])
def f(found):
    assert not found.seeds.eq({bad}).any(), "not this one"
    return raydual.cosine(found.icl["hidden"] - found.zsl["hidden"], found.ft["hidden"] - found.zsl["hidden"])
"""


def test_a_users_own_metric_is_measured_by_workers_that_never_see_its_file(inputs, tmp_path):
    settings = {"seeds": 3, "search": {}, "controls": {"other_seed": True}, "finetune": {"learning_rate": 0.2}}
    file = tmp_path / "mine.py"
    for name, bad in (("run", -1), ("broken", 2)):
        file.write_text(OWN.format(bad=bad))
        measures = {"own": str(file), "resamples": 200}
        config = validate_config(tiny_settings(inputs, measures=measures, **settings), "test")
        file.unlink()
        run = RunDirectory(tmp_path / name)
        if name == "run":
            execute(config, run)
            assert {(r["control"], r["n"]) for r in run.summary().to_pylist() if r["metric"] == "simres"} == {
                ("none", 3), ("other_seed", 3),
            }  # fmt: skip
            own = [row for row in run.comparisons().to_pylist() if row["metric"] == "simres"]
            compared = {(row["baseline"], row["baseline_control"]) for row in own}
            assert compared == {("zero", "none"), ("simres", "other_seed")}
            assert "SimRes" in run.report_file.read_text(encoding="utf-8")
            execute(load_config(run.config_file), run, resume=True)
        else:
            with pytest.raises(UserError) as error:
                execute(config, run)
            assert str(error.value) == f"{file}, line 6: AssertionError: not this one (metric 'simres')"
            assert not run.manifest()


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_directory_is_not_used_for_other_settings(uninterrupted, inputs, resume):
    with pytest.raises(UserError, match="demonstrations" if resume else "--resume"):
        run_to(uninterrupted.path, inputs, resume=resume, demonstrations=4)


def test_resuming_needs_something_to_resume(inputs, tmp_path):
    with pytest.raises(UserError, match="nothing to resume"):
        run_to(tmp_path / "nothing", inputs, resume=True)


def test_an_address_without_a_cluster_is_one_clear_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "raydual.sweep", "--address", "127.0.0.1:1", "--output", str(tmp_path / "x")],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: --address 127.0.0.1:1: cannot connect")
    assert "Traceback" not in done.stderr


def test_main_reports_mistakes_by_exit_code(inputs, tmp_path, capsys):
    sweep = Path(tmp_path / "tiny.yaml")
    sweep.write_text(yaml.safe_dump(tiny_settings(inputs)))
    output = ["--output", str(tmp_path / "out")]
    assert main([str(sweep), "--set", "demonstrations=500", *output]) == 2
    assert "demonstrations: 500 are asked for, but the training set" in capsys.readouterr().err
    assert main([str(sweep), "--set", "model=/nowhere", *output]) == 2
    assert "model: /nowhere is not a directory" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_sweep_with_axes_runs_every_cell_and_goes_on_where_it_stopped(inputs, tmp_path, capsys):
    import shutil

    sweep, output = tmp_path / "cells.yaml", tmp_path / "cells"
    one = tiny_settings(inputs, seeds=3, search={}, controls={}, split={"measured": 9}, finetune={"learning_rate": 0.1})
    sweep.write_text(yaml.safe_dump({**one, "demonstrations": [2, 5]}))
    assert main([str(sweep), "--output", str(output)]) == 0
    said = capsys.readouterr().out
    assert "combination 2 of 2: demonstrations 5" in said
    assert said.splitlines()[-1] == str(output / "report.html")
    alone = run_to(
        tmp_path / "alone", inputs, **{k: one[k] for k in ("seeds", "search", "controls", "split", "finetune")}
    )
    assert_same_summary(RunDirectory(output / "cells" / "5"), alone, 0)
    shutil.rmtree(output / "cells" / "5")
    (output / "report.html").unlink()
    kept = next((output / "cells" / "2" / "measurements").iterdir())
    before = kept.stat().st_mtime_ns
    assert main([str(sweep), "--output", str(output), "--resume"]) == 0
    assert kept.stat().st_mtime_ns == before
    assert_same_summary(RunDirectory(output / "cells" / "5"), alone, 0)
    assert (output / "report.html").is_file()


def test_a_tied_llama_is_measured_from_start_to_report(inputs, tmp_path):
    model = save_tiny(tmp_path / "llama", **ANATOMIES["tied llama"])
    settings = tiny_settings(
        (model, inputs[1]),
        seeds=3,
        split={"selection": 6, "measured": 9},
        search={"seeds": {"keep": 2, "slices": [6]}, "finetune": {"learning_rate": [0.02, 0.2], "seeds": 1}},
        controls={"random_step": True, "untrained": True},
    )
    sweep, run = tmp_path / "llama.yaml", RunDirectory(tmp_path / "run")
    sweep.write_text(yaml.safe_dump(settings))
    assert main([str(sweep), "--output", str(run.path)]) == 0
    summary = run.summary().to_pylist()
    assert {row["metric"] for row in summary} == set(CATALOGUE)
    assert {row["control"] for row in summary} == {"none", "random_step", "untrained"}
    assert {row["n"] for row in summary if row["metric"] == "simaou"} == {2}
    assert run.report_file.is_file()
