"""Ray for one sweep: the connection, and the pool of the model at work, which the sweep's runs share."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray

from raydual.cluster.connect import Connection, connect, local_machine
from raydual.cluster.gauges import Gauges
from raydual.cluster.nodes import nodes_coming, nodes_there
from raydual.cluster.pool import PoolSettings, start_pool
from raydual.cluster.replica import ModelSettings
from raydual.cluster.watch import Watch
from raydual.console import say
from raydual.errors import UserError
from raydual.model.anatomy import Shape
from raydual.plan.layout import Layout, lay_out
from raydual.settings.schema import Execution
from raydual.study import Study

_PROCESS_BYTES = 1e9
_ITEM_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Where:
    """Where a run is to go on: the `address` of a Ray cluster, and how long to wait for nodes that it has not yet."""

    address: str | None = None
    wait_minutes: float | None = 30.0

    @property
    def waits(self) -> bool:
        """Whether nodes that are not there are asked for and waited for."""
        return self.wait_minutes is not None


@dataclass
class Workplace:
    """A pool with what belongs to it."""

    model: ModelSettings
    execution: Execution
    layout: Layout
    pool: Any
    watch: Watch
    gauges: Gauges


class Session:
    """A connection to Ray, and the pool of one model at a time, for as many replicas as are `useful`."""

    def __init__(self, connection: Connection, where: Where, name: str, useful: int) -> None:
        self.connection, self.where, self.name, self.useful = connection, where, name, useful
        self.workplace: Workplace | None = None
        self.shared: dict[str, Any] = {}

    def workplace_for(self, study: Study) -> Workplace:
        """The pool that holds a study's model: the one at work, or a new one in its place.

        Raises
        ------
        UserError
            The cluster cannot hold replicas as the sweep wants them.
        """
        model, execution = ModelSettings.of(study), study.config.execution
        if self.workplace and (self.workplace.model, self.workplace.execution) != (model, execution):
            self.close()
        if self.workplace is None:
            self.workplace = self._start(study, model, execution)
        return self.workplace

    def share(self, study: Study, workplace: Workplace) -> tuple[str, Any]:
        """(the study's name in the pool, the reference to it)."""
        key = study.config.fingerprint()
        if key not in self.shared:
            self.shared[key] = ray.put(study)
        ray.get(workplace.pool.add_study.remote(key, [self.shared[key]]))
        return key, self.shared[key]

    def close(self) -> None:
        """End the pool and its replicas."""
        if self.workplace is not None:
            self.workplace.watch.close()
            ray.kill(self.workplace.pool)
            self.workplace = None

    def _start(self, study: Study, model: ModelSettings, execution: Execution) -> Workplace:
        there, coming = nodes_there(), nodes_coming()
        size = model_bytes(study)
        try:
            layout = lay_out(there, coming if self.where.waits else [], execution, useful=self.useful, model_bytes=size)
        except UserError as error:
            if coming and not self.where.waits:
                raise UserError(f"{error}; leave --no-wait out to have the autoscaler asked for more") from None
            raise
        say(_in_words(layout))
        seconds = 60 * (self.where.wait_minutes or 1.0)
        settings = PoolSettings(model, layout, execution, self.useful, seconds, self.where.waits, size)
        gauges = Gauges(self.name)
        pool = start_pool(settings)
        return Workplace(model, execution, layout, pool, Watch(pool, layout, seconds, gauges).start(), gauges)


@contextmanager
def session(where: Where, name: str, useful: int, about: Mapping[str, str] | None = None) -> Iterator[Session]:
    """A session that is closed when the block ends; `about` is what Ray's dashboard tells of it."""
    with connect(where.address, {"sweep": name, **(about or {})}) as connection:
        opened = Session(connection, where, name, useful)
        try:
            yield opened
        finally:
            opened.close()


def check_machine(study: Study, where: Where, useful: int) -> None:
    """Check, before Ray is started, that this machine holds the replicas that a sweep wants of it.

    Raises
    ------
    UserError
        It does not.
    """
    here = local_machine(where.address)
    if here is not None:
        lay_out([here], [], study.config.execution, useful=useful, model_bytes=model_bytes(study))


def model_bytes(study: Study) -> float:
    """What a replica's process takes, without what it computes."""
    shape = Shape.of(study.source.config())
    return shape.parameters * _ITEM_BYTES[study.config.dtype] + _PROCESS_BYTES


def _in_words(layout: Layout) -> str:
    words = f"{layout.replicas} replica(s) of {layout.describe()}, {layout.threads} thread(s)"
    if layout.now == layout.replicas:
        return words
    return f"{words}; {layout.now} fit on the nodes that are there, the autoscaler is asked for the others"
