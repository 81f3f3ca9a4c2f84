"""The kinds of tokens that demonstrations are made of, and the metrics of what each kind adds (`measures.parts`)."""

from raydual.catalogue.metric import Metric

PARTS = ("label", "text", "template", "separator")
"""In the order of precedence: a token that covers characters of several kinds belongs to the first of them."""

_NAMES = {"label": "label words", "text": "texts", "template": "template", "separator": "separators"}
_SHORT = {"label": "labels", "text": "texts", "template": "template", "separator": "sep."}


def _of_part(part: str) -> tuple[Metric, ...]:
    """What is measured of one kind of token."""
    name, short = _NAMES[part], _SHORT[part]
    return (
        Metric(
            f"lambda_{part}", f"λ, {name}",
            f"Softmax mass that the last token puts on the {name} of the demonstrations, mean over heads.",
            ("icl",), family="parts", panel="part_mass", short=short, shown="tables", bounds=(0.0, 1.0),
        ),
        Metric(
            f"update_share_{part}", f"Share of Δ, {name}",
            f"What the {name} add to the context's exact update, along it: the four kinds add up to 1.",
            ("icl",), family="parts", panel="part_share", short=short, shown="tables", bounds=(None, None),
        ),
        Metric(
            f"update_norm_{part}", f"Norm of Δ, {name}",
            f"Norm of what the {name} add to the context's exact update, over the norm of the whole.",
            ("icl",), family="parts", panel=None, shown="summary", bounds=(0.0, None),
        ),
        Metric(
            f"simdual_{part}", f"SimDual, {name}",
            f"Cosine of what the {name} add to the context's exact update with fine-tuning's, at the same inputs.",
            family="parts", panel="part_simdual", short=short, shown="tables", similarity=True,
        ),
    )  # fmt: skip


PART_METRICS = tuple(metric for kind in zip(*map(_of_part, PARTS), strict=True) for metric in kind)
