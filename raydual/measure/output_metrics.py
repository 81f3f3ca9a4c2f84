"""What the context and fine-tuning say next: distributions, calibration and flips (docs/science.md, section 4)."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from raydual.catalogue.entries import CATALOGUE
from raydual.catalogue.marks import Value, of_predictions, of_recordings
from raydual.catalogue.outputs import CALIBRATION_BINS, FLIPS, TOP
from raydual.measure.prediction_metrics import SeedPredictions
from raydual.measure.recordings import Recordings
from raydual.metrics.outputs import calibration_error, js_divergence, kl_divergence, top_overlap

Examples = Float[Tensor, "G n"]
Compared = Callable[[Tensor, Tensor], Tensor]


def _over_labels(found: Recordings, compared: Compared) -> Examples:
    icl, ft = (one.label_scores.double().log_softmax(dim=-1) for one in (found.icl, found.ft))
    return compared(icl, ft)


def _over_vocabulary(found: Recordings, compared: Compared) -> Examples:
    """Seed by seed, so that float64 is held of a few rows alone."""
    pairs = zip(*_next_token(found), strict=True)
    return torch.stack([compared(icl.double(), ft.double()) for icl, ft in pairs])


def _next_token(found: Recordings) -> tuple[Tensor, Tensor]:
    icl, ft = found.icl.next_token, found.ft.next_token
    assert icl is not None, "kept, since measures.outputs is on"
    assert ft is not None, "kept, since measures.outputs is on"
    return icl, ft


@of_recordings(CATALOGUE["kl_labels"])
def kl_labels(found: Recordings) -> Examples:
    """KL over the label words."""
    return _over_labels(found, kl_divergence)


@of_recordings(CATALOGUE["js_labels"])
def js_labels(found: Recordings) -> Examples:
    """Jensen-Shannon over the label words."""
    return _over_labels(found, js_divergence)


@of_recordings(CATALOGUE["kl_vocabulary"])
def kl_vocabulary(found: Recordings) -> Examples:
    """KL over the vocabulary."""
    return _over_vocabulary(found, kl_divergence)


@of_recordings(CATALOGUE["js_vocabulary"])
def js_vocabulary(found: Recordings) -> Examples:
    """Jensen-Shannon over the vocabulary."""
    return _over_vocabulary(found, js_divergence)


@of_recordings(CATALOGUE["top10_overlap"])
def top10_overlap(found: Recordings) -> Examples:
    """Top-10 overlap."""
    return top_overlap(*_next_token(found), TOP)[0]


@of_recordings(CATALOGUE["overlap_cosine"])
def overlap_cosine(found: Recordings) -> Examples:
    """Overlap cosine."""
    return top_overlap(*_next_token(found), TOP)[1]


@of_predictions(CATALOGUE["calibration_error"])
def calibration(found: SeedPredictions) -> dict[str, Value]:
    """Expected calibration error of every condition."""
    reason = f"fewer than {CALIBRATION_BINS} examples, or no finite confidence"
    values = {
        name: calibration_error(one.confidence, one.right, CALIBRATION_BINS) for name, one in found.by_condition.items()
    }
    return {name: Value(x, found.examples, None if x == x else reason) for name, x in values.items()}


def _cell(cell: str) -> Callable[[SeedPredictions], Value]:
    def counted(found: SeedPredictions) -> Value:
        zsl, icl, ft = (
            one.right == (letter == "r") for one, letter in zip(found.by_condition.values(), cell, strict=True)
        )
        return Value(float((zsl & icl & ft).sum()), found.examples)

    return counted


www, wwr, wrw, wrr, rww, rwr, rrw, rrr = (of_predictions(CATALOGUE[f"flips_{cell}"])(_cell(cell)) for cell in FLIPS)
