"""The files of measured rows: each belongs to settings, holds certain seeds and is verified before it is read."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from raydual.errors import UserError
from raydual.run_directory.examples import ExampleFiles, digest
from raydual.run_directory.schemas import MEASUREMENTS
from raydual.run_directory.storage import Entry, Storage
from raydual.run_directory.tables import about_of, table_bytes, with_later

Unit = tuple[int, str]
"""A seed and a control."""

# The name ends with a hash of all bytes, which finds any damage; before that was so, with a shorter one of the seeds.
_NAME = re.compile(r".+-([0-9a-f]{16})\.parquet")
_OLD_NAME = re.compile(r"seed-\d+-[0-9a-f]{12}\.parquet")
_READERS = 8
_BEFORE_SHOTS = pa.schema([field for field in MEASUREMENTS if field.name != "shots"])

Table = TypeVar("Table", pa.Table, pa.RecordBatch)
_SHOWN = 3


@dataclass(frozen=True)
class MeasurementFile:
    """A file of rows: its units, and the fingerprints of the settings they were measured with.

    `settings` is None where the file does not say, since an older version wrote it. `examples` is the file of its
    values by example, None where none were kept.
    """

    name: str
    units: tuple[Unit, ...] = ()
    settings: str | None = None
    finetune: str | None = None
    examples: str | None = None
    damage: str | None = None
    foreign: bool = False


@dataclass
class Measurements:
    """The folder of measured rows. Every file is verified once, and again only when it has changed.

    A file whose values by example, in `examples`, are damaged or gone counts as damaged.
    """

    storage: Storage
    examples: ExampleFiles
    _known: dict[Entry, MeasurementFile] = field(default_factory=dict)
    _sound: list[MeasurementFile] | None = None
    _dataset: Any = None

    def files(self) -> list[MeasurementFile]:
        """Every Parquet file, verified."""
        entries = [e for e in self.storage.list() if e.name.endswith(".parquet") and not e.name.startswith(".")]
        new = [entry for entry in entries if entry not in self._known]
        with ThreadPoolExecutor(_READERS) as pool:
            found = dict(zip(new, pool.map(self._verified, new), strict=True))
        self._known = {entry: found.get(entry) or self._known[entry] for entry in entries}
        files = list(self._known.values())
        there = self.examples.damage() if any(file.examples for file in files) else {}
        return [_with_examples(file, there, self.examples.storage) for file in files]

    def sound(self) -> list[MeasurementFile]:
        """Every Parquet file, if all can be read and no unit is in two of them.

        Raises
        ------
        UserError
            Which cannot, or which share a unit.
        """
        files = self.files()
        if self._sound == files:
            return files
        if bad := [file for file in files if file.damage]:
            raise UserError(
                f"{self._named(bad)}: {'foreign' if bad[0].foreign else 'damaged'} ({bad[0].damage}); {_remedy(bad[0])}"
            )
        self.check_once(files)
        names = [self.storage.full(file.name) for file in files]
        filesystem = self.storage.filesystem
        self._dataset = ds.dataset(names, schema=MEASUREMENTS, format="parquet", filesystem=filesystem)
        self._sound = files
        return files

    def table(self, columns: list[str], rows: pc.Expression | None = None) -> pa.Table:
        """Columns of the rows, all of them or those that fit an expression."""
        self.sound()
        try:
            return self._dataset.to_table(columns=columns, filter=rows)
        except (OSError, pa.ArrowException) as error:
            raise UserError(
                f"{self.storage}: cannot be read ({str(error).splitlines()[0]}); {_MEASURED_ANEW}"
            ) from None

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Columns of the rows, one file after another, in the order of names; strings are dictionaries."""
        strings = [name for name in columns if MEASUREMENTS.field(name).type == pa.string()]
        for file in sorted(self.sound(), key=lambda file: file.name):
            data = pa.BufferReader(self.storage.read(file.name))
            with pq.ParquetFile(data, read_dictionary=strings) as parquet:
                table = with_later(parquet.read(columns=columns, use_threads=False), MEASUREMENTS)
                yield from table.select(columns).to_batches()

    def units(self) -> set[Unit]:
        """Every (seed, control) that has rows."""
        return {unit for file in self.sound() for unit in file.units}

    def add(
        self, rows: pa.Table, settings: str | None, finetune: str | None, examples: pa.Table | None = None
    ) -> str:  # fmt: skip
        """Store the rows of a finished batch; returns the file's name, which starts with the first seed in it.

        Its values by example come first, since the rows name their file.
        """
        units = sorted(units_of(rows))
        by_control: dict[str, list[int]] = {}
        for seed, control in units:
            by_control.setdefault(control, []).append(seed)
        about: dict[str, Any] = {"settings": settings, "finetune": finetune, "units": by_control}
        if examples is not None and len(examples):
            about["examples"] = self.examples.add(examples, about)
        data = table_bytes(rows, MEASUREMENTS, about)
        name = f"seed-{units[0][0]:06d}-{digest(data)}.parquet"
        self.storage.write(name, data)
        return name

    def read(self, name: str) -> pa.Table:
        """All rows of a file."""
        return pq.read_table(pa.BufferReader(self.storage.read(name)), schema=MEASUREMENTS)

    def set_aside(self, file: MeasurementFile, suffix: str = ".damaged") -> str:
        """Give a file, and that of its values by example, a name under which it is not read; returns that name."""
        aside = f"{file.name}{suffix}"
        self.storage.rename(file.name, aside)
        if file.examples:
            self.examples.set_aside(file.examples, suffix)
        return aside

    def _verified(self, entry: Entry) -> MeasurementFile:
        if entry.folder:
            return MeasurementFile(entry.name, damage="it is a directory")
        named = _NAME.fullmatch(entry.name)
        if not named and not _OLD_NAME.fullmatch(entry.name):
            return MeasurementFile(entry.name, damage="its name is not one that a run gives", foreign=True)
        data = self.storage.read(entry.name)
        if named and digest(data) != named[1]:
            return MeasurementFile(entry.name, damage=f"{len(data)} bytes that are not those which were written")
        try:
            return _described(entry.name, data)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            return MeasurementFile(entry.name, damage=reason[:200])

    def check_once(self, files: list[MeasurementFile]) -> None:
        """Check that no unit is in two files.

        Raises
        ------
        UserError
            Which files share a unit.
        """
        seen: dict[Unit, str] = {}
        for file in files:
            for unit in file.units:
                if unit in seen:
                    seed, control = unit
                    raise UserError(
                        f"{self.storage.at(seen[unit])} and {file.name}: both hold seed {seed} (control {control}), "
                        "which would count twice; move one of them away"
                    )
                seen[unit] = file.name

    def _named(self, files: list[MeasurementFile]) -> str:
        names = [self.storage.at(files[0].name), *(file.name for file in files[1:_SHOWN])]
        return ", ".join(names) + (f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else "")


_MEASURED_ANEW = "run the sweep again with --resume, which measures the seeds of damaged files anew"


def _remedy(file: MeasurementFile) -> str:
    return "move it away" if file.foreign else _MEASURED_ANEW


def _described(name: str, data: bytes) -> MeasurementFile:
    """What a file that is whole says of itself; an older one, that says nothing, is read."""
    parquet = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    if parquet.schema_arrow.remove_metadata() not in (MEASUREMENTS.remove_metadata(), _BEFORE_SHOTS):
        return MeasurementFile(name, damage="its columns are not those of measured rows", foreign=True)
    about = about_of(parquet.schema_arrow)
    if not about:
        # Read whole, since nothing else tells whether it is damaged.
        return MeasurementFile(name, tuple(sorted(units_of(parquet.read()))))
    units = [(int(seed), control) for control, seeds in about["units"].items() for seed in seeds]
    return MeasurementFile(name, tuple(units), about["settings"], about["finetune"], about.get("examples"))


def _with_examples(file: MeasurementFile, there: Mapping[str, str | None], examples: Storage) -> MeasurementFile:
    """The file, damaged if its values by example are."""
    if not file.examples or file.damage:
        return file
    damage = there.get(file.examples, "gone")
    words = f"its values by example, {examples.at(file.examples)}, are {damage}"
    return replace(file, damage=words) if damage else file


def with_shots(table: Table, config: Callable[[], Any]) -> Table:
    """Rows of which none leaves open after how many demonstrations it was measured: those that did have the run's."""
    at = table.schema.get_field_index("shots")
    if at < 0 or not table.column(at).null_count:
        return table
    kind = table.schema.field(at)
    return table.set_column(at, kind, pc.fill_null(table.column(at), pa.scalar(config().demonstrations, kind.type)))


def units_of(table: pa.Table) -> set[Unit]:
    """Every (seed, control) of measured rows."""
    unique = table.select(["seed", "control"]).group_by(["seed", "control"]).aggregate([])
    return set(zip(unique["seed"].to_pylist(), unique["control"].to_pylist(), strict=True))


def measurement_table(rows: Iterable[Mapping[str, object]]) -> pa.Table:
    """Rows, as dictionaries with the columns of `MEASUREMENTS`, as a table."""
    return pa.Table.from_pylist(list(rows), schema=MEASUREMENTS)
