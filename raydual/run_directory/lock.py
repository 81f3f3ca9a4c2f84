"""One driver at a time writes a run: a lock file with a heartbeat, the same on local disks and object stores.

A driver puts down a claim of its own and then lists those of others. Whoever comes second sees the first, so two never
go on together, without a store's help. A claim is void when its process is gone (this host), or when it has given no
sign of life for long (other hosts), by the clock of the store.
"""

import contextlib
import json
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from raydual.errors import UserError
from raydual.run_directory.storage import Entry, Storage

SUFFIX = ".lock"
HEARTBEAT_SECONDS = 15.0
STALE_SECONDS = 120.0
INSTEAD = "wait for it, stop it, or name another directory by --output"
_START_TOLERANCE = 2.0
_ATTEMPTS = 3
_AT_ONCE_SECONDS = 3.0


@dataclass(frozen=True)
class Holder:
    """Who holds, or held, a lock; nothing is known of one whose file is damaged."""

    host: str = ""
    pid: int = 0
    since: str = ""
    processes: str = ""
    started: float = 0.0

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}" if self.pid else "an unknown process"


def _processes() -> str:
    """What tells apart the process tables of hosts, boots and containers that have the same name."""
    found = []
    with contextlib.suppress(OSError):
        found.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        found.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(found)


def _me() -> Holder:
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    return Holder(socket.gethostname(), os.getpid(), since, _processes(), psutil.Process().create_time())


def _holder(storage: Storage, name: str) -> Holder | None:
    """Who a claim is of; None if it has just been given up."""
    try:
        raw = json.loads(storage.read_text(name))
        return Holder(*(kind(raw[field]) for field, kind in _FIELDS.items()))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, UserError):
        return Holder()


_FIELDS: dict[str, Callable[[Any], Any]] = {"host": str, "pid": int, "since": str, "processes": str, "started": float}


def _gone(holder: Holder) -> bool | None:
    """Whether a process of this host has ended; None: it cannot be told from here."""
    if (holder.host, holder.processes) != (socket.gethostname(), _processes()):
        return None
    try:
        process = psutil.Process(holder.pid)
        # A process number is used again: the one that has it now may be another.
        another = abs(process.create_time() - holder.started) > _START_TOLERANCE
        return another or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextmanager
def locked(storage: Storage, say: Callable[[str], None], instead: str = INSTEAD) -> Iterator[None]:
    """Hold the lock of a storage's folder; `say` is told when one that was left behind is taken over.

    `instead` is what a person can do where another holds it.

    Raises
    ------
    UserError
        Another driver holds it.
    """
    own = f"driver-{secrets.token_hex(6)}{SUFFIX}"
    _acquire(storage, own, say, instead)
    heart = _Heart(storage, own)
    storage.guard = heart.check
    heart.start()
    try:
        yield
    finally:
        heart.stop()
        storage.guard = None
        with contextlib.suppress(UserError):
            storage.remove(own)


def _acquire(storage: Storage, own: str, say: Callable[[str], None], instead: str) -> None:
    for attempt in range(_ATTEMPTS):
        me = _me()
        storage.write(own, json.dumps({field: getattr(me, field) for field in _FIELDS}).encode())
        entries = [entry for entry in storage.list() if entry.name.endswith(SUFFIX)]
        now = next((entry.changed for entry in entries if entry.name == own), time.time())
        held = _others(storage, [entry for entry in entries if entry.name != own], now, say)
        if held is None:
            return
        storage.remove(own)
        holder, age = held
        if age > _AT_ONCE_SECONDS or attempt == _ATTEMPTS - 1:
            break
        # Both started at this moment and both stepped back; whoever comes first now stays.
        time.sleep(random.uniform(0.1, 1.0) * (attempt + 1))
    raise UserError(f"{storage}: is being written by {holder}; {instead}")


def _others(
    storage: Storage, entries: list[Entry], now: float, say: Callable[[str], None]
) -> tuple[Holder, float] | None:
    """Who else holds the folder, and the age of the claim; claims that are void are removed."""
    for entry in entries:
        holder = _holder(storage, entry.name)
        if holder is None:
            continue
        age, gone = now - entry.changed if entry.changed else 0.0, _gone(holder)
        if gone is False or (gone is None and age <= STALE_SECONDS):
            return holder, age
        why = "which has ended" if gone else f"which has given no sign of life for {age / 60:.0f} min"
        say(f"{storage}: taken over from {holder}, {why}")
        storage.remove(entry.name)
    return None


class _Heart(threading.Thread):
    """Renews the claim, and notices when someone has taken it over."""

    def __init__(self, storage: Storage, own: str) -> None:
        super().__init__(name="raydual-lock", daemon=True)
        # The claim is renewed by a storage of its own, whose writing nothing guards.
        self.storage = Storage(storage.filesystem, storage.root, storage.shown, local=storage.local)
        self.own, self.lost, self.ended = own, False, threading.Event()

    def run(self) -> None:
        while not self.ended.wait(HEARTBEAT_SECONDS):
            try:
                self.storage.touch(self.own)
            except FileNotFoundError:
                self.lost = True
                return
            except (OSError, UserError):
                continue  # the store may be back at the next beat

    def stop(self) -> None:
        """End the thread."""
        self.ended.set()
        self.join(timeout=5)

    def check(self) -> None:
        """Refuse to write on when another driver has the lock now."""
        if self.lost:
            raise UserError(
                f"{self.storage}: its lock has been taken over, since this process gave no sign of life for long; "
                "nothing is written any more, go on with --resume when the other has ended"
            )
