"""Measuring: groups of units stream to the pool of replicas; finished batches come back one by one, in any order."""

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pyarrow as pa
import ray

from raydual.cluster.pool import Lost
from raydual.cluster.replica import Broken, Measured
from raydual.cluster.stream import Group, tokenized
from raydual.cluster.watch import Watch
from raydual.errors import UserError
from raydual.plan.layout import Layout
from raydual.run_directory.directory import measurement_table
from raydual.settings.controls import Control
from raydual.settings.schema import Execution, Finetune
from raydual.study import Case, Study, Unit

_LONGEST_BATCH_SECONDS = 600.0
_USUAL_BATCH_SECONDS = 300.0
_WAIT_SECONDS = 1.0
_TRIES_AFTER_SPLIT = 1
_TRIES_ALONE = 2


def groups_of(units: Sequence[Unit], layout: Layout, finished: set[tuple[int, str]]) -> list[list[Unit]]:
    """The units that are measured together: of one control, as many as the layout says, less what is finished.

    How units are grouped depends on all of them and the layout alone, so an interrupted run goes on with the very
    groups that it began with, and rounding is the same. Every replica gets some.
    """
    size = min(layout.batch, -(-len(units) // layout.replicas))
    groups = []
    for _, of_control in groupby(units, key=lambda unit: unit.control.name):
        alike = list(of_control)
        for start in range(0, len(alike), size):
            group = [u for u in alike[start : start + size] if (u.seed, u.control.name) not in finished]
            groups += [group] if group else []
    return groups


def in_time(cases: Sequence[Case], seconds_a_case: float) -> Iterator[tuple[Case, ...]]:
    """All the cases together, or, where they would take longer than ten minutes, in parts of about five."""
    size = max(1, len(cases))
    if seconds_a_case * size > _LONGEST_BATCH_SECONDS:
        size = max(1, int(_USUAL_BATCH_SECONDS / seconds_a_case))
    for start in range(0, len(cases), size):
        yield tuple(cases[start : start + size])


@dataclass(frozen=True)
class Finished:
    """The rows of a finished batch, and its values by example, if any are kept."""

    rows: pa.Table
    examples: pa.Table | None = None


@dataclass(frozen=True)
class _Batch:
    """Cases that are measured together; `lost` workers died with them before, in larger batches."""

    control: Control
    cases: tuple[Case, ...]
    tries: int
    lost: int = 0

    @property
    def name(self) -> str:
        seeds = [case.context.seed for case in self.cases]
        words = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
        return f"measure: {words}, {self.control.label.lower()}"

    def halves(self, lost: int) -> list["_Batch"]:
        """Two batches of half the cases, to find the one that takes its worker down, as `lost` more did."""
        middle = len(self.cases) // 2
        parts = (self.cases[:middle], self.cases[middle:])
        return [
            _Batch(self.control, part, _TRIES_ALONE if len(part) == 1 else _TRIES_AFTER_SPLIT, self.lost + lost)
            for part in parts
        ]


class TooManyFailedError(UserError):
    """Nothing but failures came back."""


class Measuring:
    """One study's measuring on a pool; iterate over `batches` to carry it out.

    Parameters
    ----------
    study, key, shared : the study, its name in the pool, and the reference to it.
    settings : of fine-tuning.
    watch : what shows the pool's progress meanwhile, and knows how many replicas are there.
    """

    def __init__(self, study: Study, key: str, shared: Any, settings: Finetune, pool: Any, watch: Watch) -> None:
        self.study, self.key, self.shared, self.settings = study, key, shared, settings
        self.pool, self.watch = pool, watch
        self.execution: Execution = study.config.execution
        self.seconds: dict[str, float] = {}
        self.at_work: dict[Any, _Batch] = {}
        self.held: list[Broken] = []
        self.again: deque[_Batch] = deque()

    def batches(self, groups: Sequence[Sequence[Unit]]) -> Generator[Finished]:
        """Every finished batch.

        Raises
        ------
        TooManyFailedError
            So many units broke one after another that something other than them must be at fault. They are not
            among the rows, so that `--resume` tries them again.
        """
        # Closed before anything else is: its threads must not outlive the connection to Ray.
        with closing(tokenized(self.study, self.shared, groups, self.watch.layout.replicas)) as stream:
            more = True
            while more or self.at_work or self.again:
                while len(self.at_work) <= self.watch.replicas_there and (more or self.again):
                    if self.again:
                        self._send(self.again.popleft())
                        continue
                    group = next(stream, None)
                    if group is None:
                        more = False
                    else:
                        yield from self._take_in(group)
                if self.at_work:
                    yield from self._finished()
        if self.held:
            yield Finished(self._release())

    def _take_in(self, group: Group) -> Iterator[Finished]:
        """Queue a group, in parts if a whole one would take very long."""
        if group.broken:
            yield Finished(measurement_table([case.row() for case in group.broken]))
        for cases in in_time(group.cases, self.seconds.get(group.control.name, 0.0)):
            self.again.append(_Batch(group.control, cases, 1 + self.execution.retries))

    def _send(self, batch: _Batch) -> None:
        arguments = (self.settings, batch.control, [ray.put(batch.cases)])
        reference = self.pool.run.options(name=f"pool: {batch.name}").remote(
            "measure", self.key, arguments, batch.name, batch.tries, control=batch.control.name, units=len(batch.cases)
        )
        self.at_work[reference] = batch

    def _finished(self) -> Iterator[Finished]:
        ready, _ = ray.wait(list(self.at_work), timeout=_WAIT_SECONDS)
        for reference in ready:
            batch = self.at_work.pop(reference)
            found, _ = ray.get(reference)
            if isinstance(found, Lost):
                self._lost(batch, found)
            else:
                yield from self._measured(batch, found)

    def _measured(self, batch: _Batch, found: Measured) -> Iterator[Finished]:
        if len(found.broken) == len(batch.cases):
            self._hold(found.broken)
            return
        self.seconds[batch.control.name] = found.seconds / len(batch.cases)
        self.held += found.broken
        yield Finished(pa.concat_tables([found.rows, self._release()]), found.examples)

    def _lost(self, batch: _Batch, found: Lost) -> None:
        if len(batch.cases) > 1:
            self.again.extend(batch.halves(found.attempts))
            return
        reason = f"{batch.lost + found.attempts} workers were lost with it, {found.attempts} of them with it alone"
        self._hold([Broken(batch.cases[0].context.seed, batch.control.name, f"{reason}: {found.reason}")])

    def _hold(self, broken: Sequence[Broken]) -> None:
        """Keep failures back until something succeeds, and stop when nothing does."""
        self.held += broken
        if len(self.held) >= self.execution.failures_in_a_row:
            last = self.held[-1]
            raise TooManyFailedError(
                f"measure: {len(self.held)} failed one after another, the last one seed {last.seed} "
                f"({last.control}): {last.reason}"
            )

    def _release(self) -> pa.Table:
        rows, self.held = [case.row() for case in self.held], []
        return measurement_table(rows)
