"""The files of values by example: one beside each file of measured rows, which names it."""

import hashlib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from raydual.errors import UserError, did_you_mean
from raydual.run_directory.schemas import EXAMPLES
from raydual.run_directory.storage import Entry, Storage
from raydual.run_directory.tables import table_bytes

_NAME = re.compile(r".+-([0-9a-f]{16})\.parquet")
_READERS = 8


@dataclass
class ExampleFiles:
    """The folder of values by example. The name of a file ends with a hash of its bytes, which finds any damage."""

    storage: Storage
    _known: dict[Entry, str | None] = field(default_factory=dict)

    def add(self, table: pa.Table, about: dict[str, object]) -> str:
        """Store the values of a finished batch; returns the file's name."""
        data = table_bytes(table, table.schema, about)
        name = f"seed-{min(table['seed'].to_pylist()):06d}-{digest(data)}.parquet"
        self.storage.write(name, data)
        return name

    def read(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Columns of a file, all by default; those that it has."""
        with pq.ParquetFile(pa.BufferReader(self.storage.read(name))) as parquet:
            there = parquet.schema_arrow.names
            kept = None if columns is None else [column for column in columns if column in there]
            table = parquet.read(columns=kept, use_threads=False)
        return table.select(kept or table.column_names).replace_schema_metadata(None)

    def columns(self, name: str) -> list[str]:
        """The names of a file's columns."""
        with pq.ParquetFile(pa.BufferReader(self.storage.read(name))) as parquet:
            return parquet.schema_arrow.names

    def damage(self) -> dict[str, str | None]:
        """What is wrong with each file, None if nothing is; every one is read once, and again only if it changed."""
        entries = [e for e in self.storage.list() if e.name.endswith(".parquet") and not e.name.startswith(".")]
        new = [entry for entry in entries if entry not in self._known]
        with ThreadPoolExecutor(_READERS) as pool:
            found = dict(zip(new, pool.map(self._damage, new), strict=True))
        self._known = {entry: found[entry] if entry in found else self._known[entry] for entry in entries}
        return {entry.name: damage for entry, damage in self._known.items()}

    def set_aside(self, name: str, suffix: str) -> None:
        """Give a file a name under which it is not read, if it is there."""
        if any(entry.name == name for entry in self.storage.list()):
            self.storage.rename(name, f"{name}{suffix}")

    def remove_all_but(self, names: set[str]) -> None:
        """Remove whole files that no rows name: their batch was not finished; only for who holds the run's lock."""
        for name, damage in self.damage().items():
            if name not in names and _NAME.fullmatch(name) and not damage:
                self.storage.remove(name)

    def _damage(self, entry: Entry) -> str | None:
        if entry.folder:
            return "a directory"
        named = _NAME.fullmatch(entry.name)
        return None if named and digest(self.storage.read(entry.name)) == named[1] else "damaged"


def digest(data: bytes | pa.Buffer) -> str:
    """The hash of bytes that ends a file's name."""
    return hashlib.sha256(data).hexdigest()[:16]


def check_columns(columns: Sequence[str], there: Sequence[str], place: str) -> None:
    """Check that all columns are among those that are there.

    Raises
    ------
    UserError
        Which is not.
    """
    for column in columns:
        if column not in there:
            close = did_you_mean(column, there) or f"; there are {', '.join(EXAMPLES.names[:4])}, …, {there[-1]}"
            raise UserError(f"{place}: has no column {column!r}{close}")
