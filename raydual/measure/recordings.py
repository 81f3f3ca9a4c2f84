"""What the passes over one chunk of queries show: what metrics are functions of, and what several of them share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.profiler import record_function
from transformers import PreTrainedModel

from raydual.catalogue.entries import Key
from raydual.catalogue.marks import FIELDS, IN_CONTEXT_FIELDS, Measure
from raydual.measure.call import arrays
from raydual.measure.conditions import Chunk, Outcome
from raydual.measure.keyed_noise import keyed_noise, stream_of
from raydual.measure.weight_updates import DualRecorder, QueryInputs
from raydual.model.stacked import Stacks
from raydual.settings.measures import Measures

Made = TypeVar("Made")

if set(FIELDS) != set(DualRecorder.known):
    raise ValueError(f"the fields that metrics may ask for are not those that are recorded: {DualRecorder.known}")


def recorded_fields(measures: Measures, functions: Sequence[Measure] = ()) -> dict[str, tuple[str, ...]]:
    """What each condition's pass has to record, for the built-in metrics and what `functions` ask for beside them."""
    field = measures.update_field
    more = [name for one in functions for name in one.fields]
    alone = [name for name in more if name not in IN_CONTEXT_FIELDS]
    return {
        "zsl": _distinct(field, "scores_query", *alone),
        "icl": _distinct(field, "scores_query", "scores_demo", "context_mass", *more),
        "ft": _distinct(field, "scores_query", measures.query_field, "attn_in", *alone),
        "patch": _distinct(field, "scores_query", *alone),
        "train": (measures.query_field, "attn_in"),
    }


def _distinct(*names: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class Pass:
    """What one condition shows of the chunk's n queries, for S seeds (zero-shot: one for all, which broadcasts).

    `fields` are recorded at each query's last token (`raydual.Recorder`): `attn_out`, `hidden`, `attn_in`, `query`,
    `query_normed`, `context_update` `[S, n, layers, width]`; `scores_query`, `scores_demo` `[S, n, layers, heads,
    tokens]`, 0 at padding; `context_mass` `[S, n, layers, heads]`; by kind of token (`raydual.catalogue.parts.PARTS`)
    `part_mass` `[S, n, layers, heads, parts]` and `part_update` `[S, n, layers, parts, hidden]`; `tuning_update`
    `[S, n, layers, hidden]`, what the fine-tuned projections change at the context's inputs. `label_scores`
    `[S, n, labels]` are mean log-probabilities of the label words; `next_token` `[S, n, vocabulary]` those of every
    token, with `measures.outputs` in context and fine-tuned.
    """

    fields: Mapping[str, Float[Tensor, "S n layers ..."]]
    label_scores: Float[Tensor, "S n labels"]
    next_token: Float[Tensor, "S n vocabulary"] | None = None

    @classmethod
    def of(cls, outcome: Outcome, seeds: int) -> "Pass":
        """The outcome of a pass whose rows are grouped by seed."""
        fields = {name: x.view(seeds, -1, *x.shape[1:]) for name, x in outcome.fields.items()}
        words = outcome.next_token
        return cls(
            fields,
            outcome.scores.view(seeds, -1, outcome.scores.shape[1]),
            None if words is None else words.view(seeds, -1, words.shape[1]),
        )

    def copy(self) -> "Pass":
        """The same in memory of its own."""
        return Pass({name: x.clone() for name, x in self.fields.items()}, self.label_scores.clone())

    def __getitem__(self, field: str) -> Tensor:
        if field not in self.fields:
            raise LookupError(f"{field} is not recorded here, only {', '.join(self.fields)}; name it in `fields`")
        return self.fields[field]


@dataclass(frozen=True)
class Recordings:
    """What a metric is a function of: one chunk of n queries under the three conditions, for G seeds at once.

    `seeds` `[G]`, of which those are `sound` `[G]` whose fine-tuning did not diverge; `zsl` has one seed, that
    broadcasts, `icl` and `ft` have G, and so has `patch`, where it is measured. `simdual` `[G, n, layers]` are the
    cosines of the exact updates, which are taken in the in-context pass; `stacks` the fine-tuned projections;
    `context_updates` ΔW_ICL in each layer `[G, kv_heads, head_dim, head_dim]`; `query_inputs` the zero-shot attention
    inputs of all tokens.
    """

    chunk: Chunk
    seeds: Int[Tensor, "G"]
    sound: Bool[Tensor, "G"]
    zsl: Pass
    icl: Pass
    ft: Pass
    measures: Measures
    model: PreTrainedModel
    stacks: Stacks
    context_updates: Sequence[Tensor]
    query_inputs: QueryInputs
    simdual: Float[Tensor, "G n layers"]
    patch: Pass | None = None
    _made: dict[Callable[..., Any], Any] = field(default_factory=dict, repr=False, compare=False)

    def shared(self, make: "Callable[[Recordings], Made]") -> Made:
        """What several metrics need, made once, when it is first asked for."""
        if make not in self._made:
            self._made[make] = make(self)
        return self._made[make]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Seeds G, queries n, layers."""
        groups, n, layers = self.simdual.shape
        return groups, n, layers

    @property
    def labels(self) -> Int[Tensor, "n"]:
        """The gold label of each query."""
        return self.chunk.labels

    @property
    def arms(self) -> dict[str, Pass]:
        """What is compared with zero-shot, by condition."""
        return {"icl": self.icl, "ft": self.ft} | ({} if self.patch is None else {"patch": self.patch})

    @property
    def pairs(self) -> dict[str, tuple[str, str]]:
        """Which two of them are compared, by the condition of that."""
        names = ("icl-ft",) if self.patch is None else ("icl-ft", "icl-patch", "patch-ft")
        return {name: (name.split("-")[0], name.split("-")[1]) for name in names}

    @property
    def updates(self) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """By pair, h of SimAOU of the two and zero-shot: `[G, n, layers, hidden]`, the last one `[1, …]`."""
        field, arms = self.measures.update_field, self.arms
        return {
            name: (arms[one][field], arms[other][field], self.zsl[field]) for name, (one, other) in self.pairs.items()
        }

    @cached_property
    def scores(self) -> dict[str, Float[Tensor, "_ n layers heads pairs"]]:
        """By condition: the raw attention scores of the aligned tokens; 0 where there is no pair."""
        passes = {"zsl": self.zsl, **self.arms}
        found = {name: _aligned(one["scores_query"], self.chunk, name) for name, one in passes.items()}
        # A difference that is rounding alone must be 0, or ΔSimAM would be the cosine of noise.
        same = self.chunk.same_in_first_layer[None, :, None]
        found["icl"][:, :, 0] = torch.where(same, found["zsl"][:, :, 0], found["icl"][:, :, 0])
        return found

    @cached_property
    def weights(self) -> dict[str, Float[Tensor, "_ n layers heads pairs"]]:
        """By condition: the attention weights of the aligned tokens, in context those of the whole prompt."""
        alone = self.chunk.alone.real
        found = {
            "zsl": _own_softmax(self.zsl["scores_query"], alone),
            "icl": self._own_in_context * self._own_share,
            "ft": _own_softmax(self.ft["scores_query"], alone),
        }
        if self.patch is not None:
            found["patch"] = _own_softmax(self.patch["scores_query"], alone)
        return {name: _aligned(x, self.chunk, name) for name, x in found.items()}

    @cached_property
    def directions(self) -> dict[str, Float[Tensor, "_ n layers heads pairs"]]:
        """`weights` for cosines: no cosine depends on the share that a head leaves to its own tokens.

        Where float32 rounds that share to 0, the weights stand as if it were 1.
        """
        share = torch.where(self._own_share > 0, self._own_share, 1.0)
        return self.weights | {"icl": _aligned(self._own_in_context * share, self.chunk, "icl")}

    @property
    def _own_in_context(self) -> Float[Tensor, "G n layers heads tokens"]:
        return _own_softmax(self.icl["scores_query"], self.chunk.in_context.real)

    @property
    def _own_share(self) -> Float[Tensor, "G n layers heads 1"]:
        return (1 - self.icl["context_mass"])[..., None]


@record_function("metrics")
def recorded_values(functions: Sequence[Measure], found: Recordings) -> dict[Key, Float[Tensor, "G n ..."]]:
    """The metrics of recordings: `[G, n, layers]`; `[G, n]` without layers, `[G, n, layers, heads]` with heads."""
    values: dict[Key, Tensor] = {}
    for one in functions:
        arguments = (found, Noise(one.metric.name, found)) if one.metric.random else (found,)
        axes = ["seeds", "examples", *["layers"] * one.metric.per_layer, *["heads"] * one.metric.per_head]
        shape = (*found.shape, found.model.config.num_attention_heads)[: len(axes)]
        values |= arrays(one, arguments, shape, ", ".join(axes), found.sound)
    return values


class Noise:
    """Uniform noise in [0, 1) of one metric: the same for a seed, example and layer, whatever is measured with it."""

    def __init__(self, metric: str, recordings: Recordings) -> None:
        self._recordings = recordings
        self._stream = stream_of(metric)

    def __call__(self, layers: int, elements: int) -> Float[Tensor, "G n layers elements"]:
        """So many elements for every layer."""
        found = self._recordings
        return keyed_noise(found.measures.noise_seed, self._stream, found.seeds, found.chunk.index, (layers, elements))


def _own_softmax(scores: Float[Tensor, "G n layers heads tokens"], real: Tensor) -> Tensor:
    """Attention weights of the last token on its own tokens, as if there were no others."""
    return scores.masked_fill(~real[None, :, None, None], -torch.inf).softmax(dim=-1)


def _aligned(scores: Tensor, chunk: Chunk, condition: str) -> Float[Tensor, "G n layers heads pairs"]:
    """Scores `[G, n, layers, heads, tokens]` at the aligned tokens; 0 where there is no pair."""
    places = chunk.aligned_in_context if condition == "icl" else chunk.aligned_alone
    index = places[None, :, None, None].expand(*scores.shape[:-1], -1)
    return scores.gather(-1, index) * chunk.aligned[None, :, None, None]
