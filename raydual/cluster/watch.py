"""Watches the pool from a thread of the driver: says what the run waits for, how far batches are, and sets gauges."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ray

from raydual.cluster.gauges import Gauges
from raydual.cluster.status import Status
from raydual.console import say
from raydual.plan.layout import Layout
from raydual.plan.progress import StageProgress

_LOOK_SECONDS = 1.0
_ANSWER_SECONDS = 5.0
_SAY_SECONDS = 60.0
_RATE_SECONDS = 5.0
_THERE = ("ready", "busy")
_STATES = ("asked for", "loading", "ready", "busy")


class Watch:
    """Looks at a pool every second from `start` to `close`; set `progress` to the stage that is going on."""

    def __init__(
        self, pool: Any, layout: Layout, wait_seconds: float, gauges: Gauges, out: Callable[[str], None] = say,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.pool, self.layout, self.wait_seconds, self.gauges, self.out = pool, layout, wait_seconds, gauges, out
        self.clock = clock
        self.status: Status | None = None
        self._progress: StageProgress | None = None
        self._retried_before: dict[str, int] = {}
        self._asked_at = clock()
        self._said_waiting = self._said_device = False
        self._tokens = (clock(), 0)
        self._lost = 0
        self._replicas: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)

    @property
    def progress(self) -> StageProgress | None:
        """The stage that is going on."""
        return self._progress

    @progress.setter
    def progress(self, progress: StageProgress | None) -> None:
        self._progress = progress
        self._retried_before = self.status.retried_by if self.status else {}

    def start(self) -> "Watch":
        """Begin to look."""
        self._thread.start()
        return self

    @property
    def replicas_there(self) -> int:
        """How many replicas can be given work; at least one, so that some always waits for the first."""
        return max(1, sum(self.status.states.get(state, 0) for state in _THERE) if self.status else 1)

    @property
    def losses(self) -> dict[str, int]:
        """How often a replica was lost, and how often a job was tried again for it."""
        return {"replicas_lost": self.status.lost, "retried": self.status.retried} if self.status else {}

    def close(self) -> None:
        """Look once more, and stop; the gauges of what ends with the pool are set to 0."""
        self._over.set()
        self._thread.join(3 * _ANSWER_SECONDS)
        self._set_gauges_to_rest()

    def _look(self) -> None:
        over = False
        while not over:
            over = self._over.wait(_LOOK_SECONDS)
            # The pool may be gone, with its cluster or this run; whoever waits for its results is told.
            self.gauges.refresh()
            with suppress(Exception):
                self.see(ray.get(self.pool.status.remote(), timeout=_ANSWER_SECONDS))

    def see(self, status: Status) -> None:
        """Take in what the pool says of itself: tell what is new, set the gauges."""
        self.status = status
        self._waiting(status)
        self._devices(status)
        self._losses(status)
        self._at_work(status)
        self._set_gauges(status)

    def _waiting(self, status: Status) -> None:
        """Say what is waited for as long as no replica has a place, once a minute."""
        if any(state != "asked for" for state in status.states):
            if self._said_waiting:
                self.out(f"replicas: {_counted(status)}")
                self._said_waiting = False
            return
        now = self.clock()
        if status.waited >= 5 and (not self._said_waiting or now - self._asked_at >= _SAY_SECONDS):
            self._asked_at, self._said_waiting = now, True
            self.out(
                f"waiting for nodes: {status.wanted} replica(s) of {self.layout.describe()} are asked for, none has a "
                f"place yet; {status.waited:.0f} s so far, at most {self.wait_seconds / 60:g} min (--wait)"
            )

    def _devices(self, status: Status) -> None:
        if self.layout.gpus and "cpu" in status.devices and not self._said_device:
            self._said_device = True
            self.out("note: a replica has a GPU by name, but PyTorch finds none where it runs: it computes on the CPU")

    def _losses(self, status: Status) -> None:
        if status.lost > self._lost:
            self.out(f"replicas: {status.lost} lost so far, their work is done again; {_counted(status)}")
            self._lost = status.lost

    def _at_work(self, status: Status) -> None:
        if self.progress and status.work:
            names = [work.words for work in status.work[:2]]
            more = f" and {len(status.work) - 2} more" if len(status.work) > 2 else ""
            self.progress.inside(sum(work.done for work in status.work), f"{'; '.join(names)}{more}")

    def _set_gauges(self, status: Status) -> None:
        for state in _STATES:
            self.gauges.set("raydual_replicas", status.states.get(state, 0), state=state)
        self.gauges.set("raydual_replicas", status.lost, state="lost")
        for replica in self._replicas - set(status.memory):
            self.gauges.set("raydual_replica_memory_bytes", 0, replica=replica)
        for replica, memory in status.memory.items():
            self.gauges.set("raydual_replica_memory_bytes", memory, replica=replica)
        self._replicas |= set(status.memory)
        stage = self.progress.title if self.progress else "start"
        for control, count in status.retried_by.items():
            since = count - self._retried_before.get(control, 0)
            if since:
                self.gauges.set("raydual_units", since, stage=stage, control=control, outcome="retried")
        now, (then, before) = self.clock(), self._tokens
        if now - then >= _RATE_SECONDS:
            self._tokens = now, status.tokens
            rate = max(0.0, (status.tokens - before) / (now - then))
            self.gauges.set("raydual_tokens_per_second", rate, stage=stage)

    def _set_gauges_to_rest(self) -> None:
        for state in _STATES:
            self.gauges.set("raydual_replicas", 0, state=state)
        for replica in self._replicas:
            self.gauges.set("raydual_replica_memory_bytes", 0, replica=replica)


def _counted(status: Status) -> str:
    return ", ".join(f"{status.states[state]} {state}" for state in _STATES if status.states.get(state))
