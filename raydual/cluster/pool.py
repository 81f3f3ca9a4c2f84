"""The pool of replicas: an actor that keeps as many as the cluster holds, hands them jobs, and outlives their deaths.

Search and measuring ask the pool, not a replica. A job whose replica dies, or gives no sign of life, is tried again on
another one as often as the caller says; what cannot be done then comes back as `Lost`, and the pool goes on.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydual.cluster.losses import LOST, StalledError, last_line, why_lost
from raydual.cluster.nodes import nodes_coming, nodes_there
from raydual.cluster.replica import Beat, ModelSettings, Place, ReplicaActor
from raydual.cluster.status import Status, Work
from raydual.errors import UserError
from raydual.plan.layout import Layout, lay_out
from raydual.settings.schema import Execution

_LOOK_SECONDS = 2.0
_GROW_SECONDS = 5.0


@dataclass(frozen=True)
class PoolSettings:
    """What a pool keeps: replicas of a model, laid out as `layout`, for work of which `useful` can go on at once."""

    model: ModelSettings
    layout: Layout
    execution: Execution
    useful: int
    wait_seconds: float
    autoscaler: bool
    model_bytes: float = 0.0

    @property
    def title(self) -> str:
        """A short name of the model."""
        return self.model.name.rstrip("/").rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Lost:
    """A job that could not be done: every replica that tried it was lost, for the last one for this `reason`."""

    reason: str
    attempts: int


@dataclass
class _Job:
    method: str
    arguments: tuple
    name: str
    tries: int
    future: asyncio.Future
    prefer: int | None
    control: str
    units: int
    attempts: int = 0


@dataclass(eq=False)
class _Slot:
    """A place for a replica, filled again when its replica is lost."""

    number: int
    state: str = "asked for"
    actor: Any = None
    place: Place | None = None
    device: str = ""
    beat: Beat | None = None
    tokens_before: int = 0
    job: _Job | None = None
    own: deque[_Job] = field(default_factory=deque)
    born: int = 0
    lost_while_loading: int = 0
    task: asyncio.Task | None = None


class Pool:
    """Keeps replicas and hands them jobs; see the module."""

    def __init__(self, settings: PoolSettings) -> None:
        self.settings = settings
        self.slots: list[_Slot] = []
        self.queue: deque[_Job] = deque()
        self.news = asyncio.Condition()
        self.studies: dict[str, list[Any]] = {}
        self.failure: Exception | None = None
        self.lost = self.retried = self.numbers = self.most = 0
        self.retried_by: Counter[str] = Counter()
        self.nothing_since = time.monotonic()
        self.background: asyncio.Task | None = None

    async def start(self) -> None:
        """Ask for the first replicas."""
        self._resize(self.settings.layout.replicas)
        self.background = self._in_background(self._look_at_cluster())

    async def add_study(self, key: str, shared: list[Any]) -> None:
        """A study that jobs will name; `shared` holds the reference to it."""
        self.studies[key] = shared

    async def run(
        self, method: str, key: str, arguments: tuple, name: str, tries: int, prefer: int | None = None,
        control: str = "", units: int = 1,
    ) -> tuple[Any, int]:  # fmt: skip
        """Have a replica do something for a study; (its result or `Lost`, the number of the replica).

        A job is tried `tries` times; it goes to the replica `prefer` if that one is there. If it is retried, it counts
        for so many `units` of a `control`.

        Raises
        ------
        UserError
            No replica can do anything: the model cannot be loaded, or the cluster gave none in time.
        """
        if self.failure:
            raise self.failure
        future = asyncio.get_running_loop().create_future()
        job = _Job(method, (key, self.studies[key], *arguments), name, tries, future, prefer, control, units)
        ready = next((slot for slot in self.slots if slot.number == prefer and slot.state in ("ready", "busy")), None)
        (ready.own if ready else self.queue).append(job)
        async with self.news:
            self.news.notify_all()
        return await future

    @ray.method(enable_task_events=False)
    async def status(self) -> Status:
        """The pool as it is now; asked every second, which the dashboard's list of tasks leaves out."""
        return Status(
            states=dict(Counter(slot.state for slot in self.slots)),
            work=tuple(_work(slot) for slot in self.slots if slot.job or slot.state == "loading"),
            devices=tuple(slot.device for slot in self.slots if slot.device),
            tokens=sum(slot.tokens_before + (slot.beat.tokens if slot.beat else 0) for slot in self.slots),
            memory={str(slot.number): slot.beat.memory for slot in self.slots if slot.beat},
            lost=self.lost,
            retried=self.retried,
            retried_by=dict(self.retried_by),
            most=self.most,
            wanted=len(self.slots),
            waited=0.0 if self._anything() else time.monotonic() - self.nothing_since,
            queued=len(self.queue),
        )

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task:
        """A task whose error ends every job, rather than let them wait for ever."""

        async def guarded() -> None:
            try:
                await work
            except Exception as error:
                self._fail(error)

        return asyncio.create_task(guarded())

    def _anything(self) -> bool:
        return any(slot.state != "asked for" for slot in self.slots)

    def _resize(self, count: int) -> None:
        """Ask for as many replicas as `count`; of those that are not there yet, give up the ones too many."""
        while len(self.slots) < count:
            slot = _Slot(self.numbers)
            self.numbers += 1
            self.slots.append(slot)
            slot.task = self._in_background(self._keep(slot))
        for slot in [slot for slot in self.slots if slot.state == "asked for"][: max(0, len(self.slots) - count)]:
            self.slots.remove(slot)
            if slot.task:
                slot.task.cancel()
            if slot.actor is not None:
                ray.kill(slot.actor)

    async def _look_at_cluster(self) -> None:
        """Follow nodes that come and go, and give up when none came in time."""
        settings = self.settings
        while True:
            await asyncio.sleep(_GROW_SECONDS)
            coming = nodes_coming() if settings.autoscaler else []
            try:
                layout = lay_out(
                    nodes_there(),
                    coming,
                    settings.execution,
                    useful=settings.useful,
                    model_bytes=settings.model_bytes,
                )
            except UserError:
                layout = None  # the nodes that it was made for are gone; others may still come
            if layout and (layout.cpus, layout.gpus) == (settings.layout.cpus, settings.layout.gpus):
                self._resize(layout.replicas)
            if self._anything():
                self.nothing_since = time.monotonic()
            elif time.monotonic() - self.nothing_since > settings.wait_seconds:
                self._fail(
                    UserError(
                        f"cluster: for {settings.wait_seconds / 60:g} min there was no room for a replica of "
                        f"{settings.layout.describe()}; see `ray status` for what is pending, or wait longer (--wait)"
                    )
                )

    def _fail(self, failure: Exception) -> None:
        """Nothing can go on: every job, and every later one, ends with this."""
        self.failure = failure
        waiting = [*self.queue, *(job for slot in self.slots for job in (*slot.own, slot.job) if job)]
        for job in waiting:
            if not job.future.done():
                job.future.set_exception(failure)

    async def _keep(self, slot: _Slot) -> None:
        """Fill a slot with a replica, feed it, and fill it again when that is lost."""
        while not self.failure:
            if await self._fill(slot):
                await self._feed(slot)
            # One that only could not be reached would go on and hold its GPU.
            ray.kill(slot.actor)
            slot.place, slot.actor, slot.device, slot.state = None, None, "", "asked for"

    async def _fill(self, slot: _Slot) -> bool:
        """Make a replica and load its model; whether it is ready."""
        layout, settings = self.settings.layout, self.settings
        slot.born += 1
        remote: Any = ray.remote
        slot.actor = (
            remote(concurrency_groups={"pulse": 1})(ReplicaActor)
            .options(
                name=f"{settings.title} replica {slot.number + 1}{f' ({slot.born})' if slot.born > 1 else ''}",
                num_cpus=layout.cpus,
                num_gpus=layout.gpus,
                max_restarts=0,
            )
            .remote(settings.model, layout.threads, layout.gpus, layout.memory_share)
        )
        try:
            slot.place = await slot.actor.place.remote()
            slot.state = "loading"
            slot.device = await self._watched(slot, slot.actor.load.remote(), "load the model")
            # Studies are measured one after the other: only the newest has work left.
            if self.studies:
                newest = next(reversed(self.studies.items()))
                await self._watched(slot, slot.actor.prepare.remote(*newest), "zero-shot")
        except LOST as error:
            self.lost += 1
            slot.lost_while_loading += 1
            if slot.lost_while_loading > settings.execution.retries:
                self._fail(
                    UserError(
                        f"model: {slot.lost_while_loading} replicas were lost while they loaded the model or made its "
                        f"zero-shot pass ({why_lost(error)}); take a smaller model or execution.batch_size, or nodes "
                        "with more memory"
                    )
                )
            await asyncio.sleep(min(30.0, 2.0**slot.lost_while_loading))
            return False
        except RayTaskError as error:
            self._fail(UserError(str(error.cause)) if isinstance(error.cause, UserError) else error)
            return False
        slot.lost_while_loading, slot.state = 0, "ready"
        self.most = max(self.most, sum(slot.state in ("ready", "busy") for slot in self.slots))
        return True

    async def _feed(self, slot: _Slot) -> None:
        """Hand jobs to a replica until it is lost."""
        while not self.failure:
            job = await self._next(slot)
            if job is None:
                return
            slot.job, slot.state = job, "busy"
            try:
                call = getattr(slot.actor, job.method).options(name=f"{job.name} [{self.settings.title}]")
                result = await self._watched(slot, call.remote(*job.arguments), job.name)
            except LOST as error:
                self._give_back(slot, job, why_lost(error))
                return
            except RayTaskError as error:
                if isinstance(error.cause, UserError):
                    self._fail(UserError(str(error.cause)))
                    return
                # What leaves a replica as an error has left its process unfit for more.
                self._give_back(slot, job, last_line(error))
                return
            slot.job, slot.state = None, "ready"
            if not job.future.done():
                job.future.set_result((result, slot.number))

    async def _next(self, slot: _Slot) -> _Job | None:
        """The next job for a slot; None: its replica was lost while it waited."""
        while True:
            async with self.news:
                for queue in (slot.own, self.queue):
                    if queue:
                        return queue.popleft()
                try:
                    await asyncio.wait_for(self.news.wait(), _GROW_SECONDS)
                    continue
                except TimeoutError:
                    pass
            try:
                slot.beat = await slot.actor.pulse.remote()
            except LOST:
                self._lose(slot)
                return None

    def _give_back(self, slot: _Slot, job: _Job, reason: str) -> None:
        """A job whose replica was lost goes to the head of the queue, or back to its caller."""
        self._lose(slot)
        job.attempts += 1
        if job.future.done():
            return
        if job.attempts >= job.tries:
            job.future.set_result((Lost(reason, job.attempts), slot.number))
        else:
            self.retried += 1
            self.retried_by[job.control] += job.units
            self.queue.appendleft(job)

    def _lose(self, slot: _Slot) -> None:
        self.lost += 1
        if slot.beat:
            slot.tokens_before += slot.beat.tokens
        self.queue.extendleft(reversed(slot.own))
        slot.own.clear()
        slot.job = slot.beat = None

    async def _watched(self, slot: _Slot, reference: Any, name: str) -> Any:
        """The result of a call, as long as its process shows signs of life.

        Raises
        ------
        StalledError
            It gave none for as long as the sweep allows; its process is ended.
        """
        call = asyncio.ensure_future(_result(reference))
        limit, shown, since = self.settings.execution.stall_minutes * 60, None, time.monotonic()
        while True:
            done, _ = await asyncio.wait({call}, timeout=_LOOK_SECONDS)
            if done:
                return call.result()
            beat = await _beat(slot.actor)
            if beat:
                slot.beat = beat
            signs = beat and (beat.beats, beat.activity if slot.state == "loading" else beat.done)
            if signs and signs != shown:
                shown, since = signs, time.monotonic()
            elif time.monotonic() - since > limit:
                ray.kill(slot.actor)
                call.cancel()
                raise StalledError(f"it gave no sign of life for {limit / 60:g} min while it was to {name}")


def _work(slot: _Slot) -> Work:
    """What a replica is at."""
    beat = slot.beat
    if slot.job is None:
        return Work("load: the model", part=beat.part if beat else "")
    return Work(slot.job.name, beat.done, beat.total, beat.part) if beat else Work(slot.job.name)


async def _result(reference: Any) -> Any:
    return await reference


async def _beat(actor: Any) -> Beat | None:
    """A replica's signs of life, None if it does not answer."""
    try:
        return await asyncio.wait_for(_result(actor.pulse.remote()), 10)
    except (TimeoutError, GetTimeoutError, *LOST):
        return None


def start_pool(settings: PoolSettings) -> Any:
    """A pool on the node of this process; it ends with this process."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(Pool).options(
        name=f"pool of {settings.title}", num_cpus=0, scheduling_strategy=here, max_concurrency=1000, max_restarts=0
    )
    pool: Any = actor.remote(settings)
    pool.start.remote()
    return pool
