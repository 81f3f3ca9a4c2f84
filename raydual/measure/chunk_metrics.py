"""The metrics of what the passes show: functions of `Recordings`, for G seeds at once (docs/science.md, section 4)."""

from jaxtyping import Float
from torch import Tensor

from raydual.catalogue.entries import CATALOGUE
from raydual.catalogue.marks import of_recordings
from raydual.measure.recordings import Noise, Recordings
from raydual.measure.weight_updates import simdw
from raydual.metrics.similarity import cosine, relative_norm, simam_of_heads, simaou, unit

Layers = Float[Tensor, "G n layers"]
Heads = Float[Tensor, "G n layers heads"]


@of_recordings(CATALOGUE["simaou"])
def normalised_updates(found: Recordings) -> Layers:
    """SimAOU."""
    return simaou(*found.update)


@of_recordings(CATALOGUE["simaou_raw"])
def raw_updates(found: Recordings) -> Layers:
    """SimAOU of outputs as they are."""
    return simaou(*found.update, normalised=False)


@of_recordings(CATALOGUE["simaou_random"])
def random_updates(found: Recordings, noise: Noise) -> Layers:
    """Dai's baseline."""
    icl, _, zsl = found.update
    return cosine(unit(icl) - unit(zsl), noise(*icl.shape[2:]))


@of_recordings(CATALOGUE["update_norm"])
def update_norms(found: Recordings) -> dict[str, Layers]:
    """The norms that the null of SimAOU is made from."""
    icl, ft, zsl = found.update
    return {"icl": relative_norm(icl, zsl), "ft": relative_norm(ft, zsl)}


@of_recordings(CATALOGUE["simam"])
def maps(found: Recordings) -> dict[str, Heads]:
    """SimAM and its zero-shot baseline."""
    return _similar(found.scores)


@of_recordings(CATALOGUE["delta_simam"])
def changes_of_maps(found: Recordings) -> Heads:
    """ΔSimAM."""
    return simam_of_heads(found.scores["icl"], found.scores["ft"], found.scores["zsl"])


@of_recordings(CATALOGUE["simam_softmax"])
def weights(found: Recordings) -> dict[str, Heads]:
    """SimAM after the softmax."""
    return _similar(found.directions)


@of_recordings(CATALOGUE["delta_simam_softmax"])
def changes_of_weights(found: Recordings) -> Heads:
    """ΔSimAM after the softmax."""
    return simam_of_heads(found.weights["icl"], found.weights["ft"], found.weights["zsl"])


def _similar(of: dict[str, Tensor]) -> dict[str, Heads]:
    return {"icl-ft": simam_of_heads(of["icl"], of["ft"]), "icl-zsl": simam_of_heads(of["icl"], of["zsl"])}


@of_recordings(CATALOGUE["simdual"])
def exact_updates(found: Recordings) -> Layers:
    """SimDual, which the in-context pass takes."""
    return found.simdual


@of_recordings(CATALOGUE["simdw"])
def relaxed_updates(found: Recordings) -> Layers:
    """SimΔW."""
    return simdw(found.model, found.chunk, found.stacks, found.context_updates)


@of_recordings(CATALOGUE["lambda"])
def demonstration_mass(found: Recordings) -> Heads:
    """λ."""
    # A copy: what is recorded may be changed in place later.
    return found.icl["context_mass"].clone()
