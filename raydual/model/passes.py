"""One forward pass over right-padded rows, and the shared pass over the demonstrations."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.profiler import record_function
from transformers import PreTrainedModel

from raydual.model.attention import Prefix
from raydual.model.modules import backbone, layers, unembedding
from raydual.model.packing import Packing
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

    @cached_property
    def packing(self) -> Packing:
        """The rows without their padding."""
        return Packing.of(self.lengths, self.ids.shape[1])

    def repeat(self, times: int) -> "Rows":
        """All rows once for each of `times` seeds, grouped by seed."""
        return Rows(self.ids.repeat(times, 1), self.lengths.repeat(times))


def hidden_states(
    model: PreTrainedModel, rows: Rows, prefix: Prefix | None = None, recorder: Recorder | None = None
) -> Float[Tensor, "batch tokens hidden"]:
    """The model's final (normalised) hidden states of rows that stand alone or follow `prefix`.

    With a prefix of G seeds, rows are grouped by seed; each continues its seed's demonstrations.
    """
    return _forward(model, rows.ids, _positions(rows, prefix), rows.real.long(), prefix, recorder)


def states_at(
    model: PreTrainedModel,
    rows: Rows,
    places: Int[Tensor, "batch some"],
    prefix: Prefix | None = None,
    recorder: Recorder | None = None,
    packed: bool = True,
) -> Float[Tensor, "batch some hidden"]:
    """`hidden_states` at some places of each row.

    The pass is over the real tokens alone, without gradients, if it may be `packed`; modules then see a single row.
    """
    if not packed:
        return hidden_states(model, rows, prefix, recorder).take_along_dim(places[..., None], dim=1)
    packing = rows.packing
    if recorder is not None:
        recorder.packing = packing
    ids, positions = (x.flatten()[packing.place][None] for x in (rows.ids, _positions(rows, prefix)))
    unused = torch.empty(1, 1, 1, 1, device=ids.device)
    states = _forward(model, ids, positions, unused, prefix, recorder, packing)
    return states[0, packing.starts[:, None] + places]


def _positions(rows: Rows, prefix: Prefix | None) -> Int[Tensor, "batch tokens"]:
    offset = torch.zeros_like(rows.lengths)
    if prefix is not None:
        offset = prefix.lengths.repeat_interleave(len(rows.ids) // len(prefix.lengths))
    return offset[:, None] + torch.arange(rows.ids.shape[1], device=rows.ids.device)


def _forward(
    model: PreTrainedModel,
    ids: Int[Tensor, "batch tokens"],
    positions: Int[Tensor, "batch tokens"],
    mask: Tensor,
    prefix: Prefix | None,
    recorder: Recorder | None,
    packing: Packing | None = None,
) -> Float[Tensor, "batch tokens hidden"]:
    """The backbone's last states; a mask of four dimensions is handed on by transformers as it is."""
    PULSE.tokens += ids.numel()
    with recording(layers(model), recorder) if recorder else nullcontext():
        return backbone(model)(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=False,
            prefix=prefix,
            recorder=recorder,
            packing=packing,
        ).last_hidden_state


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
