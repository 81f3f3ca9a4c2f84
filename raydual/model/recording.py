"""What one pass records at the last prompt token of each row, in every layer (docs/science.md, section 3)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from raydual.catalogue.parts import PARTS
from raydual.model.attention import LayerAttention, Part, Prefix
from raydual.model.modules import Rotary, attention_block, attention_inputs, hook_points, layer_index, output_weight
from raydual.model.packing import Packing

MODULE_FIELDS = ("attn_out", "hidden", "query", "query_normed", "attn_in", "mlp_residual", "mlp_in", "mlp_product")
MLP_FIELDS = ("mlp_residual", "mlp_in", "mlp_product")
OF_INPUTS = ("mlp_residual", "mlp_product")
"""Those that are a module's input, not its output."""
PART_FIELDS = ("part_mass", "part_update")
ATTENTION_FIELDS = ("scores_query", "scores_demo", "context_mass", "context_update", *PART_FIELDS)
FIELDS = MODULE_FIELDS + ATTENTION_FIELDS


@dataclass
class Recorder:
    """Collects the named `fields` of every layer, in float32 (those of modules in another `dtype`, if one is given).

    `last` `[batch]` is the index of each row's last real token; None records the module fields at every token. A packed
    pass says its `packing`.
    After the pass, `result(name)` is:

    - `attn_out`, `hidden`, `attn_in`, `mlp_residual`, `mlp_in`: `[batch, layers, hidden]`; `query` and `query_normed`
      (before and after the heads' norm, the same where a family has none): `[batch, layers, heads * head_dim]`;
      `mlp_product`: `[batch, layers, intermediate]` (all with a token axis before the last one if `last` is None);
    - `scores_query`: `[batch, layers, heads, query_len]`, scaled scores before mask and softmax (0 at padding);
    - `scores_demo`: `[batch, layers, heads, prefix]`, the same onto the prefix (0 at padding);
    - `context_mass`: `[batch, layers, heads]`, λ; `context_update`: `[batch, layers, hidden]`, Δ after the output
      projection;
    - `part_mass`: `[batch, layers, heads, parts]`, and `part_update`: `[batch, layers, parts, hidden]`: both by kind of
      token, if the prefix says the `kinds` of its tokens.
    """

    fields: tuple[str, ...]
    last: Int[Tensor, "batch"] | None = None
    layers: dict[str, list[Tensor]] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    packing: Packing | None = None
    watches_inputs: ClassVar[bool] = False
    known: ClassVar[tuple[str, ...]] = FIELDS

    def __post_init__(self) -> None:
        unknown = set(self.fields) - set(self.known)
        if unknown:
            raise ValueError(f"unknown fields {sorted(unknown)}; known: {', '.join(self.known)}")
        if self.last is None and set(self.fields) & set(ATTENTION_FIELDS):
            raise ValueError("attention is recorded at the last token only: `last` is needed")
        self.layers = {name: [] for name in self.fields}

    def result(self, name: str) -> Float[Tensor, "batch layers ..."]:
        """A recorded field of all layers."""
        return torch.stack(self.layers[name], dim=1)

    def module_output(self, name: str, output: Float[Tensor, "batch tokens width"]) -> None:
        """Keep a module's output at the rows' last tokens, or at all tokens."""
        self.layers[name].append(self._at_last(output, token_axis=1).detach().to(self.dtype))

    def before_attention(self, module: nn.Module, states: Tensor, rotary: Rotary) -> None:
        """Called before each attention block with its inputs and rotary embedding, if `watches_inputs`."""

    def _at_last(self, x: Tensor, token_axis: int) -> Tensor:
        if self.last is None:
            return x if self.packing is None else self.packing.unpack(x[:, None])[:, 0]
        if self.packing is not None:
            last = self.packing.starts + self.last
            return x.index_select(token_axis, last)[0].movedim(token_axis - 1, 0)
        index = self.last.view(-1, *[1] * (x.ndim - 1))
        return x.take_along_dim(index, dim=token_axis).squeeze(token_axis)

    def attention(self, layer: LayerAttention) -> None:
        """Keep the last row of a layer's attention."""
        if not set(self.fields) & set(ATTENTION_FIELDS):
            return
        last = self._at_last(layer.query, token_axis=2).detach().float()
        if "scores_query" in self.fields:
            keys = layer.keys.detach().float()
            scores = _scores(last, keys) * layer.scaling
            places = torch.arange(keys.shape[2], device=keys.device)
            self.layers["scores_query"].append(scores * (places <= self.last[:, None])[:, None])  # type: ignore[index]
        if layer.demonstrations is None or layer.prefix is None:
            return
        if "scores_demo" in self.fields:
            keys = layer.prefix.keys[layer_index(layer.module)].detach().float()
            scores = _scores(last, keys) * layer.scaling
            real = torch.arange(keys.shape[2], device=keys.device) < layer.prefix.lengths[:, None]
            rows = len(last) // len(keys)
            self.layers["scores_demo"].append(scores * real.repeat_interleave(rows, 0)[:, None])
        self._merge(layer.module, layer.own, layer.demonstrations)
        if set(self.fields) & set(PART_FIELDS):
            self._split(layer, last, layer.own, layer.demonstrations, layer.prefix)

    def _split(self, layer: LayerAttention, last: Tensor, own: Part, demonstrations: Part, prefix: Prefix) -> None:
        """λ and Δ by kind of token."""
        keys, values = (x[layer_index(layer.module)].detach().float() for x in (prefix.keys, prefix.values))
        weights = self._mass(own, demonstrations)[..., None] * _prefix_weights(last, keys, prefix, layer.scaling)
        by_kind = weights[..., None] * _of_kinds(prefix, len(last))[:, None]
        mass = by_kind.sum(dim=2)
        if "part_mass" in self.fields:
            self.layers["part_mass"].append(mass)
        if "part_update" in self.fields:
            own_out = self._at_last(own.out, token_axis=2).detach().float()
            change = _weighted(by_kind.transpose(2, 3), values) - mass[..., None] * own_out[:, :, None]
            change = change.transpose(1, 2).flatten(2)
            self.layers["part_update"].append(change @ output_weight(layer.module).T)

    def _merge(self, module: nn.Module, own: Part, demonstrations: Part) -> None:
        if "context_mass" in self.fields:
            self.layers["context_mass"].append(self._mass(own, demonstrations))
        if "context_update" in self.fields:
            change = self.context_change(own, demonstrations)
            self.layers["context_update"].append(change.flatten(1) @ output_weight(module).T)

    def _mass(self, own: Part, demonstrations: Part) -> Float[Tensor, "batch heads"]:
        own_mass, demo_mass = (self._at_last(part.log_mass, token_axis=2) for part in (own, demonstrations))
        return torch.sigmoid(demo_mass - own_mass).detach()

    def context_change(self, own: Part, demonstrations: Part) -> Float[Tensor, "batch heads head_dim"]:
        """λ (o_demo - o_own) at the last token, before the output projection: what the context changes, exactly."""
        own_out, demo_out = (self._at_last(part.out, token_axis=2).detach() for part in (own, demonstrations))
        return self._mass(own, demonstrations)[..., None] * (demo_out - own_out).float()


def _scores(
    last: Float[Tensor, "batch heads head_dim"], keys: Float[Tensor, "seeds kv_heads keys head_dim"]
) -> Float[Tensor, "batch heads keys"]:
    """Inner products of each row's query with its seed's keys (as many seeds as rows: its own keys)."""
    batch, heads, head_dim = last.shape
    seeds, kv_heads = keys.shape[:2]
    grouped = last.view(seeds, batch // seeds, kv_heads, heads // kv_heads, head_dim).transpose(1, 2)
    scores = grouped.reshape(seeds, kv_heads, -1, head_dim) @ keys.transpose(2, 3)
    scores = scores.view(seeds, kv_heads, batch // seeds, heads // kv_heads, -1).transpose(1, 2)
    return scores.reshape(batch, heads, -1)


def _prefix_weights(
    last: Float[Tensor, "batch heads head_dim"],
    keys: Float[Tensor, "seeds kv_heads keys head_dim"],
    prefix: Prefix,
    scaling: float,
) -> Float[Tensor, "batch heads keys"]:
    """Attention weights of each row's query on its seed's prefix alone."""
    hidden = prefix.mask(torch.float32)[:, 0].repeat_interleave(len(last) // len(keys), 0)
    return (_scores(last, keys) * scaling + hidden).softmax(dim=-1)


def _of_kinds(prefix: Prefix, batch: int) -> Float[Tensor, "batch keys parts"]:
    """1 where a row's prefix token is of a kind, else 0."""
    if prefix.kinds is None:
        raise ValueError("the prefix does not say what its tokens are: `kinds` is needed")
    return nn.functional.one_hot(prefix.kinds, len(PARTS)).float().repeat_interleave(batch // len(prefix.kinds), 0)


def _weighted(
    weights: Float[Tensor, "batch heads parts keys"], values: Float[Tensor, "seeds kv_heads keys head_dim"]
) -> Float[Tensor, "batch heads parts head_dim"]:
    """Sums of each row's prefix values, weighted by kind."""
    batch, heads, parts, keys = weights.shape
    seeds, kv_heads = values.shape[:2]
    grouped = weights.view(seeds, batch // seeds, kv_heads, heads // kv_heads, parts, keys).transpose(1, 2)
    summed = grouped.reshape(seeds, kv_heads, -1, keys) @ values
    by_row = summed.view(seeds, kv_heads, batch // seeds, heads // kv_heads, parts, -1).transpose(1, 2)
    return by_row.reshape(batch, heads, parts, -1)


@contextmanager
def recording(layers: nn.ModuleList, recorder: Recorder) -> Iterator[Recorder]:
    """Hook the decoder `layers` so that `recorder` gets its module fields inside the block."""
    handles = []

    def watch_input(module: nn.Module, name: str) -> None:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            recorder.module_output(name, inputs[0])

        handles.append(module.register_forward_pre_hook(hook))

    def watch(module: nn.Module, name: str) -> None:
        def hook(_module: nn.Module, _inputs: object, output: Tensor | tuple) -> None:
            found = output[0] if isinstance(output, tuple) else output
            recorder.module_output(name, found.flatten(2))

        handles.append(module.register_forward_hook(hook))

    def announce(module: nn.Module, _inputs: tuple, call: dict) -> None:
        recorder.before_attention(module, *attention_inputs(call))

    try:
        for layer in layers:
            if recorder.watches_inputs:
                handles.append(attention_block(layer).register_forward_pre_hook(announce, with_kwargs=True))
            places = hook_points(layer)
            for name in MODULE_FIELDS:
                if name in recorder.fields:
                    (watch_input if name in OF_INPUTS else watch)(places[name], name)
        yield recorder
    finally:
        for handle in handles:
            handle.remove()
