"""Ctrl-C and its like, in any stage: one line, the signal's exit code, nothing left running, and `--resume` goes on."""

import contextlib
import os
import shlex
import signal
import time
from pathlib import Path

import psutil
import pytest

from .sweeping import (
    MEASURE,
    SCORE,
    Sweeping,
    family,
    journal_lines,
    left_in,
    measured_files,
    named_processes,
    ray_agents,
    replica_processes,
    running,
    tiny_settings,
    tracebacks,
    wait_for,
)
from .tolerance import assert_same_run

pytestmark = pytest.mark.ray

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
SLOW = [
    {"at": SCORE, "kind": "slow", "seconds": 0.3},
    {"at": MEASURE, "kind": "slow", "seconds": 0.3},
]


@pytest.fixture
def sweep(inputs, environment, tmp_path):
    """A sweep that takes its time, and tells in files when it reduces and reports."""
    faults = [*SLOW]
    for at, name in (("raydual.statistics.reduce:reduce_run", "reduce"), ("raydual.report:write_report", "report")):
        faults.append({"at": at, "kind": "slow", "seconds": 2})
        faults.append({"at": at, "kind": "mark", "file": str(tmp_path / name)})
    return Sweeping(tmp_path, tiny_settings(inputs), faults=faults, environment=environment)


def reached(stage, sweep, process):
    """Whether a run has come to a stage."""
    return {
        "Python starts": lambda: time.time() - psutil.Process(process.pid).create_time() > 0.7,
        "Ray starts": lambda: named_processes(process.pid, "gcs_server"),
        "replicas load": lambda: replica_processes(process.pid),
        "search": lambda: len(journal_lines(sweep.run)) > 2,
        "measure": lambda: measured_files(sweep.run),
        "reduce": (sweep.folder / "reduce").exists,
        "report": (sweep.folder / "report").exists,
    }[stage]()


def stop(sweep, process, number, group=False):
    """Send a signal and see the run end as it should; returns the last line."""
    members = family(process.pid)
    sent = time.monotonic()
    if group:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    out, error = process.communicate(timeout=60)
    assert time.monotonic() - sent < 15
    assert process.returncode == CODES[number], (out, error)
    assert not tracebacks(out + error)
    lines = error.splitlines()
    assert lines[-1].startswith(f"stopped by {number.name}; ")
    assert sum("stopped by" in line for line in lines) == 1
    assert_over(members, sweep)
    return lines[-1]


def assert_over(members, sweep):
    """Nothing of a run runs on, and its temporary files are gone."""
    wait_for(lambda: not running(members), seconds=10)
    assert not left_in(sweep.environment["TMPDIR"])
    assert not list(sweep.run.path.rglob("*.lock"))


def assert_goes_on(sweep, line, plain):
    """The line is a command that goes on to the results of an undisturbed run."""
    words = shlex.split(line.partition("go on with: ")[2])
    assert words[:3] == ["python", "-m", "raydual.sweep"]
    assert words[3:] == sweep.command("--resume")[3:]
    sweep.faults = ()
    done = sweep.finish("--resume")
    assert done.returncode == 0, done.stderr
    assert_same_run(sweep.run, plain)


def test_a_run_that_is_stopped_at_once_leaves_nothing(sweep):
    with sweep.started() as process:
        wait_for(lambda: reached("Python starts", sweep, process), process)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=30)
    # Before the command reads its first line, Python itself ends on the signal.
    starting = process.returncode == 1 and "Fatal Python error: init_import_site" in error
    assert starting or process.returncode in (130, -signal.SIGINT)
    if process.returncode == 130:
        assert error in ("stopped by SIGINT\n", "stopped by SIGINT; nothing had been computed\n")
    assert not sweep.run.path.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "number"),
    [("Ray starts", signal.SIGINT), ("Ray starts", signal.SIGTERM), ("replicas load", signal.SIGHUP)],
)
def test_before_anything_is_stored_it_says_so_and_leaves_no_directory(stage, number, sweep):
    with sweep.started() as process:
        wait_for(lambda: reached(stage, sweep, process), process)
        line = stop(sweep, process, number)
    assert line == f"stopped by {number.name}; nothing had been computed"
    assert not sweep.run.path.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "number", "group"),
    [
        ("search", signal.SIGINT, True),
        ("search", signal.SIGTERM, False),
        ("measure", signal.SIGINT, True),
        ("measure", signal.SIGTERM, False),
        ("measure", signal.SIGHUP, True),
        ("reduce", signal.SIGINT, True),
        ("report", signal.SIGTERM, False),
    ],
)
def test_a_run_that_is_stopped_says_how_to_go_on_and_does(stage, number, group, sweep, plain):
    with sweep.started() as process:
        wait_for(lambda: reached(stage, sweep, process), process)
        line = stop(sweep, process, number, group)
    search = sweep.run.path / "search"
    assert (search / "seeds.parquet").exists() == (search / "finetune.parquet").exists() == (stage != "search")
    assert sweep.run.manifest() is None
    assert_goes_on(sweep, line, plain)


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(sweep, plain):
    with sweep.started() as process:
        wait_for(lambda: reached("measure", sweep, process), process)
        members = family(process.pid)
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        # It may have been quicker.
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        sent = time.monotonic()
        process.wait(timeout=60)
        took = time.monotonic() - sent
        # Others of its processes may hold its streams a little longer.
        out, error = process.communicate(timeout=60)
    assert took < 3
    assert process.returncode == 130
    assert not tracebacks(out + error)
    assert error.splitlines()[-1].startswith("stopped")
    agents = ray_agents(members)
    wait_for(lambda: not running([member for member in members if member not in agents]), seconds=20)
    wait_for(lambda: not running(agents), seconds=100)
    sweep.faults = ()
    done = sweep.finish("--resume")
    assert done.returncode == 0, done.stderr
    assert_same_run(sweep.run, plain)
    assert not left_in(sweep.environment["TMPDIR"]), "the next start removes what was left"
    assert not list(Path(sweep.run.path).rglob("*.lock"))


@pytest.mark.slow
def test_a_run_under_nohup_outlives_its_terminal(sweep, plain):
    sweep.prefix = ("nohup",)
    with sweep.started() as process:
        for stage in ("Ray starts", "replicas load", "search", "measure", "reduce"):
            wait_for(lambda stage=stage: reached(stage, sweep, process), process)
            os.killpg(process.pid, signal.SIGHUP)
        out, error = process.communicate(timeout=200)
    assert process.returncode == 0, error
    assert_same_run(sweep.run, plain)
