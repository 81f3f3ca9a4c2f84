"""Relaxed linear attention: no softmax, no scale (docs/science.md, section 4; Dai eq. 7-9, Irie).

Without its softmax, attention to the tokens i is a linear layer `W = Σ v_i ⊗ k_i` applied to the query, so the
demonstrations change that layer by a weight update: the same one that a step of gradient descent makes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

LINEAR_ATTENTION = "raydual_linear"
"""The name under which the attention and its mask are registered with transformers."""


def linear_attention(
    values: Float[Tensor, "*batch tokens d_v"],
    keys: Float[Tensor, "*batch tokens d_k"],
    query: Float[Tensor, "*batch d_k"],
) -> Float[Tensor, "*batch d_v"]:
    """`Σ_i (k_i · query) v_i` over the tokens, as attention computes it: first the scores, then the values."""
    scores = keys @ query[..., None]
    return (values.mT @ scores)[..., 0]


def weight_update(
    values: Float[Tensor, "*batch tokens d_v"], keys: Float[Tensor, "*batch tokens d_k"]
) -> Float[Tensor, "*batch d_v d_k"]:
    """`Σ_i v_i ⊗ k_i`: ΔW_ICL if the tokens are the demonstrations', W_ZSL if they are the query's own."""
    return values.mT @ keys


def gradient_step_update(
    values: Float[Tensor, "*batch tokens d_v"],
    keys: Float[Tensor, "*batch tokens d_k"],
    learning_rate: float,
    weight: Float[Tensor, "*batch d_v d_k"] | None = None,
) -> Float[Tensor, "*batch d_v d_k"]:
    """What one step of gradient descent adds to a linear layer W that has the keys as its inputs.

    The gradient of the loss `Σ_i ⟨e_i, W k_i⟩`, with the error signals `e_i = -v_i / learning_rate`, is taken by
    autograd at `weight` (default: zero); the step is `-learning_rate` times it. W itself is not changed.
    """
    start = keys.new_zeros(*keys.shape[:-2], values.shape[-1], keys.shape[-1]) if weight is None else weight
    errors = -values.detach() / learning_rate
    with torch.enable_grad():
        layer = start.detach().clone().requires_grad_(True)
        loss = (errors * (keys.detach() @ layer.mT)).sum()
        (gradient,) = torch.autograd.grad(loss, layer)
    return -learning_rate * gradient


def linear_attention_forward(
    module: nn.Module,
    query: Float[Tensor, "batch heads queries d_k"],
    key: Float[Tensor, "batch kv_heads keys d_k"],
    value: Float[Tensor, "batch kv_heads keys d_v"],
    attention_mask: Float[Tensor, "rows 1 queries columns"] | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    prefix: object | None = None,
    packing: object | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "batch queries heads d_v"], None]:
    """The attention function that transformers calls: `Σ_i (q · k_i) v_i` over the tokens that the mask shows.

    Query and keys are what the interface gets, after their norms if the family has any, and the rotary embedding. A
    mask of 0 shows a token; any other value hides it. `scaling` is not used. A query that sees no token gets 0.

    Raises
    ------
    ValueError
        No mask was made (the mask function of the same name is not in place), dropout is asked for, or a prefix or a
        packing is given: these belong to the softmax attention.
    """
    if attention_mask is None:
        raise ValueError("no attention mask reached the linear attention: causality and padding would be lost")
    if dropout:
        raise ValueError("the linear attention has no dropout; call model.eval() or set attention_dropout to 0")
    if prefix is not None:
        raise ValueError("the linear attention takes no shared prefix; put the demonstrations into the prompt")
    if packing is not None:
        raise ValueError("the linear attention takes no packed rows; pass them padded (`hidden_states`)")
    batch, heads, queries, width = query.shape
    kv_heads, keys = key.shape[1:3]
    grouped = query.reshape(batch, kv_heads, heads // kv_heads, queries, width)
    hidden = attention_mask[:, :, None, :, :keys] != 0
    scores = (grouped @ key[:, :, None].mT).masked_fill(hidden, 0)
    out = (scores @ value[:, :, None]).reshape(batch, heads, queries, -1)
    return out.transpose(1, 2), None


def register_linear() -> None:
    """Make `attn_implementation="raydual_linear"` known to transformers, with its mask."""
    AttentionInterface.register(LINEAR_ATTENTION, linear_attention_forward)
    AttentionMaskInterface.register(LINEAR_ATTENTION, eager_mask)


@contextmanager
def linear_attention_model(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """Give `model` relaxed linear attention inside the block, and its own attention back after it."""
    register_linear()
    before = model.config._attn_implementation
    model.set_attn_implementation(LINEAR_ATTENTION)
    try:
        yield model
    finally:
        model.set_attn_implementation(before)
