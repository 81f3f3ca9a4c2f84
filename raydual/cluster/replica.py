"""A replica: the actor that holds one model, scores for the search and measures."""

import hashlib
import json
import os
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pyarrow as pa
import ray

from raydual.errors import PROCESS_IS_LOST, UserError
from raydual.measure.rows import Row, failure_row
from raydual.process.pulse import PULSE
from raydual.run_directory.directory import measurement_table
from raydual.settings.controls import Control
from raydual.settings.schema import Finetune
from raydual.study import Case, Study

Result = TypeVar("Result")


@dataclass(frozen=True)
class ModelSettings:
    """Which model replicas hold."""

    name: str
    revision: str | None
    dtype: str

    @classmethod
    def of(cls, study: Study) -> "ModelSettings":
        """The model of a study."""
        return cls(study.source.name, study.source.revision, study.config.dtype)


@dataclass(frozen=True)
class Place:
    """Where a replica's process runs."""

    node: str
    host: str
    pid: int


@dataclass(frozen=True)
class Beat:
    """What a replica shows while it works: the counters of its `Pulse`, and bytes of memory it holds."""

    beats: int
    tokens: int
    done: float
    total: int
    memory: int
    activity: tuple[int, int]
    part: str = ""


@dataclass(frozen=True)
class Broken:
    """A case that could not be measured because an error was raised or its worker died."""

    seed: int
    control: str
    reason: str

    def row(self) -> Row:
        """The failure as a row of the measurements."""
        return {**failure_row(self.seed, self.reason), "control": self.control}


@dataclass(frozen=True)
class Measured:
    """The rows of a batch, its values by example, the cases that broke (they have neither), and how long it took."""

    rows: pa.Table
    examples: pa.Table | None
    broken: tuple[Broken, ...]
    seconds: float


class ReplicaActor:
    """One model and all that is asked of it, one thing at a time; `pulse` answers meanwhile."""

    def __init__(self, model: ModelSettings, threads: int, gpus: float, memory_share: float) -> None:
        self.settings, self.threads, self.gpus, self.memory_share = model, threads, gpus, memory_share
        self.loaded: Any = None
        self.studies: dict[str, Study] = {}
        self.measurers: dict[tuple[str, Finetune], Any] = {}
        self.scorers: dict[str, Any] = {}
        self.zero_shot: dict[str, Any] = {}
        self.process = psutil.Process()

    def place(self) -> Place:
        """Where this process runs."""
        return Place(ray.get_runtime_context().get_node_id(), socket.gethostname(), os.getpid())

    def load(self) -> str:
        """Load the model; returns the device that it is on.

        Raises
        ------
        UserError
            The model cannot be loaded.
        """
        import torch

        from raydual.model.loading import load_model

        torch.set_num_threads(self.threads)
        device = "cuda" if self.gpus and torch.cuda.is_available() else "cpu"
        model = self.settings
        self.loaded = load_model(model.name, revision=model.revision, dtype=model.dtype, device=device)  # type: ignore[arg-type]
        return device

    def prepare(self, key: str, shared: list[Any]) -> None:
        """Take in the study `key`, the one object behind `shared`, and make the zero-shot pass of its queries."""
        if key not in self.studies:
            self.studies[key] = ray.get(shared[0])
        self._measurer(key, self.studies[key].config.finetune).shares()

    def measure(self, key: str, shared: list[Any], settings: Finetune, control: Control, cases: list[Any]) -> Measured:
        """Measure cases of one control together; where that raises an error, one by one, to find those that do."""
        started = time.monotonic()
        self.prepare(key, shared)
        measurer, batch = self._measurer(key, settings), list(ray.get(cases[0]))
        PULSE.begin(len(batch))
        found, broken = _each(batch, lambda some: measurer.measure_all(control, some), control)
        rows = measurement_table(row for part in found for row in part.rows)
        tables = [table for part in found for table in part.examples]
        examples = pa.concat_tables(tables).combine_chunks() if tables else None
        return Measured(rows, examples, tuple(broken), time.monotonic() - started)

    def score_slice(self, key: str, shared: list[Any], seed: int, start: int, end: int) -> dict[str, Any]:
        """How many of the selection examples from `start` to `end` a seed gets right, or why it cannot be scored."""
        scorer = self._scorer(key, shared)
        PULSE.begin(1)
        return _or_reason(lambda: scorer.score_slice(seed, start, end), {"right": 0})

    def score_settings(
        self, key: str, shared: list[Any], settings: dict[str, Any], seeds: Sequence[int]
    ) -> dict[str, Any]:
        """How well fine-tuning settings do on `seeds`, or why that cannot be said."""
        scorer = self._scorer(key, shared)
        PULSE.begin(1)
        changed = self.studies[key].config.finetune.model_copy(update=settings)
        unknown = {"accuracy": float("nan"), "greedy_accuracy": float("nan"), "loss": float("nan"), "diverged": 0}
        return _or_reason(
            lambda: asdict(scorer.finetuned([scorer.demonstrations(seed) for seed in seeds], changed)), unknown
        )

    @ray.method(concurrency_group="pulse", enable_task_events=False)
    def pulse(self) -> Beat:
        """Signs of life; `activity` are seconds of computing and bytes read, which loading shows as well."""
        times = self.process.cpu_times()
        read = self.process.io_counters().read_chars if hasattr(self.process, "io_counters") else 0
        activity = (int(times.user + times.system), read)
        memory = self.process.memory_info().rss
        return Beat(PULSE.beats, PULSE.tokens, PULSE.done, PULSE.total, memory, activity, PULSE.part)

    def _measurer(self, key: str, settings: Finetune) -> Any:
        from raydual.measure.measurer import Measurer

        if (key, settings) not in self.measurers:
            study = self.studies[key]
            queries = _queries_key(study)
            measurer = Measurer(self.loaded, study, settings, self.zero_shot.get(queries), self.memory_share)
            # One sweep's settings at a time: a chunk's outcomes on the device are large.
            self.measurers = {(key, settings): measurer}
            self.zero_shot = {queries: measurer.shares()}
        return self.measurers[key, settings]

    def _scorer(self, key: str, shared: list[Any]) -> Any:
        from raydual.measure.scoring import Scorer

        if key not in self.scorers:
            if key not in self.studies:
                self.studies[key] = ray.get(shared[0])
            self.scorers = {key: Scorer(self.loaded, self.studies[key], self.memory_share)}
        return self.scorers[key]


def _queries_key(study: Study) -> str:
    """Names all that a zero-shot pass depends on: studies that share it share the pass."""
    config = study.config
    parts = config.model_dump(
        mode="json", include={"task": True, "data": True, "split": True, "protocol": True, "measures": True,
                              "controls": {"abstract_words", "labels"}, "execution": {"batch_size"}},
    )  # fmt: skip
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _each(
    batch: Sequence[Case], measure: Callable[[Sequence[Case]], Result], control: Control
) -> tuple[list[Result], list[Broken]]:
    """What measuring a batch gives, and the cases that an error keeps from being measured."""
    try:
        return [measure(batch)], []
    except UserError:
        raise
    except Exception as error:
        if _process_is_lost(error):
            raise
        if len(batch) == 1:
            return [], [Broken(batch[0].context.seed, control.name, in_one_line(error))]
    found = [_each([case], measure, control) for case in batch]
    return [part for parts, _ in found for part in parts], [case for _, broken in found for case in broken]


def _or_reason(score: Callable[[], dict[str, Any]], otherwise: dict[str, Any]) -> dict[str, Any]:
    """A score, with the reason where there is none."""
    try:
        return {"reason": None, **score()}
    except UserError:
        raise
    except Exception as error:
        if _process_is_lost(error):
            raise
        return {"reason": in_one_line(error), "broken": True, **otherwise}


def _process_is_lost(error: Exception) -> bool:
    """Whether nothing can be computed in this process any more."""
    return any(words in str(error) for words in PROCESS_IS_LOST)


def in_one_line(error: BaseException) -> str:
    """An error and where in this project it was raised, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "raydual" in Path(frame.filename).parts] or frames
    place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:300]}{place}" if words else f"{type(error).__name__}{place}"
