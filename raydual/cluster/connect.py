"""Connect to Ray, quietly, and say where."""

import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil
import ray
from ray._common.utils import get_default_system_temp_dir
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.utils import read_ray_address
from ray.exceptions import AuthenticationError, RayActorError, RayTaskError
from ray.job_config import JobConfig

from raydual.cluster.access import check_token_path, guard_token, on_loopback
from raydual.cluster.nodes import machine
from raydual.errors import UserError
from raydual.plan.layout import Node
from raydual.process.stopping import heed_signals, stop

_OBJECT_STORE_BYTES = 256 * 2**20
_KNOCK_SECONDS = 5
_FOLDER = "raydual-ray-"
_LONGEST_SOCKET = 103 if sys.platform == "darwin" else 107
_current: "Connection | None" = None


@dataclass(frozen=True)
class Connection:
    """Where Ray is, what it has, how many seconds it took to connect, and whether it was there before (`joined`)."""

    place: str
    dashboard: str
    nodes: int
    cpus: float
    gpus: float
    seconds: float
    joined: bool

    def describe(self) -> str:
        """One line for a person."""
        dashboard = f"; dashboard http://{self.dashboard}" if self.dashboard else ""
        gpus = f"{self.gpus:g} GPU" if self.gpus else "no GPU"
        return f"{self.place}: {self.nodes} node(s), {self.cpus:g} CPU, {gpus}{dashboard}"


def local_machine(address: str | None) -> Node | None:
    """This machine, if `address` means a Ray of its own that is yet to be started; None if a cluster is joined."""
    if ray.is_initialized() or _cluster_to_join(address) is not None:
        return None
    return machine()


@contextmanager
def connect(address: str | None = None, about: Mapping[str, str] | None = None) -> Iterator[Connection]:
    """Join the cluster at `address`, or the one that the user started on this machine, or start Ray here; then leave.

    Without an address, a cluster is joined where `RAY_ADDRESS` or `ray start` names it. The Ray that another program
    started for itself is left alone; `auto` would join that too. The address `local` always starts Ray here, where only
    this machine can reach it.

    Parameters
    ----------
    about : what Ray is to know of this process's job. Of this its dashboard shows the `sweep` and where its `run` goes.

    Raises
    ------
    UserError
        There is no cluster at `address`, or no token for it.
    """
    global _current
    if ray.is_initialized():
        yield _current or _connection("Ray cluster that this process is connected to", joined=True)
        return
    started = time.monotonic()
    joined = _cluster_to_join(address) is not None
    with _connected(address, _job(about or {})) as (where, dashboard):
        heed_signals()  # ray has put handlers of its own in their place
        _current = _connection(where, dashboard, time.monotonic() - started, joined)
        try:
            yield _current
        finally:
            _current = None


@contextmanager
def _connected(address: str | None, job: JobConfig) -> Iterator[tuple[str, str | None]]:
    """(where Ray is, its dashboard) while connected."""
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "job_config": job}
    cluster = _cluster_to_join(address)
    if cluster is not None:
        _check_reachable(cluster)
        check_token_path()
        with _errors_aside() as told:
            if not (address or os.environ.get("RAY_ADDRESS")):
                # Ray does so itself for an address that it finds, but this one is handed to it.
                maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
            try:
                context = _started(address=cluster, **options)
            except (ConnectionError, ValueError, RuntimeError, AuthenticationError) as error:
                told.seek(0)
                reason = _token_reason() if b"InvalidAuthToken" in told.read() else str(error).splitlines()[0]
                raise _no_cluster(cluster, reason) from None
        try:
            yield f"Ray cluster at {context.address_info['gcs_address']}", context.dashboard_url
        finally:
            _leave()
        return
    guard_token()
    base, why = _base_folder()
    with own_folder(_FOLDER, base) as folder:
        here = machine()
        with on_loopback():
            context = _started(
                address="local", num_cpus=int(here.cpus), num_gpus=int(here.gpus),
                object_store_memory=_OBJECT_STORE_BYTES, _temp_dir=folder, **options,
            )  # fmt: skip
        try:
            yield f"Ray started on this machine{why}", context.dashboard_url
        finally:
            _leave()


def _token_reason() -> str:
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "token":
        return "it asks for another token"
    return "it asks for a token, which is shown to an address only where RAY_AUTH_MODE=token is set"


def _job(about: Mapping[str, str]) -> JobConfig:
    # `job_name` is what the list of jobs shows; `ray job submit` puts its own in its place.
    return JobConfig(metadata={"job_name": ", in ".join(about[k] for k in ("sweep", "run") if k in about), **about})


@contextmanager
def _errors_aside() -> Iterator[IO[bytes]]:
    """A file that takes what the block writes to standard error, where Ray's core repeats each failure many times."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as told:
        os.dup2(told.fileno(), 2)
        try:
            yield told
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


def _cluster_to_join(address: str | None) -> str | None:
    """The address of a cluster that the user means, or None: Ray is started here."""
    named = address or os.environ.get("RAY_ADDRESS")
    if named:
        return None if named == "local" else named
    # `ray start` leaves the address in a file; a Ray that a program started for itself does not.
    started = read_ray_address()
    return started if started and _knock(started) is None else None


def _started(**options: Any) -> Any:
    """`ray.init`, which has a handler of its own in place of ours for SIGTERM while it starts: that exits.

    What it starts never hears SIGHUP: a terminal that closes tells all, and Ray must not end before this process.
    """
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        return ray.init(**options)
    except SystemExit:
        stop(signal.SIGTERM)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)


def _leave() -> None:
    """`ray.shutdown`, which has SIGTERM end this process at once from then on."""
    ray.shutdown()
    heed_signals()


def _base_folder() -> tuple[str, str]:
    """(where Ray's session goes, why that is not where temporary files go)."""
    named = get_default_system_temp_dir()
    pid = os.getpid()
    longest = f"{_FOLDER}{pid}-12345678/session_2000-01-01_00-00-00_123456_{pid}/sockets/dash_TaskEventsHead"
    if os.name != "posix" or len(os.fsencode(named)) + 1 + len(longest) <= _LONGEST_SOCKET:
        return named, ""
    return "/tmp", f" (with its files in /tmp: {named} is too long a path for sockets)"  # noqa: S108


@contextmanager
def own_folder(prefix: str, base: str) -> Iterator[str]:
    """A folder for this process, removed in the end with all that dead processes left of theirs."""
    for left in Path(base).glob(f"{prefix}*"):
        owner = left.name.removeprefix(prefix).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=base)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def unwrapped_user_errors() -> Iterator[None]:
    """A `UserError` raised on a worker arrives wrapped in Ray's own errors; let it out."""
    try:
        yield
    except Exception as error:
        found: BaseException | None = error
        # What Ray raises for a task's `UserError` is one too, but its text is a traceback.
        while found is not None and (isinstance(found, RayTaskError) or not isinstance(found, UserError)):
            found = getattr(found, "cause", None) or found.__cause__
        if found is error:
            raise
        if found is not None:
            raise UserError(str(found)) from error
        if isinstance(error, RayActorError):
            raise UserError(
                "cluster: the process that keeps the replicas was lost, on the machine that the sweep runs on; "
                "is its memory enough? Go on with --resume"
            ) from error
        raise


def _check_reachable(address: str) -> None:
    """Knock at an address of the form host:port, where ray itself would wait for minutes."""
    reason = _knock(address)
    if reason is not None:
        raise _no_cluster(address, reason)


def _knock(address: str) -> str | None:
    """Why nobody answers at an address, or None: somebody does, or it is no host and port."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return None
    try:
        socket.create_connection((host, int(port)), timeout=_KNOCK_SECONDS).close()
    except (OSError, OverflowError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None


def _no_cluster(address: str, reason: str) -> UserError:
    return UserError(
        f"--address {address}: cannot connect to a Ray cluster there ({reason}); "
        "start one (`ray up cluster.yaml`), give this machine the cluster's token (RAY_AUTH_TOKEN_PATH), or leave the "
        "address out"
    )


def _connection(where: str, dashboard: str | None = None, seconds: float = 0.0, joined: bool = False) -> Connection:
    resources = ray.cluster_resources()
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
    return Connection(where, dashboard or "", nodes, cpus, gpus, seconds, joined)
