"""Kills at random moments, of the driver and of replicas: no row is lost or doubled, and the summary is the same.

The moments follow from a seed, which is printed and may be given as RAYDUAL_TEST_SEED.
"""

import os
import random
import secrets
import signal
import time
from collections import Counter

import pytest

from raydual.results import MEASUREMENTS

from .sweeping import (
    Sweeping,
    family,
    journal_lines,
    kill,
    left_in,
    measured_files,
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


@pytest.fixture
def draw():
    seed = int(os.environ.get("RAYDUAL_TEST_SEED") or secrets.randbelow(10**6))
    print(f"RAYDUAL_TEST_SEED={seed}")
    return random.Random(seed)


def faults(folder, attempt):
    """Batches take a while, and files tell when a run reduces and reports."""
    slow = [
        {"at": "raydual.measure.scoring:Scorer.score_slice", "kind": "slow", "seconds": 0.1},
        {"at": "raydual.measure.bench:Bench.measure", "kind": "slow", "seconds": 0.2},
    ]
    marks = [
        {"at": at, "kind": "mark", "file": str(folder / f"{stage}-{attempt}")}
        for at, stage in (("raydual.reduce:reduce_run", "reduce"), ("raydual.report:write_report", "report"))
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
    killed = Counter()
    for number in range(RUNS):
        sweep = Sweeping(tmp_path / str(number), tiny_settings(inputs), environment=environment)
        moments = [(stage, draw.uniform(0, seconds)) for stage, times, seconds in KILLS for _ in range(times)]
        for attempt, (stage, seconds) in enumerate(moments):
            before = stored(sweep.run)
            killed[end_driver(sweep, attempt, stage, seconds, draw)] += 1
            assert stored(sweep.run) >= before
        sweep.faults = ()
        done = sweep.finish(*resume(sweep))
        assert done.returncode == 0, done.stderr
        assert_same_run(sweep.run, plain)
        assert not list(sweep.run.path.rglob("*.lock")) + list(sweep.run.path.rglob(".*.tmp"))
    print(dict(killed))
    assert sum(killed.values()) == RUNS * sum(times for _, times, _ in KILLS)
    assert killed["ended before"] <= RUNS
    # The last runs needed no Ray; the next one that starts Ray removes the folders that the dead left behind.
    sweep = Sweeping(tmp_path / "last", tiny_settings(inputs), environment=environment)
    assert sweep.finish().returncode == 0
    assert not left_in(environment["TMPDIR"])


def resume(sweep):
    """`--resume`, if there is something to go on with."""
    return ["--resume"] if (sweep.run.path / "config.yaml").exists() else []


def end_driver(sweep, attempt, stage, seconds, draw):
    """Start the sweep, or go on with it, and kill it `seconds` after a stage begins; returns the stage."""
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
        wait_for(lambda: not running(members), seconds=60)
    return stage if process.returncode == -signal.SIGKILL else "ended before"


def test_replicas_that_are_killed_at_random_moments_change_nothing(inputs, environment, plain, tmp_path, draw):
    settings = tiny_settings(inputs)
    # Enough that no batch is given up and split, which would change what is computed together.
    settings["execution"]["retries"] = 2 * REPLICA_KILLS
    slow = [
        {"at": "raydual.measure.scoring:Scorer.score_slice", "kind": "slow", "seconds": 0.7},
        {"at": "raydual.measure.bench:Bench.measure", "kind": "slow", "seconds": 3},
    ]
    killed = 0
    for number in range(2):
        sweep = Sweeping(tmp_path / str(number), settings, faults=slow, environment=environment)
        with sweep.started() as process:
            wait_for(lambda: replica_processes(process.pid), process)
            for _ in range(REPLICA_KILLS // 2):
                time.sleep(draw.uniform(0, 6))
                found = replica_processes(process.pid)
                if found and process.poll() is None:
                    kill(draw.choice(found))
                    killed += 1
            out, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
        assert not tracebacks(out + error)
        assert_same_run(sweep.run, plain)
        assert 0 < sweep.run.manifest()["losses"]["replicas_lost"] <= REPLICA_KILLS // 2
    print(f"{killed} replicas killed")
    assert killed >= REPLICA_KILLS - 2
