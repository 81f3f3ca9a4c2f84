"""The metrics of one chunk of queries, for G seeds at once, from the recordings of the three conditions."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from raydual.config import Measures
from raydual.measure.conditions import Chunk, Outcome
from raydual.measure.keyed_noise import SIMAOU_NOISE, keyed_noise
from raydual.measure.rank_metrics import Key, Training, rank_metrics
from raydual.metrics.similarity import cosine, relative_norm, simam, simaou, unit


def recorded_fields(measures: Measures) -> dict[str, tuple[str, ...]]:
    """What each condition's pass has to record."""
    field = measures.update_field
    return {
        "zsl": (field, "scores_query"),
        "icl": (field, "scores_query", "scores_demo", "context_mass"),
        "ft": (field, "scores_query", measures.query_field, "attn_in"),
        "train": (measures.query_field, "attn_in"),
    }


def chunk_metrics(
    chunk: Chunk, zsl: Outcome, icl: Outcome, ft: Outcome, training: Sequence[Training], measures: Measures
) -> dict[Key, Float[Tensor, "G _ layers"]]:
    """Every per-layer metric of every example of the chunk, `[G, n, layers]` (rankings: of those asked for).

    `zsl` holds the chunk's n rows; `icl` and `ft` hold G times n, grouped by seed.
    """
    seeds = torch.tensor([t.seed for t in training], device=chunk.labels.device)
    icl_by_seed, ft_by_seed = (
        {name: x.view(len(training), -1, *x.shape[1:]) for name, x in outcome.fields.items()} for outcome in (icl, ft)
    )
    return {
        **_update_metrics(chunk, zsl.fields, icl_by_seed, ft_by_seed, seeds, measures),
        **_map_metrics(chunk, zsl.fields, icl_by_seed, ft_by_seed),
        **rank_metrics(
            chunk,
            icl_by_seed["scores_demo"],
            ft_by_seed[measures.query_field],
            ft_by_seed["attn_in"],
            training,
            measures,
        ),
        ("lambda", "icl"): icl_by_seed["context_mass"].mean(dim=-1),
    }


def _update_metrics(
    chunk: Chunk, zsl: dict, icl: dict, ft: dict, seeds: Tensor, measures: Measures
) -> dict[Key, Float[Tensor, "G n layers"]]:
    """SimAOU, its random baseline, and the norms that its null is made from."""
    field = measures.update_field
    h_zsl, h_icl, h_ft = zsl[field][None], icl[field], ft[field]
    noise = keyed_noise(measures.noise_seed, SIMAOU_NOISE, seeds, chunk, h_icl.shape[2:])
    return {
        ("simaou", "icl-ft"): simaou(h_icl, h_ft, h_zsl),
        ("simaou_raw", "icl-ft"): simaou(h_icl, h_ft, h_zsl, normalised=False),
        ("simaou_random", "icl-ft"): cosine(unit(h_icl) - unit(h_zsl), noise),
        ("update_norm", "icl"): relative_norm(h_icl, h_zsl),
        ("update_norm", "ft"): relative_norm(h_ft, h_zsl),
    }


def _map_metrics(chunk: Chunk, zsl: dict, icl: dict, ft: dict) -> dict[Key, Float[Tensor, "G n layers"]]:
    """SimAM and ΔSimAM, before and after the softmax."""
    scores = {"zsl": zsl["scores_query"][None], "icl": icl["scores_query"], "ft": ft["scores_query"]}
    own, share = _own_softmax(scores["icl"], chunk.in_context.real), (1 - icl["context_mass"])[..., None]
    weights = {
        "zsl": _own_softmax(scores["zsl"], chunk.alone.real),
        "icl": own * share,
        "ft": _own_softmax(scores["ft"], chunk.alone.real),
    }
    # No cosine depends on the share that is left to a head's own tokens, unless it is rounded to 0.
    direction = _aligned(own * torch.where(share > 0, share, 1.0), chunk, "icl")
    s_zsl, s_icl, s_ft = (_aligned(scores[name], chunk, name) for name in ("zsl", "icl", "ft"))
    # A difference that is rounding alone must be 0, or ΔSimAM would be the cosine of noise.
    same = chunk.same_in_first_layer[None, :, None]
    s_icl[:, :, 0] = torch.where(same, s_zsl[:, :, 0], s_icl[:, :, 0])
    w_zsl, w_icl, w_ft = (_aligned(weights[name], chunk, name) for name in ("zsl", "icl", "ft"))
    return {
        ("simam", "icl-ft"): simam(s_icl, s_ft),
        ("simam", "icl-zsl"): simam(s_icl, s_zsl),
        ("delta_simam", "icl-ft"): simam(s_icl, s_ft, s_zsl),
        ("simam_softmax", "icl-ft"): simam(direction, w_ft),
        ("simam_softmax", "icl-zsl"): simam(direction, w_zsl),
        ("delta_simam_softmax", "icl-ft"): simam(w_icl, w_ft, w_zsl),
    }


def _own_softmax(scores: Float[Tensor, "G n layers heads tokens"], real: Tensor) -> Tensor:
    """Attention weights of the last token on its own tokens, as if there were no others."""
    return scores.masked_fill(~real[None, :, None, None], -torch.inf).softmax(dim=-1)


def _aligned(scores: Tensor, chunk: Chunk, condition: str) -> Float[Tensor, "G n layers heads pairs"]:
    """Scores `[G, n, layers, heads, tokens]` at the aligned tokens; 0 where there is no pair."""
    places = chunk.aligned_in_context if condition == "icl" else chunk.aligned_alone
    index = places[None, :, None, None].expand(*scores.shape[:-1], -1)
    return scores.gather(-1, index) * chunk.aligned[None, :, None, None]
