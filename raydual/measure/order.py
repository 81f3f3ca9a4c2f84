"""How much the order of the demonstrations matters: label scores in several orders (docs/science.md, section 4)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from raydual.catalogue.entries import CATALOGUE
from raydual.catalogue.marks import Value, of_orders
from raydual.data.prompts import DemonstrationSet, Queries
from raydual.measure.conditions import Chunk, run_condition
from raydual.model.attention import Prefix
from raydual.model.finetune import finetune
from raydual.model.passes import encode_prefix
from raydual.model.random_step import random_step
from raydual.model.stacked import with_projections
from raydual.settings.schema import Finetune

_BATCHES = {"ft": "one", "ft_all": "all"}


@dataclass(frozen=True)
class SeedOrders:
    """What one seed's demonstrations give in each of several orders, their own first.

    `scores` `[orders, examples, labels]` are the label scores of each condition: `icl`, `ft` with a step for each
    demonstration, `ft_all` with one for all; `gold` `[examples]` the right labels.
    """

    scores: Mapping[str, Float[np.ndarray, "orders examples labels"]]
    gold: Int[np.ndarray, "examples"]
    demonstrations: int

    @property
    def labels(self) -> int:
        """How many labels there are."""
        return self.scores["icl"].shape[2]

    @property
    def examples(self) -> int:
        """How many examples are measured."""
        return len(self.gold)

    def value(self, condition: str, spread: float) -> Value:
        """A spread, undefined where there is no other order, or none without a divergence."""
        if self.demonstrations < 2:
            return Value(float("nan"), self.examples, "a single demonstration has no other order")
        if not np.isfinite(self.scores[condition]).all():
            return Value(float("nan"), self.examples, "fine-tuning diverged in one of the orders")
        return Value(spread, self.examples)


@of_orders(CATALOGUE["order_scores"])
def spread_of_scores(found: SeedOrders) -> dict[str, Value]:
    """Spread of label scores over orders."""
    return {name: found.value(name, float(scores.std(axis=0, ddof=1).mean())) for name, scores in found.scores.items()}


@of_orders(CATALOGUE["order_accuracy"])
def spread_of_accuracy(found: SeedOrders) -> dict[str, Value]:
    """Spread of accuracy over orders."""
    right = {name: scores.argmax(axis=2) == found.gold for name, scores in found.scores.items()}
    return {name: found.value(name, float(one.mean(axis=1).std(ddof=1))) for name, one in right.items()}


def seed_orders(
    model: PreTrainedModel,
    queries: Queries,
    chunks: Sequence[Chunk],
    sets: Sequence[DemonstrationSet],
    settings: Finetune,
    others: Sequence[DemonstrationSet] | None = None,
    noise_seed: int | None = None,
) -> list[SeedOrders]:
    """Every seed's label scores in each order of its demonstrations.

    The `ft` conditions fine-tune on `others` where these are given, in orders of their own, and then, with a
    `noise_seed`, move at random by as much.
    """
    found: dict[str, list[Tensor]] = {"icl": [], "ft": [], "ft_all": []}
    for number in range(len(sets[0].orders) + 1):
        context, tuned_on = _in_order(sets, number), _in_order(others or sets, number)
        with torch.inference_mode():
            prefix = encode_prefix(model, [s.before_query(queries.separator) for s in context])
            found["icl"].append(_scores(model, queries, chunks, len(sets), prefix))
        for name, batch in _BATCHES.items():
            tuned = finetune(model, tuned_on, settings.model_copy(update={"batch": batch}))
            if noise_seed is not None:
                tuned = random_step(model, tuned, [s.seed for s in sets], noise_seed)
            with torch.inference_mode(), with_projections(model, tuned.stacks):
                found[name].append(_scores(model, queries, chunks, len(sets)))
    # In the order of the chunks, like the scores.
    gold = torch.cat([chunk.labels for chunk in chunks]).cpu().numpy()
    scores = {name: torch.stack(parts, dim=1).double().cpu().numpy() for name, parts in found.items()}
    count = len(sets[0].examples)
    return [SeedOrders({name: x[group] for name, x in scores.items()}, gold, count) for group in range(len(sets))]


def _in_order(sets: Sequence[DemonstrationSet], number: int) -> list[DemonstrationSet]:
    return [one.orders[number - 1] if number else one for one in sets]


def _scores(
    model: PreTrainedModel, queries: Queries, chunks: Sequence[Chunk], seeds: int, prefix: Prefix | None = None
) -> Float[Tensor, "G examples labels"]:
    """The label scores of every seed, of queries that follow `prefix` or stand alone."""
    parts = []
    for chunk in chunks:
        rows = (chunk.in_context if prefix else chunk.alone).repeat(seeds)
        found = run_condition(model, rows, queries.label_tokens, prefix=prefix)
        parts.append(found.scores.view(seeds, len(chunk.index), -1))
    return torch.cat(parts, dim=1)
