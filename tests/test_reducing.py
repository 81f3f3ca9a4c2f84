"""A large run's metrics as Ray tasks: the same tables as in threads, from several processes, named by their metrics."""

import time

import pytest
import ray
from ray.util.state import list_tasks

from raydual.cluster.reducing import map_on_ray
from raydual.statistics import reduce
from raydual.statistics.reduce import reduce_run

from .default_catalogue import CATALOGUE
from .synthetic import synthetic_run


@pytest.fixture
def dashboard(tmp_path, monkeypatch):
    """The address of the dashboard of a Ray of our own."""
    token = tmp_path / "token"
    token.write_text("0" * 64)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    context = ray.init(address="local", num_cpus=2, object_store_memory=100 * 2**20, log_to_driver=False)
    yield f"http://{context.dashboard_url}"
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.ray
def test_tasks_find_what_threads_find(dashboard, tmp_path, monkeypatch):
    run = synthetic_run(tmp_path / "run", seeds=30)
    monkeypatch.setattr(reduce, "_JOB_BYTES", 0)
    expected = reduce_run(run, map_large=map_on_ray)
    written = {path.name: path.read_bytes() for path in run.path.glob("*.*")}
    assert not list_tasks(dashboard, limit=1000), "a small run needs no other machine"

    monkeypatch.setattr(reduce, "LARGE_ROWS", 0)
    assert reduce_run(run, map_large=map_on_ray).equals(expected)
    assert {path.name: path.read_bytes() for path in run.path.glob("*.*")} == written
    expected_names = {f"reduce {metric}" for metric in CATALOGUE}
    for _ in range(30):  # workers tell the dashboard about their tasks once a second or so
        names = {task.name for task in list_tasks(dashboard, limit=1000)}
        if names >= expected_names:
            break
        time.sleep(1)
    assert names == expected_names
