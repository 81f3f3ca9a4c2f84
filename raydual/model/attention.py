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
    """The attention of one layer in one pass: its block `module`, what went in, and its two parts."""

    module: nn.Module
    query: Float[Tensor, "batch heads queries head_dim"]
    key: Float[Tensor, "batch kv_heads queries head_dim"]
    scaling: float
    own: Part
    demonstrations: Part | None
    prefix: Prefix | None


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
    function = _fused if query.device.type == "cpu" and not differentiated else _plain
    out, log_mass = function(grouped, key, value, rows, scaling)
    return Part(out.reshape(batch, heads, queries, head_dim), log_mass.reshape(batch, heads, queries))


def _plain(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """(output, log of the softmax's normaliser) of as many query as key heads, step by step; differentiable."""
    scores = (query * scaling) @ key.transpose(2, 3)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) + mask
    # The maximum only keeps exp in range; it cancels, so no gradient needs to pass through it.
    peak = scores.detach().amax(dim=-1, keepdim=True)
    weights = scores.sub_(peak).exp_()
    mass = weights.sum(dim=-1, keepdim=True)
    out = (weights.to(value.dtype) @ value) / mass.to(value.dtype)
    return out, (peak + mass.log())[..., 0]


def _fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """The same by the kernel behind `scaled_dot_product_attention` on a CPU, which holds no scores."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return kernel(query, key, value, 0.0, False, attn_mask=mask.to(query.dtype), scale=scaling)


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


def dual_attention_forward(
    module: nn.Module,
    query: Float[Tensor, "batch heads queries head_dim"],
    key: Float[Tensor, "batch kv_heads keys head_dim"],
    value: Float[Tensor, "batch kv_heads keys head_dim"],
    attention_mask: Float[Tensor, "rows 1 queries keys"] | None,
    scaling: float,
    dropout: float = 0.0,
    prefix: Prefix | None = None,
    recorder: AttentionRecorder | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "batch queries heads head_dim"], None]:
    """The attention function that transformers calls; `prefix` and `recorder` are arguments of the model's forward.

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
    own = attend(query, key, value, attention_mask[..., : key.shape[2]], scaling)
    demonstrations = None if prefix is None else attend_prefix(query, prefix, layer, scaling)
    out = own.out
    if demonstrations is not None:
        weight = torch.sigmoid(demonstrations.log_mass - own.log_mass).to(out.dtype)[..., None]
        out = torch.lerp(own.out, demonstrations.out, weight)
    if recorder is not None:
        recorder.attention(LayerAttention(module, query, key, scaling, own, demonstrations, prefix))
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
