"""The spread of predictions over orders of the demonstrations, one order, query and label word at a time."""

import copy
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedModel

from .finetune import FinetuneSettings
from .forward import label_scores, record
from .prompts import TaskSettings, filled, in_context, tokenize
from .seed import Examples, tune_on


def order_values(
    model: PreTrainedModel,
    tokenizer: Any,
    chosen: Examples,
    validation: Examples,
    task: TaskSettings,
    settings: FinetuneSettings,
    orders: Sequence[Sequence[int]],
) -> dict[tuple[str, str], float]:
    """{(metric, condition): value} of the demonstrations `chosen` in each of `orders`, their own among them."""
    base = copy.deepcopy(model).eval()
    base.set_attn_implementation("eager")
    scores: dict[str, list[list[list[float]]]] = {"icl": [], "ft": [], "ft_all": []}
    for order in orders:
        listed = [chosen[place] for place in order]
        alone, by_steps = tune_on(base, tokenizer, listed, task, replace(settings, batch="one"))
        _, at_once = tune_on(base, tokenizer, listed, task, replace(settings, batch="all"))
        found: dict[str, list[list[float]]] = {"icl": [], "ft": [], "ft_all": []}
        for text, _ in validation:
            query = filled(task, text)
            prompt = in_context(tokenizer, [tokens.text for tokens in alone], task.separator, query).tokens
            own = tokenize(tokenizer, query)
            for name, read, tokens in (
                ("icl", base, prompt), ("ft", by_steps.model, own), ("ft_all", at_once.model, own),
            ):  # fmt: skip
                logits = record(read, tokens.ids).logits
                found[name].append(label_scores(read, tokenizer, tokens, task.label_words, logits).tolist())
        for name, by_query in found.items():
            scores[name].append(by_query)
    values = {}
    for name, by_order in scores.items():
        spreads = [
            statistics.stdev(by_query[place][label] for by_query in by_order)
            for place in range(len(validation))
            for label in range(len(task.label_words))
        ]
        values["order_scores", name] = statistics.fmean(spreads)
        values["order_accuracy", name] = statistics.stdev(
            statistics.fmean(
                float(scored.index(max(scored)) == label)
                for scored, (_, label) in zip(by_query, validation, strict=True)
            )
            for by_query in by_order
        )
    return values
