"""Workers that die, hang and raise errors, wherever they are: the rest is measured, the same numbers, in bounds."""

import json
import re
import signal
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file, save_file

from raydual.run_directory.directory import FAILED, MEASUREMENTS

from .sweeping import (
    MEASURE,
    SCORE,
    Sweeping,
    journal_lines,
    kill,
    make_inputs,
    measured_files,
    named_processes,
    replica_processes,
    tiny_settings,
    tracebacks,
    undisturbed,
    wait_for,
)
from .tolerance import Rounding, assert_same_rows, assert_same_run

pytestmark = [pytest.mark.slow, pytest.mark.ray]

LOAD = "raydual.model.loading:load_model"
ZERO_SHOT = "raydual.measure.measurer:Measurer.shares"
LAYER = "raydual.model.attention:dual_attention_forward"
NO_SEARCH = {"search": {}, "seeds": 6, "finetune": {"learning_rate": 0.2}, "controls": {"random_step": True}}


@pytest.fixture(scope="module")
def plain_all(inputs, environment, tmp_path_factory):
    """One that measures all of its seeds."""
    return undisturbed(tmp_path_factory.mktemp("all"), tiny_settings(inputs, **NO_SEARCH), environment)


@pytest.fixture
def sweeping(inputs, environment, tmp_path):
    """Makes sweeps with faults; `search=False`: measures all seeds."""

    def make(*faults, search=True, **execution):
        changes = {} if search else NO_SEARCH
        settings = tiny_settings(inputs, **changes)
        settings["execution"] |= execution
        return Sweeping(tmp_path, settings, faults=faults, environment=environment)

    return make


def once(tmp_path, at, kind, **more):
    return {"at": at, "kind": kind, "once": str(tmp_path / "fault"), **more}


def ended_well(done):
    assert done.returncode == 0, done.stderr
    assert not tracebacks(done.stdout + done.stderr)
    return done.stdout


def ended_in_a_line(done):
    """The line that a sweep which cannot go on ends with."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert not tracebacks(done.stdout + done.stderr)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert done.stderr.splitlines()[-1] == errors[0]
    return errors[0]


def resumed(sweep, expected):
    """Without the fault, it goes on to what an undisturbed run gives."""
    sweep.faults = ()
    ended_well(sweep.finish("--resume"))
    assert_same_run(sweep.run, expected)


def assert_all_but(run, expected, seed, pattern):
    """A seed has failed in everything for a reason, and all other rows are what they are."""
    failures = run.failures()
    assert {(s, c) for s, c, _ in failures} == {(seed, "none"), (seed, "random_step")}
    assert all(re.search(pattern, reason) for *_, reason in failures), failures
    # The seeds that shared a batch with it have been measured without it, which moves them by rounding.
    found = [row for row in run.measured(MEASUREMENTS.names).to_pylist() if row["metric"] != FAILED]
    rows = [row for row in expected.measured(MEASUREMENTS.names).to_pylist() if row["seed"] != seed]
    assert_same_rows(found, rows, Rounding.of_run(expected).numbers)
    failed = run.manifest()["seeds"]["failed"]
    assert {f["seed"] for f in failed} == {seed}
    assert str(seed) in run.report_file.read_text(encoding="utf-8")


def lost_in(out):
    """How often replicas were lost and work was tried again, as the last line about it says."""
    told = re.search(r"replicas were lost (\d+) time\(s\), (\d+) piece\(s\) of work were tried again", out)
    assert told, out
    return int(told[1]), int(told[2])


# Workers are killed.


@pytest.mark.parametrize("stage", ["load", "search", "measure"])
def test_a_replica_that_is_killed_from_outside_changes_nothing(stage, sweeping, plain):
    sweep = sweeping({"at": SCORE, "kind": "slow", "seconds": 0.3}, {"at": MEASURE, "kind": "slow", "seconds": 1.5})
    reached = {
        "load": lambda: True,
        "search": lambda: len(journal_lines(sweep.run)) > 2,
        "measure": lambda: measured_files(sweep.run),
    }[stage]
    with sweep.started() as process:
        wait_for(reached, process)
        kill(wait_for(lambda: replica_processes(process.pid), process)[0])
        out, error = process.communicate(timeout=200)
    assert process.returncode == 0, error
    assert lost_in(out)[0] == 1
    assert_same_run(sweep.run, plain)
    assert sweep.run.manifest()["losses"]["replicas_lost"] == 1


def test_a_replica_that_dies_in_the_search_is_replaced(sweeping, plain, tmp_path):
    sweep = sweeping(once(tmp_path, SCORE, "exit"))
    assert lost_in(ended_well(sweep.finish())) == (1, 1)
    assert_same_run(sweep.run, plain)
    keys = Counter(json.loads(line)["key"] for line in journal_lines(sweep.run))
    assert set(keys.values()) == {1}


def test_a_batch_whose_worker_died_once_is_measured_as_it_was(sweeping, plain, tmp_path):
    sweep = sweeping(once(tmp_path, MEASURE, "exit", times=2))
    assert lost_in(ended_well(sweep.finish())) == (2, 2)
    assert_same_run(sweep.run, plain)


def test_a_seed_that_always_kills_its_worker_is_found_and_the_rest_is_measured(sweeping, plain_all):
    sweep = sweeping({"at": MEASURE, "kind": "exit", "seed": 3}, search=False, retries=1)
    out = ended_well(sweep.finish())
    assert_all_but(sweep.run, plain_all, 3, r"4 workers were lost with it, 2 of them with it alone.*killed")
    assert lost_in(out)[0] <= 2 * (2 + 2)


def test_a_seed_that_always_kills_its_worker_in_the_search_is_left_out(sweeping):
    sweep = sweeping({"at": SCORE, "kind": "exit", "seed": 5}, retries=1)
    out = ended_well(sweep.finish())
    assert lost_in(out) == (2, 1)
    row = next(row for row in sweep.run.seed_search().to_pylist() if row["seed"] == 5)
    assert "2 workers were lost with it" in row["reason"]
    assert not row["kept"]
    assert not any("seed 5 " in line for line in journal_lines(sweep.run))


@pytest.mark.parametrize("at", [LOAD, ZERO_SHOT])
def test_replicas_that_all_die_before_they_work_end_the_run(at, sweeping, plain):
    sweep = sweeping({"at": at, "kind": "exit"}, retries=1)
    said = ended_in_a_line(sweep.finish())
    assert re.search(r"2 replicas were lost while they loaded the model or made its zero-shot pass \(.*killed", said)
    assert not sweep.run.path.exists()


def test_a_replica_that_is_late_joins_the_cell_that_is_at_work(inputs, environment, tmp_path):
    cells = tmp_path / "run" / "cells"
    late = once(tmp_path, ZERO_SHOT, "wait", under=str(cells), pattern="*4/measurements/*.parquet")
    settings = tiny_settings(inputs, **NO_SEARCH | {"controls": {}, "demonstrations": [3, 4]})
    settings["execution"] |= {"seeds_per_batch": 1, "replicas": 2}
    slow = {"at": MEASURE, "kind": "slow", "seconds": 1}
    sweep = Sweeping(tmp_path, settings, faults=[late, slow], environment=environment)
    done = sweep.finish()
    assert done.returncode == 0, done.stdout + done.stderr
    manifests = {path.parent.name: json.loads(path.read_text()) for path in cells.glob("*/manifest.json")}
    assert {name: found["seeds"]["measured"] for name, found in manifests.items()} == {"3": 6, "4": 6}
    assert max(found["hardware"]["replicas_at_most"] for found in manifests.values()) == 2


def test_the_process_of_a_trial_may_be_killed(sweeping, plain):
    sweep = sweeping({"at": SCORE, "kind": "slow", "seconds": 0.3})
    with sweep.started() as process:
        wait_for(lambda: len(journal_lines(sweep.run)) > 2, process)
        kill(wait_for(lambda: trials(process.pid), process)[0])
        out, error = process.communicate(timeout=200)
    assert process.returncode == 0, error
    assert not tracebacks(out + error)
    assert_same_run(sweep.run, plain)
    keys = Counter(json.loads(line)["key"] for line in journal_lines(sweep.run))
    assert set(keys.values()) == {1}


def trials(root):
    return [*named_processes(root, "ray::SearchTrial"), *named_processes(root, "ray::ImplicitFunc")]


@pytest.mark.parametrize("stage", ["search", "measure"])
def test_the_process_that_keeps_the_replicas_may_be_killed(stage, sweeping, plain):
    sweep = sweeping({"at": SCORE, "kind": "slow", "seconds": 0.3}, {"at": MEASURE, "kind": "slow", "seconds": 0.5})
    with sweep.started() as process:
        wait_for(lambda: journal_lines(sweep.run) if stage == "search" else measured_files(sweep.run), process)
        kill(wait_for(lambda: named_processes(process.pid, "ray::Pool"), process)[0])
        killed = time.monotonic()
        out, error = process.communicate(timeout=60)
    assert time.monotonic() - killed < 30
    assert process.returncode == 2, (out, error)
    assert not tracebacks(out + error)
    assert error.splitlines()[-1].startswith("error: cluster: the process that keeps the replicas was lost")
    resumed(sweep, plain)


# Errors.


def test_an_error_in_one_seed_is_its_failure_with_the_place(sweeping, plain_all):
    sweep = sweeping({"at": MEASURE, "kind": "raise", "seed": 4}, search=False)
    out = ended_well(sweep.finish())
    assert "replicas were lost" not in out
    assert_all_but(sweep.run, plain_all, 4, r"^ValueError: broken 4 \(\w+\.py, line \d+\)$")


def test_errors_everywhere_stop_the_run_and_are_not_stored(sweeping, plain):
    sweep = sweeping({"at": MEASURE, "kind": "raise"}, failures_in_a_row=5)
    said = ended_in_a_line(sweep.finish())
    assert re.search(r"measure: [56] failed one after another, the last one seed \d .*ValueError: broken \(", said)
    assert said.endswith("what was computed is kept, --resume tries these again")
    assert not measured_files(sweep.run)
    resumed(sweep, plain)


def test_errors_from_the_beginning_leave_nothing_to_resume(sweeping, plain_all):
    sweep = sweeping({"at": MEASURE, "kind": "raise"}, search=False, failures_in_a_row=5)
    said = ended_in_a_line(sweep.finish())
    assert said.endswith("nothing had been computed before")
    assert not sweep.run.path.exists()
    sweep.faults = ()
    ended_well(sweep.finish())
    assert_same_run(sweep.run, plain_all)


def test_errors_everywhere_in_the_search_stop_it(sweeping, plain):
    sweep = sweeping({"at": SCORE, "kind": "raise"}, failures_in_a_row=3)
    said = ended_in_a_line(sweep.finish())
    assert re.search(r"search: 3 trials failed one after another, the last one, seed \d: ValueError: broken \(", said)
    assert not (sweep.run.path / "search" / "seeds.parquet").exists()
    if sweep.run.path.exists():
        resumed(sweep, plain)


def test_a_mistake_found_on_a_worker_is_the_same_line_as_on_the_driver(inputs, environment, tmp_path):
    model, data = make_inputs(tmp_path)
    weights = load_file(model / "model.safetensors")
    name = next(name for name in weights if "mlp" in name)
    weights[name][0, 0] = float("nan")
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    sweep = Sweeping(tmp_path / "sweep", tiny_settings((model, data)), environment=environment)
    said = ended_in_a_line(sweep.finish())
    assert said.startswith("error: model")
    assert name in said
    assert not sweep.run.path.exists()


# Silence.


@pytest.mark.parametrize("way", ["hangs", "is stopped"])
def test_a_replica_without_a_sign_of_life_is_ended_and_its_work_tried_again(way, sweeping, plain, tmp_path):
    if way == "hangs":
        sweep = sweeping(once(tmp_path, MEASURE, "hang"), stall_minutes=0.1)
        done = sweep.finish()
        out = ended_well(done)
    else:
        sweep = sweeping({"at": MEASURE, "kind": "slow", "seconds": 2}, stall_minutes=0.1)
        with sweep.started() as process:
            wait_for(lambda: measured_files(sweep.run), process)
            stopped = wait_for(lambda: replica_processes(process.pid), process)[0]
            stopped.send_signal(signal.SIGSTOP)
            out, error = process.communicate(timeout=200)
        assert process.returncode == 0, error
        assert not psutil.pid_exists(stopped.pid)
    assert lost_in(out)[0] == 1
    assert_same_run(sweep.run, plain)


def test_long_work_that_goes_on_is_not_ended(sweeping, plain_all):
    """A batch takes longer than the time after which a silent replica is ended."""
    sweep = sweeping({"at": LAYER, "kind": "slow", "seconds": 0.3}, search=False, stall_minutes=0.1)
    sweep.arguments = ("--set", "seeds=[0, 1]", "--set", "controls={}", "--set", "execution.replicas=1")
    started = time.monotonic()
    out = ended_well(sweep.finish())
    assert "lost" not in out
    assert time.monotonic() - started > 10
    rows = [row for row in plain_all.measured(MEASUREMENTS.names).to_pylist() if row["seed"] in (0, 1)]
    found = sweep.run.measured(MEASUREMENTS.names).to_pylist()
    assert_same_rows(found, [row for row in rows if row["control"] == "none"])


# Two drivers.


def test_a_second_driver_is_refused_and_the_first_is_not_disturbed(sweeping, plain, tmp_path):
    sweep = sweeping({"at": MEASURE, "kind": "slow", "seconds": 1})
    with sweep.started() as process:
        wait_for(lambda: measured_files(sweep.run), process)
        second = sweep.finish("--resume", timeout=30)
        assert f"process {process.pid} on" in ended_in_a_line(second)
        out, error = process.communicate(timeout=200)
    assert process.returncode == 0, error
    assert_same_run(sweep.run, plain)
    assert not list(Path(sweep.run.path).rglob("*.lock"))
