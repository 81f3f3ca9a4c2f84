"""The baseline, the tests' plain implementation, and whether it and the replica give the same numbers."""

import copy
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, fields

import numpy as np
import torch

from analysis.benchmark_parts import synchronize
from analysis.benchmark_setup import Setup
from raydual.catalogue.entries import CATALOGUE
from raydual.data.examples import demonstration_indices
from raydual.measure.rows import Row
from raydual.measure.seeds import SeedMeasurer
from raydual.run_directory.directory import FAILED
from tests.reference import seed as plain
from tests.reference.finetune import FinetuneSettings
from tests.reference.prompts import TaskSettings

RANDOM = tuple(metric.name for metric in CATALOGUE.values() if metric.random)
"""Metrics that are drawn at random: they agree in distribution only."""
TOLERANCE = 1e-3
Key = tuple[str, str, int]


@dataclass(frozen=True)
class BaselineTime:
    """Seconds a seed of the baseline.

    `passes`: its forward passes, one for each condition and example, and more for label words of several tokens.
    `finetuning`: the training.
    """

    seconds: float
    passes: float
    finetuning: float

    @property
    def least(self) -> float:
        """Without metrics: what no plain implementation can do without."""
        return self.passes + self.finetuning

    def extrapolated(self, factor: float) -> "BaselineTime":
        """With `factor` times as many examples; fine-tuning does not grow with them."""
        rest = self.seconds - self.finetuning
        return BaselineTime(rest * factor + self.finetuning, self.passes * factor, self.finetuning)

    def line(self) -> str:
        """One line for a person."""
        rest = self.seconds - self.least
        return (
            f"baseline: {self.seconds:.4g} s a seed: one pass a condition and example {self.passes:.4g}, fine-tuning "
            f"{self.finetuning:.4g}, what is computed from them {rest:.4g}"
        )


class Clock:
    """Seconds by part."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Charge the block, and what the device does for it, to `name`."""
        synchronize(self.device)
        started = time.perf_counter()
        yield
        synchronize(self.device)
        self.seconds[name] += time.perf_counter() - started


def plain_seed(setup: Setup, seed: int, clock: Clock, examples: int | None = None) -> Mapping[Key, float]:
    """Every number of a seed, one prompt and one condition at a time; on the first `examples` if given."""
    config, dataset, tokenizer = setup.config, setup.study.dataset, setup.loaded.tokenizer
    measured = dataset.measured if examples is None else dataset.measured.take(range(examples))
    # The queries are filled templates already.
    task = TaskSettings(template="{text}", separator=config.task.separator, label_words=config.task.label_words)
    known = {field.name for field in fields(plain.MeasureSettings)}
    measures = plain.MeasureSettings(**config.measures.model_dump(include=known))
    base = copy.deepcopy(setup.loaded.model).eval()
    base.set_attn_implementation("eager")
    chosen = dataset.train.take(demonstration_indices(seed, len(dataset.train), config.demonstrations))
    demonstrations = list(zip(chosen.queries, chosen.labels, strict=True))
    with clock.part("fine-tuning"):
        # The plain loop trains the weights themselves, which takes float32.
        whole = base if base.dtype == torch.float32 else copy.deepcopy(base).float()
        settings = FinetuneSettings(**config.finetune.model_dump())
        alone, tuned = plain.tune_on(whole, tokenizer, demonstrations, task, settings)
        tuned.model.to(base.dtype)
    with passes_timed(clock, base, tuned.model):
        records = [
            plain.record_example(base, tuned.model, tokenizer, alone, task, query, label, measures.keep_first_token)
            for query, label in zip(measured.queries, measured.labels, strict=True)
        ]
    return plain.values_of(
        plain.SeedRecord(alone, tuned, records), measures, np.random.default_rng(measures.noise_seed)
    )


@contextmanager
def passes_timed(clock: Clock, *models: torch.nn.Module) -> Iterator[None]:
    """Charge every forward pass of the models to `passes`."""
    running: list[AbstractContextManager[None]] = []

    def before(*_: object) -> None:
        running.append(clock.part("passes"))
        running[-1].__enter__()

    def after(*_: object) -> None:
        running.pop().__exit__(None, None, None)

    with ExitStack() as stack:
        for model in models:
            for handle in (model.register_forward_pre_hook(before), model.register_forward_hook(after)):
                stack.callback(handle.remove)
        yield


def measure_baseline(setup: Setup, seeds: Sequence[int]) -> tuple[dict[int, Mapping[Key, float]], BaselineTime]:
    """The numbers of `seeds` and the seconds that a seed took, after a few untimed examples."""
    device = setup.loaded.device
    plain_seed(setup, seeds[0], Clock(device), min(2, len(setup.queries)))
    clock = Clock(device)
    with clock.part("whole"):
        values = {seed: plain_seed(setup, seed, clock) for seed in seeds}
    return values, BaselineTime(*(clock.seconds[part] / len(seeds) for part in ("whole", "passes", "fine-tuning")))


@dataclass(frozen=True)
class Agreement:
    """How the replica's numbers compare with the baseline's: how many, the largest difference, and what differs."""

    compared: int
    largest: float
    where: str
    problems: tuple[str, ...]


def replica_rows(setup: Setup, seeds: Sequence[int]) -> list[Row]:
    """The replica's rows of `seeds`, measured at once."""
    return SeedMeasurer(setup.loaded, setup.queries, setup.config).measure(setup.demonstrations(list(seeds)))


def compare(rows: Sequence[Row], expected: Mapping[int, Mapping[Key, float]]) -> Agreement:
    """Every number of the seeds in `expected` but the random ones; a number that one side lacks is a problem."""
    compared, largest, where, problems = 0, 0.0, "nowhere", []
    for seed, plain_values in expected.items():
        found = {(r["metric"], r["condition"], r["layer"]): r["value"] for r in rows if r["seed"] == seed}
        for key in sorted({*found, *plain_values}):
            if key[0] in RANDOM:
                continue
            named = f"seed {seed}: {key[0]}, {key[1]}, {'overall' if key[2] < 0 else f'layer {key[2]}'}"
            if key not in found or key not in plain_values:
                problems.append(f"{named}: only the {'replica' if key in found else 'baseline'} has it")
                continue
            compared += 1
            difference = _difference(found[key], plain_values[key])
            if difference > TOLERANCE:
                problems.append(f"{named}: replica {found[key]:.6g}, baseline {plain_values[key]:.6g}")
            if difference > largest:
                largest, where = difference, named
    if not compared:
        problems.append("there is nothing to compare")
    return Agreement(compared, largest, where, tuple(problems))


def _difference(found: float, expected: float) -> float:
    """Absolute difference; 0 where both are undefined, infinite where one is."""
    if math.isnan(found) and math.isnan(expected):
        return 0.0
    difference = abs(found - expected)
    return math.inf if math.isnan(difference) else difference


def failed_seeds(rows: Sequence[Row]) -> list[str]:
    """Why seeds could not be measured."""
    return [f"seed {row['seed']}: {row['reason']}" for row in rows if row["metric"] == FAILED]
