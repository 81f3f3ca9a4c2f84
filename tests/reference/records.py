"""What the oracle keeps of a seed and its examples, and the variants that it measures."""

from dataclasses import dataclass

import numpy as np

from . import metrics
from .finetune import Finetuned
from .forward import Recording
from .prompts import (
    InContext,
    Tokens,
)


@dataclass(frozen=True)
class MeasureSettings:
    """Variants of section 4; `draws` simulations of the norm-matched null for each example and layer."""

    update_field: str = "attn_out"
    query_field: str = "query"
    keep_first_token: bool = False
    kendall_examples: int | None = None
    kendall_softmax: bool = False
    parts: bool = False
    noise_seed: int = 0
    draws: int = 8


@dataclass(frozen=True)
class ExampleRecord:
    """One validation example: its recordings, label scores [labels] and aligned tokens.

    `recordings` and `scores` are keyed by zsl, icl, ft; `query_pairs` holds (index in the query alone, index
    in the query's own tokens within the prompt), `demonstration_pairs`, for each demonstration, (index in it
    alone, index in the prompt). `simdual` [layers] and `simdw` [layers, key/value heads] are its cosines.
    """

    label: int
    first_label_token: int
    alone: Tokens
    prompt: InContext
    recordings: dict[str, Recording]
    scores: dict[str, np.ndarray]
    query_pairs: metrics.Pairs
    demonstration_pairs: list[metrics.Pairs]
    simdual: np.ndarray
    simdw: np.ndarray
    parts: dict[str, np.ndarray]

    def prediction(self, condition: str) -> int:
        """The label id of the word with the highest score."""
        return int(np.argmax(self.scores[condition]))

    def right(self, condition: str) -> bool:
        """Whether the label word with the highest score is the right one."""
        return self.prediction(condition) == self.label

    def greedy_right(self, condition: str) -> bool:
        """Whether the arg-max over the vocabulary is the right label's first token."""
        return int(np.argmax(self.recordings[condition].logits)) == self.first_label_token


@dataclass(frozen=True)
class SeedRecord:
    """One seed: the tokens of its demonstrations alone, the fine-tuning on them and the examples."""

    demonstrations: list[Tokens]
    finetuned: Finetuned
    examples: list[ExampleRecord]
