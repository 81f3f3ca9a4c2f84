"""The run directory: what lies where, with which columns; written whole or not at all, and read back."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from raydual.config import SweepConfig
from raydual.controls import MEASUREMENT
from raydual.errors import UserError
from raydual.loading import dump_config, load_config

NO_CONTROL = MEASUREMENT.name
FAILED = "failed"

MEASUREMENTS = pa.schema(
    [
        pa.field("seed", pa.int64(), False, {"description": "fixes the demonstration set"}),
        pa.field("control", pa.string(), False, {"description": "'none', or which control was run instead"}),
        pa.field("metric", pa.string(), False, {"description": "a name of the catalogue, or 'failed'"}),
        pa.field("condition", pa.string(), False, {"description": "zsl, icl, ft, or the two compared"}),
        pa.field("layer", pa.int16(), False, {"description": "from 0; -1: overall, the mean over layers"}),
        pa.field("value", pa.float64(), False, {"description": "mean over examples; NaN: undefined"}),
        pa.field("examples", pa.int32(), False, {"description": "examples (a layer: with a value) in the mean"}),
        pa.field("undefined", pa.int32(), False, {"description": "examples left out, having no value"}),
        pa.field("reason", pa.string(), True, {"description": "why the seed failed or the value is undefined"}),
    ]
)
"""One row for each (seed, control, metric, condition, layer); a failed seed has one row, with metric 'failed'."""

SUMMARY = pa.schema(
    [
        pa.field("metric", pa.string(), False),
        pa.field("condition", pa.string(), False),
        pa.field("control", pa.string(), False),
        pa.field("layer", pa.int16(), False, {"description": "from 0; -1: overall"}),
        pa.field("n", pa.int64(), False, {"description": "seeds with a value"}),
        pa.field("undefined", pa.int64(), False, {"description": "measured seeds whose value is NaN"}),
        pa.field("failed", pa.int64(), False, {"description": "seeds of this control that failed altogether"}),
        *(pa.field(name, pa.float64(), False) for name in ("mean", "sd", "min", "q25", "median", "q75", "max")),
        pa.field("ci_low", pa.float64(), False, {"description": "95 % BCa bootstrap interval of the mean"}),
        pa.field("ci_high", pa.float64(), False),
    ]
)
"""The reduced distributions over seeds."""

COMPARISONS = pa.schema(
    [
        pa.field("metric", pa.string(), False),
        pa.field("condition", pa.string(), False),
        pa.field("baseline", pa.string(), False, {"description": "the metric that it is compared with"}),
        pa.field("baseline_condition", pa.string(), False),
        pa.field("control", pa.string(), False),
        pa.field("baseline_control", pa.string(), False, {"description": "the control that the baseline is of"}),
        pa.field("layer", pa.int16(), False, {"description": "from 0; -1: overall"}),
        pa.field("n", pa.int64(), False, {"description": "seeds that have both"}),
        pa.field("difference", pa.float64(), False, {"description": "metric minus baseline, mean over seeds"}),
        pa.field("ci_low", pa.float64(), False, {"description": "95 % BCa bootstrap interval of the difference"}),
        pa.field("ci_high", pa.float64(), False),
        pa.field("above", pa.float64(), False, {"description": "share of seeds with a greater value; a tie is half"}),
        pa.field("p", pa.float64(), False, {"description": "Wilcoxon's signed-rank test, two-sided"}),
        pa.field("p_holm", pa.float64(), False, {"description": "corrected over layers; overall: over controls"}),
    ]
)
"""Every metric against its baselines, and against itself in every control, paired over seeds."""

SEED_SEARCH = pa.schema(
    [
        pa.field("seed", pa.int64(), False),
        pa.field("examples", pa.int64(), False, {"description": "selection examples seen before it was stopped"}),
        pa.field("accuracy", pa.float64(), False, {"description": "in-context accuracy on them"}),
        pa.field("stopped_at", pa.int64(), True, {"description": "slice at which it was stopped; null: never"}),
        pa.field("kept", pa.bool_(), False, {"description": "goes on to be measured"}),
        pa.field("reason", pa.string(), True, {"description": "why it could not be scored"}),
    ]
)
"""What the search over seeds tried."""

FINETUNE_SEARCH = pa.schema(
    [
        pa.field("optimizer", pa.string(), False),
        pa.field("learning_rate", pa.float64(), False),
        pa.field("epochs", pa.int64(), False),
        pa.field("accuracy", pa.float64(), False, {"description": "fine-tuned, mean over the search's seeds"}),
        pa.field("greedy_accuracy", pa.float64(), False),
        pa.field("loss", pa.float64(), False, {"description": "mean training loss over the steps; NaN: diverged"}),
        pa.field("diverged", pa.int64(), False, {"description": "seeds whose weights were no longer finite"}),
        pa.field("chosen", pa.bool_(), False),
        pa.field("reason", pa.string(), True, {"description": "why it could not be scored"}),
    ]
)
"""What the search over fine-tuning settings tried."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path that takes the place of `path` when the block ends without an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_table(path: Path, table: pa.Table, schema: pa.Schema) -> None:
    """Write a Parquet file whole or not at all, with exactly `schema`."""
    with atomic_path(path) as temporary:
        pq.write_table(table.select(schema.names).cast(schema), temporary)


class Journal:
    """Every report of the search, kept on disk so that a resumed search computes none of them again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reports: dict[str, dict[str, Any]] = {}
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue  # the line that was being written when the run was killed
                self.reports[entry["key"]] = entry["report"]

    def add(self, key: str, report: dict[str, Any]) -> None:
        """Append one report."""
        if key not in self.reports:
            self.reports[key] = report
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n" + json.dumps({"key": key, "report": report}))


def check_unused(path: Path) -> None:
    """Check that a directory may become that of a new run.

    Raises
    ------
    UserError
        Something is there.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path}: already exists; go on with it by --resume, or name another directory by --output")


@dataclass(frozen=True)
class RunDirectory:
    """One run's files. It holds no absolute path, so it can be moved."""

    path: Path

    @property
    def config_file(self) -> Path:
        """The resolved sweep."""
        return self.path / "config.yaml"

    @property
    def manifest_file(self) -> Path:
        """Versions, hardware, counts and timings; written last, so a run that has it is complete."""
        return self.path / "manifest.json"

    @property
    def search(self) -> Path:
        """The folder of what Tune tried."""
        return self.path / "search"

    @property
    def measurements(self) -> Path:
        """The folder of measured rows, one file for each finished batch of seeds."""
        return self.path / "measurements"

    @property
    def summary_file(self) -> Path:
        """The reduced distributions."""
        return self.path / "summary.parquet"

    @property
    def comparisons_file(self) -> Path:
        """The metrics against their baselines and controls, paired over seeds."""
        return self.path / "comparisons.parquet"

    @property
    def figures(self) -> Path:
        """The folder of figures."""
        return self.path / "figures"

    @property
    def report_file(self) -> Path:
        """The self-contained report."""
        return self.path / "report.html"

    def check(self, config: SweepConfig, resume: bool) -> None:
        """Check that the directory is new, or holds the same sweep and may be gone on with.

        Raises
        ------
        UserError
            It exists and `resume` is False; or `resume` and it holds no run, or one with other settings.
        """
        if resume:
            self._check_same(config)
        else:
            check_unused(self.path)

    def start(self, config: SweepConfig) -> None:
        """Make the directory and its folders, if need be, and store the sweep in a new one."""
        try:
            for folder in (self.path, self.search, self.measurements, self.figures):
                folder.mkdir(parents=True, exist_ok=True)
            if not self.config_file.is_file():
                write_text(self.config_file, dump_config(config))
        except OSError as error:
            raise UserError(f"{self.path}: cannot write the run directory: {error.strerror}") from None

    def _check_same(self, config: SweepConfig) -> None:
        if not self.config_file.is_file():
            raise UserError(f"{self.path}: nothing to resume, it holds no config.yaml; leave --resume out")
        stored = self.config()
        if stored.fingerprint() != config.fingerprint():
            now, then = config.model_dump(mode="json"), stored.model_dump(mode="json")
            changed = [key for key in now if key not in ("execution", "name") and now[key] != then[key]]
            raise UserError(
                f"{self.path}: cannot resume with other settings, {', '.join(changed)} changed; "
                "use the settings of its config.yaml, or another --output"
            )

    def config(self) -> SweepConfig:
        """The sweep as it was run."""
        return load_config(self.config_file)

    def manifest(self) -> dict[str, Any] | None:
        """The manifest, or None while the run is not complete."""
        if not self.manifest_file.is_file():
            return None
        return json.loads(self.manifest_file.read_text(encoding="utf-8"))

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Store the manifest: the run is complete."""
        write_text(self.manifest_file, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")

    def write_measurements(self, rows: pa.Table) -> Path:
        """Store the rows of one finished batch of seeds; the file's name follows from the seeds in it."""
        keys = sorted(_keys(rows))
        digest = hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:12]
        path = self.measurements / f"seed-{keys[0][0]:06d}-{digest}.parquet"
        write_table(path, rows, MEASUREMENTS)
        return path

    def measured(self, columns: list[str], rows: pc.Expression | None = None) -> pa.Table:
        """Columns of the measured rows, all of them or those that fit an expression.

        Raises
        ------
        UserError
            A file of `measurements/` is damaged.
        """
        files = sorted(str(p) for p in self.measurements.glob("*.parquet") if not p.name.startswith("."))
        try:
            return ds.dataset(files, schema=MEASUREMENTS, format="parquet").to_table(columns=columns, filter=rows)
        except (OSError, pa.ArrowException) as error:
            raise UserError(
                f"{self.measurements}: cannot be read ({str(error).splitlines()[0]}); remove the damaged file and "
                "run again with --resume, which measures its seeds anew"
            ) from None

    def measured_batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Columns of the measured rows, one file after another, in the order of names; strings are dictionaries.

        Raises
        ------
        UserError
            A file of `measurements/` is damaged.
        """
        strings = [name for name in columns if MEASUREMENTS.field(name).type == pa.string()]
        for path in sorted(p for p in self.measurements.glob("*.parquet") if not p.name.startswith(".")):
            try:
                with pq.ParquetFile(path, read_dictionary=strings) as file:
                    table = file.read(columns=columns, use_threads=False).select(columns)
            except (OSError, KeyError, pa.ArrowException) as error:
                raise UserError(
                    f"{path}: cannot be read ({str(error).splitlines()[0]}); remove it and run again with --resume, "
                    "which measures its seeds anew"
                ) from None
            yield from table.to_batches()

    def finished(self) -> set[tuple[int, str]]:
        """The (seed, control) pairs that have been measured, or failed for their own reasons."""
        return {key for rows in self.measured_batches(["seed", "control"]) for key in _keys(rows)}

    def failures(self) -> list[tuple[int, str, str]]:
        """(seed, control, reason) of every seed that failed."""
        table = self.measured(["seed", "control", "reason"], pc.field("metric") == FAILED)
        return sorted((row["seed"], row["control"], row["reason"]) for row in table.to_pylist())

    def journal(self) -> Journal:
        """The reports of the search."""
        return Journal(self.search / "journal.jsonl")

    def summary(self) -> pa.Table:
        """The reduced distributions (`SUMMARY`)."""
        return pq.read_table(self.summary_file)

    def comparisons(self) -> pa.Table:
        """The metrics against their baselines (`COMPARISONS`)."""
        return pq.read_table(self.comparisons_file)

    def seed_search(self) -> pa.Table | None:
        """What the search over seeds tried (`SEED_SEARCH`), if there was one."""
        return _read_if_there(self.search / "seeds.parquet")

    def finetune_search(self) -> pa.Table | None:
        """What the search over fine-tuning settings tried (`FINETUNE_SEARCH`), if there was one."""
        return _read_if_there(self.search / "finetune.parquet")


def _read_if_there(path: Path) -> pa.Table | None:
    return pq.read_table(path) if path.is_file() else None


def _keys(rows: pa.Table | pa.RecordBatch) -> set[tuple[int, str]]:
    table = pa.table({name: rows[name] for name in ("seed", "control")})
    unique = table.group_by(["seed", "control"]).aggregate([])
    return set(zip(unique["seed"].to_pylist(), unique["control"].to_pylist(), strict=True))


def measurement_table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Rows, as dictionaries with the columns of `MEASUREMENTS`, as a table."""
    return pa.Table.from_pylist(list(rows), schema=MEASUREMENTS)
