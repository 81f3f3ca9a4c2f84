"""SimDual and SimΔW: the updates of the context and of fine-tuning, in float64 from the blocks' inputs."""

import numpy as np
import torch
from transformers import PreTrainedModel

from .forward import BlockInput, array, dual
from .metrics import cosine


def projected(projection: torch.nn.Linear, states: np.ndarray, head_dim: int) -> np.ndarray:
    """W x, and the bias where there is one, split into heads [S, heads, head_dim]."""
    result = states @ array(projection.weight).T
    if projection.bias is not None:
        result = result + array(projection.bias)
    return result.reshape(len(states), -1, head_dim)


def normed(norm: torch.nn.Module | None, vectors: np.ndarray) -> np.ndarray:
    """RMS norm over the last axis; the vectors themselves where a family has no norm there."""
    if norm is None:
        return vectors
    square = np.mean(vectors**2, axis=-1, keepdims=True)
    return vectors / np.sqrt(square + norm.variance_epsilon) * array(norm.weight)


def rotated(vectors: np.ndarray, block: BlockInput) -> np.ndarray:
    """Rotary embedding of [S, heads, head_dim] at the block's positions."""
    first, second = np.split(vectors, 2, axis=-1)
    turned = np.concatenate([-second, first], axis=-1)
    return vectors * block.cos[:, None] + turned * block.sin[:, None]


def scores_and_values(
    attention: torch.nn.Module, keyed: torch.nn.Module, block: BlockInput
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of `attention`'s last query onto `keyed`'s keys [heads, S], and `keyed`'s values [heads, S, head_dim]."""
    size = attention.head_dim
    query_norm, key_norm = getattr(attention, "q_norm", None), getattr(keyed, "k_norm", None)
    query = rotated(normed(query_norm, projected(attention.q_proj, block.states, size)), block)[-1]
    key = rotated(normed(key_norm, projected(keyed.k_proj, block.states, size)), block)
    value = projected(keyed.v_proj, block.states, size)
    shared = [head // attention.num_key_value_groups for head in range(len(query))]
    scores = [key[:, kv] @ query[head] * attention.scaling for head, kv in enumerate(shared)]
    return np.stack(scores), np.stack([value[:, kv] for kv in shared])


def after_output(attention: torch.nn.Module, change: np.ndarray) -> np.ndarray:
    """A change of the heads' outputs [heads, head_dim] after o_proj, whose bias no change has."""
    return array(attention.o_proj.weight) @ change.ravel()


def context_update(base: torch.nn.Module, block: BlockInput, prefix_length: int) -> np.ndarray:
    """λ (o_demo - o_own) after o_proj [hidden]."""
    parts = dual(*scores_and_values(base, base, block), prefix_length)
    return after_output(base, parts["mass"][:, None] * (parts["o_demo"] - parts["o_own"]))


def tuning_update(base: torch.nn.Module, tuned: torch.nn.Module, own: BlockInput) -> np.ndarray:
    """What the tuned attention changes at the query's last token over its own tokens, after o_proj [hidden].

    Its q, k, v and o projections are the tuned ones, where these are trained; zero where none is.
    """
    before = dual(*scores_and_values(base, base, own), 0)["o_own"]
    after = dual(*scores_and_values(tuned, tuned, own), 0)["o_own"]
    change = after_output(tuned, after) - after_output(base, before)
    if tuned.o_proj.bias is not None:
        change = change + array(tuned.o_proj.bias) - array(base.o_proj.bias)
    return change


def outer_sum(attention: torch.nn.Module, states: np.ndarray) -> np.ndarray:
    """Σ (W_V x) ⊗ (W_K x) of raw projections, for each key/value head [heads, head_dim, head_dim]."""
    key = projected(attention.k_proj, states, attention.head_dim)
    value = projected(attention.v_proj, states, attention.head_dim)
    tokens, heads = key.shape[:2]
    return np.stack([sum(np.outer(value[i, h], key[i, h]) for i in range(tokens)) for h in range(heads)])


def similarities(
    base: PreTrainedModel,
    tuned: PreTrainedModel,
    in_context: list[BlockInput],
    alone: list[BlockInput],
    prefix_length: int,
) -> tuple[np.ndarray, np.ndarray]:
    """One example's SimDual [layers] and SimΔW [layers, key/value heads], from the inputs of the base's blocks."""
    simdual, simdw = [], []
    for i, (icl, zsl) in enumerate(zip(in_context, alone, strict=True)):
        plain, moved = (model.model.layers[i].self_attn for model in (base, tuned))
        tuning = tuning_update(plain, moved, icl.since(prefix_length))
        simdual.append(cosine(context_update(plain, icl, prefix_length), tuning))
        context = outer_sum(plain, icl.states[:prefix_length])
        change = outer_sum(moved, zsl.states) - outer_sum(plain, zsl.states)
        simdw.append([cosine(a.ravel(), b.ravel()) for a, b in zip(context, change, strict=True)])
    return np.array(simdual), np.array(simdw)
