"""Key/value fine-tuning of section 2: a copy of the model, one demonstration at a time."""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from transformers import Qwen3ForCausalLM

from .forward import array, watched
from .prompts import Tokens


@dataclass(frozen=True)
class FinetuneSettings:
    """The settings of section 2; `loss` is `all` tokens or the `label` word's alone."""

    optimizer: str = "sgd"
    learning_rate: float = 5e-4
    weight_decay: float = 0.0
    epochs: int = 1
    loss: str = "all"
    projections: tuple[str, ...] = ("k_proj", "v_proj")


@dataclass(frozen=True)
class TrainingRecord:
    """One example in its own step: query [layers, S, heads * head_dim], attn_in [layers, S, hidden]."""

    query: np.ndarray
    attn_in: np.ndarray


@dataclass(frozen=True)
class Finetuned:
    """The tuned copy, one record for each training example (last epoch), and the loss of every step."""

    model: Qwen3ForCausalLM
    records: list[TrainingRecord]
    losses: list[float]


def finetune(
    model: Qwen3ForCausalLM, examples: list[Tokens], settings: FinetuneSettings, label_from: list[int]
) -> Finetuned:
    """Train a copy in the examples' order; example i's label comes after its character `label_from[i]`."""
    tuned = copy.deepcopy(model)
    if tuned.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"the plain loop trains the weights themselves: not in {tuned.dtype}")
    optimizer = make_optimizer(trainable(tuned, settings.projections), settings)
    records: list[TrainingRecord] = []
    losses = []
    for _ in range(settings.epochs):
        records = []
        for example, start in zip(examples, label_from, strict=True):
            loss, record = step(tuned, optimizer, example, targets(example, start, settings.loss))
            losses.append(loss)
            records.append(record)
    tuned.requires_grad_(False)
    return Finetuned(tuned, records, losses)


def trainable(model: Qwen3ForCausalLM, projections: tuple[str, ...]) -> list[torch.nn.Parameter]:
    """Freeze everything but the projections (weights, and biases where there are any)."""
    model.requires_grad_(False)
    chosen = []
    for layer in model.model.layers:
        for name in projections:
            chosen += list(getattr(layer.self_attn, name).parameters())
    for parameter in chosen:
        parameter.requires_grad_(True)
    return chosen


def make_optimizer(parameters: list[torch.nn.Parameter], settings: FinetuneSettings) -> torch.optim.Optimizer:
    """SGD without momentum, or AdamW, from a fresh state."""
    kinds = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
    return kinds[settings.optimizer](parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)


def targets(example: Tokens, label_from: int, loss: str) -> list[int]:
    """The labels of the causal LM loss, one for each token; -100 where the token does not count."""
    if loss == "all":
        return example.ids
    return [token if end > label_from else -100 for token, (_, end) in zip(example.ids, example.spans, strict=True)]


def step(
    model: Qwen3ForCausalLM, optimizer: torch.optim.Optimizer, example: Tokens, labels: list[int]
) -> tuple[float, TrainingRecord]:
    """One forward, backward and update; what is recorded is what the forward saw, before the update."""
    optimizer.zero_grad()
    device = model.device
    with watched(model) as seen:
        loss = model(
            input_ids=torch.tensor([example.ids], device=device),
            labels=torch.tensor([labels], device=device),
            use_cache=False,
        ).loss
    loss.backward()
    optimizer.step()
    query = np.stack([array(layer[0]) for layer in seen["query"]])
    attn_in = np.stack([array(layer[0]) for layer in seen["attn_in"]])
    return loss.item(), TrainingRecord(query, attn_in)
