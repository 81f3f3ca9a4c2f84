"""Scores on the selection set, by which seeds and fine-tuning settings are chosen."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from raydual.data.prompts import DemonstrationSet
from raydual.measure.conditions import Chunk, Outcome, make_chunks, run_condition
from raydual.measure.grouping import Groups, group_size
from raydual.measure.seeds import too_long
from raydual.model.attention import Prefix
from raydual.model.finetune import Tuned, finetune
from raydual.model.loading import LoadedModel
from raydual.model.passes import encode_prefix
from raydual.model.stacked import with_projections
from raydual.settings.schema import Finetune
from raydual.study import Study

_KEPT_PREFIXES = 4


@dataclass(frozen=True)
class FinetuneScore:
    """How well a fine-tuning setting did: means over the seeds it was tried on.

    `accuracy` and `greedy_accuracy` are NaN where a seed diverged; `diverged` counts those seeds.
    """

    accuracy: float
    greedy_accuracy: float
    loss: float
    diverged: int


class Scorer:
    """Scores seeds and fine-tuning settings on the selection set of a study, one model for all of them."""

    def __init__(self, loaded: LoadedModel, study: Study, memory_share: float = 1.0) -> None:
        self.loaded = loaded
        self.memory_share = memory_share
        self.prefixes: dict[int, Prefix] = {}
        self.model = loaded.model
        self.groups: Groups | None = None
        self.study = study
        self.queries = study.queries(loaded.tokenizer, "selection")
        self.tokenizer = loaded.tokenizer

    def demonstrations(self, seed: int) -> DemonstrationSet:
        """The tokenized demonstrations of a seed."""
        return self.study.demonstrations(self.tokenizer, seed)

    def unfit(self, demonstrations: DemonstrationSet) -> str | None:
        """Why a seed cannot be scored, or None."""
        return too_long(demonstrations, self.queries, self.model.config.max_position_embeddings)

    @torch.inference_mode()
    def encode(self, demonstrations: DemonstrationSet) -> Prefix:
        """The shared prefix of a seed."""
        return encode_prefix(self.model, [demonstrations.before_query(self.queries.separator)])

    def score_slice(self, seed: int, start: int, end: int) -> dict[str, Any]:
        """`right` examples of the selection set from `start` to `end`; or the `reason` why the seed does not fit.

        The prefixes of the last seeds are kept, since a seed most often comes back for its next slice.
        """
        if seed not in self.prefixes:
            demonstrations = self.demonstrations(seed)
            reason = self.unfit(demonstrations)
            if reason:
                return {"right": 0, "reason": reason}
            while len(self.prefixes) >= _KEPT_PREFIXES:
                self.prefixes.pop(next(iter(self.prefixes)))
            self.prefixes[seed] = self.encode(demonstrations)
        return {"right": self.in_context_right(self.prefixes[seed], start, end)}

    @torch.inference_mode()
    def in_context_right(self, prefix: Prefix, start: int, end: int) -> int:
        """How many of the selection examples from `start` to `end` the seed's demonstrations get right."""
        right = 0
        for chunk in self._chunks(range(start, end)):
            outcome = run_condition(self.model, chunk.in_context, self.queries.label_tokens, prefix=prefix)
            right += int((outcome.prediction == chunk.labels).sum())
        return right

    def finetuned(self, sets: Sequence[DemonstrationSet], settings: Finetune) -> FinetuneScore:
        """Fine-tune on each of `sets` and score on the whole selection set."""
        if self.groups is None:
            execution = self.study.config.execution
            size = group_size(self.loaded, self.queries, sets[0], settings, execution, self.memory_share)
            self.groups = Groups(size)
        found = self.groups.each(sets, lambda group: self._finetuned(group, settings))
        tuned = [one for one, _, _ in found]
        right, greedy = (
            torch.cat(parts).double().mean() for parts in ([r for _, r, _ in found], [g for *_, g in found])
        )
        diverged = sum(int((~one.finite).sum()) for one in tuned)
        return FinetuneScore(
            accuracy=float(right) if not diverged else float("nan"),
            greedy_accuracy=float(greedy) if not diverged else float("nan"),
            loss=float(torch.cat([one.losses for one in tuned]).double().mean()),
            diverged=diverged,
        )

    def _finetuned(self, sets: Sequence[DemonstrationSet], settings: Finetune) -> tuple[Tuned, Tensor, Tensor]:
        """The tuned projections, and which examples are right by label word and greedily, `[G, examples]`."""
        tuned = finetune(self.model, sets, settings)
        right, greedy = [], []
        with torch.inference_mode(), with_projections(self.model, tuned.stacks):
            for chunk in self._chunks(range(len(self.queries))):
                outcome = run_condition(self.model, chunk.alone.repeat(len(sets)), self.queries.label_tokens)
                right.append(_right(outcome.prediction, chunk.labels))
                greedy.append(self._greedy_right(outcome, chunk))
        return replace(tuned, stacks={}), torch.cat(right, dim=1), torch.cat(greedy, dim=1)

    def _greedy_right(self, outcome: Outcome, chunk: Chunk) -> Tensor:
        first = torch.tensor([word[0] for word in self.queries.label_tokens], device=chunk.labels.device)
        return _right(outcome.greedy, first[chunk.labels])

    def _chunks(self, which: range) -> list[Chunk]:
        size = self.study.config.execution.batch_size
        return make_chunks(self.queries.take(which), size, self.model.device)


def _right(found: Tensor, gold: Tensor) -> Tensor:
    return found.view(-1, len(gold)) == gold
