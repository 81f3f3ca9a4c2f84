"""Measured rows gathered by metric and condition in one pass over the files of a run, on disk where memory is short."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int, Int32

from raydual.catalogue.metric import OVERALL
from raydual.errors import UserError
from raydual.run_directory.directory import FAILED, NO_CONTROL, RunDirectory
from raydual.settings.controls import report_order

Key = tuple[str, str]
"""A metric and its condition."""


class Variant(NamedTuple):
    """A control, and after how many demonstrations it was measured."""

    control: str
    shots: int


_COLUMNS = ["seed", "control", "shots", "metric", "condition", "layer", "value", "examples", "reason"]
_RECORD = np.dtype(
    [("seed", np.int32), ("variant", np.int32), ("layer", np.int16), ("examples", np.int32), ("value", np.float64)]
)
_SCATTERED_ROWS = 500_000
_HELD_ROWS = 4_000_000
_READ_RECORDS = 1_000_000


@dataclass(frozen=True)
class Values:
    """A metric under one condition: the value of each variant, layer and seed, and which of them were measured.

    `examples` is how many are in the overall value.
    """

    variants: Sequence[Variant]
    layers: Int[np.ndarray, "layers"]
    seeds: Int[np.ndarray, "seeds"]
    values: Float[np.ndarray, "variants layers seeds"]
    measured: Bool[np.ndarray, "variants layers seeds"]
    examples: Int32[np.ndarray, "variants seeds"]


class Codes:
    """Numbers for names or seeds, from 0 in the order in which they are first met."""

    def __init__(self) -> None:
        self.of: dict[Any, int] = {}

    def encode(self, found: Sequence[Any]) -> Int[np.ndarray, "_"]:
        """The number of each."""
        return np.array([self.of.setdefault(one, len(self.of)) for one in found], dtype=np.int64)

    def column(self, column: pa.DictionaryArray) -> Int[np.ndarray, "rows"]:
        """The number of each row's name."""
        return self.encode(column.dictionary.to_pylist())[column.indices.to_numpy()]


class Bucket:
    """The rows of one metric and condition, in the order in which they were read; first in memory, then in a file."""

    def __init__(self) -> None:
        self.held: list[np.ndarray] = []
        self.file: IO[bytes] | None = None

    def spill(self) -> None:
        """Move what is held in memory to a file that has no name, so that nothing is left of it whatever happens."""
        if self.file is None:
            # Unbuffered, so that closing a file on a full disk has nothing left to write.
            self.file = tempfile.TemporaryFile(prefix="raydual-reduce-", buffering=0)  # noqa: SIM115  # see `close`
        for records in self.held:
            rest = records.view(np.uint8).data
            while rest:
                rest = rest[self.file.write(rest) :]
        self.held = []

    def records(self) -> Iterator[np.ndarray]:
        """The rows, some at a time."""
        if self.file is not None:
            self.file.seek(0)
            while block := self.file.read(_READ_RECORDS * _RECORD.itemsize):
                yield np.frombuffer(block, _RECORD)
            self.file.seek(0, 2)
        yield from self.held

    def close(self) -> None:
        """Let go of memory and file."""
        self.held = []
        if self.file is not None:
            self.file.close()


class Buckets:
    """A bucket for each metric and condition, with who failed and how many rows and measured seeds there are."""

    def __init__(self) -> None:
        self.rows = 0
        self.failures: list[tuple[int, str, str]] = []
        self._buckets: dict[Key, Bucket] = {}
        self._seeds, self._controls, self._metrics, self._conditions = Codes(), Codes(), Codes(), Codes()
        self._variants = Codes()
        self._unscattered: list[tuple[np.ndarray, np.ndarray]] = []
        self._waiting = self._held = 0
        self._finished: set[int] = set()

    def __enter__(self) -> "Buckets":
        return self

    def __exit__(self, *_: object) -> None:
        for bucket in self._buckets.values():
            bucket.close()

    @property
    def finished(self) -> set[int]:
        """The seeds that were measured, or failed for their own reasons, without a control."""
        seeds = list(self._seeds.of)
        return {seeds[code] for code in self._finished}

    def add(self, rows: pa.RecordBatch) -> None:
        """Take in rows of the columns that `gather` reads."""
        seeds, place = np.unique(rows["seed"].to_numpy(), return_inverse=True)
        records = np.empty(len(rows), _RECORD)
        records["seed"] = self._seeds.encode(seeds.tolist())[place]
        controls = self._controls.column(rows["control"])
        records["variant"] = self._variant_codes(controls, rows["shots"].to_numpy())
        records["layer"] = rows["layer"].to_numpy()
        records["value"] = rows["value"].to_numpy()
        records["examples"] = rows["examples"].to_numpy()
        metrics = self._metrics.column(rows["metric"])
        self._note_failures(rows, metrics)
        plain = self._controls.of.get(NO_CONTROL, -1)
        self._finished.update(np.unique(records["seed"][controls == plain]).tolist())
        keys = metrics << 16 | self._conditions.column(rows["condition"])
        self._unscattered.append((keys, records))
        self.rows += len(rows)
        self._waiting += len(rows)
        if self._waiting >= _SCATTERED_ROWS:
            self.scatter()

    def _variant_codes(
        self, controls: Int[np.ndarray, "rows"], shots: Int[np.ndarray, "rows"]
    ) -> Int[np.ndarray, "rows"]:
        """The code of each row's variant."""
        found, place = np.unique(np.stack([controls, shots]), axis=1, return_inverse=True)
        names = list(self._controls.of)
        return self._variants.encode([Variant(names[control], k) for control, k in found.T.tolist()])[place.ravel()]

    def _note_failures(self, rows: pa.RecordBatch, metrics: Int[np.ndarray, "rows"]) -> None:
        failed = np.flatnonzero(metrics == self._metrics.of.get(FAILED, -1))
        for row in rows.select(["seed", "control", "reason"]).take(failed).to_pylist() if len(failed) else ():
            self.failures.append((row["seed"], row["control"], row["reason"]))

    def scatter(self) -> None:
        """Move the rows that wait into their buckets, and buckets to disk once they hold much together."""
        if not self._unscattered:
            return
        keys, records = (np.concatenate(parts) for parts in zip(*self._unscattered, strict=True))
        order = np.argsort(keys, kind="stable")
        keys, records = keys[order], records[order]
        found, starts = np.unique(keys, return_index=True)
        names = list(self._metrics.of), list(self._conditions.of)
        for key, part in zip(found.tolist(), np.split(records, starts[1:]), strict=True):
            bucket = self._buckets.setdefault((names[0][key >> 16], names[1][key & 0xFFFF]), Bucket())
            bucket.held.append(part)
        self._unscattered, self._waiting, self._held = [], 0, self._held + len(records)
        if self._held >= _HELD_ROWS:
            self._spill()

    def _spill(self) -> None:
        try:
            for bucket in self._buckets.values():
                bucket.spill()
        except OSError as error:
            raise UserError(
                f"{tempfile.gettempdir()}: cannot hold the rows while they are reduced ({error.strerror}); make room "
                f"for {_RECORD.itemsize} bytes a row, or set TMPDIR to another folder"
            ) from None
        self._held = 0

    def values(self, metric: str, condition: str) -> Values:
        """The values of one metric and condition; of a row that is there twice, the one that was read last."""
        bucket = self._buckets.get((metric, condition), Bucket())
        variants, layers, seeds = self._present(bucket)
        # Codes are in the order of reading, places in the order of variants and seeds.
        variant_at, seed_at = _places(variants, len(self._variants.of)), _places(seeds, len(self._seeds.of))
        values = np.full((len(variants), len(layers), len(seeds)), np.nan)
        measured = np.zeros(values.shape, bool)
        examples = np.zeros((len(variants), len(seeds)), np.int32)
        for records in bucket.records():
            at = variant_at[records["variant"]], np.searchsorted(layers, records["layer"]), seed_at[records["seed"]]
            values[at] = records["value"]
            measured[at] = True
            overall = records["layer"] == OVERALL
            examples[at[0][overall], at[2][overall]] = records["examples"][overall]
        names = list(self._variants.of)
        return Values([names[code] for code in variants], layers, self._all_seeds()[seeds], values, measured, examples)

    def _present(
        self, bucket: Bucket
    ) -> tuple[Int[np.ndarray, "variants"], Int[np.ndarray, "layers"], Int[np.ndarray, "seeds"]]:
        """The codes of the variants, the layers, and the codes of the seeds that are in a bucket, each in order."""
        variants: set[int] = set()
        layers: set[int] = set()
        seeds = np.zeros(len(self._seeds.of), bool)
        for records in bucket.records():
            variants.update(np.unique(records["variant"]).tolist())
            layers.update(np.unique(records["layer"]).tolist())
            seeds[records["seed"]] = True
        names, present = list(self._variants.of), np.flatnonzero(seeds)

        def in_order(code: int) -> tuple[tuple[int, str], int]:
            return report_order(names[code].control), -names[code].shots

        return (
            np.array(sorted(variants, key=in_order), dtype=np.int64),
            np.array(sorted(layers), dtype=np.int64),
            present[np.argsort(self._all_seeds()[present])],
        )

    def _all_seeds(self) -> Int[np.ndarray, "seeds"]:
        """The seed of each code."""
        return np.fromiter(self._seeds.of, np.int64, len(self._seeds.of))


def _places(codes: Int[np.ndarray, "present"], count: int) -> Int[np.ndarray, "count"]:
    """Where each of `count` codes is among those that are present."""
    places = np.full(count, -1)
    places[codes] = np.arange(len(codes))
    return places


def gather(run: RunDirectory) -> Buckets:
    """Read every measurement file of a run once."""
    buckets = Buckets()
    for rows in run.measured_batches(_COLUMNS):
        buckets.add(rows)
    buckets.scatter()
    buckets.failures.sort()
    return buckets
