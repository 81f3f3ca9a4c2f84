"""A model that measures seeds: demonstration sets in, metric rows out. The distributed layer only feeds it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from raydual.config import Finetune, SweepConfig
from raydual.measure.chunk_metrics import Key, chunk_metrics, recorded_fields, training_tokens
from raydual.measure.conditions import Chunk, Outcome, make_chunks, run_condition
from raydual.measure.rows import Row, failure_row, layer_rows, prediction_rows
from raydual.metrics.similarity import norm_matched_null
from raydual.model.finetune import Tuned, finetune
from raydual.model.loading import LoadedModel
from raydual.model.passes import encode_prefix
from raydual.model.stacked import with_projections
from raydual.tasks.prompts import DemonstrationSet, Queries


@dataclass(frozen=True)
class ZeroShot:
    """The zero-shot outcome of each chunk, on the CPU: it depends on no seed, so all replicas share one."""

    chunks: tuple[Outcome, ...]


class Replica:
    """Measures seeds on one model; nothing it does changes the model.

    Parameters
    ----------
    loaded : the model.
    queries : the examples that are measured.
    config : the sweep; its `finetune` are the settings used.
    zero_shot : what `measure_zero_shot` gave for the same model, queries and batch size; measured here if None.
    """

    def __init__(
        self, loaded: LoadedModel, queries: Queries, config: SweepConfig, zero_shot: ZeroShot | None = None
    ) -> None:
        self.model = loaded.model
        self.queries = queries
        self.config = config
        self.fields = recorded_fields(config.measures)
        self.chunks = make_chunks(queries, config.execution.batch_size, loaded.device)
        shared = zero_shot or self.measure_zero_shot()
        self.zero_shot = [_to(outcome, loaded.device) for outcome in shared.chunks]

    @torch.inference_mode()
    def measure_zero_shot(self) -> ZeroShot:
        """Pass every query through the base model, alone."""
        outcomes = (self._run(chunk, "zsl") for chunk in self.chunks)
        return ZeroShot(tuple(_to(outcome, torch.device("cpu")) for outcome in outcomes))

    def _run(self, chunk: Chunk, condition: str, seeds: int = 1, **prefix) -> Outcome:
        rows = chunk.in_context if condition == "icl" else chunk.alone
        return run_condition(
            self.model, rows.repeat(seeds), self.queries.label_tokens, self.fields[condition], **prefix
        )

    def measure(self, sets: Sequence[DemonstrationSet], settings: Finetune | None = None) -> list[Row]:
        """The metric rows of every seed in `sets`; a seed that fails for its own reasons has one row that says why.

        Raises
        ------
        Whatever is not a seed's own fault, such as running out of memory.
        """
        settings = settings or self.config.finetune
        limit = self.model.config.max_position_embeddings
        rows, fitting = [], []
        for demonstrations in sets:
            reason = too_long(demonstrations, self.queries, limit)
            if reason:
                rows.append(failure_row(demonstrations.seed, reason))
            else:
                fitting.append(demonstrations)
        if fitting:
            rows += self._measure_fitting(fitting, settings)
        return rows

    def _measure_fitting(self, sets: list[DemonstrationSet], settings: Finetune) -> list[Row]:
        tuned = finetune(self.model, sets, settings, self.fields["train"])
        values, right, greedy = self._examples(sets, tuned)
        rows: list[Row] = []
        for group, demonstrations in enumerate(sets):
            if not bool(tuned.finite[group]):
                reason = f"fine-tuning diverged at learning rate {settings.learning_rate:g}"
                rows.append(failure_row(demonstrations.seed, reason))
                continue
            seed = demonstrations.seed
            rows += prediction_rows(seed, _of(right, group), _of(greedy, group))
            for (metric, condition), found in self._with_null(seed, _of(values, group)).items():
                rows += layer_rows(seed, metric, condition, found)
        return rows

    @torch.inference_mode()
    def _examples(
        self, sets: list[DemonstrationSet], tuned: Tuned
    ) -> tuple[dict[Key, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Per example: layer metrics `[G, examples, layers]`; label and greedy correctness `[G, examples]`."""
        count = len(sets)
        prefix = encode_prefix(self.model, [np.concatenate([s.prefix, self.queries.separator]) for s in sets])
        training = training_tokens(sets, tuned)
        values, right, greedy = defaultdict(list), defaultdict(list), defaultdict(list)
        first = torch.tensor([word[0] for word in self.queries.label_tokens], device=self.model.device)
        for chunk, zsl in zip(self.chunks, self.zero_shot, strict=True):
            icl = self._run(chunk, "icl", count, prefix=prefix)
            with with_projections(self.model, tuned.stacks):
                ft = self._run(chunk, "ft", count)
            for key, found in chunk_metrics(chunk, zsl, icl, ft, training, self.config.measures).items():
                values[key].append(found)
            for name, outcome in (("zsl", zsl), ("icl", icl), ("ft", ft)):
                right[name].append((outcome.prediction.view(-1, len(chunk.labels)) == chunk.labels).expand(count, -1))
                gold = first[chunk.labels]
                greedy[name].append((outcome.greedy.view(-1, len(gold)) == gold).expand(count, -1))
        order = np.argsort(np.concatenate([chunk.index for chunk in self.chunks]))
        return _gather(values, order), _gather(right, order), _gather(greedy, order)

    def _with_null(self, seed: int, values: dict[Key, np.ndarray]) -> dict[Key, np.ndarray]:
        """The values and the norm-matched null of SimAOU, drawn for this seed alone."""
        rng = np.random.default_rng([self.config.measures.noise_seed, seed])
        null = norm_matched_null(
            values["update_norm", "icl"], values["update_norm", "ft"], self.model.config.hidden_size, rng
        )
        return values | {("simaou_norm_matched", "icl-ft"): null}


def too_long(demonstrations: DemonstrationSet, queries: Queries, limit: int) -> str | None:
    """Why a seed's prompts do not fit into a context of `limit` tokens, or None if they do."""
    needed = len(demonstrations.prefix) + len(queries.separator) + queries.longest
    if needed <= limit:
        return None
    return f"its longest prompt has {needed} tokens, but the model's context holds {limit}"


def _to(outcome: Outcome, device: torch.device) -> Outcome:
    return replace(
        outcome,
        fields={name: x.to(device) for name, x in outcome.fields.items()},
        scores=outcome.scores.to(device),
        greedy=outcome.greedy.to(device),
    )


def _of(by_group: Mapping, group: int) -> dict:
    return {key: values[group] for key, values in by_group.items()}


def _gather(parts: Mapping, order: np.ndarray) -> dict:
    """Chunks joined along the examples, in the order of the set, as float64 (or bool) on the host."""
    gathered = {}
    for key, chunks in parts.items():
        joined = torch.cat(chunks, dim=1).cpu().numpy()
        joined = joined if joined.dtype == bool else joined.astype(np.float64)
        gathered[key] = joined[:, order] if joined.shape[1] == len(order) else joined
    return gathered
