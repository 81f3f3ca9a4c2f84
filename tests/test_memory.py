"""Memory against the number of seeds: the bounds hold, and would not if everything were loaded at once."""

import os
import re
import subprocess
import sys

import pytest

from analysis import memory

from .sweeping import ROOT

pytestmark = pytest.mark.long

FEW, MANY, LAYERS = 100, 1600, 28
BYTES_A_ROW = 90
"""What one more row may add to the driver's peak; a table of all rows adds more than half as much again."""
MORE_SEEDS = 1.15
"""What three times the seeds may do to a replica's peak."""

ONE_CORE = """
import os

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
"""
"""Each core has a thread that takes memory."""
REDUCE = """
import sys
from pathlib import Path
from analysis import memory
from raydual.run_directory.directory import MEASUREMENTS, RunDirectory

path = Path(sys.argv[1])
held = RunDirectory(path).measured(MEASUREMENTS.names) if "all at once" in sys.argv else None
memory.reduce_and_tell(path)
"""
MEASURE = """
import sys
from analysis import memory

memory.measure_and_tell(*map(int, sys.argv[1:]))
"""


def peak(code: str, *arguments: object) -> float:
    """The MiB that a process of its own says it took, on one core."""
    done = subprocess.run(
        [sys.executable, "-c", ONE_CORE + code, *map(str, arguments)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return float(re.search(r"peak (\d+) MiB", done.stdout)[1])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Made-up runs of few and of many seeds, and how many rows more the second has."""
    found = [memory.made_up_run(tmp_path_factory.mktemp("runs") / str(n), n, LAYERS) for n in (FEW, MANY)]
    rows = [run.measured(["seed"]).num_rows for run in found]
    return [run.path for run in found], rows[1] - rows[0]


def test_more_seeds_take_the_driver_little_more_memory_and_holding_all_rows_would_be_noticed(runs):
    (few, many), more = runs
    least = peak(REDUCE, few)
    bound = least + more * BYTES_A_ROW / 2**20
    assert peak(REDUCE, many) < bound
    assert peak(REDUCE, many, "all at once") > bound


def test_more_seeds_take_a_replica_no_more_memory_and_measuring_all_together_would_be_noticed():
    bound = MORE_SEEDS * peak(MEASURE, 4, 4)
    assert peak(MEASURE, 12, 4) < bound
    assert peak(MEASURE, 12, 12) > bound


def test_the_script_tells_every_peak(capfd):
    assert memory.main(["--seeds", "16", "--layers", "2", "--replica-seeds"]) == 0
    said = capfd.readouterr().out
    assert re.search(r"^16 seeds, 2 layers: reduce [\d.]+ s, peak \d+ MiB \(\d+ MiB before it\)$", said, re.MULTILINE)
