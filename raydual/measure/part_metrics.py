"""What each kind of token of the demonstrations adds: functions of `Recordings` (docs/science.md, section 4)."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from raydual.catalogue.entries import CATALOGUE
from raydual.catalogue.marks import Measure, of_recordings
from raydual.catalogue.parts import PARTS
from raydual.measure.recordings import Recordings
from raydual.metrics.similarity import cosine

Layers = Float[Tensor, "G n layers"]


def _of_each(name: str, fields: tuple[str, ...], function: Callable[[Recordings, int], Layers]) -> tuple[Measure, ...]:
    """The metrics `name_PART`, a function of recordings and the place of the part."""

    def of_part(place: int) -> Callable[[Recordings], Layers]:
        def measured(found: Recordings) -> Layers:
            return function(found, place)

        return measured

    return tuple(of_recordings(CATALOGUE[f"{name}_{part}"], fields)(of_part(place)) for place, part in enumerate(PARTS))


def _mass(found: Recordings, part: int) -> Layers:
    return found.icl["part_mass"][..., part].mean(dim=-1)


def _share(found: Recordings, part: int) -> Layers:
    updates = found.icl["part_update"]
    whole = updates.sum(dim=-2)
    return (updates[..., part, :] * whole).sum(dim=-1) / _nonzero(whole.square().sum(dim=-1))


def _norm(found: Recordings, part: int) -> Layers:
    updates = found.icl["part_update"]
    return updates[..., part, :].norm(dim=-1) / _nonzero(updates.sum(dim=-2).norm(dim=-1))


def _simdual(found: Recordings, part: int) -> Layers:
    return cosine(found.icl["part_update"][..., part, :], found.icl["tuning_update"])


def _nonzero(x: Tensor) -> Tensor:
    """NaN in place of 0: what is relative to nothing is undefined."""
    return x.masked_fill(x == 0, float("nan"))


lambda_label, lambda_text, lambda_template, lambda_separator = _of_each("lambda", ("part_mass",), _mass)
share_label, share_text, share_template, share_separator = _of_each("update_share", ("part_update",), _share)
norm_label, norm_text, norm_template, norm_separator = _of_each("update_norm", ("part_update",), _norm)
simdual_label, simdual_text, simdual_template, simdual_separator = _of_each(
    "simdual", ("part_update", "tuning_update"), _simdual
)
