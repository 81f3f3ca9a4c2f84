"""The parts of a loaded model by their role; `anatomy.py` has their names."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from raydual.model.anatomy import (
    ATTENTION,
    ATTENTION_BLOCK,
    DOWN,
    HEAD_NORMS,
    INPUT_NORM,
    MLP_BLOCK,
    MLP_NORM,
    OUTPUT,
    QUERY,
)

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines of the rotary embedding, each `[batch, tokens, head_dim]`."""


def backbone(model: PreTrainedModel) -> nn.Module:
    """All but the unembedding: token ids in, final hidden states out."""
    return model.base_model


def layers(model: PreTrainedModel) -> nn.ModuleList:
    """The blocks, in order."""
    return backbone(model).layers  # type: ignore[return-value]


def final_norm(model: PreTrainedModel) -> nn.Module:
    """What the last block's output passes before the unembedding."""
    return backbone(model).norm  # type: ignore[return-value]


def unembedding(model: PreTrainedModel) -> nn.Module:
    """From final hidden states to logits."""
    return model.get_output_embeddings()


def attention_block(layer: nn.Module) -> nn.Module:
    """The attention of a block: its projections, and all between them."""
    return layer.get_submodule(ATTENTION_BLOCK)


def attention_blocks(model: PreTrainedModel) -> list[nn.Module]:
    """The attention of every block, in order."""
    return [attention_block(layer) for layer in layers(model)]


def mlp(layer: nn.Module) -> nn.Module:
    """The gated MLP of a block."""
    return layer.get_submodule(MLP_BLOCK)


def mlp_norm(layer: nn.Module) -> nn.Module:
    """The norm between the residual stream after the attention and the MLP."""
    return layer.get_submodule(MLP_NORM)


def holder(layer: nn.Module, name: str) -> nn.Module:
    """What a projection of a block belongs to: the attention or the MLP."""
    return attention_block(layer) if name in ATTENTION else mlp(layer)


def layer_index(block: nn.Module) -> int:
    """Which layer an attention block is in."""
    return block.layer_idx  # type: ignore[return-value]


def projection(block: nn.Module, name: str) -> nn.Linear:
    """The model's own projection of an attention or MLP (`holder`), by its name in `anatomy.TRAINABLE`."""
    return block.get_submodule(name)  # type: ignore[return-value]


def hook_points(layer: nn.Module) -> dict[str, nn.Module]:
    """The modules of a block whose inputs or outputs are recorded, by the field of `Recorder` that each gives.

    Where a family has no norm of its heads' queries, those after it are those before it.
    """
    block = attention_block(layer)
    return {
        "attn_out": block,
        "hidden": layer,
        "query": block.get_submodule(QUERY),
        "query_normed": _head_norm(block, QUERY) or block.get_submodule(QUERY),
        "attn_in": layer.get_submodule(INPUT_NORM),
        "mlp_residual": mlp_norm(layer),
        "mlp_in": mlp_norm(layer),
        "mlp_product": mlp(layer).get_submodule(DOWN),
    }


def attention_inputs(call: Mapping[str, Any]) -> tuple[Tensor, Rotary]:
    """States and rotary embedding among the keyword arguments that an attention block is called with."""
    return call["hidden_states"], call["position_embeddings"]


def split_heads(
    block: nn.Module, projected: Float[Tensor, "batch tokens width"]
) -> Float[Tensor, "batch tokens any_heads head_dim"]:
    """A projection's output by head."""
    width: int = block.head_dim  # type: ignore[assignment]
    return projected.view(*projected.shape[:2], -1, width)


def normed(
    block: nn.Module, name: str, heads: Float[Tensor, "batch tokens any_heads head_dim"]
) -> Float[Tensor, "batch tokens any_heads head_dim"]:
    """The queries or keys that the projection `name` made, after the heads' norm; as they are if there is none."""
    norm = _head_norm(block, name)
    return heads if norm is None else norm(heads)


def _head_norm(block: nn.Module, name: str) -> nn.Module | None:
    return getattr(block, HEAD_NORMS[name], None)


def rotated(
    block: nn.Module, x: Float[Tensor, "batch second third head_dim"], rotary: Rotary, heads_axis: int
) -> Float[Tensor, "batch second third head_dim"]:
    """Queries or keys after the rotary embedding, which is the one that the model's own module defines."""
    turn: Callable[..., tuple[Tensor, Tensor]] = sys.modules[type(block).__module__].apply_rotary_pos_emb
    return turn(x, x, *rotary, unsqueeze_dim=heads_axis)[0]


def output_weight(block: nn.Module, dtype: torch.dtype = torch.float32) -> Float[Tensor, "hidden queries"]:
    """The weight of the output projection, through which a change of the heads' outputs passes without its bias."""
    return block.get_parameter(f"{OUTPUT}.weight").detach().to(dtype)
