"""The metrics of output distributions, calibration and flips (`measures.outputs`)."""

from collections.abc import Iterator
from itertools import product

from raydual.catalogue.metric import Metric

TOP = 10
"""How many tokens of each distribution its overlap is taken of."""
CALIBRATION_BINS = 10
"""How many bins of equally many examples the calibration error has."""

FLIPS = tuple("".join(cell) for cell in product("wr", repeat=3))
"""Which of zsl, icl and ft are right (`r`) and which wrong (`w`), in this order."""

_RIGHT = {"w": "wrong", "r": "right"}


def _distances(where: str, over: str, which: str, short: str) -> Iterator[Metric]:
    """What two distributions over the same outcomes are compared by."""
    yield Metric(
        f"kl_{where}", f"KL, {over}",
        f"Kullback-Leibler divergence of fine-tuning's probabilities of {which} from the context's, in nats.",
        family="outputs", panel="divergence", short=f"KL {short}", shown="tables", per_layer=False, bounds=(0.0, None),
    )  # fmt: skip
    yield Metric(
        f"js_{where}", f"JS, {over}",
        f"Jensen-Shannon divergence between the context's and fine-tuning's probabilities of {which}, in nats.",
        family="outputs", panel="divergence", short=f"JS {short}", shown="tables",
        per_layer=False, bounds=(0.0, 0.6931471805599453),
    )  # fmt: skip


def _flips(cell: str) -> Metric:
    zsl, icl, ft = (_RIGHT[letter] for letter in cell)
    return Metric(
        f"flips_{cell}", f"Flips: {zsl}, {icl}, {ft}",
        f"Number of examples where zero-shot is {zsl}, in-context {icl} and fine-tuned {ft}.",
        family="outputs", panel="flips", short=cell, shown="summary",
        per_layer=False, bounds=(0.0, None),
    )  # fmt: skip


OUTPUT_METRICS = (
    *_distances("labels", "label words", "label words", "lab."),
    *_distances("vocabulary", "vocabulary", "the next token", "voc."),
    Metric(
        "top10_overlap", "Top-10 overlap",
        "Share of the context's 10 most probable next tokens that are among fine-tuning's.",
        family="outputs", panel="overlap", short="top 10", shown="tables", per_layer=False, bounds=(0.0, 1.0),
    ),
    Metric(
        "overlap_cosine", "Overlap cosine",
        "Cosine of the two distributions, each cut to its 10 most probable tokens.",
        family="outputs", panel="overlap", short="cosine", shown="tables", per_layer=False, bounds=(0.0, 1.0),
    ),
    Metric(
        "calibration_error", "Calibration error",
        "Mean gap, over 10 bins of equally many examples, between confidence in the predicted label and accuracy.",
        ("zsl", "icl", "ft"), family="outputs", panel="calibration", shown="tables",
        per_layer=False, bounds=(0.0, 1.0),
    ),
    *map(_flips, FLIPS),
)  # fmt: skip
