"""The dual forms checked on a model's own weights and activations, with a control that must fail.

At the last token of a prompt, in every layer and head (docs/science.md, section 4):

- softmax attention over [demonstrations; query] is `(1 - λ) own + λ demonstrations`;
- relaxed linear attention, no softmax and no scale, is `W_ZSL q + ΔW_ICL q`;
- ΔW_ICL is one explicit step of gradient descent on a linear layer.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from raydual.metrics.similarity import cosine
from raydual.model.anatomy import KEY, QUERY, VALUE
from raydual.model.modules import Rotary, normed, output_weight, projection, rotated, split_heads
from raydual.model.passes import Rows, hidden_states
from raydual.model.recording import Recorder
from raydual.one_seed.linear_attention import gradient_step_update, linear_attention, weight_update

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
"""Largest relative error with which an identity counts as holding, by the dtype it is checked in."""
CONTROL = 1e-2
"""Smallest relative error with which the control counts as failing."""
LEARNING_RATE = 0.03
"""Step size of the explicit gradient step; the update does not depend on it."""


@dataclass(frozen=True)
class DualReport:
    """How well the identities hold, by layer: arrays `[layers]`.

    Errors are relative, ‖left - right‖ / ‖left‖, the largest over the heads. Each `_control` is the error of the
    same identity with the demonstrations' values moved by one token, so paired with wrong keys; it must be large.
    `mass` is λ, mean over the heads. `cosine` is that of the relaxed update ΔW_ICL q with the exact one,
    λ (o_demo - o_own), both after the output projection; NaN where one of them is zero.
    """

    softmax: Float[np.ndarray, "layers"]
    softmax_control: Float[np.ndarray, "layers"]
    linear: Float[np.ndarray, "layers"]
    linear_control: Float[np.ndarray, "layers"]
    gradient: Float[np.ndarray, "layers"]
    gradient_control: Float[np.ndarray, "layers"]
    mass: Float[np.ndarray, "layers"]
    cosine: Float[np.ndarray, "layers"]
    dtype: torch.dtype
    prefix_tokens: int
    query_tokens: int

    @property
    def tolerance(self) -> float:
        """The relative error that rounding may cause."""
        return TOLERANCE[self.dtype]

    @property
    def holds(self) -> bool:
        """Whether every identity holds in every layer and head."""
        return all(bool((x <= self.tolerance).all()) for x in (self.softmax, self.linear, self.gradient))

    @property
    def control_fails(self) -> bool:
        """Whether the control of every identity fails in every layer."""
        controls = (self.softmax_control, self.linear_control, self.gradient_control)
        return all(bool((x > CONTROL).all()) for x in controls)

    def as_json(self) -> dict[str, Any]:
        """All of it by name, by layer."""
        layers = {name: x.tolist() for name, x in vars(self).items() if isinstance(x, np.ndarray)}
        return {
            "dtype": str(self.dtype).removeprefix("torch."),
            "prefix_tokens": self.prefix_tokens,
            "query_tokens": self.query_tokens,
            "tolerance": self.tolerance,
            "holds": self.holds,
            "control_fails": self.control_fails,
            "layers": layers,
        }


@dataclass(frozen=True)
class Projections:
    """What one layer's attention at the last token is made of, each query head with its own copy of its keys.

    `query` and `keys` are after their norms and the rotary embedding, `raw_query` and `raw_keys` before them:
    `W_Q x` and `W_K x` (with their biases, if the model has any) of the attention block's inputs x.
    """

    query: Float[Tensor, "heads head_dim"]
    keys: Float[Tensor, "heads tokens head_dim"]
    values: Float[Tensor, "heads tokens head_dim"]
    raw_query: Float[Tensor, "heads head_dim"]
    raw_keys: Float[Tensor, "heads tokens head_dim"]
    scaling: float

    def scores(self) -> Float[Tensor, "heads tokens"]:
        """Scaled inner products of the query with every key."""
        return (self.keys @ self.query[..., None])[..., 0] * self.scaling

    def linear_weight(self) -> Float[Tensor, "heads head_dim head_dim"]:
        """The linear layer that relaxed attention to these tokens is: Σ (W_V x) ⊗ (W_K x)."""
        return weight_update(self.values, self.raw_keys)

    def tokens(self, which: slice) -> "Projections":
        """The same query with some of the tokens only."""
        return replace(self, keys=self.keys[:, which], values=self.values[:, which], raw_keys=self.raw_keys[:, which])

    def split(self, prefix: int) -> tuple["Projections", "Projections"]:
        """The first `prefix` tokens, the demonstrations, and the query's own."""
        return self.tokens(slice(prefix)), self.tokens(slice(prefix, None))

    def mispaired(self, prefix: int) -> "Projections":
        """The same with the values of the first `prefix` tokens moved to the next one's key: the control."""
        demonstrations, own = self.split(prefix)
        return replace(self, values=torch.cat([demonstrations.values.roll(1, dims=1), own.values], dim=1))


@dataclass(frozen=True)
class DualParts:
    """Softmax attention over the query's own tokens and over the demonstrations, and the mass λ on the latter."""

    own: Float[Tensor, "heads head_dim"]
    demonstrations: Float[Tensor, "heads head_dim"]
    mass: Float[Tensor, "heads"]

    @property
    def merged(self) -> Float[Tensor, "heads head_dim"]:
        """(1 - λ) own + λ demonstrations."""
        mass = self.mass[:, None]
        return (1 - mass) * self.own + mass * self.demonstrations

    @property
    def change(self) -> Float[Tensor, "heads head_dim"]:
        """λ (demonstrations - own): what the context changes, exactly."""
        return self.mass[:, None] * (self.demonstrations - self.own)


def project(
    module: nn.Module, states: Float[Tensor, "1 tokens hidden"], rotary: Rotary, dtype: torch.dtype
) -> Projections:
    """A layer's projections for the last token: computed in the model's dtype, then converted to `dtype`.

    `module` is the attention block, `states` its inputs and `rotary` its cosines and sines `[1, tokens, head_dim]`.
    """

    def split(name: str, inputs: Tensor) -> Tensor:
        return split_heads(module, projection(module, name)(inputs))

    query, key, value = split(QUERY, states[:, -1:]), split(KEY, states), split(VALUE, states)
    last = (rotary[0][:, -1:], rotary[1][:, -1:])
    turned_query = rotated(module, normed(module, QUERY, query), last, heads_axis=2)
    turned_key = rotated(module, normed(module, KEY, key), rotary, heads_axis=2)
    shared = query.shape[2] // key.shape[2]

    def by_head(x: Tensor) -> Tensor:
        return x[0].transpose(0, 1).to(dtype)

    def by_query_head(x: Tensor) -> Tensor:
        return by_head(x).repeat_interleave(shared, dim=0)

    return Projections(
        query=by_head(turned_query)[:, 0],
        keys=by_query_head(turned_key),
        values=by_query_head(value),
        raw_query=by_head(query)[:, 0],
        raw_keys=by_query_head(key),
        scaling=module.scaling,  # type: ignore[arg-type]
    )


def softmax_attention(inputs: Projections) -> Float[Tensor, "heads head_dim"]:
    """One plain softmax over all the keys."""
    return (inputs.scores().softmax(dim=-1)[:, None] @ inputs.values)[:, 0]


def dual_parts(inputs: Projections, prefix: int) -> DualParts:
    """Attention to the first `prefix` tokens and to the others apart; λ from the two log-normalisers."""
    demonstrations, own = inputs.split(prefix)
    demonstrations_mass, own_mass = (part.scores().logsumexp(dim=-1) for part in (demonstrations, own))
    return DualParts(
        own=softmax_attention(own),
        demonstrations=softmax_attention(demonstrations),
        mass=torch.sigmoid(demonstrations_mass - own_mass),
    )


@dataclass
class _Verifier(Recorder):
    """Checks each layer on its own inputs as the pass reaches it; `found[name]` has a number for each layer."""

    prefix: int = 0
    dtype: torch.dtype = torch.float64
    found: dict[str, list[float]] = field(default_factory=dict)
    watches_inputs = True

    def before_attention(self, module: nn.Module, states: Tensor, rotary: Rotary) -> None:
        """Verify the layer."""
        inputs = project(module, states, rotary, self.dtype)
        parts = dual_parts(inputs, self.prefix)
        update = inputs.tokens(slice(self.prefix)).linear_weight()
        relaxed = (update @ inputs.raw_query[..., None])[..., 0]
        weight = output_weight(module, self.dtype)
        by_relaxed, exact = (weight @ change.flatten() for change in (relaxed, parts.change))
        wrong = inputs.mispaired(self.prefix)
        numbers = {
            "softmax": softmax_error(inputs, parts),
            "softmax_control": softmax_error(inputs, dual_parts(wrong, self.prefix)),
            "linear": linear_error(inputs, inputs, self.prefix),
            "linear_control": linear_error(inputs, wrong, self.prefix),
            "gradient": gradient_error(inputs, inputs, self.prefix),
            "gradient_control": gradient_error(inputs, wrong, self.prefix),
            "mass": parts.mass.mean(),
            "cosine": cosine(by_relaxed, exact),
        }
        for name, number in numbers.items():
            self.found.setdefault(name, []).append(number.item())


def softmax_error(inputs: Projections, parts: DualParts) -> Float[Tensor, ""]:
    """Relative error of the merged `parts` against one plain softmax; the largest over the heads."""
    return _relative_error(softmax_attention(inputs), parts.merged)


def linear_error(inputs: Projections, learned: Projections, prefix: int) -> Float[Tensor, ""]:
    """Relative error of `W_ZSL q + ΔW_ICL q` against linear attention to all tokens; the largest over the heads.

    ΔW_ICL is made from the first `prefix` tokens of `learned`, all else from `inputs`.
    """
    whole = linear_attention(inputs.values, inputs.raw_keys, inputs.raw_query)
    zero_shot, update = (
        part.linear_weight() for part in (inputs.tokens(slice(prefix, None)), learned.tokens(slice(prefix)))
    )
    query = inputs.raw_query[..., None]
    return _relative_error(whole, (zero_shot @ query + update @ query)[..., 0])


def gradient_error(inputs: Projections, learned: Projections, prefix: int) -> Float[Tensor, ""]:
    """Relative error of one gradient step against ΔW_ICL; the largest over the heads.

    The step starts at W_ZSL and its error signals are made from the first `prefix` values of `learned`.
    """
    demonstrations, own = inputs.split(prefix)
    values = learned.values[:, :prefix]
    step = gradient_step_update(values, demonstrations.raw_keys, LEARNING_RATE, own.linear_weight())
    return _relative_error(demonstrations.linear_weight().flatten(1), step.flatten(1))


def _relative_error(left: Float[Tensor, "heads width"], right: Float[Tensor, "heads width"]) -> Float[Tensor, ""]:
    return ((left - right).norm(dim=-1) / left.norm(dim=-1)).amax()


@torch.no_grad()
def verify_dual(
    model: PreTrainedModel,
    prefix: Int[np.ndarray, "prefix_tokens"],
    query: Int[np.ndarray, "query_tokens"],
    dtype: torch.dtype = torch.float64,
) -> DualReport:
    """Check the identities at the query's last token in one pass over [prefix; query].

    `prefix` are the demonstrations' token ids with the separator before the query, `query` the query's own. Every
    layer is checked on the inputs that it gets in that pass, computed in the model's dtype; the two sides of each
    identity are computed in `dtype`, float32 or float64. The linear form takes the raw projections `W_V x`,
    `W_K x`, `W_Q x`: no norm, no rotary embedding, no scale. The model's attention implementation is not used for
    the two sides and not changed.

    Raises
    ------
    ValueError
        Another `dtype`, no query, or fewer than two demonstration tokens (the control would be the same as they).
    """
    if dtype not in TOLERANCE:
        raise ValueError(f"dtype: {dtype} found; the identities are checked in float32 or float64")
    if len(prefix) < 2 or not len(query):
        raise ValueError(f"{len(prefix)} demonstration and {len(query)} query tokens found; at least 2 and 1 needed")
    verifier = _Verifier((), prefix=len(prefix), dtype=dtype)
    rows = Rows.pad([np.concatenate([prefix, query])], model.device)
    hidden_states(model, rows, recorder=verifier)
    numbers = {name: np.asarray(values) for name, values in verifier.found.items()}
    return DualReport(**numbers, dtype=dtype, prefix_tokens=len(prefix), query_tokens=len(query))


def dual_lines(report: DualReport) -> Iterator[str]:
    """A table for the terminal: a line for each layer, and a last one with the verdict."""
    name = str(report.dtype).removeprefix("torch.")
    yield (
        f"Dual forms at the last of {report.query_tokens} query tokens after {report.prefix_tokens} demonstration "
        f"tokens, in {name}: largest relative error over heads | the same with values on the wrong keys"
    )
    titles = ("softmax | control", "linear | control", "gradient step | control")
    yield f"{'layer':>5}  {'λ':>5}" + "".join(f"  {title:>23}" for title in titles) + "  cos(linear, softmax)"
    pairs = (
        (report.softmax, report.softmax_control),
        (report.linear, report.linear_control),
        (report.gradient, report.gradient_control),
    )
    for layer, (mass, angle) in enumerate(zip(report.mass, report.cosine, strict=True)):
        cells = (f"{error[layer]:.1e} | {control[layer]:.1e}" for error, control in pairs)
        yield f"{layer:>5}  {mass:5.3f}" + "".join(f"  {cell:>23}" for cell in cells) + f"  {angle:>20.3f}"
    held = "hold" if report.holds else "DO NOT all hold"
    failed = "fails" if report.control_fails else "DOES NOT fail"
    yield (
        f"The identities {held} within {report.tolerance:.0e}; "
        f"the control {failed} (relative error over {CONTROL:g}) in every layer."
    )
