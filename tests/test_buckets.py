"""Rows are gathered in one pass, whatever is held in memory, and reduced in any grouping to the same tables."""

import math
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydual.errors import UserError
from raydual.run_directory.directory import FAILED, RunDirectory, measurement_table
from raydual.run_directory.storage import Storage
from raydual.settings.controls import report_order
from raydual.statistics import buckets, reduce
from raydual.statistics.buckets import Buckets, gather
from raydual.statistics.reduce import map_in_threads, reduce_run

from .synthetic import control_rows, synthetic_run

TABLES = ("summary.parquet", "comparisons.parquet", "summary.json")


@pytest.fixture
def run(tmp_path):
    """A run with controls of fewer seeds, undefined values and failures, its rows shuffled."""
    run = synthetic_run(tmp_path / "run", 13, 3, failed=(4,), shuffle=7)
    for control, seeds in (("other_seed", 9), ("permutation_10", 5), ("permutation_2", 5)):
        run.write_measurements(measurement_table(control_rows(control, 0.05, seeds, 3)))
    return run


def written(run: RunDirectory) -> dict[str, bytes]:
    reduce_run(run)
    return {name: (run.path / name).read_bytes() for name in TABLES}


def test_every_file_is_read_once(run, monkeypatch):
    run.rows.sound()  # that all are whole has been checked before
    opened, read = [], Storage.read
    monkeypatch.setattr(Storage, "read", lambda storage, name: opened.append(name) or read(storage, name))
    monkeypatch.setattr(RunDirectory, "measured", None)
    reduce_run(run)
    files = sorted(path.name for path in run.measurements.glob("*.parquet"))
    assert [name for name in opened if name.endswith(".parquet")] == files


def test_what_goes_to_disk_and_how_the_work_is_split_change_nothing(run, monkeypatch):
    expected = written(run)
    spilled, spill = [], buckets.Bucket.spill
    monkeypatch.setattr(buckets, "_SCATTERED_ROWS", 50)
    monkeypatch.setattr(buckets, "_HELD_ROWS", 300)
    monkeypatch.setattr(buckets, "_READ_RECORDS", 7)
    monkeypatch.setattr(buckets.Bucket, "spill", lambda bucket: spilled.append(bucket) or spill(bucket))
    assert written(run) == expected
    assert spilled
    for size in (0, 5000, 10**9):
        monkeypatch.setattr(reduce, "_JOB_BYTES", size)
        assert written(run) == expected


one_row = st.fixed_dictionaries(
    {
        "seed": st.sampled_from([-3, 0, 7, 2**40]),
        "control": st.sampled_from(["none", "untrained", "permutation_2", "permutation_10"]),
        "shots": st.sampled_from([2, 8, 32]),
        "metric": st.sampled_from(["simaou", "accuracy", "of another version", FAILED]),
        "condition": st.sampled_from(["icl-ft", "zsl", "icl-ft, gold 1"]),
        "layer": st.integers(-1, 2),
        "value": st.sampled_from([0.5, -1.0, math.nan]),
    }
).map(lambda row: {**row, "examples": 1, "undefined": 0, "reason": "why" if row["metric"] == FAILED else None})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(one_row, max_size=12), max_size=6), st.integers(1, 30))
def test_values_are_those_of_a_plain_dictionary(files, scattered):
    plain = {}
    with pytest.MonkeyPatch.context() as patch, Buckets() as found:
        patch.setattr(buckets, "_SCATTERED_ROWS", scattered)
        patch.setattr(buckets, "_HELD_ROWS", 2 * scattered)
        for rows in files:
            table = measurement_table(rows)
            for name in ("control", "metric", "condition", "reason"):
                at = table.schema.get_field_index(name)
                table = table.set_column(at, name, table[name].dictionary_encode())
            for batch in table.to_batches():
                found.add(batch)
            for row in rows:
                key = row["metric"], row["condition"]
                variant = row["control"], row["shots"]
                plain.setdefault(key, {})[variant, row["layer"], row["seed"]] = row["value"]
        found.scatter()
        everything = [row for rows in files for row in rows]
        assert found.rows == len(everything)
        assert found.finished == {row["seed"] for row in everything if row["control"] == "none"}
        assert found.failures == [(r["seed"], r["control"], "why") for r in everything if r["metric"] == FAILED]
        for key in (*plain, ("never", "measured")):
            assert_same(found.values(*key), plain.get(key, {}))


def assert_same(values, plain):
    variants, layers, seeds = (sorted({place[axis] for place in plain}) for axis in range(3))
    # Controls as reports show them, and of each all demonstrations first.
    assert list(values.variants) == sorted(variants, key=lambda of: (report_order(of[0]), -of[1]))
    assert (values.layers.tolist(), values.seeds.tolist()) == (layers, seeds)
    for (c, layer, seed), measured in np.ndenumerate(values.measured):
        place = values.variants[c], layers[layer], seeds[seed]
        assert measured == (place in plain)
        np.testing.assert_equal(values.values[c, layer, seed], plain.get(place, math.nan))


def test_a_disk_without_room_for_the_rows_is_told_in_one_line(run):
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from raydual.statistics import buckets\n"
        "from raydual.errors import exit_on_user_error\n"
        "from raydual.run_directory.directory import RunDirectory\n"
        "buckets._SCATTERED_ROWS, buckets._HELD_ROWS = 50, 300\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        f"sys.exit(exit_on_user_error(lambda: buckets.gather(RunDirectory(Path({str(run.path)!r})))))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "cannot hold the rows while they are reduced (File too large)" in done.stderr
    assert "TMPDIR" in done.stderr


def test_a_damaged_file_is_named(run):
    damaged = sorted(run.measurements.glob("*.parquet"))[2]
    damaged.write_bytes(damaged.read_bytes()[:-9])
    with pytest.raises(UserError, match=f"{damaged.name}: damaged.*--resume"):
        gather(run)


def test_few_jobs_are_held_at_once_and_results_keep_their_order(monkeypatch):
    monkeypatch.setattr(reduce, "_cores", lambda: 3)
    taken, begun, others = [], threading.Barrier(3), set()

    def jobs():
        for job in range(9):
            taken.append(job)
            yield job

    def double(job):
        others.add(threading.get_ident())
        begun.wait(timeout=20)  # passes only where three work at once
        return 2 * job

    for count, result in enumerate(map_in_threads(double, jobs())):
        assert result == 2 * count
        assert len(taken) <= count + 4
    assert len(others) == 3
