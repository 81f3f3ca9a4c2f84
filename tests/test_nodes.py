"""Sweeps on several nodes, with GPUs in name, and on nodes that an autoscaler starts: the numbers of a single one."""

import signal
import time

import pytest

from .nodes import autoscaled, nodes
from .sweeping import MEASURE, Sweeping, measured_files, tiny_settings, wait_for
from .tolerance import Rounding, assert_same_run

pytestmark = [pytest.mark.slow, pytest.mark.ray]

NODE_KILLS = 5
SMALL = {"controls": {"other_seed": True, "untrained": True, "seeds": 4}}


def slow(seconds):
    """Every batch takes so much longer."""
    return [{"at": MEASURE, "kind": "slow", "seconds": seconds}]


@pytest.fixture(scope="module")
def plain(inputs, tmp_path_factory):
    """The run that all others are compared with, on one node."""
    sweep = Sweeping(tmp_path_factory.mktemp("plain"), tiny_settings(inputs, **SMALL))
    done = sweep.finish()
    assert done.returncode == 0, done.stderr
    return sweep.run


@pytest.fixture(scope="module")
def rounding(plain):
    """How far other numbers of threads may move the plain run's numbers."""
    return Rounding.of_run(plain)


def checked(done, sweep, plain, rounding):
    """A finished run's output, if its numbers are those of the plain one."""
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert_same_run(sweep.run, plain, rounding)
    return done.stdout


@pytest.mark.parametrize(
    ("kinds", "execution", "laid_out"),
    [
        ([(1, 1), (1, 1), (1, 1)], {}, "3 replica(s) of 1 CPU and 1 GPU"),
        ([(4, 1), (4, 1)], {}, "2 replica(s) of 1 CPU and 1 GPU"),
        ([(0, 0), (1, 0), (1, 0)], {}, "2 replica(s) of 1 CPU"),
        ([(1, 0), (1, 0), (1, 0), (4, 0)], {"replicas": 4}, "4 replica(s) of 1 CPU"),
        ([(1, 1)], {"gpus_per_replica": 0.25}, "4 replica(s) of 0.25 CPU and 0.25 GPU"),
    ],
    ids=["three GPUs", "two GPUs", "head without CPU", "uneven", "a quarter of a GPU"],
)
def test_numbers_do_not_depend_on_the_nodes(inputs, plain, rounding, tmp_path, kinds, execution, laid_out):
    settings = tiny_settings(inputs, **SMALL)
    settings["execution"] = {**settings["execution"], **execution}
    with nodes(kinds) as cluster:
        sweep = Sweeping(tmp_path / "sweep", settings, address=cluster.address)
        said = checked(sweep.finish(), sweep, plain, rounding)
    assert laid_out in said
    assert ("GPU by name" in said) == any(gpus for _, gpus in kinds)


def test_a_node_that_joins_while_measuring_is_used(inputs, plain, rounding, tmp_path):
    with nodes([(1, 0)], faults=slow(8)) as cluster:
        sweep = Sweeping(tmp_path / "sweep", tiny_settings(inputs, **SMALL), address=cluster.address)
        with sweep.started() as process:
            wait_for(lambda: measured_files(sweep.run), process)
            cluster.add(1, 0)
            out, error = process.communicate(timeout=240)
        assert process.returncode == 0, error
    assert "1 replica(s) of 1 CPU" in out
    assert sweep.run.manifest()["hardware"]["replicas_at_most"] == 2
    assert_same_run(sweep.run, plain, rounding)


@pytest.mark.parametrize("stage", ["search", "measure"])
def test_a_node_that_is_lost_loses_nothing(inputs, plain, rounding, tmp_path, stage):
    with nodes([(0, 0), (1, 0), (1, 0)], faults=slow(2)) as cluster:
        sweep = Sweeping(tmp_path / "sweep", tiny_settings(inputs, **SMALL), address=cluster.address)
        with sweep.started() as process:
            journal = sweep.run.path / "search" / "journal.jsonl"
            wait_for(lambda: measured_files(sweep.run) if stage == "measure" else journal.exists(), process)
            cluster.kill(cluster.others[0])
            time.sleep(1)
            cluster.add(1, 0)
            out, error = process.communicate(timeout=240)
        assert process.returncode == 0, out + error
    assert "lost" in out
    assert "Traceback" not in out + error
    assert sweep.run.manifest()["losses"]["replicas_lost"] >= 1
    assert_same_run(sweep.run, plain, rounding)


def test_nodes_that_are_killed_at_random_moments_change_nothing(inputs, plain, rounding, tmp_path, draw):
    settings = tiny_settings(inputs, **SMALL)
    # Enough that no batch is given up and split, which would change what is computed together.
    settings["execution"]["retries"] = 2 * NODE_KILLS
    with nodes([(0, 0), (1, 0), (1, 0)], faults=slow(4)) as cluster:
        sweep = Sweeping(tmp_path / "sweep", settings, address=cluster.address)
        there = cluster.others
        with sweep.started() as process:
            wait_for((sweep.run.path / "config.yaml").exists, process)
            for _ in range(NODE_KILLS):
                time.sleep(draw.uniform(0, 5))
                assert process.poll() is None, process.communicate()
                cluster.kill(there.pop(draw.randrange(len(there))))
                there.append(cluster.add(1, 0))
            out, error = process.communicate(timeout=300)
        assert process.returncode == 0, out + error
    assert "Traceback" not in out + error
    assert sweep.run.manifest()["losses"]["replicas_lost"] >= 1
    assert_same_run(sweep.run, plain, rounding)


def test_a_cluster_without_gpus_yet_is_asked_for_them(inputs, plain, rounding, tmp_path):
    with autoscaled({"CPU": 4, "GPU": 1}, most=2) as (address, environment):
        sweep = Sweeping(tmp_path / "sweep", tiny_settings(inputs, **SMALL), address, environment=environment)
        said = checked(sweep.finish(), sweep, plain, rounding)
        assert "2 replica(s) of 1 CPU and 1 GPU" in said
        assert "0 fit on the nodes that are there, the autoscaler is asked for the others" in said
        left = Sweeping(tmp_path / "no", tiny_settings(inputs, **SMALL), address, environment=environment)
        left.arguments = ["--no-wait", "--set", "execution.replicas=3"]
        refused = left.finish()
        assert refused.returncode == 2
        assert "execution.replicas: 3 of" in refused.stderr
        assert not left.run.path.exists()


def test_a_cluster_that_gives_nothing_is_waited_for_no_longer_than_asked(inputs, tmp_path):
    # Nodes that the stand-in for a cloud cannot start: there is no such resource on any machine.
    with autoscaled({"CPU": 4, "GPU": 1}, most=0) as (address, environment):
        sweep = Sweeping(tmp_path / "none", tiny_settings(inputs, **SMALL), address, environment=environment)
        refused = sweep.finish()
        assert refused.returncode == 2
        assert refused.stderr.startswith("error: cluster: no node holds a replica")
        assert not sweep.run.path.exists()


def test_a_wait_ends_in_a_line_that_names_what_is_pending(inputs, tmp_path):
    with nodes([(1, 0)], faults=slow(8)) as cluster:
        first = Sweeping(tmp_path / "first", tiny_settings(inputs, **SMALL), cluster.address)
        second = Sweeping(tmp_path / "second", tiny_settings(inputs, **SMALL), cluster.address)
        second.arguments = ["--wait", "0.2"]
        with first.started() as process:
            wait_for(lambda: measured_files(first.run), process)
            done = second.finish()
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
    assert done.returncode == 2
    assert "waiting for nodes: 1 replica(s) of 1 CPU are asked for, none has a place yet" in done.stdout
    assert done.stderr.splitlines()[-1].startswith(
        "error: cluster: for 0.2 min there was no room for a replica of 1 CPU; see `ray status`"
    )
    assert "Traceback" not in done.stdout + done.stderr
    assert not second.run.path.exists()
