"""One driver at a time: the second is refused by name, and what a dead one left behind is taken over."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import uuid

import psutil
import pytest

from raydual.cells import CellsDirectory
from raydual.errors import UserError
from raydual.report.__main__ import main as report
from raydual.run_directory import lock
from raydual.run_directory.directory import RunDirectory, measurement_table
from raydual.run_directory.lock import locked
from raydual.run_directory.storage import storage_at

from .synthetic import synthetic_rows, synthetic_run

HOLD = """
import sys, time
from raydual.run_directory.lock import locked
from raydual.run_directory.storage import storage_at
with locked(storage_at(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock of a directory."""
    started = []

    def hold(path):
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def locks(path) -> list[str]:
    return [entry.name for entry in storage_at(path).list() if entry.name.endswith(".lock")]


def forge(path, changed: float = 0.0, **over) -> str:
    """A lock as a driver would leave it, `changed` seconds ago."""
    me = lock._me()
    holder = {field: getattr(me, field) for field in lock._FIELDS} | over
    file = path / "driver-forged.lock"
    file.write_text(json.dumps(holder), encoding="utf-8")
    os.utime(file, (time.time() - changed,) * 2)
    return file.name


def taken(path) -> list[str]:
    """What is said while the lock is taken, and given back."""
    said = []
    with locked(storage_at(path), said.append):
        assert len(locks(path)) == 1
    assert locks(path) == []
    return said


def refused(path) -> str:
    with pytest.raises(UserError) as error, locked(storage_at(path), print):
        pass
    return str(error.value)


def test_the_second_driver_is_refused_by_host_process_and_time_of_the_first(tmp_path, other):
    first = other(tmp_path)
    said = refused(tmp_path)
    assert f"is being written by process {first.pid} on {os.uname().nodename} since 20" in said
    assert "\n" not in said
    assert len(locks(tmp_path)) == 1


@pytest.mark.parametrize("reaped", [True, False])
def test_a_lock_of_a_killed_process_is_taken_over_at_once_and_that_is_said(tmp_path, other, reaped):
    first = other(tmp_path)
    first.kill()
    if reaped:
        first.wait()
    else:
        deadline = time.monotonic() + 10
        while psutil.Process(first.pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert len(locks(tmp_path)) == 1
    assert f"taken over from process {first.pid} on" in taken(tmp_path)[0]


@pytest.mark.parametrize("end", [signal.SIGINT, "error"])
def test_a_lock_is_given_back_after_errors_and_interrupts(tmp_path, other, end):
    if end == "error":
        with pytest.raises(ZeroDivisionError), locked(storage_at(tmp_path), print):
            raise ZeroDivisionError
    else:
        first = other(tmp_path)
        first.send_signal(end)
        first.wait(10)
    assert locks(tmp_path) == []


def test_a_process_number_that_is_used_again_is_not_taken_for_the_old_process(tmp_path):
    forge(tmp_path, started=psutil.Process().create_time() - 1000)
    assert "which has ended" in taken(tmp_path)[0]
    forge(tmp_path)
    assert f"process {os.getpid()}" in refused(tmp_path)


def test_a_lock_of_another_host_is_judged_by_its_age(tmp_path):
    for over in ({"host": "elsewhere"}, {"processes": "another container"}):
        forge(tmp_path, changed=lock.STALE_SECONDS - 30, pid=1, **over)
        assert "process 1 on" in refused(tmp_path)
        forge(tmp_path, changed=lock.STALE_SECONDS + 30, pid=1, **over)
        assert "no sign of life for" in taken(tmp_path)[0]


@pytest.mark.parametrize("content", [b"", b"garbage", b"[]", b'{"pid": "x"}'])
def test_a_damaged_lock_is_judged_by_its_age(tmp_path, content):
    name = forge(tmp_path)
    (tmp_path / name).write_bytes(content)
    assert "an unknown process" in refused(tmp_path)
    os.utime(tmp_path / name, (time.time() - 1000,) * 2)
    assert "taken over from an unknown process" in taken(tmp_path)[0]


def test_the_heart_keeps_a_lock_young_and_notices_when_it_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.05)
    storage = storage_at(tmp_path)
    with locked(storage, print):
        (name,) = locks(tmp_path)
        os.utime(tmp_path / name, (0, 0))
        wait(lambda: (tmp_path / name).stat().st_mtime > 1)
        storage.write("a", b"")
        (tmp_path / name).unlink()
        wait(lambda: _refuses(storage))
        assert _refuses(storage.sub("measurements"))
    assert locks(tmp_path) == []
    storage.write("b", b"")


def _refuses(storage) -> bool:
    try:
        storage.write("a", b"")
    except UserError as error:
        return "its lock has been taken over" in str(error)
    return False


def wait(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("store", ["local", "memory"])
def test_of_many_that_start_at_once_never_two_go_on_together(tmp_path, store):
    where = tmp_path if store == "local" else f"memory://{uuid.uuid4().hex}"
    inside, most, held = [], [], []

    def drive():
        try:
            with locked(storage_at(where), print):
                inside.append(1)
                most.append(len(inside))
                held.append(1)
                time.sleep(0.05)
                inside.pop()
        except UserError:
            pass

    threads = [threading.Thread(target=drive) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most, default=0) <= 1
    assert locks(where) == []


def test_a_storage_that_is_held_may_be_sent_to_other_processes(tmp_path):
    storage = storage_at(tmp_path)
    with locked(storage, print):
        copy = pickle.loads(pickle.dumps(storage.sub("search")))
    copy.write("a", b"b")
    assert storage.read("search/a") == b"b"


def test_a_report_of_a_run_in_progress_changes_nothing(tmp_path, other, capsys):
    run = synthetic_run(tmp_path / "run", 3, 1, ())
    first = other(run.path)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert report([str(run.path)]) == 2
    said = capsys.readouterr().err
    assert f"process {first.pid}" in said
    assert "--into" in said
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    assert report([str(run.path), "--into", str(tmp_path / "copy")]) == 0
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_a_directory_of_cells_is_held_as_well(tmp_path, other):
    first = other(tmp_path)
    with pytest.raises(UserError, match=f"process {first.pid}"), CellsDirectory(tmp_path).locked(print):
        pass


def test_who_takes_a_run_over_removes_what_was_half_written(tmp_path):
    run = synthetic_run(tmp_path / "run", 3, 1, ())
    half = [run.measurements / ".seed-1.parquet.77.tmp", run.path / ".manifest.json.77.tmp"]
    for path in half:
        path.write_bytes(b"half")
    with run.locked(print):
        assert not any(path.exists() for path in half)
        run.write_measurements(measurement_table({**row, "seed": 8} for row in synthetic_rows(1, 1, ())))
    assert len(RunDirectory(run.path).finished()) == 4
