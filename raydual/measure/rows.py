"""From the values of examples to the rows of a seed."""

from collections.abc import Iterator
from typing import TypedDict

import numpy as np
from jaxtyping import Float

from raydual.catalogue.entries import OVERALL
from raydual.catalogue.marks import Value
from raydual.run_directory.directory import FAILED, NO_CONTROL


class Row(TypedDict):
    """A measured number, as the measurements' schema has it (`run_directory/schemas.py` describes each column).

    `shots` is filled in by what measures, and where the row is stored if that failed.
    """

    seed: int
    control: str
    shots: int | None
    metric: str
    condition: str
    layer: int
    value: float
    examples: int
    undefined: int
    reason: str | None


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
        "shots": None,
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


def value_row(seed: int, metric: str, condition: str, found: Value) -> Row:
    """The row of a number that has no layers."""
    return row(seed, metric, condition, found.value, examples=found.examples, reason=found.reason)


def example_row(seed: int, metric: str, condition: str, values: Float[np.ndarray, "examples"]) -> Row:
    """The row of a metric without layers: the mean over the examples that have a value."""
    defined = values[~np.isnan(values)]
    count = len(defined)
    return row(
        seed, metric, condition, float(defined.mean()) if count else float("nan"), examples=count,
        undefined=len(values) - count, reason=_why(count),
    )  # fmt: skip


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
