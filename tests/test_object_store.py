"""A run on S3: a real server on loopback, the same results, faults and messages as on a disk."""

import json
import logging
import os
import secrets
import signal
import time

import pytest

from raydual.errors import UserError
from raydual.pipeline import taken
from raydual.report import write_report
from raydual.report.__main__ import main as report
from raydual.run_directory import lock
from raydual.run_directory.directory import RunDirectory, measurement_table
from raydual.run_directory.journal import Journal
from raydual.run_directory.lock import locked
from raydual.run_directory.storage import storage_at
from raydual.statistics.reduce import reduce_run
from raydual.sweep import main as sweep

from .synthetic import synthetic_config, synthetic_rows, synthetic_run
from .tiny_sweep import drive, tiny_sweep

pytestmark = [pytest.mark.slow, pytest.mark.ray]


@pytest.fixture(scope="module")
def server():
    """A server with a bucket; its address is where the usual environment variables say."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            environment.setenv(name, value)
        import boto3

        boto3.client("s3").create_bucket(Bucket="bucket")
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def where(server):
    """A new place in the bucket."""
    return f"s3://bucket/{secrets.token_hex(4)}/run"


def names(where: str) -> list[str]:
    return [entry.name for entry in storage_at(where).list(below=True) if not entry.folder]


def test_a_run_on_s3_is_that_on_a_disk(where, tmp_path, capsys):
    here, there = synthetic_run(tmp_path / "here", 5, 2, (4,)), synthetic_run(where, 5, 2, (4,))
    for run in (here, there):
        reduce_run(run)
        write_report(run)
    assert there.summary().equals(here.summary())
    assert names(where) == [entry.name for entry in here.storage.list(below=True) if not entry.folder]
    before = there.storage.read("report.html")
    assert report([where]) == 0
    assert capsys.readouterr().out.strip() == f"{where}/report.html"
    assert there.storage.read("report.html") == before == here.storage.read("report.html")
    assert report([where, "--into", str(tmp_path / "copy")]) == 0
    assert (tmp_path / "copy" / "report.html").read_bytes() == before


def test_a_damaged_object_is_named_and_its_seeds_are_measured_again(where, capsys):
    run, config = synthetic_run(where, 7, 2, ()), synthetic_config(7)
    reduce_run(run)
    summary = run.summary()
    name = sorted(name for name in names(where) if name.startswith("measurements"))[1]
    run.storage.write(name, run.storage.read(name)[:-100])
    run.storage.write("search/seeds.parquet", b"")
    run.storage.write("manifest.json", b"{")
    assert report([where]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{where}/{name}: damaged" in said
    run = RunDirectory(where)
    with taken(run, config, resume=True):
        missing = set(range(7)) - {seed for seed, _ in run.finished()}
        assert 0 < len(missing) < 7
        rows = [row for row in synthetic_rows(7, 2, ()) if row["seed"] in missing]
        run.write_measurements(measurement_table(rows))
    assert f"{where}/{name}: damaged" in capsys.readouterr().out
    assert reduce_run(run).equals(summary)
    assert f"{name}.damaged" in names(where)


def test_the_journal_of_a_search_is_quick(where):
    storage, started = storage_at(where), time.monotonic()
    journal = Journal(storage, "f")
    for examples in (25, 50, 100):
        for seed in range(128):
            journal.add(
                f"seed {seed} at {examples}", {"seed": seed, "examples": examples, "right": seed % 25, "reason": None}
            )
    seconds = time.monotonic() - started
    assert Journal(storage, "f").reports == journal.reports
    assert len(journal.reports) == 3 * 128
    assert len(names(where)) == 2
    assert seconds < 30


def test_a_run_that_stored_nothing_leaves_nothing(where):
    with pytest.raises(UserError, match="1 CPU"), taken(RunDirectory(where), synthetic_config(3), resume=False):
        raise UserError("cluster: it has 1 CPU")
    assert names(where) == []


def test_the_second_driver_is_refused_and_a_lock_left_behind_is_judged_by_its_age(where, monkeypatch):
    storage, said = storage_at(where), []
    with locked(storage, said.append):
        with pytest.raises(UserError, match=f"is being written by process {os.getpid()} on"), locked(storage, print):
            pass
        (own,) = names(where)
        left = json.loads(storage.read(own))
    storage.write("driver-left.lock", json.dumps({**left, "host": "elsewhere"}).encode())
    with pytest.raises(UserError, match="on elsewhere since"), locked(storage, print):
        pass
    monkeypatch.setattr(lock, "STALE_SECONDS", 1.0)
    time.sleep(3)
    with locked(storage, said.append):
        assert "taken over from process" in said[0]
        assert "driver-left.lock" not in names(where)


# What cannot be reached: one line, before anything is computed


@pytest.fixture
def small(tmp_path):
    """Settings that need nothing of the hub, read before the output is looked at."""
    import yaml

    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({"name": "x", "task": "sst2", "data": "embedded", "seeds": 2}), encoding="utf-8")
    return path


def said_of(config, where: str, capsys) -> str:
    started = time.monotonic()
    assert sweep([str(config), "--output", where, "--address", "127.0.0.1:1"]) == 2
    assert time.monotonic() - started < 60
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return said


def test_a_bucket_that_is_not_there_is_one_line(server, small, capsys):
    said = said_of(small, "s3://no-such-bucket/run", capsys)
    assert "s3://no-such-bucket/run" in said
    assert "there is no such bucket" in said


def test_a_server_that_does_not_answer_is_one_line(server, small, capsys, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    said = said_of(small, "s3://bucket/run", capsys)
    assert "no connection to the object store" in said
    assert "AWS_ENDPOINT_URL" in said


def test_credentials_that_are_missing_or_wrong_are_one_line(server, small, capsys, monkeypatch):
    import requests

    requests.post(f"{server}/moto-api/reset-auth", data="0", timeout=10)
    try:
        assert "check the credentials (AWS_ACCESS_KEY_ID" in said_of(small, "s3://bucket/run", capsys)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        assert "check the credentials (AWS_ACCESS_KEY_ID" in said_of(small, "s3://bucket/other", capsys)
    finally:
        requests.post(f"{server}/moto-api/reset-auth", data="inf", timeout=10)


# The whole way, on Ray


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_sweep(tmp_path_factory.mktemp("tiny"))


def test_a_sweep_to_s3_that_is_killed_goes_on_to_what_a_local_one_finds(where, tiny, tmp_path):
    local = drive(tiny, "--output", str(tmp_path / "local"))
    said, _ = local.communicate(timeout=300)
    assert local.returncode == 0, said
    killed = drive(tiny, "--output", where)
    deadline = time.monotonic() + 200
    while not any(name.startswith("measurements") for name in names(where)):
        assert killed.poll() is None, killed.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    second = drive(tiny, "--output", where, "--resume")
    said, _ = second.communicate(timeout=100)
    if killed.poll() is None:
        assert second.returncode == 2, said
        assert f"is being written by process {killed.pid}" in said
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    resumed = drive(tiny, "--output", where, "--resume")
    said, _ = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, said
    assert f"taken over from process {killed.pid}" in said
    assert said.splitlines()[-1] == f"{where}/report.html"
    here, there = RunDirectory(tmp_path / "local"), RunDirectory(where)
    assert str(there.summary().to_pylist()) == str(here.summary().to_pylist())
    assert str(there.finetune_search().to_pylist()) == str(here.finetune_search().to_pylist())
    assert there.finished() == here.finished()
    assert not [name for name in names(where) if name.endswith(".lock")]
