"""Key/value fine-tuning of section 2: a copy of the model, one demonstration at a time."""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from .forward import array, watched
from .prompts import Tokens


@dataclass(frozen=True)
class FinetuneSettings:
    """The settings of section 2.

    `loss`: `all` tokens or the `label` word's alone; `gradient`: full or layer_causal; `batch`: one or all.
    """

    optimizer: str = "sgd"
    learning_rate: float = 5e-4
    weight_decay: float = 0.0
    epochs: int = 1
    loss: str = "all"
    projections: tuple[str, ...] = ("k_proj", "v_proj")
    gradient: str = "full"
    batch: str = "one"


@dataclass(frozen=True)
class TrainingRecord:
    """One example in its own step: query, query_normed [layers, S, heads * head_dim], attn_in [layers, S, hidden]."""

    query: np.ndarray
    query_normed: np.ndarray
    attn_in: np.ndarray


@dataclass(frozen=True)
class Finetuned:
    """The tuned copy, one record for each training example (last epoch), and the loss of every step.

    `still`: all examples of an epoch were seen by the same weights.
    """

    model: PreTrainedModel
    records: list[TrainingRecord]
    losses: list[float]
    trains_queries: bool
    still: bool = False


def finetune(
    model: PreTrainedModel, examples: list[Tokens], settings: FinetuneSettings, label_from: list[int]
) -> Finetuned:
    """Train a copy in the examples' order; example i's label comes after its character `label_from[i]`."""
    tuned = copy.deepcopy(model)
    if tuned.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"the plain loop trains the weights themselves: not in {tuned.dtype}")
    optimizer = make_optimizer(trainable(tuned, settings.projections), settings)
    records: list[TrainingRecord] = []
    losses = []
    for _ in range(settings.epochs):
        counted = [targets(example, start, settings.loss) for example, start in zip(examples, label_from, strict=True)]
        if settings.batch == "all":
            found = full_step(tuned, optimizer, examples, counted, settings.gradient)
        else:
            pairs = zip(examples, counted, strict=True)
            found = [step(tuned, optimizer, example, labels, settings.gradient) for example, labels in pairs]
        losses += [loss for loss, _ in found]
        records = [record for _, record in found]
    tuned.requires_grad_(False)
    trains_queries = "q_proj" in settings.projections and settings.batch == "one"
    return Finetuned(tuned, records, losses, trains_queries, settings.batch == "all")


def trainable(model: PreTrainedModel, projections: tuple[str, ...]) -> list[torch.nn.Parameter]:
    """Freeze everything but the projections (weights, and biases where there are any)."""
    model.requires_grad_(False)
    chosen = []
    for layer in model.model.layers:
        for name in projections:
            inside = layer.mlp if name in ("gate_proj", "up_proj", "down_proj") else layer.self_attn
            chosen += list(getattr(inside, name).parameters())
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
    model: PreTrainedModel, optimizer: torch.optim.Optimizer, example: Tokens, labels: list[int], gradient: str
) -> tuple[float, TrainingRecord]:
    """One forward, backward and update; what is recorded is what the forward saw, before the update."""
    optimizer.zero_grad()
    found = backward(model, example, labels, gradient)
    optimizer.step()
    return found


def full_step(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    examples: list[Tokens],
    labels: list[list[int]],
    gradient: str,
) -> list[tuple[float, TrainingRecord]]:
    """A single update by the sum of all examples' gradients, each taken at the weights before it."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    found = []
    for example, counted in zip(examples, labels, strict=True):
        optimizer.zero_grad()
        found.append(backward(model, example, counted, gradient))
        for total, parameter in zip(sums, parameters, strict=True):
            total += parameter.grad
    for total, parameter in zip(sums, parameters, strict=True):
        parameter.grad = total
    optimizer.step()
    return found


def backward(model: PreTrainedModel, example: Tokens, labels: list[int], gradient: str) -> tuple[float, TrainingRecord]:
    """One forward and backward; what is recorded is what the forward saw."""
    device = model.device
    with watched(model) as seen:
        output = model(
            input_ids=torch.tensor([example.ids], device=device),
            labels=torch.tensor([labels], device=device),
            use_cache=False,
            output_hidden_states=True,
        )
    if gradient == "full":
        output.loss.backward()
    else:
        layer_causal_gradients(model, output.hidden_states, output.loss, labels)
    query = np.stack([array(layer[0]) for layer in seen["query"]])
    normed = np.stack([array(layer[0].flatten(1)) for layer in seen["query_normed"]])
    attn_in = np.stack([array(layer[0]) for layer in seen["attn_in"]])
    return output.loss.item(), TrainingRecord(query, normed, attn_in)


def layer_causal_gradients(
    model: PreTrainedModel, states: tuple[torch.Tensor, ...], loss: torch.Tensor, labels: list[int]
) -> None:
    """Every layer's own parameters get the gradient of a loss read off that layer's output; `states[0]` is embedded.

    The last layer's loss is the model's own.
    """
    layers = model.model.layers
    for number, layer in enumerate(layers, start=1):
        if number < len(layers):
            read = model.lm_head(model.model.norm(states[number]))[0, :-1]
            own = torch.nn.functional.cross_entropy(read.float(), torch.tensor(labels[1:], device=read.device))
        else:
            own = loss
        parameters = [p for p in layer.parameters() if p.requires_grad]
        found = torch.autograd.grad(own, parameters, retain_graph=True)
        for parameter, gradient in zip(parameters, found, strict=True):
            parameter.grad = gradient
