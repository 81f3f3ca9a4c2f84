"""Kills at random moments, of the driver and of replicas: no row is lost or doubled, and the summary is the same."""

import os
import signal
import time
from collections import Counter

import pytest

from raydual.run_directory.directory import MEASUREMENTS

from .sweeping import (
    MEASURE,
    SCORE,
    Sweeping,
    family,
    journal_lines,
    kill,
    left_in,
    measured_files,
    ray_agents,
    replica_processes,
    running,
    tiny_settings,
    tracebacks,
    wait_for,
)
from .tolerance import KEY, assert_same_run

pytestmark = [pytest.mark.slow, pytest.mark.ray]

RUNS = 2
# Each run is killed so often in each stage, in this order, at a moment up to so many seconds after its beginning.
KILLS = (("start", 2, 6.0), ("search", 2, 1.5), ("measure", 3, 1.5), ("reduce", 1, 0.5), ("report", 2, 0.7))
REPLICA_KILLS = 10


def faults(folder, attempt):
    """Batches take a while, and files tell when a run reduces and reports."""
    slow = [
        {"at": SCORE, "kind": "slow", "seconds": 0.1},
        {"at": MEASURE, "kind": "slow", "seconds": 0.2},
    ]
    marks = [
        {"at": at, "kind": "mark", "file": str(folder / f"{stage}-{attempt}")}
        for at, stage in (("raydual.statistics.reduce:reduce_run", "reduce"), ("raydual.report:write_report", "report"))
    ]
    return [*slow, *marks]


def stored(run):
    """What a run has stored: its rows, none of them twice."""
    if not run.path.joinpath("measurements").is_dir() or not measured_files(run):
        return set()
    keys = [tuple(row[name] for name in KEY) for row in run.measured(MEASUREMENTS.names).to_pylist()]
    assert len(set(keys)) == len(keys)
    return set(keys)


def test_a_driver_that_is_killed_again_and_again_loses_nothing(inputs, environment, plain, tmp_path, draw):
    killed, agents = Counter(), []
    for number in range(RUNS):
        sweep = Sweeping(tmp_path / str(number), tiny_settings(inputs), environment=environment)
        moments = [(stage, draw.uniform(0, seconds)) for stage, times, seconds in KILLS for _ in range(times)]
        for attempt, (stage, seconds) in enumerate(moments):
            before = stored(sweep.run)
            stage, lingering = end_driver(sweep, attempt, stage, seconds, draw)
            killed[stage] += 1
            agents += lingering
            assert stored(sweep.run) >= before
        sweep.faults = ()
        done = sweep.finish(*resume(sweep))
        assert done.returncode == 0, done.stderr
        assert_same_run(sweep.run, plain)
        assert not list(sweep.run.path.rglob("*.lock")) + list(sweep.run.path.rglob(".*.tmp"))
    print(dict(killed))
    assert sum(killed.values()) == RUNS * sum(times for _, times, _ in KILLS)
    assert killed["ended before"] <= RUNS
    wait_for(lambda: not running(agents), seconds=100)
    # The last runs needed no Ray; the next one that starts Ray removes the folders that the dead left behind.
    sweep = Sweeping(tmp_path / "last", tiny_settings(inputs), environment=environment)
    assert sweep.finish().returncode == 0
    assert not left_in(environment["TMPDIR"])


def resume(sweep):
    """`--resume`, if there is something to go on with."""
    return ["--resume"] if (sweep.run.path / "config.yaml").exists() else []


def end_driver(sweep, attempt, stage, seconds, draw):
    """Start the sweep, or go on with it, and kill it `seconds` after a stage begins.

    Returns the stage, and Ray's agents, which look for their dead Ray a minute long before they end.
    """
    sweep.faults = faults(sweep.folder, attempt)
    reports, files = len(journal_lines(sweep.run)), len(measured_files(sweep.run))
    reached = {
        "start": lambda: True,
        "search": lambda: len(journal_lines(sweep.run)) > reports,
        "measure": lambda: len(measured_files(sweep.run)) > files,
        "reduce": (sweep.folder / f"reduce-{attempt}").exists,
        "report": (sweep.folder / f"report-{attempt}").exists,
    }
    stages = list(reached)
    later = [reached[name] for name in stages[stages.index(stage) :]]
    with sweep.started(*resume(sweep)) as process:
        wait_for(lambda: any(is_reached() for is_reached in later), process, seconds=200)
        time.sleep(seconds)
        members, whole = family(process.pid), draw.random() < 0.5
        if process.poll() is None:
            if whole:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        process.communicate(timeout=30)
        agents = ray_agents(members)
        wait_for(lambda: not running([member for member in members if member not in agents]), seconds=60)
    return stage if process.returncode == -signal.SIGKILL else "ended before", agents


def test_replicas_that_are_killed_at_random_moments_change_nothing(inputs, environment, plain, tmp_path, draw):
    settings = tiny_settings(inputs)
    # Enough that no batch is given up and split, which would change what is computed together.
    settings["execution"]["retries"] = 2 * REPLICA_KILLS
    slow = [
        {"at": SCORE, "kind": "slow", "seconds": 0.7},
        {"at": MEASURE, "kind": "slow", "seconds": 3},
    ]
    killed = 0
    for number in range(2):
        sweep = Sweeping(tmp_path / str(number), settings, faults=slow, environment=environment)
        with sweep.started() as process:
            wait_for(lambda: replica_processes(process.pid), process)
            for _ in range(REPLICA_KILLS // 2):
                time.sleep(draw.uniform(0, 5))
                wait_for(lambda: process.poll() is not None or replica_processes(process.pid))
                found = replica_processes(process.pid)
                if found:
                    kill(draw.choice(found))
                    killed += 1
            out, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
        assert not tracebacks(out + error)
        assert_same_run(sweep.run, plain)
        assert 0 < sweep.run.manifest()["losses"]["replicas_lost"] <= REPLICA_KILLS // 2
    print(f"{killed} replicas killed")
    assert killed >= REPLICA_KILLS - 2
