"""Fine-tuning of chosen projections on demonstrations, for many seeds at once (docs/science.md, section 2)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.profiler import record_function
from transformers import PreTrainedModel

from raydual.data.prompts import DemonstrationSet
from raydual.model.layer_causal import layer_by_layer
from raydual.model.modules import final_norm, layers
from raydual.model.passes import Rows, hidden_states, logits
from raydual.model.recording import Recorder
from raydual.model.stacked import Stacks, copied, finite_groups, stack_projections, with_projections
from raydual.settings.schema import Finetune


@dataclass(frozen=True)
class Tuned:
    """G fine-tuned versions of a model's trained projections, and what their training passes showed.

    `stacks` goes into `with_projections`. `losses` `[G, steps]` and `finite` `[G]` (False: diverged) tell how it
    went. `recordings[i][name]` `[G, layers, tokens, width]` holds the fields recorded at every token of
    demonstration i, in the forward pass of its own step of the last epoch. `earlier[k]` are the stacks after k steps.
    `same_weights`: all demonstrations were recorded at the same weights.
    """

    stacks: Stacks
    losses: Float[Tensor, "G steps"]
    finite: Bool[Tensor, "G"]
    recordings: tuple[dict[str, Float[Tensor, "G layers _ width"]], ...]
    earlier: Mapping[int, Stacks] = field(default_factory=dict)
    same_weights: bool = False

    def after(self, steps: int) -> "Tuned":
        """How it stood after so many steps, of those that were kept."""
        stacks, losses = self.earlier[steps], self.losses[:, :steps]
        return Tuned(stacks, losses, _finite(stacks, losses), self.recordings[:steps])


@record_function("fine-tuning")
def finetune(
    model: PreTrainedModel,
    demonstrations: Sequence[DemonstrationSet],
    settings: Finetune,
    fields: tuple[str, ...] = (),
    kept: Collection[int] = (),
) -> Tuned:
    """Train G copies of the projections, one for each seed's demonstrations, in prompt order.

    There is a step for each demonstration, or with `batch: all` one an epoch, on the sum of their losses. The seeds
    share every forward and backward pass, but their losses are summed, so each gets its own gradient alone. The
    demonstration sets must have the same number of demonstrations. The model itself is not changed. The stacks as they
    are after the first, the second, … step are `kept` beside the last ones where asked for.
    """
    stacks = stack_projections(model, settings.projections, len(demonstrations))
    parameters = [p for stack in stacks.values() for p in stack.parameters()]
    optimizer = _optimizer(parameters, settings)
    losses: list[Tensor] = []
    recordings: list[dict[str, Tensor]] = []
    earlier: dict[int, Stacks] = {}
    last = len(demonstrations[0].examples) - 1
    with torch.enable_grad(), with_projections(model, stacks):
        for epoch in range(settings.epochs):
            keep = fields if epoch == settings.epochs - 1 else ()
            for step in range(last + 1):
                recorder = Recorder(keep)
                if settings.batch == "one" or step == 0:
                    optimizer.zero_grad(set_to_none=True)
                losses.append(_backward(model, Step.of(demonstrations, step, settings.loss, model), settings, recorder))
                if settings.batch == "one" or step == last:
                    optimizer.step()
                if len(losses) in kept:
                    earlier[len(losses)] = copied(stacks)
                if keep:
                    recordings.append({name: recorder.result(name) for name in keep})
    for parameter in parameters:
        parameter.requires_grad_(False).grad = None
    all_losses = torch.stack(losses, dim=1)
    finite, same_weights = _finite(stacks, all_losses), settings.batch == "all"
    return Tuned(stacks, all_losses, finite, tuple(recordings), earlier, same_weights)


def _finite(stacks: Stacks, losses: Float[Tensor, "G steps"]) -> Bool[Tensor, "G"]:
    """Which of the G versions did not diverge."""
    return finite_groups(stacks) & losses.isfinite().all(dim=1)


def _optimizer(parameters: list[nn.Parameter], settings: Finetune) -> torch.optim.Optimizer:
    kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[settings.optimizer]
    return kind(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)


@dataclass(frozen=True)
class Step:
    """One demonstration of every seed, or some of one: the tokens, and which (from the second on) the loss counts."""

    rows: Rows
    counted: Bool[Tensor, "G predicted"]

    @classmethod
    def of(
        cls, demonstrations: Sequence[DemonstrationSet], number: int, loss_over: str, model: PreTrainedModel
    ) -> "Step":
        """Demonstration `number` of every seed."""
        return cls._of(
            [d.examples[number] for d in demonstrations],
            [d.label_masks[number] for d in demonstrations],
            loss_over,
            model,
        )

    @classmethod
    def together(
        cls, demonstrations: DemonstrationSet, numbers: range, loss_over: str, model: PreTrainedModel
    ) -> "Step":
        """Some demonstrations of one seed, each in the place of a seed."""
        texts, label_masks = ([of[i] for i in numbers] for of in (demonstrations.examples, demonstrations.label_masks))
        return cls._of(texts, label_masks, loss_over, model)

    @classmethod
    def _of(
        cls, texts: Sequence[np.ndarray], label_masks: Sequence[np.ndarray], loss_over: str, model: PreTrainedModel
    ) -> "Step":
        rows = Rows.pad(texts, model.device)
        counted = rows.real[:, 1:]
        if loss_over == "label":
            words = Rows.pad(label_masks, model.device)
            counted = counted & words.ids[:, 1:].bool()
        return cls(rows, counted)

    def losses(self, model: PreTrainedModel, states: Float[Tensor, "G tokens hidden"]) -> Float[Tensor, "G"]:
        """The causal language-model loss of every seed, mean over the counted tokens, from normalised states."""
        predicted = logits(model, states[:, :-1])
        errors = nn.functional.cross_entropy(predicted.transpose(1, 2), self.rows.ids[:, 1:], reduction="none")
        return (errors * self.counted).sum(dim=1) / self.counted.sum(dim=1)


def _backward(model: PreTrainedModel, step: Step, settings: Finetune, recorder: Recorder) -> Float[Tensor, "G"]:
    """Add the gradients of every seed's loss on one demonstration; returns the losses of the model's own output."""
    watched = recorder if recorder.fields else None
    if settings.gradient == "full":
        losses = step.losses(model, hidden_states(model, step.rows, recorder=watched))
        losses.sum().backward()
        return losses.detach()
    with layer_by_layer(layers(model)) as outputs:
        hidden_states(model, step.rows, recorder=watched)
    # Each layer's output is read as if it were the last one's.
    for output in outputs:
        losses = step.losses(model, final_norm(model)(output))
        losses.sum().backward()
    return losses.detach()
