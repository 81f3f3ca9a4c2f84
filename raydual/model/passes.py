"""One forward pass over right-padded rows, and the shared pass over the demonstrations."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.profiler import record_function
from transformers import PreTrainedModel

from raydual.model.attention import Prefix
from raydual.model.modules import backbone, layers, unembedding
from raydual.model.recording import Recorder, recording
from raydual.process.pulse import PULSE


@dataclass(frozen=True)
class Rows:
    """Right-padded prompts: token `ids` `[batch, tokens]` and the real `lengths` `[batch]`."""

    ids: Int[Tensor, "batch tokens"]
    lengths: Int[Tensor, "batch"]

    @classmethod
    def pad(cls, prompts: Sequence[np.ndarray], device: torch.device) -> "Rows":
        """Prompts of different lengths as one batch (the padding token is never attended to)."""
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        ids = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.int64)
        for row, prompt in zip(ids, prompts, strict=True):
            row[: len(prompt)] = torch.as_tensor(prompt)
        return cls(ids.to(device), lengths.to(device))

    @property
    def real(self) -> Bool[Tensor, "batch tokens"]:
        """Which tokens are not padding."""
        return torch.arange(self.ids.shape[1], device=self.ids.device) < self.lengths[:, None]

    @property
    def last(self) -> Int[Tensor, "batch"]:
        """Index of each row's last real token."""
        return self.lengths - 1

    def repeat(self, times: int) -> "Rows":
        """All rows once for each of `times` seeds, grouped by seed."""
        return Rows(self.ids.repeat(times, 1), self.lengths.repeat(times))


def hidden_states(
    model: PreTrainedModel, rows: Rows, prefix: Prefix | None = None, recorder: Recorder | None = None
) -> Float[Tensor, "batch tokens hidden"]:
    """The model's final (normalised) hidden states of rows that stand alone or follow `prefix`.

    With a prefix of G seeds, rows are grouped by seed; each continues its seed's demonstrations.
    """
    PULSE.tokens += rows.ids.numel()
    offset = torch.zeros_like(rows.lengths)
    if prefix is not None:
        offset = prefix.lengths.repeat_interleave(len(rows.ids) // len(prefix.lengths))
    positions = offset[:, None] + torch.arange(rows.ids.shape[1], device=rows.ids.device)
    call = {
        "input_ids": rows.ids,
        "attention_mask": rows.real.long(),
        "position_ids": positions,
        "use_cache": False,
        "prefix": prefix,
        "recorder": recorder,
    }
    if recorder is None:
        return backbone(model)(**call).last_hidden_state
    with recording(layers(model), recorder):
        return backbone(model)(**call).last_hidden_state


def logits(model: PreTrainedModel, states: Float[Tensor, "*rows hidden"]) -> Float[Tensor, "*rows vocabulary"]:
    """Next-token logits of hidden states, in float32."""
    return unembedding(model)(states).float()


@record_function("prefix")
def encode_prefix(model: PreTrainedModel, prompts: Sequence[np.ndarray], recorder: Recorder | None = None) -> Prefix:
    """One pass over the demonstrations of G seeds; what later queries need of it are its keys and values."""
    rows = Rows.pad(prompts, model.device)
    PULSE.tokens += rows.ids.numel()
    watched = recording(layers(model), recorder) if recorder else nullcontext()
    with watched:
        cache = backbone(model)(input_ids=rows.ids, attention_mask=rows.real.long(), use_cache=True).past_key_values
    return Prefix(
        keys=tuple(layer.keys for layer in cache.layers),
        values=tuple(layer.values for layer in cache.layers),
        lengths=rows.lengths,
    )
