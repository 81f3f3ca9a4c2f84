"""How far a run is: a line for a person, gauges for the dashboard."""

import math
import time
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc
from ray.util.metrics import Gauge

from raydual.results import FAILED, NO_CONTROL


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


class StageProgress:
    """Counts what a stage has done, estimates the time left, and prints a line at most once a second.

    The estimate leaves out the time until the first item is done, which is mostly starting and loading.
    """

    def __init__(self, title: str, total: int, out: Callable[[str], None] = say) -> None:
        self.title, self.total, self.out = title, total, out
        self.done = self.first_done = 0
        self.first_at = self.said_at = -math.inf
        out(f"{title}: {total} to do")

    def advance(self, count: int, detail: str) -> None:
        """`count` more are done."""
        now = time.monotonic()
        self.done += count
        if not self.first_done:
            self.first_done, self.first_at = self.done, now
        if now - self.said_at >= 1 or self.done == self.total:
            self.said_at = now
            self.out(f"{self.title}: {self.done}/{self.total}{self._left(now)} - {detail}")

    def _left(self, now: float) -> str:
        later = self.done - self.first_done
        if self.done == self.total or later <= 0:
            return ""
        seconds = (now - self.first_at) / later * (self.total - self.done)
        return f", about {seconds:.0f} s left" if seconds < 120 else f", about {seconds / 60:.0f} min left"


class MeasureGauges:
    """What Ray's metrics say of the measuring stage: `ray_raydual_…`, read by the dashboard or Prometheus.

    Accuracies are the measurement's; controls count as work done alone.
    """

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.counts = {"done": 0, "failed": 0}
        self.measured = 0
        self.sums = {"zsl": 0.0, "icl": 0.0, "ft": 0.0}
        self.seeds = Gauge("raydual_seeds", "Seeds and controls of seeds so far, by outcome", tag_keys=("outcome",))
        self.rate = Gauge("raydual_seeds_per_minute", "Seeds and controls of seeds per minute since the stage began")
        self.accuracy = Gauge("raydual_accuracy", "Mean accuracy so far", tag_keys=("condition",))

    def update(self, rows: pa.Table) -> str:
        """Take in a finished batch; returns a line with the accuracies so far."""
        failed = rows.filter(pc.field("metric") == FAILED).num_rows
        self.counts["failed"] += failed
        self.counts["done"] += len(pc.unique(rows["seed"])) - failed
        rows = rows.filter(pc.field("control") == NO_CONTROL)
        accuracy = rows.filter(pc.field("metric") == "accuracy")
        self.measured += len(pc.unique(accuracy["seed"]))
        for outcome, count in self.counts.items():
            self.seeds.set(count, tags={"outcome": outcome})
        self.rate.set(sum(self.counts.values()) / (time.monotonic() - self.started) * 60)
        words = []
        for condition in self.sums:
            values = accuracy.filter(pc.field("condition") == condition)["value"]
            self.sums[condition] += pc.sum(values).as_py() or 0.0
            if self.measured:
                mean = self.sums[condition] / self.measured
                self.accuracy.set(mean, tags={"condition": condition})
                words.append(f"{condition} {mean:.3f}")
        failures = f", {self.counts['failed']} failed" if self.counts["failed"] else ""
        return f"accuracy so far: {', '.join(words) or 'none'}{failures}"
