"""What chunks of examples give, gathered and put in the order of the measured set."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from raydual.catalogue.entries import Key
from raydual.data.prompts import Queries
from raydual.measure.patch_arm import SeedPatch
from raydual.measure.prediction_metrics import Predictions, SeedPredictions


@dataclass(frozen=True)
class ExampleValues:
    """What every example gave: values `[G, examples, layers]`, those of heads where they are kept, predictions.

    `patches` are the seeds' patches, where they are measured.
    """

    values: dict[Key, np.ndarray]
    heads: dict[Key, np.ndarray]
    predictions: list[SeedPredictions]
    patches: list[SeedPatch]


Outcomes = Mapping[str, Sequence[tuple[Tensor, Tensor, Tensor]]]
"""By condition, of every chunk: labels and greedy tokens `[1 or G, n]`, and label scores `[1 or G, n, labels]`."""


@dataclass
class Gathered:
    """Chunks of values as they come: of layers, and on the host those of heads if they are to be kept."""

    with_heads: bool
    values: dict[Key, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    heads: dict[Key, list[Tensor]] = field(default_factory=lambda: defaultdict(list))

    def add(self, key: Key, value: Tensor) -> None:
        """Take in `[G, n]`, `[G, n, layers]` or `[G, n, layers, heads]`; a layer's value is the mean of its heads."""
        if value.ndim == 4 and self.with_heads:
            self.heads[key].append(value.cpu())
        self.values[key].append(value.mean(dim=-1) if value.ndim == 4 else value)


@dataclass(frozen=True)
class ChunkOrder:
    """The places in the set of the examples as they pass, chunk by chunk: `order` `[examples]` sorts them."""

    order: Int[np.ndarray, "examples"]

    def in_order(self, values: Mapping[Key, list[Tensor]]) -> dict[Key, np.ndarray]:
        """Chunks joined along the examples, in the order of the set where all are there, in float64 on the host."""
        joined = {key: torch.cat(parts, dim=1).double().cpu().numpy() for key, parts in values.items()}
        return {key: x[:, self.order] if x.shape[1] == len(self.order) else x for key, x in joined.items()}

    def predictions(self, outcomes: Outcomes, queries: Queries, seeds: int) -> list[SeedPredictions]:
        """Each seed's predictions under every condition."""
        gold = np.asarray(queries.labels)
        gold_tokens = np.asarray([word[0] for word in queries.label_tokens])[gold]
        by_condition = {name: self._of_condition(parts, seeds, gold, gold_tokens) for name, parts in outcomes.items()}
        return [
            SeedPredictions(
                **{name: of_seeds[group] for name, of_seeds in by_condition.items()},
                gold=gold,
                labels=len(queries.label_tokens),
            )
            for group in range(seeds)
        ]

    def _of_condition(
        self, parts: Sequence[tuple[Tensor, ...]], seeds: int, gold: np.ndarray, gold_tokens: np.ndarray
    ) -> list[Predictions]:
        whole = [torch.cat(part, dim=1).cpu().numpy()[:, self.order] for part in zip(*parts, strict=True)]
        labels, greedy, scores = (np.broadcast_to(x, (seeds, *x.shape[1:])) for x in whole)
        return [
            Predictions(found, found == gold, tokens == gold_tokens, of_labels)
            for found, tokens, of_labels in zip(labels, greedy, scores, strict=True)
        ]

    def by_place(self, x: np.ndarray) -> np.ndarray:
        """Values in the order of the set, where only the first examples have them, and so are in that of the chunks."""
        if len(x) == len(self.order):
            return x
        places = np.argsort(self.order)
        return x[np.argsort(places[places < len(x)])]

    def by_chunk(self, x: np.ndarray) -> np.ndarray:
        """Values `[G, n]` of the first n examples, in the order of the chunks."""
        places = np.argsort(self.order)
        return x[:, places[places < x.shape[1]]]
