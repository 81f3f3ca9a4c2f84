"""One prompt through a plain `transformers` model (Qwen3, Llama, Qwen2), and what section 3 records of it."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from .prompts import Tokens, continuation

Seen = dict[str, list[Any]]
LAST_TOKEN = ("attn_out", "hidden", "query", "query_normed", "attn_in", "mlp_residual", "mlp_in", "mlp_product")


@dataclass(frozen=True)
class BlockInput:
    """What enters one attention block: states [S, hidden] after the input norm, rotary cos and sin [S, head_dim]."""

    states: np.ndarray
    cos: np.ndarray
    sin: np.ndarray

    def since(self, start: int) -> "BlockInput":
        """The tokens from `start` on, at the positions that they have."""
        return BlockInput(self.states[start:], self.cos[start:], self.sin[start:])


@dataclass(frozen=True)
class Recording:
    """What one prompt leaves at its last token; float64 arrays.

    attn_out, hidden, attn_in, mlp_residual, mlp_in (before and after the MLP's norm) [layers, hidden]; mlp_product
    (what the down projection gets) [layers, intermediate]; query and query_normed (after q_norm, where there is one)
    [layers, heads * head_dim]; scores_query [layers, heads, own] and scores_demo [layers, heads, prefix], scaled q.k
    before mask and softmax; mass (λ) [layers, heads]; o_own and o_demo [layers, heads, head_dim], attention outputs
    before o_proj with the softmax restricted to own or prefix tokens; logits [vocabulary]; blocks,
    the inputs of every layer's attention block. With no prefix λ is 0 and o_demo NaN.
    """

    attn_out: np.ndarray
    hidden: np.ndarray
    query: np.ndarray
    query_normed: np.ndarray
    attn_in: np.ndarray
    mlp_residual: np.ndarray
    mlp_in: np.ndarray
    mlp_product: np.ndarray
    scores_query: np.ndarray
    scores_demo: np.ndarray
    mass: np.ndarray
    o_own: np.ndarray
    o_demo: np.ndarray
    logits: np.ndarray
    blocks: list[BlockInput]


@contextmanager
def watched(model: PreTrainedModel) -> Iterator[Seen]:
    """Within it, a forward pass appends, layer by layer, what its modules computed: tensors [1, S, ...]."""
    seen: Seen = defaultdict(list)

    def keep(name: str):
        def hook(module, args, output):
            seen[name].append((output[0] if isinstance(output, tuple) else output).detach())

        return hook

    def keep_input(name: str):
        def hook(module, args):
            seen[name].append(args[0].detach())

        return hook

    def keep_rotary(module, args, kwargs):
        seen["rotary"].append(kwargs["position_embeddings"])

    handles = []
    for layer in model.model.layers:
        handles.append(layer.input_layernorm.register_forward_hook(keep("attn_in")))
        handles.append(layer.self_attn.register_forward_pre_hook(keep_rotary, with_kwargs=True))
        handles.append(layer.self_attn.q_proj.register_forward_hook(keep("query")))
        last = getattr(layer.self_attn, "q_norm", layer.self_attn.q_proj)
        handles.append(last.register_forward_hook(keep("query_normed")))
        handles.append(layer.self_attn.register_forward_hook(keep("attn_out")))
        handles.append(layer.register_forward_hook(keep("hidden")))
        handles.append(layer.post_attention_layernorm.register_forward_pre_hook(keep_input("mlp_residual")))
        handles.append(layer.post_attention_layernorm.register_forward_hook(keep("mlp_in")))
        handles.append(layer.mlp.down_proj.register_forward_pre_hook(keep_input("mlp_product")))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def array(tensor: torch.Tensor) -> np.ndarray:
    """The tensor as a float64 array."""
    return tensor.detach().double().cpu().numpy()


@torch.no_grad()
def record(model: PreTrainedModel, ids: list[int], prefix_length: int = 0) -> Recording:
    """One forward pass over the whole prompt; the first `prefix_length` tokens are not the query's own."""
    with watched(model) as seen:
        logits = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0, -1]
    last = {name: np.stack([array(layer[0, -1]).ravel() for layer in seen[name]]) for name in LAST_TOKEN}
    rows = []
    for layer, attn_in, rotary in zip(model.model.layers, seen["attn_in"], seen["rotary"], strict=True):
        scores, values = scores_and_values(layer.self_attn, attn_in, rotary)
        rows.append(dual(scores, values, prefix_length))
    parts = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return Recording(**last, **parts, logits=array(logits), blocks=_block_inputs(seen))


@torch.no_grad()
def block_inputs(model: PreTrainedModel, ids: list[int]) -> list[BlockInput]:
    """The inputs of every layer's attention block for one prompt."""
    with watched(model) as seen:
        model(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
    return _block_inputs(seen)


def _block_inputs(seen: Seen) -> list[BlockInput]:
    return [
        BlockInput(array(states[0]), array(cos[0]), array(sin[0]))
        for states, (cos, sin) in zip(seen["attn_in"], seen["rotary"], strict=True)
    ]


def scores_and_values(attention: torch.nn.Module, attn_in: torch.Tensor, rotary: Any):
    """Scaled q.k of the last token onto every token [heads, S], and the values [heads, S, head_dim]."""

    def split(states: torch.Tensor) -> torch.Tensor:
        return states.view(1, attn_in.shape[1], -1, attention.head_dim)

    query, key = split(attention.q_proj(attn_in)), split(attention.k_proj(attn_in))
    if hasattr(attention, "q_norm"):
        query, key = attention.q_norm(query), attention.k_norm(key)
    query, key = query.transpose(1, 2), key.transpose(1, 2)
    value = split(attention.v_proj(attn_in)).transpose(1, 2)
    query, key = apply_rotary_pos_emb(query, key, *rotary)
    scores, values = [], []
    for head in range(query.shape[1]):
        shared = head // attention.num_key_value_groups
        scores.append(array(key[0, shared]) @ array(query[0, head, -1]) * attention.scaling)
        values.append(array(value[0, shared]))
    return np.stack(scores), np.stack(values)


def softmax(scores: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def dual(scores: np.ndarray, values: np.ndarray, prefix_length: int) -> dict[str, np.ndarray]:
    """One layer's scores and its two partial attentions; scores [heads, S], values [heads, S, head_dim]."""
    demo, own = np.split(scores, [prefix_length], axis=1)
    demo_values, own_values = np.split(values, [prefix_length], axis=1)
    weighted = "hs,hsd->hd"
    o_own = np.einsum(weighted, softmax(own), own_values)
    o_demo = np.einsum(weighted, softmax(demo), demo_values) if prefix_length else np.full_like(o_own, np.nan)
    mass = softmax(scores)[:, :prefix_length].sum(axis=1)
    return {"scores_query": own, "scores_demo": demo, "mass": mass, "o_own": o_own, "o_demo": o_demo}


@torch.no_grad()
def next_logits(model: PreTrainedModel, ids: list[int]) -> np.ndarray:
    """Logits of the token after the prompt [vocabulary]."""
    return array(model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0, -1])


def log_probability(logits: np.ndarray, token: int) -> float:
    """The log-probability that logits [vocabulary] give to a token."""
    peak = logits.max()
    return float(logits[token] - peak - np.log(np.exp(logits - peak).sum()))


def label_scores(
    model: PreTrainedModel, tokenizer: Any, prompt: Tokens, words: tuple[str, ...], after: np.ndarray
) -> np.ndarray:
    """Mean log-probability of the tokens of each label word after the prompt [labels].

    `after` [vocabulary] are the logits of the token after the prompt; words of several tokens take further passes.
    """
    scores = []
    for word in words:
        ids = continuation(tokenizer, prompt, word)
        logs = [log_probability(after, ids[0])]
        logs += [log_probability(next_logits(model, prompt.ids + ids[:i]), ids[i]) for i in range(1, len(ids))]
        scores.append(np.mean(logs))
    return np.array(scores)
