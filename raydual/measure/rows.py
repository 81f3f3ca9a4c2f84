"""From the values of examples to the rows of a seed."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from raydual.metrics.catalogue import OVERALL
from raydual.metrics.prediction import rec2ftp
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


def prediction_rows(
    seed: int,
    right: Mapping[str, Bool[np.ndarray, "examples"]],
    greedy_right: Mapping[str, Bool[np.ndarray, "examples"]],
) -> Iterator[Row]:
    """Accuracies of zsl, icl and ft, and Rec2FTP with its counts."""
    for condition, values in right.items():
        yield row(seed, "accuracy", condition, float(values.mean()), examples=len(values))
    for condition, values in greedy_right.items():
        yield row(seed, "greedy_accuracy", condition, float(values.mean()), examples=len(values))
    recall = rec2ftp(right["zsl"], right["icl"], right["ft"])
    reason = None if recall.of else "fine-tuning corrects no example that zero-shot gets wrong"
    yield row(seed, "rec2ftp", "icl-ft", recall.value, examples=recall.of, reason=reason)
    yield row(seed, "rec2ftp_both", "icl-ft", float(recall.both), examples=len(right["zsl"]))
    yield row(seed, "rec2ftp_ft", "icl-ft", float(recall.of), examples=len(right["zsl"]))
