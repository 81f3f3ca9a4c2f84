"""From the values of examples to the rows of a seed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from raydual.metrics.catalogue import OVERALL, of_label
from raydual.metrics.prediction import jaccard, kappa, rec2ftp, reverse_recall
from raydual.results import FAILED, NO_CONTROL

Row = dict[str, Any]


def row(
    seed: int,
    metric: str,
    condition: str,
    value: float,
    *,
    layer: int = OVERALL,
    examples: int = 0,
    undefined: int = 0,
    reason: str | None = None,
) -> Row:
    """One row of the measurements' schema."""
    return {
        "seed": seed,
        "control": NO_CONTROL,
        "metric": metric,
        "condition": condition,
        "layer": layer,
        "value": value,
        "examples": examples,
        "undefined": undefined,
        "reason": reason,
    }


def failure_row(seed: int, reason: str) -> Row:
    """The one row of a seed that could not be measured."""
    return row(seed, FAILED, "", float("nan"), reason=reason)


def layer_rows(seed: int, metric: str, condition: str, values: Float[np.ndarray, "examples layers"]) -> Iterator[Row]:
    """A row for each layer, the mean over the examples that have a value, and the overall row.

    Overall is the mean of the layers that have a value; its counts are of (example, layer) pairs.
    """
    defined = ~np.isnan(values)
    counts = defined.sum(axis=0)
    sums = np.where(defined, values, 0.0).sum(axis=0)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    for layer, (mean, count) in enumerate(zip(means, counts, strict=True)):
        yield row(
            seed, metric, condition, float(mean), layer=layer, examples=int(count),
            undefined=int(len(values) - count), reason=_why(int(count)),
        )  # fmt: skip
    total = int(counts.sum())
    overall = float(means[counts > 0].mean()) if total else float("nan")
    yield row(
        seed,
        metric,
        condition,
        overall,
        examples=total,
        undefined=int(values.size - total),
        reason=_why(total),
    )


def _why(count: int) -> str | None:
    return None if count else "no example has a value: a vector or ranking compared is constant, zero or empty"


@dataclass(frozen=True)
class Predictions:
    """What one condition predicted: label ids `[examples]`, and whether the label and the greedy token are right."""

    label: Int[np.ndarray, "examples"]
    right: Bool[np.ndarray, "examples"]
    greedy_right: Bool[np.ndarray, "examples"]


def prediction_rows(
    seed: int, zsl: Predictions, icl: Predictions, ft: Predictions, gold: Int[np.ndarray, "examples"], labels: int
) -> Iterator[Row]:
    """Accuracies, the recalls with their counts, and the agreement of icl and ft."""
    for condition, found in (("zsl", zsl), ("icl", icl), ("ft", ft)):
        count = len(found.right)
        yield row(seed, "accuracy", condition, float(found.right.mean()), examples=count)
        yield row(seed, "greedy_accuracy", condition, float(found.greedy_right.mean()), examples=count)
    yield from _recall_rows(seed, zsl, icl, ft)
    count = len(zsl.label)
    changed = jaccard(zsl.label, icl.label, ft.label)
    reason = None if changed == changed else "neither the context nor fine-tuning changes a prediction"
    yield row(seed, "jaccard", "icl-ft", changed, examples=count, reason=reason)
    alike = icl.label == ft.label
    yield row(seed, "agreement", "icl-ft", float(alike.mean()), examples=count)
    for label in range(labels):
        of_gold = alike[gold == label]
        share, reason = (float(of_gold.mean()), None) if len(of_gold) else (float("nan"), "no example has this label")
        yield row(seed, "agreement", of_label("icl-ft", label), share, examples=len(of_gold), reason=reason)
    agreement = kappa(icl.label, ft.label, labels)
    reason = None if agreement == agreement else "context and fine-tuning predict one and the same label throughout"
    yield row(seed, "kappa", "icl-ft", agreement, examples=count, reason=reason)


def _recall_rows(seed: int, zsl: Predictions, icl: Predictions, ft: Predictions) -> Iterator[Row]:
    right = (zsl.right, icl.right, ft.right)
    recall, reverse = rec2ftp(*right), reverse_recall(*right)
    reason = None if recall.of else "fine-tuning corrects no example that zero-shot gets wrong"
    yield row(seed, "rec2ftp", "icl-ft", recall.value, examples=recall.of, reason=reason)
    yield row(seed, "rec2ftp_both", "icl-ft", float(recall.both), examples=len(zsl.right))
    yield row(seed, "rec2ftp_ft", "icl-ft", float(recall.of), examples=len(zsl.right))
    reason = None if reverse.of else "the context corrects no example that zero-shot gets wrong"
    yield row(seed, "reverse_recall", "icl-ft", reverse.value, examples=reverse.of, reason=reason)
