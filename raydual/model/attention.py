"""Attention as two parts, own tokens and a shared prefix, merged exactly: the dual form of softmax attention.

Over [demonstrations; own tokens] softmax attention is `(1 - λ) own + λ demonstrations`, each part a softmax
attention of its own and λ the mass on the demonstrations (docs/science.md, section 4). So all queries of a seed
can share one pass over its demonstrations, and the merge weight is itself a measurement.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from raydual.model.kernels import fused_on_cpu, step_by_step, varlen, varlen_serves
from raydual.model.packing import Packing
from raydual.process.pulse import PULSE

ATTENTION = "raydual"
"""The name under which the attention and its mask are registered with transformers."""


@dataclass(frozen=True)
class Prefix:
    """Keys and values of G seeds' demonstrations, shared by all rows of a batch that belong to a seed.

    `keys[layer]` and `values[layer]` are `[G, kv_heads, prefix, head_dim]`, right-padded; `lengths` `[G]` counts
    the real tokens. `kinds` says what each token is, a place in `raydual.catalogue.parts.PARTS`, and `left_out` which
    of them nothing attends to. A batch that attends to it has its rows grouped by seed, the same number for each.
    """

    keys: tuple[Float[Tensor, "G kv_heads prefix head_dim"], ...]
    values: tuple[Float[Tensor, "G kv_heads prefix head_dim"], ...]
    lengths: Int[Tensor, "G"]
    kinds: Int[Tensor, "G prefix"] | None = None
    left_out: Bool[Tensor, "G prefix"] | None = None

    def without(self, group: int, left_out: Bool[Tensor, "variants prefix"]) -> "Prefix":
        """Variants of one seed's prefix that leave out other tokens each; they take the place of seeds."""
        count = len(left_out)
        keys, values = (
            tuple(x[group : group + 1].expand(count, -1, -1, -1) for x in of) for of in (self.keys, self.values)
        )
        return Prefix(keys, values, self.lengths[group : group + 1].expand(count), left_out=left_out)

    def mask(self, dtype: torch.dtype) -> Float[Tensor, "G 1 1 prefix"]:
        """The additive mask that hides the padding, and what is left out."""
        places = torch.arange(self.keys[0].shape[2], device=self.lengths.device)
        hidden = places[None, :] >= self.lengths[:, None]
        if self.left_out is not None:
            hidden = hidden | self.left_out
        mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
        return mask.masked_fill(hidden, torch.finfo(dtype).min)[:, None, None]


@dataclass(frozen=True)
class Part:
    """Softmax attention over some of the keys: its output, and the log of its softmax's normaliser."""

    out: Float[Tensor, "batch heads queries head_dim"]
    log_mass: Float[Tensor, "batch heads queries"]


@dataclass(frozen=True)
class LayerAttention:
    """The attention of one layer in one pass: its block `module`, what went in, and its two parts.

    In a packed pass `query`, `key` and the parts are one row of all tokens.
    """

    module: nn.Module
    query: Float[Tensor, "batch heads queries head_dim"]
    key: Float[Tensor, "batch kv_heads queries head_dim"]
    scaling: float
    own: Part
    demonstrations: Part | None
    prefix: Prefix | None
    packing: Packing | None = None

    @property
    def keys(self) -> Float[Tensor, "rows kv_heads width head_dim"]:
        """The keys of each row."""
        return self.key if self.packing is None else self.packing.unpack(self.key)


@runtime_checkable
class AttentionRecorder(Protocol):
    """What wants to see the attention of each layer as it is computed."""

    def attention(self, layer: LayerAttention) -> None:
        """Called once a layer, in order."""


def attend(
    query: Float[Tensor, "batch heads queries head_dim"],
    key: Float[Tensor, "batch kv_heads keys head_dim"],
    value: Float[Tensor, "batch kv_heads keys head_dim"],
    mask: Float[Tensor, "batch 1 rows keys"],
    scaling: float,
) -> Part:
    """Softmax attention with grouped-query heads; `mask` is added to the scaled scores (`rows`: queries or 1)."""
    batch, heads, queries, head_dim = query.shape
    kv_heads, shared = key.shape[1], heads // key.shape[1]
    grouped = query.reshape(batch, kv_heads, shared * queries, head_dim)
    rows = mask[:, :, None].expand(-1, 1, shared, queries, -1).reshape(batch, 1, shared * queries, -1)
    differentiated = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    function = fused_on_cpu if query.device.type == "cpu" and not differentiated else step_by_step
    out, log_mass = function(grouped, key, value, rows, scaling)
    return Part(out.reshape(batch, heads, queries, head_dim), log_mass.reshape(batch, heads, queries))


def attend_packed(
    query: Float[Tensor, "1 heads tokens head_dim"],
    key: Float[Tensor, "1 kv_heads tokens head_dim"],
    value: Float[Tensor, "1 kv_heads tokens head_dim"],
    packing: Packing,
    scaling: float,
) -> Part:
    """Causal attention of packed rows, each over its own tokens; without gradients."""
    if varlen_serves(query.device, query.dtype, query.shape[-1]):
        longest = (packing.width, packing.width)
        ends = packing.ends
        out, log_mass = varlen(query[0], key[0], value[0], ends, ends, longest, scaling, causal=True)
        return Part(out[None], log_mass[None])
    rows, keys, values = (packing.unpack(x) for x in (query, key, value))
    # Padding stands behind whatever a token may see.
    if query.device.type == "cpu":
        out, log_mass = fused_on_cpu(rows, keys, values, None, scaling)
    else:
        future = torch.ones(packing.width, packing.width, dtype=torch.bool, device=query.device).triu(1)
        mask = torch.zeros(future.shape, device=query.device).masked_fill(future, torch.finfo(torch.float32).min)
        part = attend(rows, keys, values, mask.expand(len(rows), 1, -1, -1), scaling)
        out, log_mass = part.out, part.log_mass
    return Part(packing.pack(out), packing.pack(log_mass[..., None])[..., 0])


def attend_prefix(
    query: Float[Tensor, "batch heads queries head_dim"], prefix: Prefix, layer: int, scaling: float
) -> Part:
    """Attention of every query to its own seed's demonstrations: one product a seed and key/value head."""
    batch, heads, queries, head_dim = query.shape
    seeds, kv_heads = prefix.keys[layer].shape[:2]
    rows, shared = batch // seeds, heads // kv_heads
    by_seed = query.view(seeds, rows, kv_heads, shared, queries, head_dim).permute(0, 2, 1, 3, 4, 5)
    part = attend(
        by_seed.reshape(seeds, kv_heads, -1, head_dim),
        prefix.keys[layer],
        prefix.values[layer],
        prefix.mask(torch.float32),
        scaling,
    )

    def by_row(x: Tensor) -> Tensor:
        split = x.view(seeds, kv_heads, rows, shared, queries, -1).permute(0, 2, 1, 3, 4, 5)
        return split.reshape(batch, heads, queries, -1)

    return Part(by_row(part.out), by_row(part.log_mass)[..., 0])


def _attend_prefix_packed(
    query: Float[Tensor, "1 heads tokens head_dim"], prefix: Prefix, layer: int, scaling: float
) -> Part:
    """The same of packed rows, without gradients: all tokens of a seed as one row."""
    seeds = len(prefix.lengths)
    if prefix.left_out is None and varlen_serves(query.device, query.dtype, query.shape[-1]):
        keys, values = (x[layer].transpose(0, 1).flatten(1, 2) for x in (prefix.keys, prefix.values))
        tokens, most = query.shape[2] // seeds, prefix.keys[layer].shape[2]
        ends = torch.arange(seeds + 1, dtype=torch.int32, device=query.device)
        used = prefix.lengths.int()
        out, log_mass = varlen(query[0], keys, values, ends * tokens, ends * most, (tokens, most), scaling, used=used)
        return Part(out[None], log_mass[None])
    part = attend_prefix(query[0].unflatten(1, (seeds, -1)).transpose(0, 1), prefix, layer, scaling)
    return Part(part.out.transpose(0, 1).flatten(1, 2)[None], part.log_mass.transpose(0, 1).flatten(1, 2)[None])


def dual_attention_forward(
    module: nn.Module,
    query: Float[Tensor, "batch heads queries head_dim"],
    key: Float[Tensor, "batch kv_heads keys head_dim"],
    value: Float[Tensor, "batch kv_heads keys head_dim"],
    attention_mask: Float[Tensor, "_ 1 _ _"] | None,
    scaling: float,
    dropout: float = 0.0,
    prefix: Prefix | None = None,
    recorder: AttentionRecorder | None = None,
    packing: Packing | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "batch queries heads head_dim"], None]:
    """The attention function that transformers calls.

    `prefix`, `recorder` and `packing` are arguments of the model's forward. With a packing the batch is one row of all
    tokens, grouped by seed if there is a prefix; each attends to its own row alone, and the mask means nothing.

    Raises
    ------
    ValueError
        No mask was made (the mask function of the same name is not in place), or dropout is asked for.
    """
    if attention_mask is None:
        raise ValueError("no attention mask reached raydual's attention: causality and padding would be lost")
    if dropout:
        raise ValueError("raydual's attention has no dropout; call model.eval() or set attention_dropout to 0")
    PULSE.beat()
    layer: int = module.layer_idx  # type: ignore[assignment]
    if packing is None:
        own = attend(query, key, value, attention_mask[..., : key.shape[2]], scaling)
        demonstrations = None if prefix is None else attend_prefix(query, prefix, layer, scaling)
    else:
        own = attend_packed(query, key, value, packing, scaling)
        demonstrations = None if prefix is None else _attend_prefix_packed(query, prefix, layer, scaling)
    out = own.out
    if demonstrations is not None:
        weight = torch.sigmoid(demonstrations.log_mass - own.log_mass).to(out.dtype)[..., None]
        out = torch.lerp(own.out, demonstrations.out, weight)
    if recorder is not None:
        recorder.attention(LayerAttention(module, query, key, scaling, own, demonstrations, prefix, packing))
    return out.transpose(1, 2), None


def register() -> None:
    """Make `attn_implementation="raydual"` known to transformers, with its mask."""
    AttentionInterface.register(ATTENTION, dual_attention_forward)
    AttentionMaskInterface.register(ATTENTION, eager_mask)


@contextmanager
def dual_attention(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """Give `model` raydual's attention inside the block, and its own back after it."""
    register()
    before = model.config._attn_implementation
    model.set_attn_implementation(ATTENTION)
    try:
        yield model
    finally:
        model.set_attn_implementation(before)
