"""Softmax attention by the kernel that a device has: each gives the output and the log of the softmax's normaliser.

A mask is added to the scaled scores; keys and values may have fewer heads than queries.
"""

from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention.varlen import AuxRequest, varlen_attn

Attended = tuple[Tensor, Tensor]
"""The output `[..., queries, head_dim]` and the log of the softmax's normaliser `[..., queries]`."""

_VARLEN_TYPES = (torch.float16, torch.bfloat16)
_VARLEN_MOST = 256
_VARLEN_STEP = 8
_VARLEN_CAPABILITY = (8, 0)


def step_by_step(
    query: Float[Tensor, "batch heads queries head_dim"],
    key: Float[Tensor, "batch heads keys head_dim"],
    value: Float[Tensor, "batch heads keys head_dim"],
    mask: Float[Tensor, "batch 1 queries keys"],
    scaling: float,
) -> Attended:
    """Of as many query as key heads, on any device; differentiable."""
    scores = (query * scaling) @ key.transpose(2, 3)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) + mask
    # The maximum only keeps exp in range; it cancels, so no gradient needs to pass through it.
    peak = scores.detach().amax(dim=-1, keepdim=True)
    weights = scores.sub_(peak).exp_()
    mass = weights.sum(dim=-1, keepdim=True)
    out = (weights.to(value.dtype) @ value) / mass.to(value.dtype)
    return out, (peak + mass.log())[..., 0]


def fused_on_cpu(
    query: Float[Tensor, "batch heads queries head_dim"],
    key: Float[Tensor, "batch kv_heads keys head_dim"],
    value: Float[Tensor, "batch kv_heads keys head_dim"],
    mask: Float[Tensor, "batch 1 queries keys"] | None,
    scaling: float,
) -> Attended:
    """By the kernel behind `scaled_dot_product_attention` on a CPU, which holds no scores; without a mask causal."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    mask = None if mask is None else mask.to(query.dtype)
    return kernel(query, key, value, 0.0, mask is None, attn_mask=mask, scale=scaling)


def varlen_serves(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether `varlen` takes heads of such a width: on a GPU of Ampere or later, in half precision."""
    return (
        device.type == "cuda"
        and dtype in _VARLEN_TYPES
        and width % _VARLEN_STEP == 0
        and width <= _VARLEN_MOST
        and _capability(device.index) >= _VARLEN_CAPABILITY
    )


@lru_cache
def _capability(device: int | None) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def varlen(
    query: Float[Tensor, "heads tokens head_dim"],
    key: Float[Tensor, "kv_heads keys head_dim"],
    value: Float[Tensor, "kv_heads keys head_dim"],
    query_ends: Int[Tensor, "some"],
    key_ends: Int[Tensor, "some"],
    longest: tuple[int, int],
    scaling: float,
    causal: bool = False,
    used: Int[Tensor, "_"] | None = None,
) -> Attended:
    """Of sequences one behind the other, by flash attention; its log-normaliser has no gradient.

    `query_ends` and `key_ends` are where the sequences end, 0 first; `longest` the most queries and keys of one; `used`
    how many keys of each count. No sequence's numbers depend on the others (`num_splits=1`).
    """
    out, log_mass = varlen_attn(
        query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1), query_ends, key_ends, *longest,
        return_aux=AuxRequest(lse=True), scale=scaling, window_size=(-1, 0) if causal else (-1, -1), enable_gqa=True,
        seqused_k=used, num_splits=1,
    )  # fmt: skip
    # Its documentation says (tokens, heads); on CUDA it comes as (heads, tokens).
    return out.transpose(0, 1), log_mass
