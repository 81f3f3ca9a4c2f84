"""What each demonstration does to a query's margin in context, and what its fine-tuning step asks for, one by one."""

import copy
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from .finetune import FinetuneSettings, layer_causal_gradients, targets, trainable
from .prompts import TaskSettings, Tokens, continuation, in_context, overlapping, tokenize


def score(logits: torch.Tensor, token: int) -> torch.Tensor:
    """The log-probability of a token."""
    return logits.float().log_softmax(dim=-1)[token]


def margin(model: PreTrainedModel, prompt: list[int], words: list[list[int]], gold: int, mask: Any = None):
    """The gold word's mean log-probability less the best other one's; `mask(length)` is added to attention scores."""
    scores = []
    for word in words:
        ids = torch.tensor([prompt + word])
        logits = model(input_ids=ids, attention_mask=mask and mask(ids.shape[1]), use_cache=False).logits[0]
        found = [score(logits[len(prompt) - 1 + i], token) for i, token in enumerate(word)]
        scores.append(torch.stack(found).mean())
    return scores[gold] - torch.stack([x for i, x in enumerate(scores) if i != gold]).max()


def masked(prefix: int, tokens: list[int]):
    """An additive mask: causal, and nothing from `prefix` on attends to `tokens`."""

    def mask(length: int) -> torch.Tensor:
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
        for row in range(prefix, length):
            hidden[row, tokens] = True
        return torch.zeros(1, 1, length, length).masked_fill(hidden, torch.finfo(torch.float32).min)

    return mask


@torch.no_grad()
def done(
    model: PreTrainedModel, tokenizer: Any, texts: list[str], task: TaskSettings, query: str, gold: int
) -> np.ndarray:
    """The margin in context less that without each demonstration [demonstrations]; `model` has eager attention."""
    prompt = in_context(tokenizer, texts, task.separator, query)
    words = [continuation(tokenizer, prompt.tokens, word) for word in task.label_words]
    whole = margin(model, prompt.tokens.ids, words, gold)
    without = [
        margin(model, prompt.tokens.ids, words, gold, masked(prompt.prefix_length, overlapping(prompt.tokens, chars)))
        for chars in prompt.demonstrations
    ]
    return np.array([(whole - one).item() for one in without])


def asked(
    model: PreTrainedModel,
    tokenizer: Any,
    demonstrations: list[Tokens],
    label_from: list[int],
    settings: FinetuneSettings,
    task: TaskSettings,
    query: str,
    gold: int,
) -> np.ndarray:
    """−η times the inner product of each loss's gradient with the zero-shot margin's [demonstrations]."""
    copied = copy.deepcopy(model)
    parameters = trainable(copied, settings.projections)
    alone = tokenize(tokenizer, query)
    words = [continuation(tokenizer, alone, word) for word in task.label_words]
    of_margin = torch.autograd.grad(margin(copied, alone.ids, words, gold), parameters)
    found = []
    for tokens, start in zip(demonstrations, label_from, strict=True):
        labels = targets(tokens, start, settings.loss)
        output = copied(
            input_ids=torch.tensor([tokens.ids]),
            labels=torch.tensor([labels]),
            use_cache=False,
            output_hidden_states=True,
        )
        copied.zero_grad()
        if settings.gradient == "full":
            output.loss.backward()
        else:
            layer_causal_gradients(copied, output.hidden_states, output.loss, labels)
        products = [(p.grad.double() * g.double()).sum() for p, g in zip(parameters, of_margin, strict=True)]
        found.append(-settings.learning_rate * float(sum(products)))
    return np.array(found)
