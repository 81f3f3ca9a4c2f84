"""Machines made of Linux namespaces: each has its own processes, network, /home, /tmp, /dev/shm, and a stand-in sshd.

Nothing on them reaches, or is reached from, the computer that the tests run on; all ends with `Machines.close`.
"""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

NETWORK = "10.77.0"
_HERE = Path(__file__).parent
# The machines end with the process that started them, however that ends.
_NAMESPACES = (
    "setpriv",
    "--pdeathsig",
    "KILL",
    "unshare",
    "--pid",
    "--net",
    "--mount",
    "--mount-proc",
    "--fork",
    "--kill-child",
)
# /home and /tmp are covered by empty ones, which show only {kept}: no other Ray's sessions and sockets.
_PREPARE = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/new
for folder in /home /tmp; do
  mount -t tmpfs tmpfs /mnt/new
  chmod 1777 /mnt/new
  for kept in {kept}; do
    case "$kept" in $folder/*)
      mkdir -p "/mnt/new/${{kept#$folder/}}" && mount --rbind "$kept" "/mnt/new/${{kept#$folder/}}";;
    esac
  done
  mount --move /mnt/new $folder
done
mount -t tmpfs tmpfs /dev/shm
mkdir -p {home}
ip link set lo up
touch {ready}
while sleep 3600; do :; done
"""


def refusal() -> str | None:
    """Why this computer can't have such machines, or None."""
    for program in ("setpriv", "unshare", "nsenter", "ip", "bash", "tar"):
        if shutil.which(program) is None:
            return f"no program {program}"
    links = "ip link add probe0 type bridge && ip link add probe1 type veth peer name probe2"
    probe = [*_NAMESPACES, "bash", "-c", f"{links} && mount -t tmpfs tmpfs /mnt"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"the kernel forbids it: {(done.stderr or '?').splitlines()[0]}"


class Machine:
    """One of `Machines`: `run` and `start` execute a command on it as its one user."""

    def __init__(self, name: str, ip: str, home: str, pid: int) -> None:
        self.name, self.ip, self.home, self.pid = name, ip, home, pid

    def command(self, line: str) -> list[str]:
        """The argv that executes a line of bash there, in its home, as a login shell does."""
        enter = ("nsenter", "--target", str(self.pid), "--pid", "--net", "--mount")
        clean = ("env", "-i", f"HOME={self.home}", "USER=root", "TERM=dumb", "LANG=C.UTF-8")
        return [*enter, *clean, "bash", "-c", f"cd; source ~/.bashrc; {line}"]

    def start(self, line: str, **options) -> subprocess.Popen:
        """Execute a line of bash there."""
        return subprocess.Popen(self.command(line), **options)

    def run(self, line: str, timeout: float = 120, stdin: str = "") -> subprocess.CompletedProcess:
        """Execute a line of bash there, to its end; stdout and stderr together."""
        return subprocess.run(
            self.command(line), input=stdin, text=True, check=False, timeout=timeout,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip


class Machines:
    """Machines on one network; the first is the user's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.holders: list[subprocess.Popen] = []
        self.all: list[Machine] = []
        # Where `ssh` and `rsync` of the machines come from.
        self.programs = folder / "programs"
        self.programs.mkdir()
        self.program("ssh", f'exec {sys.executable} {_HERE / "ssh.py"} "$@"')
        if shutil.which("rsync") is None:
            self.program("rsync", f'exec {sys.executable} {_HERE / "rsync.py"} "$@"')

    def program(self, name: str, script: str) -> None:
        """Put a program before all others in the PATH of every machine."""
        path = self.programs / name
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)

    def add(self, name: str, home: str, environment: Mapping[str, str]) -> Machine:
        """Start one more machine; its shells have the environment."""
        ready = self.folder / f"{name}.ready"
        with (self.folder / f"{name}.errors").open("w") as errors:
            holder = subprocess.Popen([*_NAMESPACES, "bash", "-c", self._prepare(ready, home)], stderr=errors)
        self.holders.append(holder)
        _wait_for(ready.exists, f"machine {name} does not start")
        (child,) = psutil.Process(holder.pid).children()
        machine = Machine(name, f"{NETWORK}.{len(self.all) + 1}", home, child.pid)
        self._connect(machine)
        self.all.append(machine)
        exports = {"PATH": f"{self.programs}:{Path(sys.executable).parent}:{os.environ['PATH']}", **environment}
        lines = [f"export {key}='{value}'" for key, value in exports.items()]
        subprocess.run(
            ["nsenter", "--target", str(child.pid), "--mount", "bash", "-c", f"cat > {home}/.bashrc"],
            input="\n".join(lines) + "\n", text=True, check=True,
        )  # fmt: skip
        self.holders.append(machine.start(f"exec {sys.executable} {_HERE / 'sshd.py'} {machine.ip}"))
        return machine

    def _prepare(self, ready: Path, home: str) -> str:
        kept = {self.folder, Path(sys.prefix), Path(sys.base_prefix), _HERE.parents[1]}
        return _PREPARE.format(ready=ready, home=home, kept=shlex.join(map(str, sorted(kept))))

    def _connect(self, machine: Machine) -> None:
        first = self.all[0].pid if self.all else machine.pid
        if not self.all:
            _ip(first, f"link add bridge type bridge; addr add {machine.ip}/24 dev bridge; link set bridge up")
            # Ray takes the address of the interface that leads to the world.
            _ip(first, f"route add default via {NETWORK}.254 dev bridge")
            return
        port = f"port{len(self.all)}"
        _ip(first, f"link add {port} type veth peer name eth0 netns {machine.pid}; link set {port} master bridge up")
        _ip(machine.pid, f"addr add {machine.ip}/24 dev eth0; link set eth0 up; route add default via {NETWORK}.1")

    def close(self) -> None:
        """End every process of the machines."""
        for machine in self.all:
            with contextlib.suppress(ProcessLookupError):
                os.kill(machine.pid, 9)  # the first process of a PID namespace takes all others with it
        for holder in reversed(self.holders):
            holder.kill()
            holder.wait()


def _ip(pid: int, commands: str) -> None:
    for command in commands.split("; "):
        subprocess.run(["nsenter", "--target", str(pid), "--net", "ip", *command.split()], check=True)


def _wait_for(condition, complaint: str, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, complaint
        time.sleep(0.05)
