"""A sweep and its data together: what every worker needs to make prompts. Loads no torch."""

import math
from dataclasses import dataclass
from typing import Literal

import tokenizers

from raydual.config import SweepConfig
from raydual.errors import UserError
from raydual.model.source import ModelSource
from raydual.tasks.examples import Dataset, demonstration_indices, load_dataset
from raydual.tasks.prompts import DemonstrationSet, Queries, encode_demonstrations, encode_queries

_CHECKED_SEEDS = 200


@dataclass(frozen=True)
class Study:
    """The settings and the examples of one sweep."""

    config: SweepConfig
    dataset: Dataset

    @property
    def source(self) -> ModelSource:
        """Where the model comes from."""
        return ModelSource(self.config.model, self.config.revision)

    def queries(self, tokenizer: tokenizers.Tokenizer, which: Literal["selection", "measured"]) -> Queries:
        """The tokenized queries of the selection or the measured slice."""
        examples = self.dataset.selection if which == "selection" else self.dataset.measured
        return encode_queries(tokenizer, self.config.task, examples, self.config.measures.keep_first_token)

    def demonstrations(self, tokenizer: tokenizers.Tokenizer, seed: int) -> DemonstrationSet:
        """The tokenized demonstrations of a seed."""
        train = self.dataset.train
        chosen = train.take(demonstration_indices(seed, len(train), self.config.demonstrations))
        keep_first = self.config.measures.keep_first_token
        return encode_demonstrations(tokenizer, self.config.task, chosen, seed, keep_first)


def prepare_study(config: SweepConfig) -> Study:
    """Load a sweep's data and check it against the model's tokenizer and context, before anything heavy starts.

    Raises
    ------
    UserError
        Anything in the model or the data that would make every seed fail.
    """
    study = Study(config, load_dataset(config))
    model = study.source.config()
    if study.source.directory is not None:
        study.source.weights_directory()
    tokenizer = study.source.tokenizer()
    limit = model.get("max_position_embeddings", math.inf)
    after = max(
        study.queries(tokenizer, which).longest
        for which in ("selection", "measured")
        if len(getattr(study.dataset, which))
    )
    before = min(len(study.demonstrations(tokenizer, seed).prefix) for seed in config.seeds[:_CHECKED_SEEDS])
    if before + after > limit:
        raise UserError(
            f"demonstrations: with {config.demonstrations} of them the shortest prompt has {before} tokens, and "
            f"the longest query {after} more, but the context of {config.model} holds {limit}; take fewer"
        )
    return study
