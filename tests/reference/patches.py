"""Changes of the MLP weights that stand for a context, dense, in a copy of the model: for each query, and for all."""

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


Prompt = tuple[list[int], int, list[int]]
"""Ids with the context, how many of them it has, and ids alone."""


def least_squares(x: np.ndarray, wanted: np.ndarray, ridge: float) -> np.ndarray:
    """M [out, in] with the least mean ‖M x − wanted‖² + ridge · mean ‖x‖² · ‖M‖².

    x [queries, in], wanted [queries, out].
    """
    size = x.shape[1]
    weight = np.sqrt(ridge * np.sum(x**2))
    rows = np.concatenate([x, weight * np.eye(size)])
    targets = np.concatenate([wanted, np.zeros((size, wanted.shape[1]))])
    return np.linalg.lstsq(rows, targets, rcond=None)[0].T


def one_patch(
    model: PreTrainedModel, prompts: list[Prompt], ridge: float
) -> tuple[PreTrainedModel, list[dict[str, np.ndarray]]]:
    """A copy with one change of the weights for all prompts, and the change, by layer and part."""
    changed = copy.deepcopy(model)
    contexts = [record(model, ids, prefix_length) for ids, prefix_length, _ in prompts]
    found = []
    for layer in range(len(model.model.layers)):
        here = np.stack([record(changed, alone).mlp_in[layer] for *_, alone in prompts])
        wanted = np.stack([context.mlp_in[layer] for context in contexts])
        inputs = least_squares(here, wanted - here, ridge)
        change = {part: array(projection(model, layer, part).weight) @ inputs for part in ("gate", "up")}
        put(changed, layer, change)
        after = [record(changed, alone) for *_, alone in prompts]
        missing = np.stack([c.hidden[layer] - a.hidden[layer] for c, a in zip(contexts, after, strict=True)])
        down = least_squares(np.stack([a.mlp_product[layer] for a in after]), missing, ridge)
        put(changed, layer, {"down": down})
        found.append({**change, "down": down})
    return changed, found


@torch.no_grad()
def fit_values(
    model: PreTrainedModel, patched: PreTrainedModel, prompts: list[Prompt]
) -> dict[tuple[str, str], np.ndarray]:
    """R² of what the context adds to each layer's output, about its mean and about nothing."""
    layers = range(len(model.model.layers))
    change: list[list[np.ndarray]] = [[] for _ in layers]
    error: list[list[np.ndarray]] = [[] for _ in layers]
    for ids, prefix_length, alone in prompts:
        wanted, found = record(model, ids, prefix_length).hidden, record(patched, alone)
        for i in layers:
            block = model.model.layers[i].mlp
            plain = array(block(torch.from_numpy(found.mlp_in[i]).to(model.dtype)))
            change[i].append(wanted[i] - found.mlp_residual[i] - plain)
            error[i].append(wanted[i] - found.hidden[i])

    def r_squared(i: int, about: np.ndarray) -> float:
        return 1 - np.sum(np.square(error[i])) / np.sum(np.square(np.stack(change[i]) - about))

    return {
        ("patch_r2", "patch"): np.array([r_squared(i, np.mean(change[i], axis=0)) for i in layers]),
        ("patch_explained", "patch"): np.array([r_squared(i, np.zeros(1)) for i in layers]),
    }
