"""Clusters of several nodes on one machine: Ray's own for tests, and one that an autoscaler makes grow."""

import atexit
import contextlib
import functools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from .sweeping import FAULTS, ROOT

_STORE = 100 * 2**20
_HEAD = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"


@functools.cache
def _token() -> Path:
    """A token file; one for this process, since Ray reads it once."""
    file = Path(tempfile.mkdtemp(prefix="rdt", dir="/tmp")) / "token"
    file.write_text(secrets.token_hex(32))
    atexit.register(shutil.rmtree, file.parent, ignore_errors=True)
    return file


@contextlib.contextmanager
def own_ray(monkeypatch_environment: bool = True, faults: Sequence[Mapping[str, Any]] = ()) -> Iterator[dict[str, str]]:
    """Environment variables that keep a Ray apart from every other on this machine, in a folder with a short name.

    Nodes hand their environment on to the workers, so it has the `faults` too.
    """
    folder = Path(tempfile.mkdtemp(prefix="rdn", dir="/tmp"))
    variables = {"RAY_TMPDIR": str(folder), "RAY_AUTH_TOKEN_PATH": str(_token()), "RAY_AUTH_MODE": "token"}
    variables["PYTHONPATH"] = os.pathsep.join([str(FAULTS)] * bool(faults) + [str(ROOT)])
    variables["RAYDUAL_TEST_FAULTS"] = json.dumps(list(faults)) if faults else ""
    before = {name: os.environ.get(name) for name in variables}
    if monkeypatch_environment:
        os.environ.update(variables)
    try:
        yield variables
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        _end_all(str(folder))
        shutil.rmtree(folder, ignore_errors=True)


def _end_all(words: str) -> None:
    """Kill every process with `words` in its command line."""
    for process in psutil.process_iter(["cmdline"]):
        if any(words in argument for argument in process.info["cmdline"] or []):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


class Nodes:
    """A cluster of nodes of (CPUs, GPUs in name); the first one is the head, where the sweep runs."""

    def __init__(self, nodes: Sequence[tuple[float, int]]) -> None:
        (cpus, gpus), *others = nodes
        self._host = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster_host"], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        head = {"num_cpus": cpus, "num_gpus": gpus, "object_store_memory": _STORE, "include_dashboard": False}
        self.address = self._order("start", **head)
        self.others = [self.add(*node) for node in others]

    def _order(self, order: str, **arguments: Any) -> Any:
        assert self._host.stdin
        assert self._host.stdout
        print(json.dumps([order, arguments]), file=self._host.stdin, flush=True)
        answer = self._host.stdout.readline()
        assert answer, f"the cluster's process has ended ({self._host.poll()})"
        return json.loads(answer)

    def add(self, cpus: float, gpus: int, **more: Any) -> int:
        """One more node."""
        return self._order("add", num_cpus=cpus, num_gpus=gpus, object_store_memory=_STORE, **more)

    def kill(self, node: int) -> None:
        """A node is gone from one moment to the next, with all that ran on it."""
        self._order("kill", node=node)

    def shutdown(self) -> None:
        """End all nodes."""
        with self._host as host:
            assert host.stdin
            host.stdin.close()
            host.wait(timeout=60)


@contextlib.contextmanager
def nodes(kinds: Sequence[tuple[float, int]], faults: Sequence[Mapping[str, Any]] = ()) -> Iterator[Nodes]:
    """A cluster for a while, whose workers have `faults`."""
    with own_ray(faults=faults):
        started = Nodes(kinds)
        try:
            yield started
        finally:
            started.shutdown()


@contextlib.contextmanager
def autoscaled(kind: Mapping[str, float], most: int, idle_minutes: float = 5.0) -> Iterator[tuple[str, dict[str, str]]]:
    """(address, environment) of a head without CPUs whose autoscaler may start `most` nodes with the resources `kind`.

    The nodes are made by Ray's own stand-in for a cloud, as processes of this machine.
    """
    with own_ray(monkeypatch_environment=False) as variables:
        folder, port = Path(variables["RAY_TMPDIR"]), _free_port()
        config = folder / "autoscaler.json"
        address = f"{_own_ip()}:{port}"
        config.write_text(json.dumps(_autoscaler(kind, most, idle_minutes, address)))
        environment = {**os.environ, **variables, "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        arguments = [
            "ray", "start", "--head", "--block", f"--port={port}", "--num-cpus=0", "--num-gpus=0",
            f"--autoscaling-config={config}", "--include-dashboard=false", f"--dashboard-port={_free_port()}",
            f"--object-store-memory={_STORE}", "--disable-usage-stats",
        ]  # fmt: skip
        with (folder / "head.log").open("w") as log:
            process = subprocess.Popen(
                arguments, env={**environment, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD}, start_new_session=True,
                stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        try:
            _wait_for_port(address, process)
            yield address, environment
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _autoscaler(kind: Mapping[str, float], most: int, idle_minutes: float, address: str) -> dict[str, Any]:
    empty_lists = (
        "cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands", "setup_commands",
        "head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands",
    )  # fmt: skip
    return {
        "cluster_name": "stand-in",
        "max_workers": most,
        "idle_timeout_minutes": idle_minutes,
        "upscaling_speed": 8,
        "provider": {"type": "fake_multinode", "head_node_id": _HEAD, "gcs_address": address},
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": dict(kind), "node_config": {}, "min_workers": 0, "max_workers": most},
        },
        "head_node_type": "ray.head.default",
        "auth": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{name: [] for name in empty_lists},
    }


def _own_ip() -> str:
    from ray._private.services import get_node_ip_address

    return get_node_ip_address()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_port(address: str, process: subprocess.Popen) -> None:
    host, _, port = address.rpartition(":")
    for _ in range(600):
        assert process.poll() is None, "the head ended at once"
        with contextlib.suppress(OSError):
            socket.create_connection((host, int(port)), timeout=1).close()
            time.sleep(3)  # the autoscaler starts after it
            return
        time.sleep(0.1)
    raise AssertionError("the head did not start")
