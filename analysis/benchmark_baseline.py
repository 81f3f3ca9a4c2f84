"""The baseline, the tests' plain implementation, and whether it and the replica give the same numbers."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from transformers import PreTrainedModel

from analysis.benchmark_parts import Clock
from analysis.benchmark_setup import Setup
from raydual.catalogue.entries import CATALOGUE
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

    `passes`: its forward passes that record, one for each condition and example. `words`: further passes, which label
    words of several tokens take. `finetuning`: the training.
    """

    seconds: float
    passes: float
    words: float
    finetuning: float

    @property
    def least(self) -> float:
        """Without metrics: what no plain implementation can do without."""
        return self.passes + self.words + self.finetuning

    def extrapolated(self, factor: float) -> "BaselineTime":
        """With `factor` times as many examples; fine-tuning does not grow with them."""
        rest = self.seconds - self.finetuning
        return BaselineTime(rest * factor + self.finetuning, self.passes * factor, self.words * factor, self.finetuning)

    def line(self) -> str:
        """One line for a person."""
        rest = self.seconds - self.least
        return (
            f"baseline: {self.seconds:.4g} s a seed: one pass a condition and example {self.passes:.4g}, label words "
            f"{self.words:.4g}, fine-tuning {self.finetuning:.4g}, what is computed from them {rest:.4g}"
        )


def plain_seed(setup: Setup, seed: int, examples: int | None = None) -> Mapping[Key, float]:
    """Every number of a seed, one prompt and one condition at a time; on the first `examples` if given."""
    config, dataset = setup.config, setup.study.dataset
    measured = dataset.measured if examples is None else dataset.measured.take(range(examples))
    train, validation = (list(zip(part.queries, part.labels, strict=True)) for part in (dataset.train, measured))
    return plain.measure_seed(
        setup.loaded.model,
        setup.loaded.tokenizer,
        train,
        validation,
        # The queries are filled templates already.
        TaskSettings(template="{text}", separator=config.task.separator, label_words=config.task.label_words),
        seed,
        config.demonstrations,
        FinetuneSettings(**config.finetune.model_dump()),
        plain.MeasureSettings(**config.measures.model_dump(exclude={"resamples", "own"})),
    )


def measure_baseline(setup: Setup, seeds: Sequence[int]) -> tuple[dict[int, Mapping[Key, float]], BaselineTime]:
    """The numbers of `seeds` and the seconds that a seed took, after a few untimed examples."""
    clock = Clock(setup.loaded.device)
    with _watched(clock, type(setup.loaded.model)):
        plain_seed(setup, seeds[0], min(2, len(setup.queries)))
        clock.seconds.clear()
        with clock.part("rest"):
            values = {seed: plain_seed(setup, seed) for seed in seeds}
    by_part = {name: seconds / len(seeds) for name, seconds in clock.seconds.items()}
    parts = (by_part.get(name, 0.0) for name in ("passes", "words", "fine-tuning"))
    return values, BaselineTime(sum(by_part.values()), *parts)


@contextmanager
def _watched(clock: Clock, kind: type[PreTrainedModel]) -> Iterator[None]:
    """Time the passes of the baseline's `kind` of model, and its fine-tuning, made to work in bfloat16 as well."""
    tune, forward = clock.timed(_in_float32(plain.finetune), "fine-tuning"), kind.forward

    def timed_forward(model: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
        # A training step's forward is part of the fine-tuning.
        if clock.inside("fine-tuning"):
            return forward(model, *args, **kwargs)
        with clock.part("passes" if clock.inside("recording") else "words"):
            return forward(model, *args, **kwargs)

    with (
        mock.patch.object(plain, "finetune", tune),
        mock.patch.object(plain, "record", clock.timed(plain.record, "recording")),
        mock.patch.object(kind, "forward", timed_forward),
    ):
        yield


def _in_float32(tune: Callable) -> Callable:
    """The plain fine-tuning on a float32 copy of the model, given back in the model's own dtype."""

    def wrapped(model: PreTrainedModel, *args: Any) -> Any:
        if model.dtype == torch.float32:
            return tune(model, *args)
        found = tune(copy.deepcopy(model).float(), *args)
        found.model.to(model.dtype)
        return found

    return wrapped


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
