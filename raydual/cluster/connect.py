"""Connect to Ray, quietly, and say where."""

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

# Read by ray at import: no copy of uv's environment, trials that keep the working directory, and
# none of the loggers and notices that would bury the run's own lines.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray

from raydual.errors import UserError

_OBJECT_STORE_BYTES = 256 * 2**20
_KNOCK_SECONDS = 5
_current: "Connection | None" = None


@dataclass(frozen=True)
class Connection:
    """Where Ray is, what it has, and how many seconds it took to connect."""

    place: str
    dashboard: str
    nodes: int
    cpus: float
    gpus: float
    seconds: float

    def describe(self) -> str:
        """One line for a person."""
        dashboard = f"; dashboard http://{self.dashboard}" if self.dashboard else ""
        gpus = f"{self.gpus:g} GPU" if self.gpus else "no GPU"
        return f"{self.place}: {self.nodes} node(s), {self.cpus:g} CPU, {gpus}{dashboard}"


@contextmanager
def connect(address: str | None = None) -> Iterator[Connection]:
    """Join the cluster at `address`, or the one this machine belongs to, or start Ray here; leave it afterwards.

    The address `local` always starts Ray here.

    Raises
    ------
    UserError
        There is no cluster at `address`.
    """
    global _current
    if ray.is_initialized():
        yield _current or _connection("Ray cluster that this process is connected to")
        return
    started = time.monotonic()
    where, dashboard = _join(address or os.environ.get("RAY_ADDRESS"))
    try:
        _current = _connection(where, dashboard, time.monotonic() - started)
        yield _current
    finally:
        _current = None
        ray.shutdown()


def _join(address: str | None) -> tuple[str, str | None]:
    """(where Ray is, its dashboard), once connected."""
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address != "local":
        _check_reachable(address)
        try:
            context: Any = ray.init(address=address or "auto", **options)
            return f"Ray cluster at {context.address_info['gcs_address']}", context.dashboard_url
        except (ConnectionError, ValueError, RuntimeError) as error:
            if address:
                raise _no_cluster(address, str(error).splitlines()[0]) from None
    context = ray.init(address="local", object_store_memory=_OBJECT_STORE_BYTES, **options)
    return "Ray started on this machine", context.dashboard_url


def _check_reachable(address: str | None) -> None:
    """Knock at an address of the form host:port, where ray itself would wait for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_KNOCK_SECONDS).close()
    except OSError as error:
        raise _no_cluster(address, error.strerror or str(error)) from None


def _no_cluster(address: str | None, reason: str) -> UserError:
    return UserError(
        f"--address {address}: cannot connect to a Ray cluster there ({reason}); "
        "start one (`ray up cluster.yaml`), or leave the address out"
    )


def _connection(where: str, dashboard: str | None = None, seconds: float = 0.0) -> Connection:
    resources = ray.cluster_resources()
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    return Connection(where, dashboard or "", nodes, resources.get("CPU", 0), resources.get("GPU", 0), seconds)
