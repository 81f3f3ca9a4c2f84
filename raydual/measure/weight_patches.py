"""The context as weights: each query's own patches, how large they are and where they point (science.md, section 4)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.profiler import record_function
from transformers import PreTrainedModel

from raydual.catalogue.entries import CATALOGUE
from raydual.catalogue.marks import MLP_FIELDS, of_recordings
from raydual.measure.recordings import Recordings
from raydual.model.anatomy import DOWN, GATE, MLP, UP
from raydual.model.modules import layers, mlp, projection
from raydual.model.passes import hidden_states
from raydual.model.patches import ContextPatcher, LowRank, MlpPatch, MlpStates, patched_layer_by_layer
from raydual.model.stacked import Stacks

Layers = Float[Tensor, "G n layers"]


def as_weights(model: PreTrainedModel, layer: int, patch: MlpPatch) -> dict[str, LowRank]:
    """The change of each projection that a patch of a layer comes to."""
    block = mlp(layers(model)[layer])
    gate, up = (patch.inputs.after(projection(block, name).weight) for name in (GATE, UP))
    return {GATE: gate, UP: up, DOWN: patch.output}


@dataclass
class PatchSizes:
    """Of every layer and projection, K patches' norms over that of the weight, and cosines with G changes `stacks`.

    A cosine is NaN where fine-tuning does not train the projection.
    """

    model: PreTrainedModel
    stacks: Stacks
    norms: dict[str, list[Tensor]] = field(default_factory=lambda: {name: [] for name in MLP})
    cosines: dict[str, list[Tensor]] = field(default_factory=lambda: {name: [] for name in MLP})

    def observe(self, layer: int, patch: MlpPatch) -> None:
        """Take the numbers of a layer, in turn."""
        for name, change in as_weights(self.model, layer, patch).items():
            weight = projection(mlp(layers(self.model)[layer]), name).weight.float()
            norm = change.norm()
            self.norms[name].append(norm / weight.norm())
            self.cosines[name].append(self._cosine(change, norm, weight, (layer, name)))

    def _cosine(self, change: LowRank, norm: Tensor, weight: Tensor, key: tuple[int, str]) -> Tensor:
        if key not in self.stacks:
            return torch.full_like(norm, torch.nan)
        tuned = self.stacks[key].weight - weight
        lengths = norm.view(len(tuned), -1) * tuned.flatten(1).norm(dim=1)[:, None]
        found = change.inner(tuned).view(lengths.shape) / lengths
        return torch.where(lengths > 0, found.clamp(-1, 1), torch.nan).flatten()

    def by_layer(self) -> dict[str, Float[Tensor, "K layers"]]:
        """All of it, by `norm_` or `cosine_` and the projection's name."""
        kinds: Mapping[str, dict[str, list[Tensor]]] = {"norm": self.norms, "cosine": self.cosines}
        return {
            f"{kind}_{name}": torch.stack(found, dim=-1) for kind, of in kinds.items() for name, found in of.items()
        }


@record_function("context as weights")
def context_patches(found: Recordings) -> dict[str, Layers]:
    """`PatchSizes.by_layer` of each query's own patches `[G, n, layers]`: one more pass over the queries alone."""
    groups, n, _ = found.shape
    context = MlpStates(*(found.icl[name].flatten(0, 1) for name in MLP_FIELDS))
    sizes, rows = PatchSizes(found.model, found.stacks), found.chunk.alone.repeat(groups)
    with patched_layer_by_layer(found.model, rows.last, ContextPatcher(context, sizes.observe)):
        hidden_states(found.model, rows)
    return {name: x.view(groups, n, -1) for name, x in sizes.by_layer().items()}


@of_recordings(CATALOGUE["context_norm_gate"], MLP_FIELDS)
def gate_norm(found: Recordings) -> Layers:
    """Of the gate projection."""
    return found.shared(context_patches)["norm_gate_proj"]


@of_recordings(CATALOGUE["context_norm_up"], MLP_FIELDS)
def up_norm(found: Recordings) -> Layers:
    """Of the up projection."""
    return found.shared(context_patches)["norm_up_proj"]


@of_recordings(CATALOGUE["context_norm_down"], MLP_FIELDS)
def down_norm(found: Recordings) -> Layers:
    """Of the down projection."""
    return found.shared(context_patches)["norm_down_proj"]


@of_recordings(CATALOGUE["context_cosine_gate"], MLP_FIELDS)
def gate_cosine(found: Recordings) -> Layers:
    """Of the gate projection."""
    return found.shared(context_patches)["cosine_gate_proj"]


@of_recordings(CATALOGUE["context_cosine_up"], MLP_FIELDS)
def up_cosine(found: Recordings) -> Layers:
    """Of the up projection."""
    return found.shared(context_patches)["cosine_up_proj"]


@of_recordings(CATALOGUE["context_cosine_down"], MLP_FIELDS)
def down_cosine(found: Recordings) -> Layers:
    """Of the down projection."""
    return found.shared(context_patches)["cosine_down_proj"]
