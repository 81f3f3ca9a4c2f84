"""The run directory: what lies where; on a local disk or an object store."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raydual.catalogue.entries import FAILED
from raydual.errors import UserError
from raydual.run_directory.examples import ExampleFiles, check_columns
from raydual.run_directory.journal import Journal
from raydual.run_directory.lock import INSTEAD, SUFFIX, locked
from raydual.run_directory.measurements import Measurements, measurement_table, with_shots
from raydual.run_directory.schemas import COMPARISONS, FINETUNE_SEARCH, MEASUREMENTS, SEED_SEARCH, SUMMARY
from raydual.run_directory.storage import RESUME, Storage, storage_at
from raydual.run_directory.tables import content_of, read_table, table_bytes, write_table, write_text
from raydual.settings.controls import MEASUREMENT
from raydual.settings.reading import dump_config, stored_config
from raydual.settings.schema import Finetune, SweepConfig

__all__ = [
    "COMPARISONS",
    "FAILED",
    "FINETUNE_SEARCH",
    "MEASUREMENTS",
    "NO_CONTROL",
    "SEED_SEARCH",
    "SUMMARY",
    "RunDirectory",
    "measurement_table",
    "write_table",
    "write_text",
]

NO_CONTROL = MEASUREMENT.name

CONFIG, MANIFEST, ADDITIONS = "config.yaml", "manifest.json", "additions.json"
SEARCHES = {"search/seeds.parquet": SEED_SEARCH, "search/finetune.parquet": FINETUNE_SEARCH}
_MADE_ANEW = "run the sweep again with --resume, which makes it anew"
_FOLDERS = ("search", "measurements", "examples", "figures")


class RunDirectory:
    """One run's files, at a local path or a URL (`storage_at`). It holds no absolute path, so it can be moved."""

    def __init__(self, where: Path | str | Storage) -> None:
        self.storage = where if isinstance(where, Storage) else storage_at(where, RESUME)
        self._made, self._new = False, False
        self._belonging: tuple[str, str | None] | None = None

    def __str__(self) -> str:
        return str(self.storage)

    # Paths, of a run on a local disk.

    @property
    def path(self) -> Path:
        """The directory."""
        return self.storage.path()

    @property
    def config_file(self) -> Path:
        """The resolved sweep."""
        return self.storage.path(CONFIG)

    @property
    def manifest_file(self) -> Path:
        """Versions, hardware, counts and timings; written last, so a run that has it is complete."""
        return self.storage.path(MANIFEST)

    @property
    def search(self) -> Path:
        """The folder of what Tune tried."""
        return self.storage.path("search")

    @property
    def measurements(self) -> Path:
        """The folder of measured rows, one file for each finished batch of seeds."""
        return self.storage.path("measurements")

    @property
    def summary_file(self) -> Path:
        """The reduced distributions."""
        return self.storage.path("summary.parquet")

    @property
    def comparisons_file(self) -> Path:
        """The metrics against their baselines and controls, paired over seeds."""
        return self.storage.path("comparisons.parquet")

    @property
    def figures(self) -> Path:
        """The folder of figures."""
        return self.storage.path("figures")

    @property
    def report_file(self) -> Path:
        """The self-contained report."""
        return self.storage.path("report.html")

    # Starting and ending.

    @contextmanager
    def locked(self, say: Callable[[str], None], instead: str = INSTEAD) -> Iterator[None]:
        """Hold the directory against other drivers; one that holds nothing in the end is removed.

        `say` is told what was taken over from a driver that is gone, `instead` is told if one is at work.

        Raises
        ------
        UserError
            Another driver holds it.
        """
        self._new = self.storage.make()
        try:
            with locked(self.storage, say, instead):
                remove_temporary(self.storage, *_FOLDERS)
                yield
        finally:
            self.discard_if_empty()

    def start(self, config: SweepConfig) -> None:
        """Make the directory and its folders, if need be, and store the sweep unless it is there."""
        self.storage.make(*_FOLDERS)
        text = dump_config(config)
        if self.damaged_config() or not self.has_config():
            self.storage.write(CONFIG, text.encode())
            self._made, self._belonging = True, None

    def discard_if_empty(self) -> None:
        """Remove what `start` made if nothing has been stored since."""
        with contextlib.suppress(UserError, OSError):
            if self._made and is_unused(self.storage):
                self.storage.remove(CONFIG)
                self._made = False
                self.storage.remove_empty(*_FOLDERS, itself=self._new)
            elif self._new:
                self.storage.remove_empty(itself=True)

    # The settings.

    def has_config(self) -> bool:
        """Whether there is a run at all."""
        return self.storage.exists(CONFIG)

    def config(self, overrides: Sequence[str] = ()) -> SweepConfig:
        """The sweep as it was run, with `key=value` overrides."""
        return stored_config(self.storage.read_text(CONFIG), self.storage.at(CONFIG), overrides)

    def additions(self) -> list[dict[str, Any]]:
        """What was added to the run since it began (`run_directory/extension.py`), and the fingerprint before."""
        if not self.storage.exists(ADDITIONS):
            return []
        try:
            found = json.loads(self.storage.read_text(ADDITIONS))
            return [{**entry, "before": str(entry["before"])} for entry in found]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.storage.at(ADDITIONS)}: damaged ({error}); put it back as it was") from None

    def accepted(self, config: SweepConfig) -> set[str]:
        """The fingerprints that files of a sweep may bear: older versions wrote that of the plan of units too."""
        found = {config.number_fingerprint(), config.fingerprint(), *(entry["before"] for entry in self.additions())}
        with contextlib.suppress(UserError, FileNotFoundError):
            stored = self.config()
            if stored.number_fingerprint() == config.number_fingerprint():
                found.add(stored.fingerprint())
        return found

    def damaged_config(self) -> bool:
        """Whether something is there in place of the settings that cannot be read as such."""
        if not self.has_config():
            return any(entry.name == CONFIG for entry in self.storage.list())
        try:
            self.config()
        except UserError:
            return True
        return False

    def finetune(self, config: SweepConfig) -> Finetune | None:
        """The fine-tuning settings that the rows are measured with; None: the search has not chosen them yet."""
        if config.search.finetune is None:
            return config.finetune
        tried = self.finetune_search()
        if tried is None:
            return None
        chosen = [row for row in tried.to_pylist() if row["chosen"]]
        if len(chosen) != 1:
            raise UserError(
                f"{self.storage.at('search/finetune.parquet')}: damaged ({len(chosen)} settings are marked as chosen); "
                f"{_MADE_ANEW}"
            )
        best = chosen[0]
        return config.finetune.model_copy(update={n: best[n] for n in ("optimizer", "learning_rate", "epochs")})

    # What was searched.

    def journal(self, say: Callable[[str], None] = print) -> Journal:
        """Every report of the search so far."""
        config = self.config()
        return Journal(self.storage.sub("search"), config.number_fingerprint(), say, self.accepted(config))

    def seed_search(self) -> pa.Table | None:
        """What the search over seeds tried (`SEED_SEARCH`), if there was one."""
        return self._searched("search/seeds.parquet")

    def finetune_search(self) -> pa.Table | None:
        """What the search over fine-tuning settings tried (`FINETUNE_SEARCH`), if there was one."""
        return self._searched("search/finetune.parquet")

    def write_seed_search(self, table: pa.Table) -> None:
        """Store what the search over seeds tried."""
        self._write_searched("search/seeds.parquet", table)

    def write_finetune_search(self, table: pa.Table) -> None:
        """Store what the search over fine-tuning settings tried."""
        self._write_searched("search/finetune.parquet", table)

    def _searched(self, name: str) -> pa.Table | None:
        if not self.storage.exists(name) and not any(e.name == Path(name).name for e in self.storage.list("search")):
            return None
        return read_table(self.storage, name, SEARCHES[name], _MADE_ANEW)

    def _write_searched(self, name: str, table: pa.Table) -> None:
        schema = SEARCHES[name]
        table = table.select(schema.names).cast(schema)
        about = {"settings": self.config().number_fingerprint(), "content": content_of(table)}
        self.storage.write(name, table_bytes(table, schema, about))

    # What was measured.

    @cached_property
    def rows(self) -> Measurements:
        """The files of measured rows."""
        return Measurements(self.storage.sub("measurements"), ExampleFiles(self.storage.sub("examples")))

    def write_measurements(self, rows: pa.Table, examples: pa.Table | None = None) -> str:
        """Store the rows of one finished batch of seeds, and its values by example; returns the rows' file's name."""
        if self._belonging is None or self._belonging[1] is None:
            config = self.config()
            chosen = self.finetune(config)
            self._belonging = (config.number_fingerprint(), fingerprint_of(chosen) if chosen else None)
        return self.rows.add(with_shots(rows, self.config), *self._belonging, examples)

    def measured(self, columns: list[str], rows: pc.Expression | None = None) -> pa.Table:
        """Columns of the measured rows, all of them or those that fit an expression.

        Raises
        ------
        UserError
            A file of `measurements/` is damaged, or rows are there twice.
        """
        return with_shots(self.rows.table(columns, rows), self.config)

    def measured_batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Columns of the measured rows, one file after another, in the order of names; strings are dictionaries.

        Raises
        ------
        UserError
            As `measured`.
        """
        return (with_shots(rows, self.config) for rows in self.rows.batches(columns))

    def example_tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The values by example (docs/examples.md), one file after another, all columns or some.

        Raises
        ------
        UserError
            There are none, or no such column; or a file is damaged.
        """
        files = self.rows.examples
        names = sorted(file.examples for file in self.rows.sound() if file.examples)
        if not names:
            raise UserError(
                f"{self}: keeps no values by example (an older version, or `examples: off`); measure into another "
                "directory to have them"
            )
        if columns is not None:
            check_columns(columns, files.columns(names[0]), str(files.storage))
        for name in names:
            yield files.read(name, columns)

    def finished(self) -> set[tuple[int, str]]:
        """The (seed, control) pairs that have been measured, or failed for their own reasons."""
        return self.rows.units()

    def failures(self) -> list[tuple[int, str, str]]:
        """(seed, control, reason) of every seed that failed."""
        table = self.measured(["seed", "control", "reason"], pc.field("metric") == FAILED)
        return sorted((row["seed"], row["control"], row["reason"]) for row in table.to_pylist())

    # What was made of it.

    def summary(self) -> pa.Table:
        """The reduced distributions (`SUMMARY`)."""
        return with_shots(read_table(self.storage, "summary.parquet", SUMMARY, made_again(self.storage)), self.config)

    def comparisons(self) -> pa.Table:
        """The metrics against their baselines (`COMPARISONS`)."""
        table = read_table(self.storage, "comparisons.parquet", COMPARISONS, made_again(self.storage))
        return with_shots(table, self.config)

    def write_summary(self, summary: pa.Table, comparisons: pa.Table, headline: dict[str, Any]) -> None:
        """Store the distributions, the comparisons and the overall numbers."""
        self.storage.write("summary.parquet", table_bytes(summary, SUMMARY))
        self.storage.write("comparisons.parquet", table_bytes(comparisons, COMPARISONS))
        self.storage.write("summary.json", json_bytes(headline))

    def manifest(self) -> dict[str, Any] | None:
        """The manifest, or None while the run is not complete.

        Raises
        ------
        UserError
            It is damaged.
        """
        if not self.storage.exists(MANIFEST):
            return None
        try:
            found = json.loads(self.storage.read_text(MANIFEST))
            if not all(
                isinstance(found[key], dict) for key in ("seeds", "finetune", "seconds", "hardware", "versions")
            ):
                raise ValueError("it lacks what a manifest has")
            int(found["seeds"]["measured"]), int(found["seeds"].get("controls", 0)), list(found["seeds"]["failed"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.storage.at(MANIFEST)}: damaged ({error}); {_MADE_ANEW}") from None
        return found

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Store the manifest: the run is complete."""
        self.storage.write(MANIFEST, json_bytes(manifest))


def fingerprint_of(finetune: Finetune) -> str:
    """A hash of fine-tuning settings."""
    return hashlib.sha256(json.dumps(finetune.identity(), sort_keys=True).encode()).hexdigest()[:16]


def json_bytes(content: dict[str, Any] | list[Any]) -> bytes:
    """A JSON file."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def made_again(storage: Storage) -> str:
    """What makes summary and report again."""
    return f"make it again with `raydual report {storage}`"


def is_unused(storage: Storage, also: Sequence[str] = ()) -> bool:
    """Whether nothing is there, `also` aside, but what a run that stored nothing leaves: settings that it wrote."""
    for entry in storage.list(below=True):
        name = entry.name.rsplit("/", 1)[-1]
        if entry.folder or entry.name in also or name.endswith((SUFFIX, ".tmp")):
            continue
        if name != CONFIG:
            return False
        with contextlib.suppress(UserError):
            text = storage.read_text(entry.name)
            if text == dump_config(stored_config(text, storage.at(entry.name))):
                continue
        return False
    return True


def check_unused(storage: Storage) -> None:
    """Check that a directory may become that of a new run.

    Raises
    ------
    UserError
        Something is there.
    """
    there = storage.list()
    if (storage.local and storage.path().exists() and not storage.path().is_dir()) or (
        there and not is_unused(storage)
    ):
        raise UserError(f"{storage}: already exists; go on with it by --resume, or name another directory by --output")


def remove_temporary(storage: Storage, *folders: str) -> None:
    """Remove what killed drivers were writing; only for who holds the lock."""
    for folder in ("", *folders):
        prefix = f"{folder}/" if folder else ""
        for entry in storage.list(folder):
            if entry.name.startswith(".") and entry.name.endswith(".tmp"):
                storage.remove(prefix + entry.name)
