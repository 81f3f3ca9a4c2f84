"""From the values of one seed's examples to its rows of `examples/`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from raydual.catalogue.entries import Catalogue, Key
from raydual.measure.prediction_metrics import SeedPredictions
from raydual.measure.rows import Row
from raydual.run_directory.schemas import ARMS, EXAMPLES, heads_field, layers_field, score_field, value_field
from raydual.settings.controls import MEASUREMENT
from raydual.settings.schema import Kept

Column = tuple[pa.Field, pa.Array]


@dataclass(frozen=True)
class Found:
    """What measuring some seeds gave: their rows, and a table of `examples/` for each seed that could be measured."""

    rows: list[Row]
    examples: list[pa.Table]

    @classmethod
    def joined(cls, parts: Iterable["Found"], control: str = MEASUREMENT.name) -> "Found":
        """All of them, as rows of a control."""
        listed = list(parts)
        rows: list[Row] = [{**row, "control": control} for part in listed for row in part.rows]
        return cls(rows, [of_control(table, control) for part in listed for table in part.examples])


def of_control(table: pa.Table, control: str) -> pa.Table:
    """The same examples as those of a control."""
    names = pa.array([control] * len(table), pa.string())
    return table.set_column(EXAMPLES.get_field_index("control"), EXAMPLES.field("control"), names)


def example_table(
    seed: int,
    predictions: SeedPredictions,
    values: Mapping[Key, Float[np.ndarray, "..."]],
    heads: Mapping[Key, Float[np.ndarray, "examples layers heads"]],
    words: Sequence[str],
    catalogue: Catalogue,
    kept: Kept,
) -> pa.Table:
    """One seed's rows of `examples/`.

    Parameters
    ----------
    values : `[examples, layers]`, or `[examples]` of metrics without layers, by (metric, condition); a metric that is
        measured on the first few examples alone has as many.
    heads : values of heads, of the metrics that have them and where they are `kept`.
    words : the task's label words, which name the columns of scores.
    """
    columns = [*_predicted(seed, predictions), *_scored(predictions, words)]
    keys = [(m.name, condition) for m in catalogue.values() for condition in m.conditions]
    for key in keys:
        if key in values:
            columns += _valued(key, values[key], heads.get(key), predictions.examples, kept)
    fields, arrays = zip(*columns, strict=True)
    return pa.Table.from_arrays(list(arrays), schema=pa.schema(fields))


def _predicted(seed: int, found: SeedPredictions) -> Iterator[Column]:
    count = found.examples
    arrays = {
        "seed": np.full(count, seed), "control": [MEASUREMENT.name] * count, "example": np.arange(count),
        "gold": found.gold,
    }  # fmt: skip
    for arm in ARMS:
        one = found.by_condition[arm]
        arrays |= {f"prediction.{arm}": one.label, f"right.{arm}": one.right, f"greedy_right.{arm}": one.greedy_right}
    for field in EXAMPLES:
        yield field, pa.array(arrays[field.name], field.type)


def _scored(found: SeedPredictions, words: Sequence[str]) -> Iterator[Column]:
    for arm in ARMS:
        for label, word in enumerate(words):
            yield score_field(arm, word), pa.array(found.by_condition[arm].scores[:, label], pa.float32())


def _valued(
    key: Key, values: np.ndarray, heads: np.ndarray | None, examples: int, kept: Kept
) -> Iterator[Column]:  # fmt: skip
    overall = values if values.ndim == 1 else _mean_of_defined(values)
    yield _column(value_field(*key), overall, examples)
    if kept in ("layers", "heads") and values.ndim == 2:
        yield _column(layers_field(*key, values.shape[1]), values, examples)
    if kept == "heads" and heads is not None:
        yield _column(heads_field(*key, *heads.shape[1:]), heads, examples)


def _mean_of_defined(values: Float[np.ndarray, "examples layers"]) -> Float[np.ndarray, "examples"]:
    """The mean over the layers that have a value; NaN where none has one."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=1)
    return np.where(count > 0, np.where(defined, values, 0.0).sum(axis=1) / np.maximum(count, 1), np.nan)


def _column(field: pa.Field, values: np.ndarray, examples: int) -> Column:
    """Values of the first examples; the others are null."""
    flat = pa.array(np.ascontiguousarray(values, dtype=np.float32).ravel())
    array = flat
    for size in reversed(values.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    array = array.cast(field.type)
    if len(values) < examples:
        array = pa.concat_arrays([array, pa.nulls(examples - len(values), field.type)])
    return field, array
