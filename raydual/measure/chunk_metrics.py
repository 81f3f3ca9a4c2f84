"""The metrics of one chunk of queries, for G seeds at once, from the recordings of the three conditions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from raydual.config import Measures
from raydual.measure.conditions import Chunk, Outcome
from raydual.measure.ranking import kendall_tau
from raydual.metrics.noise import uniform
from raydual.metrics.similarity import cosine, relative_norm, simam, simaou, unit
from raydual.model.finetune import Tuned
from raydual.tasks.prompts import DemonstrationSet

Key = tuple[str, str]
"""A metric and its condition."""

# Streams of noise, so that no two baselines share their draws.
_SIMAOU_NOISE, _KENDALL_NOISE = 1, 2


def recorded_fields(measures: Measures) -> dict[str, tuple[str, ...]]:
    """What each condition's pass has to record."""
    field = measures.update_field
    return {
        "zsl": (field, "scores_query"),
        "icl": (field, "scores_query", "scores_demo", "context_mass"),
        "ft": (field, "scores_query", "query"),
        "train": ("query",),
    }


@dataclass(frozen=True)
class Training:
    """One seed's demonstration tokens as fine-tuning saw them.

    `query` `[layers, pairs, width]` are their `q_proj` outputs; `prefix_index` `[pairs]` their places in the
    in-context prompt; `first_alike` `[pairs]` the first of them with the same token id, whose query in the first
    layer is the same vector, up to rounding that must not break a tie.
    """

    seed: int
    query: Float[Tensor, "layers pairs width"]
    prefix_index: Int[Tensor, "pairs"]
    first_alike: Int[Tensor, "pairs"]


def training_tokens(sets: Sequence[DemonstrationSet], tuned: Tuned) -> list[Training]:
    """Pick every seed's paired demonstration tokens out of the recordings of its training passes."""
    found = []
    for group, demonstrations in enumerate(sets):
        device = tuned.losses.device
        parts = []
        for example, recorded in enumerate(tuned.recordings):
            tokens = demonstrations.token_index[demonstrations.example_index == example]
            parts.append(recorded["query"][group][:, torch.as_tensor(tokens, device=device)])
        _, first, group_of = np.unique(
            demonstrations.prefix[demonstrations.prefix_index], return_index=True, return_inverse=True
        )
        places = (torch.as_tensor(x, device=device) for x in (demonstrations.prefix_index, first[group_of]))
        found.append(Training(demonstrations.seed, torch.cat(parts, dim=1), *places))
    return found


def chunk_metrics(
    chunk: Chunk, zsl: Outcome, icl: Outcome, ft: Outcome, training: Sequence[Training], measures: Measures
) -> dict[Key, Float[Tensor, "G _ layers"]]:
    """Every per-layer metric of every example of the chunk, `[G, n, layers]` (Kendall: of those it is asked for).

    `zsl` holds the chunk's n rows; `icl` and `ft` hold G times n, grouped by seed.
    """
    groups = len(training)
    field = measures.update_field

    def by_seed(x: Tensor) -> Tensor:
        return x.view(groups, -1, *x.shape[1:])

    h_zsl = zsl.fields[field][None]
    h_icl, h_ft = by_seed(icl.fields[field]), by_seed(ft.fields[field])
    s_zsl = _aligned(zsl.fields["scores_query"][None], chunk.aligned_alone, chunk.aligned)
    s_icl = _aligned(by_seed(icl.fields["scores_query"]), chunk.aligned_in_context, chunk.aligned)
    s_ft = _aligned(by_seed(ft.fields["scores_query"]), chunk.aligned_alone, chunk.aligned)
    # A difference that is rounding alone must be 0, or ΔSimAM would be the cosine of noise.
    same = chunk.same_in_first_layer[None, :, None]
    s_icl[:, :, 0] = torch.where(same, s_zsl[:, :, 0], s_icl[:, :, 0])
    seeds = torch.tensor([t.seed for t in training], device=h_icl.device)
    noise = _noise(measures.noise_seed, _SIMAOU_NOISE, seeds, chunk, h_icl.shape[2:])
    found = {
        ("simaou", "icl-ft"): simaou(h_icl, h_ft, h_zsl),
        ("simaou_raw", "icl-ft"): simaou(h_icl, h_ft, h_zsl, normalised=False),
        ("simaou_random", "icl-ft"): cosine(unit(h_icl) - unit(h_zsl), noise),
        ("update_norm", "icl"): relative_norm(h_icl, h_zsl),
        ("update_norm", "ft"): relative_norm(h_ft, h_zsl),
        ("simam", "icl-ft"): simam(s_icl, s_ft),
        ("simam", "icl-zsl"): simam(s_icl, s_zsl),
        ("delta_simam", "icl-ft"): simam(s_icl, s_ft, s_zsl),
        ("lambda", "icl"): by_seed(icl.fields["context_mass"]).mean(dim=-1),
    }
    found |= _kendall(chunk, by_seed(icl.fields["scores_demo"]), by_seed(ft.fields["query"]), training, measures)
    return found


def _aligned(scores: Tensor, places: Tensor, real: Tensor) -> Float[Tensor, "G n layers heads pairs"]:
    """Scores `[G, n, layers, heads, tokens]` at the aligned tokens; 0 where there is no pair."""
    index = places[None, :, None, None].expand(*scores.shape[:-1], -1)
    return scores.gather(-1, index) * real[None, :, None, None]


def _noise(noise_seed: int, stream: int, seeds: Tensor, chunk: Chunk, shape: Sequence[int]) -> Float[Tensor, "G n ..."]:
    """Uniform noise for each (seed, example, layer, element), whatever the batch they come in."""
    layers, elements = shape
    device = seeds.device
    examples = torch.as_tensor(chunk.index, device=device)
    return uniform(
        noise_seed,
        torch.tensor(stream, device=device),
        seeds[:, None, None, None],
        examples[:, None, None],
        torch.arange(layers, device=device)[:, None],
        torch.arange(elements, device=device),
    )


def _kendall(
    chunk: Chunk,
    scores_demo: Float[Tensor, "G n layers heads prefix"],
    query: Float[Tensor, "G n layers width"],
    training: Sequence[Training],
    measures: Measures,
) -> dict[Key, Float[Tensor, "G chosen layers"]]:
    """Kendall's τ of the context's attention to demonstration tokens with fine-tuning's, and with noise."""
    chosen: slice | Tensor = slice(None)
    if measures.kendall_examples is not None:
        chosen = torch.as_tensor(chunk.index < measures.kendall_examples, device=query.device)
    taus = []
    for group, seed in enumerate(training):
        attended = scores_demo[group][chosen].sum(dim=2)[..., seed.prefix_index]
        paid = torch.einsum("nlw,ltw->nlt", query[group][chosen], seed.query)
        paid[:, 0] = paid[:, 0, seed.first_alike]
        of_seed = torch.tensor([seed.seed], device=query.device)
        noise = _noise(measures.noise_seed, _KENDALL_NOISE, of_seed, chunk, paid.shape[1:])[0][chosen]
        tau = kendall_tau(attended.flatten(0, 1), torch.stack([paid, noise], dim=2).flatten(0, 1))
        taus.append(tau.view(*attended.shape[:2], 2))
    found = torch.stack(taus)
    return {("kendall", "icl-ft"): found[..., 0], ("kendall_random", "icl-ft"): found[..., 1]}
