"""What a sweep will cost, before anything is loaded: work, memory, and time on hardware that has been measured."""

import csv
import math
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from raydual.data.prompts import DemonstrationSet, Queries
from raydual.errors import UserError, did_you_mean
from raydual.model.anatomy import Shape
from raydual.plan.cost import TRAINING, FlopFormula, MemoryFormula, Work, finetuned_on
from raydual.settings.controls import controls_of
from raydual.settings.schema import Finetune, SweepConfig
from raydual.study import Study

TABLE = Path(__file__).parent.with_name("benchmarks.csv")
"""Measured speeds: a row for each run of `analysis/benchmark.py --record`."""
_LOOKED_AT = 16
_START_SECONDS = 30
_WEIGHT_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Hardware:
    """A row of the table: a device, its matmul rate in FLOP/s, and the share of it that measuring reaches there."""

    name: str
    measured_on: str
    rate: float
    share: float


@dataclass(frozen=True)
class Estimate:
    """What a sweep takes: counts, the work of each part, and bytes for a replica's weights and for a seed."""

    seeds: int
    units: int
    batch: int
    work: dict[str, Work]
    weights: int
    a_seed: int

    @property
    def total(self) -> Work:
        """The work of all parts."""
        return sum(self.work.values(), Work())

    def seconds(self, hardware: Hardware, replicas: int) -> float:
        """Wall-clock seconds on so many replicas, starting and loading included."""
        return _START_SECONDS + self.total.flops / (hardware.rate * hardware.share * replicas)


def hardware_named(name: str | None, dtype: str) -> Hardware:
    """The latest measurement in the table of hardware whose name holds `name`, in the same dtype if there is one.

    Raises
    ------
    UserError
        There is no such row; the message lists what there is.
    """
    with TABLE.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = [row for row in rows if name is None or name.lower() in row["hardware"].lower()]
    if not found:
        known = list(dict.fromkeys(row["hardware"] for row in rows))
        words = [word.strip(",") for name_of_one in known for word in name_of_one.split()]
        raise UserError(
            f"--hardware {name}: has not been measured; there is {', '.join(known)}. Measure it: "
            f"python analysis/benchmark.py --record, there{did_you_mean(str(name).upper(), words)}"
        )
    row = ([row for row in found if row["dtype"] == dtype] or found)[-1]
    what = f"{row['model']}, {row['dtype']}, {row['examples']} examples"
    return Hardware(row["hardware"], what, float(row["matmul_tflops"]) * 1e12, float(row["share_of_matmul"]))


def estimate(study: Study, on_gpu: bool = True, shape: Shape | None = None) -> Estimate:
    """Count the work of a sweep from its data, its model's tokenizer and its model's config alone.

    With a `shape`, of a model of those sizes that is given the same tokens.
    """
    config, tokenizer = study.config, study.source.tokenizer()
    shape = shape or Shape.of(study.source.config())
    flops, queries = FlopFormula(shape), study.queries(tokenizer, "measured")
    sets = [study.with_variants(tokenizer, seed) for seed in config.seeds[:_LOOKED_AT]]
    kept = config.search.seeds.keep if config.search.seeds else len(config.seeds)
    units = study.units(list(config.seeds[:kept]))
    zero_shot = flops.zero_shot(queries)
    work = {"zero-shot": zero_shot}
    if config.search.seeds or config.search.finetune:
        work["search"] = _search(study, flops, sets, study.queries(tokenizer, "selection"), kept)
    seed = _mean_seed(flops, sets, queries, config.finetune)
    # The orders are fine-tuned on another seed's demonstrations alone.
    in_given_order = [replace(demonstrations, orders=()) for demonstrations in sets]
    once_more = _mean_seed(flops, in_given_order, queries, config.finetune)["fine-tuning"]
    more_heads = _heads_of_other_layers(flops, sets, config.finetune)
    for control in controls_of(config.controls):
        unit = dict(seed)
        if control.step == "layer_causal" or config.finetune.gradient == "layer_causal":
            unit["fine-tuning"] += more_heads
        if control.tuned_on == "other":
            unit["fine-tuning"] += once_more
        if control.draws_models:
            unit["zero-shot"] = zero_shot
        count = sum(u.control == control for u in units)
        for part, value in unit.items():
            work[part] = work.get(part, Work()) + Work(value.flops * count, value.tokens * count)
    memory = MemoryFormula(shape, _WEIGHT_BYTES[config.dtype], config.execution.batch_size)
    prefix = max(len(demonstrations.prefix) for demonstrations in sets)
    return Estimate(
        seeds=kept,
        units=len(units),
        batch=config.execution.most_seeds_per_batch(on_gpu),
        work=work,
        weights=memory.weights(),
        a_seed=memory.seed(prefix, queries.longest, config.finetune, len(config.shots)),
    )


def _mean_seed(
    flops: FlopFormula, sets: list[DemonstrationSet], queries: Queries, settings: Finetune
) -> dict[str, Work]:
    """A seed by part: the mean over `sets`."""
    found = [flops.seed(demonstrations, queries, settings) for demonstrations in sets]
    return {part: _mean([seed[part] for seed in found]) for part in found[0]}


def _heads_of_other_layers(flops: FlopFormula, sets: list[DemonstrationSet], settings: Finetune) -> Work:
    """What layer-causal fine-tuning adds: the output layer on every layer but the last."""
    positions = [
        sum(len(example) - 1 for tuned_on in finetuned_on(d, settings) for example in tuned_on.examples)
        * settings.epochs
        for d in sets
    ]
    return _mean([flops.head(count * (flops.shape.layers - 1)).times(TRAINING) for count in positions])


def _mean(values: list[Work]) -> Work:
    return Work(statistics.fmean(v.flops for v in values), round(statistics.fmean(v.tokens for v in values)))


def _search(study: Study, flops: FlopFormula, sets: list[DemonstrationSet], selection: Queries, kept: int) -> Work:
    """In-context passes of candidate seeds on growing slices, and every fine-tuning setting on a few seeds."""
    config = study.config
    alone = [replace(demonstrations, shorter=(), orders=()) for demonstrations in sets]
    part = _mean_seed(flops, alone, selection, config.finetune)
    work = Work()
    if config.search.seeds:
        slices, candidates = study.slices, len(config.seeds)
        share = (kept / candidates) ** (1 / max(1, len(slices) - 1))
        passed = sum(
            candidates * share**step * (end - start) / len(selection)
            for step, (start, end) in enumerate(zip((0, *slices), slices, strict=False))
        )
        work += part["prefix"].times(candidates) + part["icl"].times(passed)
    search = config.search.finetune
    if search:
        settings = len(search.learning_rate) * len(search.epochs or "1") * len(search.optimizer or "1")
        runs = settings * min(search.seeds, kept)
        work += part["fine-tuning"].times(runs) + part["ft"].times(runs)
    return work


@dataclass(frozen=True)
class Plan:
    """What a sweep takes on so many replicas of some hardware, each with `memory` GiB."""

    estimate: Estimate
    config: SweepConfig
    hardware: Hardware
    replicas: int
    memory: float

    @property
    def together(self) -> int:
        """How many seeds a replica measures at once."""
        room = self.memory * 2**30 * 0.8 - self.estimate.weights
        return max(0, min(self.estimate.batch, math.floor(room / self.estimate.a_seed)))

    @property
    def batches(self) -> int:
        """How many batches all units are."""
        return math.ceil(self.estimate.units / max(self.together, 1))

    @property
    def seconds(self) -> float:
        """Wall-clock seconds."""
        return self.estimate.seconds(self.hardware, self.replicas)

    def as_json(self) -> dict[str, Any]:
        """All of it by name; `seconds` is null where not even one seed fits into the memory."""
        found = self.estimate
        return {
            "seeds": found.seeds,
            "seeds_asked": len(self.config.seeds),
            "units": found.units,
            "flops": found.total.flops,
            "tokens": found.total.tokens,
            "work": {part: asdict(work) for part, work in found.work.items()},
            "memory": {
                "bytes_of_weights": found.weights,
                "bytes_for_a_seed": found.a_seed,
                "gib_there": self.memory,
                "seeds_at_once": self.together,
            },
            "batches": self.batches,
            "hardware": asdict(self.hardware),
            "replicas": self.replicas,
            "seconds": self.seconds if self.together else None,
        }

    def lines(self) -> Iterator[str]:
        """What `raydual plan` prints."""
        found, total, together = self.estimate, self.estimate.total, self.together
        yield f"{found.seeds} seeds measured of {len(self.config.seeds)}, {found.units} with their controls"
        if self.config.measures.own:
            labels = ", ".join(metric.label for metric in self.config.measures.own.metrics)
            yield f"metrics of its own: {labels}; what they compute is not counted in the work"
        yield f"work: {total.flops / 1e12:,.1f} TFLOP, {total.tokens:,} tokens"
        for part, work in sorted(found.work.items(), key=lambda item: -item[1].flops):
            yield f"  {part:<12}{work.flops / total.flops:6.1%}"
        yield (
            f"memory of a replica: {found.weights / 2**30:.2f} GiB of weights, at most {found.a_seed / 2**30:.2f} GiB "
            f"for every seed measured at once: {together} at once in {self.memory:g} GiB, {self.batches} batches"
        )
        if not together:
            yield "LIMIT: not even one seed fits; take a smaller execution.batch_size, or bfloat16"
            return
        hardware = self.hardware
        yield (
            f"time: about {_duration(self.seconds)} on {self.replicas} x {hardware.name} (from {hardware.measured_on}: "
            f"{hardware.share:.0%} of {hardware.rate / 1e12:.3g} TFLOP/s), {_START_SECONDS} s of it to start"
        )
        yield f"what limits it: {self._limit()}"

    def _limit(self) -> str:
        if self.seconds / 2 < _START_SECONDS:
            return "starting and loading"
        found = self.estimate
        largest, work = max(found.work.items(), key=lambda item: item[1].flops)
        if self.together == found.batch:
            return f"{largest}, {work.flops / found.total.flops:.0%} of the work"
        held_back = f"memory keeps it to {self.together} seeds at once of {found.batch}"
        return f"{largest}, {work.flops / found.total.flops:.0%} of the work; {held_back}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
