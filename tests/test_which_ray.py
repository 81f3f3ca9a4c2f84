"""Which Ray a sweep uses: the cluster that its user started or names, and never that of some other program."""

import contextlib
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from .sweeping import Sweeping, family, kill, make_inputs, own_temporary, running, tiny_settings, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.ray]

PRIVATE = """
import sys, time, ray
ray.init(address="local", num_cpus=1, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
open(sys.argv[1], "w").close()
time.sleep(600)
"""
OWN, JOINED = "Ray started on this machine: 1 node(s)", "Ray cluster at "
NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def sweep(inputs, tmp_path):
    """A sweep of two seeds that names no address."""
    settings = tiny_settings(inputs, search={}, seeds=2, controls={}, finetune={"learning_rate": 0.2})
    with own_temporary() as environment:
        yield Sweeping(tmp_path, settings, address=None, environment={"RAY_ADDRESS": "", **environment})


@contextlib.contextmanager
def ended(process):
    """Kill a process and all that it started, in the end."""
    try:
        yield process
    finally:
        members = family(process.pid)
        for member in members:
            kill(member)
        process.wait()
        wait_for(lambda: not running(members), seconds=20)


@contextlib.contextmanager
def private_ray(sweep):
    """The Ray of another program of the same user, with the same token and folder."""
    ready = sweep.folder / "ready"
    command = [sys.executable, "-c", PRIVATE, str(ready)]
    with ended(subprocess.Popen(command, env=sweep.variables(), stdout=subprocess.DEVNULL)) as process:
        wait_for(ready.exists, seconds=60)
        yield process


def place(sweep):
    """Where Ray was, as the sweep says."""
    done = sweep.finish()
    assert done.returncode == 0, done.stderr
    return next(line for line in done.stdout.splitlines() if line.startswith("Ray "))


@pytest.mark.parametrize("address", [None, ""])
def test_the_ray_of_another_program_is_left_alone(address, sweep):
    sweep.address = address
    with private_ray(sweep) as other:
        assert place(sweep).startswith(OWN)
        assert other.poll() is None
        assert running(family(other.pid))


def test_a_cluster_that_the_user_started_is_joined(sweep):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    start = [
        str(shutil.which("ray")), "start", "--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false",
        "--object-store-memory=100000000", "--block",
    ]  # fmt: skip
    with ended(subprocess.Popen(start, env=sweep.variables(), stdout=subprocess.DEVNULL)) as process:
        named = Path(sweep.environment["RAY_TMPDIR"], "ray", "ray_current_cluster")
        wait_for(lambda: named.exists() and _answers(port), process, seconds=60)
        assert place(sweep).startswith(JOINED)
        assert process.poll() is None
    # The file that names it is still there.
    assert named.exists()
    shutil.rmtree(sweep.run.path)
    assert place(sweep).startswith(OWN)


def _answers(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _has_namespaces():
    return shutil.which("unshare") and subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not _has_namespaces(), reason="`auto` could join a Ray of this machine's: no namespaces here")
def test_auto_joins_whatever_ray_is_there(sweep):
    """In a namespace of its own, since `auto` looks at every process."""
    ready = sweep.folder / "ready"
    (sweep.folder / "private.py").write_text(PRIVATE)
    sweep.address = "auto"
    sweep.prefix = (
        *NAMESPACE, "sh", "-c",
        f'{sys.executable} private.py {ready} & until [ -e {ready} ]; do sleep 0.1; done; "$@"', "sh",
    )  # fmt: skip
    assert place(sweep).startswith(JOINED)
