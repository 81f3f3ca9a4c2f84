"""Key/value fine-tuning on demonstrations, for many seeds at once (docs/science.md, section 2)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import Qwen3ForCausalLM

from raydual.config import Finetune
from raydual.model.passes import Rows, hidden_states, logits
from raydual.model.recording import Recorder
from raydual.model.stacked import Stacks, finite_groups, stack_projections, with_projections
from raydual.tasks.prompts import DemonstrationSet


@dataclass(frozen=True)
class Tuned:
    """G fine-tuned versions of a model's key/value projections, and what their training passes showed.

    `stacks` goes into `with_projections`. `losses` `[G, steps]` and `finite` `[G]` (False: diverged) tell how it
    went. `recordings[i][name]` `[G, layers, tokens, width]` holds the fields recorded at every token of
    demonstration i, in the forward pass of its own step of the last epoch.
    """

    stacks: Stacks
    losses: Float[Tensor, "G steps"]
    finite: Bool[Tensor, "G"]
    recordings: tuple[dict[str, Float[Tensor, "G layers _ width"]], ...]


def finetune(
    model: Qwen3ForCausalLM,
    demonstrations: Sequence[DemonstrationSet],
    settings: Finetune,
    fields: tuple[str, ...] = (),
) -> Tuned:
    """Train G copies of the projections, one for each seed's demonstrations, in prompt order, batch size 1.

    The seeds share every forward and backward pass, but their losses are summed, so each gets its own gradient
    alone. The demonstration sets must have the same number of demonstrations. The model itself is not changed.
    """
    stacks = stack_projections(model, settings.projections, len(demonstrations))
    parameters = [p for stack in stacks.values() for p in stack.parameters()]
    optimizer = _optimizer(parameters, settings)
    losses: list[Tensor] = []
    recordings: list[dict[str, Tensor]] = []
    with torch.enable_grad(), with_projections(model, stacks):
        for epoch in range(settings.epochs):
            keep = fields if epoch == settings.epochs - 1 else ()
            for step in range(len(demonstrations[0].examples)):
                recorder = Recorder(keep)
                loss = _step_losses(model, demonstrations, step, settings.loss, recorder)
                optimizer.zero_grad(set_to_none=True)
                loss.sum().backward()
                optimizer.step()
                losses.append(loss.detach())
                if keep:
                    recordings.append({name: recorder.result(name) for name in keep})
    for parameter in parameters:
        parameter.requires_grad_(False).grad = None
    all_losses = torch.stack(losses, dim=1)
    finite = finite_groups(stacks) & all_losses.isfinite().all(dim=1)
    return Tuned(stacks, all_losses, finite, tuple(recordings))


def _optimizer(parameters: list[nn.Parameter], settings: Finetune) -> torch.optim.Optimizer:
    kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[settings.optimizer]
    return kind(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)


def _step_losses(
    model: Qwen3ForCausalLM,
    demonstrations: Sequence[DemonstrationSet],
    step: int,
    loss_over: str,
    recorder: Recorder,
) -> Float[Tensor, "G"]:
    """The causal language-model loss of every seed's demonstration number `step`, mean over its tokens."""
    rows = Rows.pad([d.examples[step] for d in demonstrations], model.device)
    counted = rows.real[:, 1:]
    if loss_over == "label":
        words = Rows.pad([d.label_masks[step] for d in demonstrations], model.device)
        counted = counted & words.ids[:, 1:].bool()
    states = hidden_states(model, rows, recorder=recorder if recorder.fields else None)
    predicted = logits(model, states[:, :-1])
    errors = nn.functional.cross_entropy(predicted.transpose(1, 2), rows.ids[:, 1:], reduction="none")
    return (errors * counted).sum(dim=1) / counted.sum(dim=1)
