"""Connect to Ray, quietly, and say where."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

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
    options = {"log_to_driver": False, "logging_level": logging.ERROR}
    named = address or os.environ.get("RAY_ADDRESS")
    try:
        context = ray.init(address=named or "auto", **options)
        where = f"Ray cluster at {context.address_info['gcs_address']}"
    except (ConnectionError, ValueError, RuntimeError) as error:
        if named:
            raise UserError(
                f"--address {named}: cannot connect to a Ray cluster there "
                f"({str(error).splitlines()[0]}); start one (`ray up cluster.yaml`), or leave the address out"
            ) from None
        context = ray.init(address="local", object_store_memory=_OBJECT_STORE_BYTES, **options)
        where = "Ray started on this machine"
    try:
        _current = _connection(where, context.dashboard_url, time.monotonic() - started)
        yield _current
    finally:
        _current = None
        ray.shutdown()


def _connection(where: str, dashboard: str | None = None, seconds: float = 0.0) -> Connection:
    resources = ray.cluster_resources()
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    return Connection(where, dashboard or "", nodes, resources.get("CPU", 0), resources.get("GPU", 0), seconds)
