"""The metrics of what the passes show: functions of `Recordings`, for G seeds at once (docs/science.md, section 4)."""

from jaxtyping import Float
from torch import Tensor

from raydual.catalogue.entries import CATALOGUE
from raydual.catalogue.marks import of_recordings
from raydual.measure.recordings import Noise, Recordings
from raydual.measure.weight_updates import simdw
from raydual.metrics.similarity import cosine, relative_norm, simam_of_heads, simaou, unit

Layers = Float[Tensor, "G n layers"]
ByPair = dict[str, Layers]
Heads = Float[Tensor, "G n layers heads"]
HeadsByPair = dict[str, Heads]


@of_recordings(CATALOGUE["simaou"])
def normalised_updates(found: Recordings) -> ByPair:
    """SimAOU."""
    return {name: simaou(*pair) for name, pair in found.updates.items()}


@of_recordings(CATALOGUE["simaou_raw"])
def raw_updates(found: Recordings) -> ByPair:
    """SimAOU of outputs as they are."""
    return {name: simaou(*pair, normalised=False) for name, pair in found.updates.items()}


@of_recordings(CATALOGUE["simaou_random"])
def random_updates(found: Recordings, noise: Noise) -> ByPair:
    """Dai's baseline."""
    drawn = noise(*found.updates["icl-ft"][0].shape[2:])
    return {name: cosine(unit(one) - unit(zsl), drawn) for name, (one, _, zsl) in found.updates.items()}


@of_recordings(CATALOGUE["update_norm"])
def update_norms(found: Recordings) -> ByPair:
    """The norms that the null of SimAOU is made from."""
    field = found.measures.update_field
    return {name: relative_norm(one[field], found.zsl[field]) for name, one in found.arms.items()}


@of_recordings(CATALOGUE["simam"])
def maps(found: Recordings) -> HeadsByPair:
    """SimAM and its zero-shot baseline."""
    return _similar(found, found.scores)


@of_recordings(CATALOGUE["delta_simam"])
def changes_of_maps(found: Recordings) -> HeadsByPair:
    """ΔSimAM."""
    return _similar_changes(found, found.scores)


@of_recordings(CATALOGUE["simam_softmax"])
def weights(found: Recordings) -> HeadsByPair:
    """SimAM after the softmax."""
    return _similar(found, found.directions)


@of_recordings(CATALOGUE["delta_simam_softmax"])
def changes_of_weights(found: Recordings) -> HeadsByPair:
    """ΔSimAM after the softmax."""
    return _similar_changes(found, found.weights)


def _similar(found: Recordings, of: dict[str, Tensor]) -> HeadsByPair:
    pairs = {name: simam_of_heads(of[one], of[other]) for name, (one, other) in found.pairs.items()}
    return pairs | {"icl-zsl": simam_of_heads(of["icl"], of["zsl"])}


def _similar_changes(found: Recordings, of: dict[str, Tensor]) -> HeadsByPair:
    return {name: simam_of_heads(of[one], of[other], of["zsl"]) for name, (one, other) in found.pairs.items()}


@of_recordings(CATALOGUE["simdual"])
def exact_updates(found: Recordings) -> Layers:
    """SimDual, which the in-context pass takes."""
    return found.simdual


@of_recordings(CATALOGUE["simdw"])
def relaxed_updates(found: Recordings) -> Layers:
    """SimΔW."""
    inputs = found.query_inputs.of(found.chunk)
    return simdw(found.model, found.chunk, inputs, found.stacks, found.context_updates)


@of_recordings(CATALOGUE["lambda"])
def demonstration_mass(found: Recordings) -> Heads:
    """λ."""
    # A copy: what is recorded may be changed in place later.
    return found.icl["context_mass"].clone()
