"""The context as weights, dense: each query's own change of the MLP weights, layer by layer, in a copy of the model."""

import copy

import numpy as np
import torch
from transformers import PreTrainedModel

from .forward import array, record
from .metrics import cosine, mean

PARTS = ("gate", "up", "down")


def projection(model: PreTrainedModel, layer: int, part: str) -> torch.nn.Linear:
    """A projection of a layer's MLP."""
    return getattr(model.model.layers[layer].mlp, f"{part}_proj")


def changes(
    model: PreTrainedModel, with_context: list[int], prefix_length: int, alone: list[int]
) -> tuple[PreTrainedModel, list[dict[str, np.ndarray]]]:
    """A copy whose weights make up for the context, and the changes of its weights by layer and part."""
    changed = copy.deepcopy(model)
    context = record(model, with_context, prefix_length)
    found = []
    for layer in range(len(model.model.layers)):
        here = record(changed, alone)
        z, z_context = here.mlp_in[layer], context.mlp_in[layer]
        m_context = context.mlp_product[layer]
        weights = {part: array(projection(model, layer, part).weight) for part in PARTS}
        change = {part: np.outer(weights[part] @ (z_context - z), z) / (z @ z) for part in ("gate", "up")}
        missing = context.mlp_residual[layer] - here.mlp_residual[layer]
        change["down"] = np.outer(missing, m_context) / (m_context @ m_context)
        put(changed, layer, change)
        found.append(change)
    return changed, found


@torch.no_grad()
def put(model: PreTrainedModel, layer: int, change: dict[str, np.ndarray]) -> None:
    """Add changes to the weights of a layer."""
    for part, delta in change.items():
        weight = projection(model, layer, part).weight
        weight += torch.from_numpy(delta).to(weight)


def context_weight_values(
    model: PreTrainedModel, tuned: PreTrainedModel, prompts: list[tuple[list[int], int, list[int]]]
) -> dict[tuple[str, str], np.ndarray]:
    """Norms and cosines by layer, means over queries (ids with the context, how many of them it has, ids alone)."""
    found = [changes(model, *prompt)[1] for prompt in prompts]
    layers = range(len(model.model.layers))
    values = {}
    for part in PARTS:
        weights = [array(projection(model, layer, part).weight) for layer in layers]
        moved = [array(projection(tuned, layer, part).weight) - weights[layer] for layer in layers]
        values[f"context_norm_{part}", "icl"] = np.array(
            [mean([np.linalg.norm(one[i][part]) / np.linalg.norm(weights[i]) for one in found]) for i in layers]
        )
        values[f"context_cosine_{part}", "icl-ft"] = np.array(
            [mean([cosine(one[i][part].ravel(), moved[i].ravel()) for one in found]) for i in layers]
        )
    return values
