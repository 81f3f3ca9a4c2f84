"""The arm `patch`: one patch of the weights for all queries, fitted on selection examples (science.md, section 4)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.profiler import record_function
from transformers import PreTrainedModel

from raydual.catalogue.entries import CATALOGUE, Key
from raydual.catalogue.marks import Measure, of_patches
from raydual.data.prompts import Queries
from raydual.measure.conditions import Chunk, make_chunks
from raydual.measure.weight_patches import PatchSizes
from raydual.model.attention import Prefix
from raydual.model.fitted_patches import ContextStates, FixedPatcher, fit_patches, stacked_patches
from raydual.model.passes import Rows, hidden_states
from raydual.model.patches import MlpPatch, patched_layer_by_layer
from raydual.model.recording import Recorder
from raydual.model.stacked import Stacks

_CONTEXT = ("mlp_in", "hidden")


@dataclass(frozen=True)
class SeedPatch:
    """What one seed's patch is and does.

    `errors` `[examples, layers]` are squared distances of a layer's output, patched, from the one in context; `change`
    `[layers]` is the mean squared length of what the context adds to it, `spread` the same about the mean of the
    examples. `weights` `[layers]` are numbers of the patch itself, as `PatchSizes.by_layer`.
    """

    errors: Float[np.ndarray, "examples layers"]
    change: Float[np.ndarray, "layers"]
    spread: Float[np.ndarray, "layers"]
    weights: Mapping[str, Float[np.ndarray, "layers"]]


@dataclass
class PatchArm:
    """The patches of G seeds, layer by layer, and what is seen of them while measured queries pass."""

    model: PreTrainedModel
    patches: Sequence[MlpPatch]
    stacks: Stacks
    errors: list[Tensor] = field(default_factory=list)
    sums: list[Tensor] = field(default_factory=list)
    squares: list[Tensor] = field(default_factory=list)

    @classmethod
    @record_function("fitting patches")
    def fitted(
        cls, model: PreTrainedModel, queries: Queries, prefix: Prefix, stacks: Stacks, ridge: float, batch_size: int
    ) -> "PatchArm":
        """Fitted to `queries` for each of the G seeds in `prefix`; `stacks` are the fine-tuned projections."""
        chunks = make_chunks(queries, batch_size, model.device)
        order = np.concatenate([chunk.index for chunk in chunks])
        alone = Rows.pad([queries.alone[i] for i in order], model.device)
        of_seeds = [
            fit_patches(model, alone, _in_context(model, chunks, _of_group(prefix, group)), ridge)
            for group in range(len(prefix.lengths))
        ]
        return cls(model, stacked_patches(of_seeds), stacks)

    @contextmanager
    def applied(self, rows: Rows, in_context: Float[Tensor, "rows layers hidden"]) -> Iterator[None]:
        """Inside the block, passes over `rows` are patched, and how near they come to `in_context` is seen."""
        groups = len(self.patches[0].output.left)
        seen: dict[int, tuple[Tensor, Tensor]] = {}

        def observe(layer: int, plain: Tensor, patched: Tensor) -> None:
            wanted = in_context[:, layer]
            # Further passes, for label words of several tokens, show the same.
            seen[layer] = (wanted - plain, wanted - patched)

        with patched_layer_by_layer(self.model, rows.last, FixedPatcher(self.model, self.patches, observe)):
            yield
        change, error = (
            torch.stack([seen[layer][which] for layer in sorted(seen)], dim=1).view(groups, -1, *in_context.shape[1:])
            for which in (0, 1)
        )
        self.errors.append(error.square().sum(dim=-1))
        self.sums.append(change.double().sum(dim=1))
        self.squares.append(change.double().square().sum(dim=(1, 3)))

    def found(self, order: np.ndarray) -> list[SeedPatch]:
        """What was seen of each seed's patch, the examples in `order`."""
        errors = torch.cat(self.errors, dim=1).double().cpu().numpy()[:, order]
        count = errors.shape[1]
        change = (sum(self.squares) / count).cpu().numpy()
        mean = (sum(self.sums) / count).square().sum(dim=-1).cpu().numpy()
        sizes = PatchSizes(self.model, self.stacks)
        for layer, patch in enumerate(self.patches):
            sizes.observe(layer, patch)
        weights = {name: x.double().cpu().numpy() for name, x in sizes.by_layer().items()}
        return [
            SeedPatch(errors[g], change[g], np.maximum(change[g] - mean[g], 0), {n: x[g] for n, x in weights.items()})
            for g in range(len(errors))
        ]


def _of_group(prefix: Prefix, group: int) -> Prefix:
    """One seed's part of a prefix."""
    one = slice(group, group + 1)
    return Prefix(tuple(x[one] for x in prefix.keys), tuple(x[one] for x in prefix.values), prefix.lengths[one])


def _in_context(model: PreTrainedModel, chunks: Sequence[Chunk], prefix: Prefix) -> ContextStates:
    found: list[tuple[Tensor, ...]] = []
    for chunk in chunks:
        recorder = Recorder(_CONTEXT, chunk.in_context.last)
        hidden_states(model, chunk.in_context, prefix, recorder)
        found.append(tuple(map(recorder.result, _CONTEXT)))
    return ContextStates(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def patch_values(functions: Sequence[Measure], found: SeedPatch) -> dict[Key, Float[np.ndarray, "rows layers"]]:
    """The metrics of a seed's patch."""
    return {(one.metric.name, one.metric.conditions[0]): one(found) for one in functions}


def _share(errors: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """1 − error / whole, whose mean over the examples is 1 − Σ errors / Σ of what `whole` is the mean of."""
    return np.where(whole > 0, 1 - errors / np.where(whole > 0, whole, 1.0), np.nan)


@of_patches(CATALOGUE["patch_r2"])
def r_squared(found: SeedPatch) -> np.ndarray:
    """R² about the mean change."""
    return _share(found.errors, found.spread)


@of_patches(CATALOGUE["patch_explained"])
def explained(found: SeedPatch) -> np.ndarray:
    """The same about no change."""
    return _share(found.errors, found.change)


@of_patches(CATALOGUE["patch_norm_gate"])
def gate_norm(found: SeedPatch) -> np.ndarray:
    """Of the gate projection."""
    return found.weights["norm_gate_proj"][None]


@of_patches(CATALOGUE["patch_norm_up"])
def up_norm(found: SeedPatch) -> np.ndarray:
    """Of the up projection."""
    return found.weights["norm_up_proj"][None]


@of_patches(CATALOGUE["patch_norm_down"])
def down_norm(found: SeedPatch) -> np.ndarray:
    """Of the down projection."""
    return found.weights["norm_down_proj"][None]


@of_patches(CATALOGUE["patch_cosine_gate"])
def gate_cosine(found: SeedPatch) -> np.ndarray:
    """Of the gate projection."""
    return found.weights["cosine_gate_proj"][None]


@of_patches(CATALOGUE["patch_cosine_up"])
def up_cosine(found: SeedPatch) -> np.ndarray:
    """Of the up projection."""
    return found.weights["cosine_up_proj"][None]


@of_patches(CATALOGUE["patch_cosine_down"])
def down_cosine(found: SeedPatch) -> np.ndarray:
    """Of the down projection."""
    return found.weights["cosine_down_proj"][None]
