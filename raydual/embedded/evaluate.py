"""The figures of the embedded model: zero-shot, in-context and fine-tuned accuracy over seeds, in plain PyTorch."""

import copy
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from random import Random
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from raydual.embedded import reviews_file
from raydual.embedded.stream import SST2_WORDS, SST5_WORDS

WORDS = {"sst2": SST2_WORDS, "sst5": SST5_WORDS}
DEMONSTRATIONS = 32
SEEDS = range(20)
LEARNING_RATES = (0.1, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)


@dataclass(frozen=True)
class Score:
    """Shares of the validation rows.

    `accuracy`: the arg-max label word is the gold one; `greedy`: the arg-max token of the whole vocabulary is;
    `label_word`: that token is any of the task's label words; `predicted[label]`: the arg-max label word is this one.
    """

    accuracy: float
    greedy: float
    label_word: float
    predicted: tuple[float, ...]


class Evaluator:
    """Scores one model on one task."""

    def __init__(self, model: Any, tokenizer: Any, task: str, limit: int | None = None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.label_words = WORDS[task]
        self.train = read_rows(task, "train")
        validation = read_rows(task, "validation")[:limit]
        self.gold = torch.tensor([label for _, label in validation])
        prompts = [f"Sentence: {text} Label:" for text, _ in validation]
        self.queries = [self._ids(prompt) for prompt in prompts]
        self.later_queries = [self._ids(" " + prompt) for prompt in prompts]
        self.word_ids = torch.tensor([self._ids(" " + word)[0] for word in self.label_words])

    def zero_shot(self) -> Score:
        """The query alone."""
        return self._score(self._logits(self.queries, None))

    def in_context(self, seed: int) -> Score:
        """The seed's demonstrations, a space, the query."""
        prefix = self._ids(" ".join(self.demonstrations(seed)))
        with torch.no_grad():
            cache = self.model(torch.tensor([prefix]), use_cache=True).past_key_values
        return self._score(self._logits(self.later_queries, cache))

    def fine_tuned(self, seed: int, learning_rate: float) -> Score:
        """The query alone, after one pass of SGD on `k_proj` and `v_proj`; the weights come back afterwards."""
        weights = [
            parameter for name, parameter in self.model.named_parameters() if "k_proj" in name or "v_proj" in name
        ]
        before = [weight.detach().clone() for weight in weights]
        try:
            for text in self.demonstrations(seed):
                ids = torch.tensor([self._ids(text)])
                loss = self.model(ids, labels=ids, use_cache=False).loss
                gradients = torch.autograd.grad(loss, weights)
                with torch.no_grad():
                    for weight, gradient in zip(weights, gradients, strict=True):
                        weight -= learning_rate * gradient
            return self.zero_shot()
        finally:
            with torch.no_grad():
                for weight, value in zip(weights, before, strict=True):
                    weight.copy_(value)

    def demonstrations(self, seed: int) -> list[str]:
        """The seed's filled templates with their label words."""
        rows = Random(seed).sample(range(len(self.train)), DEMONSTRATIONS)
        return [f"Sentence: {self.train[row][0]} Label: {self.label_words[self.train[row][1]]}" for row in rows]

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    @torch.no_grad()
    def _logits(self, queries: Sequence[list[int]], cache: Any) -> Tensor:
        """Last-token logits `[rows, vocabulary]`, in groups of one length, so that nothing is padded."""
        groups = defaultdict(list)
        for row, ids in enumerate(queries):
            groups[len(ids)].append(row)
        logits = torch.empty(len(queries), self.model.config.vocab_size)
        for rows in groups.values():
            past = None
            if cache is not None:
                past = copy.deepcopy(cache)
                past.batch_repeat_interleave(len(rows))
            batch = torch.tensor([queries[row] for row in rows])
            logits[rows] = self.model(batch, past_key_values=past, logits_to_keep=1).logits[:, -1].float()
        return logits

    def _score(self, logits: Tensor) -> Score:
        predicted = logits[:, self.word_ids].argmax(-1)
        greedy = logits.argmax(-1)
        return Score(
            (predicted == self.gold).float().mean().item(),
            (greedy == self.word_ids[self.gold]).float().mean().item(),
            torch.isin(greedy, self.word_ids).float().mean().item(),
            tuple((predicted == label).float().mean().item() for label in range(len(self.word_ids))),
        )


def figures(model: Any, tokenizer: Any) -> dict[str, Any]:
    """Means over the seeds, by task; fine-tuned accuracy by learning rate."""
    found = {}
    for task in WORDS:
        evaluator = Evaluator(model, tokenizer, task)
        context = [evaluator.in_context(seed) for seed in SEEDS]
        tuned = {
            str(rate): _accuracies([evaluator.fine_tuned(seed, rate) for seed in SEEDS]) for rate in LEARNING_RATES
        }
        found[task] = {
            "zero_shot": asdict(evaluator.zero_shot()),
            "in_context": _accuracies(context)
            | {name: mean(getattr(score, name) for score in context) for name in ("greedy", "label_word")},
            "fine_tuned": tuned,
        }
        print(task, json.dumps(found[task], indent=1), flush=True)
    return found


def _accuracies(scores: list[Score]) -> dict[str, float]:
    values = [score.accuracy for score in scores]
    return {"accuracy": mean(values), "accuracy_min": min(values), "accuracy_max": max(values)}


def read_rows(task: str, split: str) -> list[tuple[str, int]]:
    """The (text, label) rows of one file of the corpus."""
    key = "sentence" if task == "sst2" else "text"
    lines = reviews_file(task, split).read_text(encoding="utf-8").splitlines()
    return [(row[key], row["label"]) for row in map(json.loads, lines)]
