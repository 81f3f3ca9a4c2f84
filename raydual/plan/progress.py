"""How far a stage is: lines for a person, gauges for the dashboard."""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from raydual.catalogue.entries import CATALOGUE, OVERALL, Catalogue
from raydual.console import Bar, Done, bar_in_terminal, say
from raydual.run_directory.directory import FAILED, NO_CONTROL

_QUIET_SECONDS = 15.0


class Board(Protocol):
    """Where named values are shown."""

    def set(self, name: str, value: float, **tags: str) -> None:
        """Show a value."""


def earlier(catalogue: Catalogue) -> tuple[list[str], pc.Expression]:
    """What of an earlier process's rows (`RunDirectory.measured`) a `MeasureNews` goes on from."""
    of_headline = pc.field("metric").isin(_headline(catalogue)) & (pc.field("layer") == OVERALL)
    columns = ["seed", "control", "shots", "layer", "metric", "condition", "value"]
    return columns, (pc.field("metric") == FAILED) | of_headline


def _headline(catalogue: Catalogue) -> list[str]:
    return [name for name, metric in catalogue.items() if metric.headline]


class StageProgress:
    """Counts what a stage has done, estimates the time left, and prints a line at most once a second, or moves a `bar`.

    The estimate leaves out the time until the first item is done, which is mostly starting and loading. While nothing
    is finished, `inside` tells now and then how far the work in progress is. Both may be called from any thread.
    """

    def __init__(
        self, title: str, total: int, gauges: Board | None = None, out: Callable[[str], None] = say,
        clock: Callable[[], float] = time.monotonic, bar: Bar | None = None,
    ) -> None:  # fmt: skip
        self.title, self.total, self.gauges, self.out, self.clock = title, total, gauges, out, clock
        self.bar = bar
        self.done = self.first_done = 0
        self.first_at = self.said_at = -math.inf
        self.started = self.clock()
        self.lock = threading.Lock()
        out(f"{title}: {total} to do")

    def advance(self, count: int, detail: str) -> None:
        """`count` more are done."""
        with self.lock:
            now = self.clock()
            self.done += count
            if not self.first_done:
                self.first_done, self.first_at = self.done, now
            left = self._seconds_left(now)
            if self.gauges and now > self.started:
                self.gauges.set("raydual_units_per_second", self.done / (now - self.started), stage=self.title)
                if left is not None:
                    self.gauges.set("raydual_seconds_left", left, stage=self.title)
            if self.bar:
                self.bar.show(Done(self.done, self.total, detail))
            if self.done >= self.total:
                self._close()
            if not self.bar and (now - self.said_at >= 1 or self.done >= self.total):
                self.said_at = now
                self.out(f"{self.title}: {self.done}/{self.total}{_left_words(left)} - {detail}")

    def inside(self, at_work: float, words: str) -> None:
        """`at_work` more would be done if what is at work counted in parts; said only after a while of silence."""
        with self.lock:
            now = self.clock()
            if self.bar and self.done < self.total:
                self.bar.show(Done(self.done + at_work, self.total, words))
            elif self.done < self.total and now - max(self.said_at, self.started) >= _QUIET_SECONDS:
                self.said_at = now
                self.out(f"{self.title}: {self.done}/{self.total}, and {at_work:.1f} of those at work - {words}")

    def close(self) -> None:
        """The stage is over, whether all of it is done or not."""
        with self.lock:
            self._close()

    def _close(self) -> None:
        if self.bar:
            self.bar.close()
            self.bar = None

    def _seconds_left(self, now: float) -> float | None:
        later = self.done - self.first_done
        if self.done >= self.total:
            return 0.0
        return (now - self.first_at) / later * (self.total - self.done) if later > 0 else None


@contextmanager
def stage(title: str, total: int, gauges: Board | None = None) -> Iterator[StageProgress]:
    """A stage's progress: a bar in a terminal, lines in a log."""
    progress = StageProgress(title, total, gauges, bar=bar_in_terminal(title))
    try:
        yield progress
    finally:
        progress.close()


def _left_words(seconds: float | None) -> str:
    if not seconds:
        return ""
    return f", about {seconds:.0f} s left" if seconds < 120 else f", about {seconds / 60:.0f} min left"


class MeasureNews:
    """What finished batches say: counts by control, and running means of the headline metrics of the measurement.

    `asked` counts all units of the run by control, also those that an earlier process has measured; `earlier` are the
    rows of those (columns and rows as `earlier` says); the headline metrics are those of the `catalogue`.
    """

    def __init__(
        self,
        gauges: Board,
        asked: Mapping[str, int],
        earlier: pa.Table | None = None,
        catalogue: Catalogue = CATALOGUE,
    ) -> None:
        self.gauges = gauges
        self.headline = _headline(catalogue)
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.sums: Counter[tuple[str, str]] = Counter()
        self.counts: Counter[tuple[str, str]] = Counter()
        for control, count in asked.items():
            for outcome, value in (("asked", count), ("done", 0), ("failed", 0), ("retried", 0)):
                self._set(control, outcome, value)
        if earlier is not None:
            self.update(earlier)

    def update(self, rows: pa.Table) -> str:
        """Take in a finished batch; returns a line with the accuracies so far."""
        for control in pc.unique(rows["control"]).to_pylist():
            of_control = rows.filter(pc.field("control") == control)
            failed = of_control.filter(pc.field("metric") == FAILED).num_rows
            self.failed[control] += failed
            self.done[control] += len(pc.unique(of_control["seed"])) - failed
            self._set(control, "done", self.done[control])
            self._set(control, "failed", self.failed[control])
        self._means(rows.filter((pc.field("control") == NO_CONTROL) & (pc.field("layer") == OVERALL)))
        words = [f"{c} {self._mean('accuracy', c):.3f}" for c in ("zsl", "icl", "ft") if self.counts["accuracy", c]]
        failures = f", {sum(self.failed.values())} failed" if sum(self.failed.values()) else ""
        return f"accuracy so far: {', '.join(words) or 'none'}{failures}"

    def _means(self, rows: pa.Table) -> None:
        shots = pc.field("shots")
        all_of_them = shots.is_null() | (shots == pc.max(rows["shots"]))
        rows = rows.filter(all_of_them & pc.field("metric").isin(self.headline) & pc.is_finite(pc.field("value")))
        totals = rows.group_by(["metric", "condition"]).aggregate([("value", "sum"), ("value", "count")])
        for row in totals.to_pylist():
            key = row["metric"], row["condition"]
            self.sums[key] += row["value_sum"]
            self.counts[key] += row["value_count"]
            self.gauges.set("raydual_mean", self._mean(*key), metric=key[0], condition=key[1])

    def _mean(self, metric: str, condition: str) -> float:
        return self.sums[metric, condition] / self.counts[metric, condition]

    def _set(self, control: str, outcome: str, value: int) -> None:
        self.gauges.set("raydual_units", value, stage="measure", control=control, outcome=outcome)
