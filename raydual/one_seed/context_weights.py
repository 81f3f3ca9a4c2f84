"""The context as weights, verified: a model with changed MLP weights gives without the context the logits with it.

The changes are algebra, exact for any weights, also those of an untrained model (docs/science.md, section 4).
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from raydual.measure.weight_patches import as_weights
from raydual.model.anatomy import MLP
from raydual.model.modules import layers, mlp, projection, unembedding
from raydual.model.passes import Rows, hidden_states
from raydual.model.patches import ContextPatcher, MlpPatch, MlpStates, patched_layer_by_layer
from raydual.model.recording import MLP_FIELDS, Recorder
from raydual.model.stacked import StackedLinear, Stacks, with_projections

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}
"""Largest relative error of the logits with which the patched model counts as equal, by the dtype of all passes."""
CONTROL = 1e-2
"""Smallest relative error with which a control counts as failing."""


@dataclass(frozen=True)
class ContextWeightsReport:
    """How near the logits without the context come to those with it: ‖difference‖ / ‖with it‖, for each query.

    `patched`: with the query's own changed weights; `unpatched`: with the model's; `shuffled`: with those changed for
    the next query. `norms[projection]` `[queries, layers]` are the changes' norms over those of the weights.
    """

    patched: Float[np.ndarray, "queries"]
    unpatched: Float[np.ndarray, "queries"]
    shuffled: Float[np.ndarray, "queries"]
    norms: dict[str, Float[np.ndarray, "queries layers"]]
    dtype: torch.dtype

    @property
    def tolerance(self) -> float:
        """The relative error that rounding may cause."""
        return TOLERANCE[self.dtype]

    @property
    def holds(self) -> bool:
        """Whether the patched model gives the logits with the context, for every query."""
        return bool((self.patched <= self.tolerance).all())

    @property
    def control_fails(self) -> bool:
        """Whether both controls fail for every query."""
        return bool((self.unpatched > CONTROL).all() and (self.shuffled > CONTROL).all())

    def as_json(self) -> dict[str, Any]:
        """All of it by name."""
        return {
            "dtype": str(self.dtype).removeprefix("torch."),
            "tolerance": self.tolerance,
            "holds": self.holds,
            "control_fails": self.control_fails,
            **{name: getattr(self, name).tolist() for name in ("patched", "unpatched", "shuffled")},
            "norms": {name: x.mean(axis=0).tolist() for name, x in self.norms.items()},
        }


@torch.no_grad()
def verify_context_weights(
    model: PreTrainedModel,
    prefix: Int[np.ndarray, "prefix_tokens"],
    queries: Sequence[Int[np.ndarray, "_"]],
    dtype: torch.dtype = torch.float64,
    alone: Sequence[Int[np.ndarray, "_"]] | None = None,
) -> ContextWeightsReport:
    """Put each query's changed weights into the model, and compare its logits after the query alone.

    `prefix` are the demonstrations' token ids with the separator before the query, `queries` those of at least two
    queries; `alone` are these as they stand without a context, if that is different. All passes run in `dtype`, float32
    or float64, on a copy of the model if it has another; in float64 its norms do too, which transformers rounds through
    float32.

    Raises
    ------
    ValueError
        Another `dtype`, or fewer than two queries (the shuffled control would be the same as they).
    """
    if dtype not in TOLERANCE:
        raise ValueError(f"dtype: {dtype} found; it is verified in float32 or float64")
    if len(queries) < 2:
        raise ValueError(f"{len(queries)} queries found; at least 2 needed")
    exact = model if model.dtype == dtype else copy.deepcopy(model).to(dtype)  # type: ignore[arg-type]
    with norms_in_own_dtype(exact):
        found = [_Query.of(exact, prefix, *pair) for pair in zip(queries, alone or queries, strict=True)]
        following = [*found[1:], found[0]]
        return ContextWeightsReport(
            patched=np.array([one.error(exact, one.weights) for one in found]),
            unpatched=np.array([one.error(exact, {}) for one in found]),
            shuffled=np.array([one.error(exact, other.weights) for one, other in zip(found, following, strict=True)]),
            norms={name: np.array([one.norms(exact)[name] for one in found]) for name in MLP},
            dtype=dtype,
        )


@dataclass(frozen=True)
class _Query:
    """A query alone, the logits with the context, and its patch of every layer."""

    alone: Rows
    with_context: Float[Tensor, "vocabulary"]
    patches: list[MlpPatch]
    weights: Stacks

    @classmethod
    def of(cls, model: PreTrainedModel, prefix: np.ndarray, query: np.ndarray, single: np.ndarray) -> "_Query":
        whole, alone = (Rows.pad([ids], model.device) for ids in (np.concatenate([prefix, query]), single))
        recorder = Recorder(MLP_FIELDS, whole.last, dtype=model.dtype)
        with_context = _last_logits(model, whole, recorder)
        context = MlpStates(*map(recorder.result, MLP_FIELDS))
        patches: list[MlpPatch] = []
        patcher = ContextPatcher(context, lambda _layer, patch: patches.append(patch))
        with patched_layer_by_layer(model, alone.last, patcher):
            hidden_states(model, alone)
        return cls(alone, with_context, patches, _weights(model, patches))

    def error(self, model: PreTrainedModel, weights: Stacks) -> float:
        """Of the logits after the query alone, with these weights."""
        with with_projections(model, weights):
            found = _last_logits(model, self.alone)
        return float((found - self.with_context).norm() / self.with_context.norm())

    def norms(self, model: PreTrainedModel) -> dict[str, list[float]]:
        """Of the changes over those of the weights, by projection and layer."""
        found: dict[str, list[float]] = {name: [] for name in MLP}
        for index, patch in enumerate(self.patches):
            for name, change in as_weights(model, index, patch).items():
                weight = projection(mlp(layers(model)[index]), name).weight
                found[name].append(float(change.norm() / weight.norm()))
        return found


def _weights(model: PreTrainedModel, patches: Sequence[MlpPatch]) -> Stacks:
    """The changed projections themselves, dense."""
    stacks = {}
    for index, patch in enumerate(patches):
        for name, change in as_weights(model, index, patch).items():
            base = projection(mlp(layers(model)[index]), name)
            bias = None if base.bias is None else base.bias[None]
            stacks[index, name] = StackedLinear(base.weight + change.dense(), bias).requires_grad_(False)
    return stacks


def _last_logits(model: PreTrainedModel, rows: Rows, recorder: Recorder | None = None) -> Float[Tensor, "vocabulary"]:
    return unembedding(model)(hidden_states(model, rows, recorder=recorder)[0, -1])


@contextmanager
def norms_in_own_dtype(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """Inside the block, every RMS norm computes in the dtype of what it gets, not in float32."""
    norms = [module for module in model.modules() if hasattr(module, "variance_epsilon")]

    def forward_of(norm: Any) -> Any:
        def forward(x: Tensor) -> Tensor:
            scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.variance_epsilon)
            return norm.weight * (x * scale)

        return forward

    try:
        for norm in norms:
            norm.forward = forward_of(norm)
        yield model
    finally:
        for norm in norms:
            vars(norm).pop("forward", None)


def context_weights_lines(report: ContextWeightsReport) -> Iterator[str]:
    """A table for the terminal: a line for each query, and one with the verdict."""
    name = str(report.dtype).removeprefix("torch.")
    yield f"Logits of the patched model without the context against those with it, in {name}: relative error"
    yield f"{'query':>5}  {'patched':>10}  {'unpatched':>10}  {'shuffled':>10}"
    for number, errors in enumerate(zip(report.patched, report.unpatched, report.shuffled, strict=True)):
        yield f"{number:>5}" + "".join(f"  {error:>10.1e}" for error in errors)
    held = "are equal" if report.holds else "ARE NOT all equal"
    failed = "fail" if report.control_fails else "DO NOT all fail"
    yield f"They {held} within {report.tolerance:.0e}; the controls {failed} (relative error over {CONTROL:g})."
