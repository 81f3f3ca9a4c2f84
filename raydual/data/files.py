"""Data files: the rows of a CSV, TSV, JSONL or Parquet file, with their numbers. Every mistake names its row."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from raydual.errors import UserError, shown
from raydual.files import read_text, regular_file

_LONGEST_CELL = 2**31 - 1


@dataclass(frozen=True)
class Table:
    """Rows with their numbers in the file, from 1 (of a CSV file without its header, of a JSONL file its lines).

    `names` are those of all columns, one may be there twice; `columns` holds their values, of a name that is there
    twice the last ones. `only_texts`: the file has no other kind of value.
    """

    where: str
    names: tuple[str, ...]
    columns: Mapping[str, Sequence[Any]]
    rows: Sequence[int]
    only_texts: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: Sequence[int], where: str) -> "Table":
        """The rows at `indices`, in that order, as those of the place `where`."""
        columns = {name: [values[i] for i in indices] for name, values in self.columns.items()}
        return Table(where, self.names, columns, [self.rows[i] for i in indices], self.only_texts)


def read_table(path: Path) -> Table:
    """The rows of a data file; its suffix says which kind it is.

    Raises
    ------
    UserError
        It isn't there, isn't a regular file, or is damaged.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"data: {path} is not one of {', '.join(SUFFIXES)}")
    regular_file(path, f"data: {path}")
    return _READERS[path.suffix](path)


def arrow_table(table: pa.Table, where: str) -> Table:
    """An Arrow table's rows.

    Raises
    ------
    UserError
        A value that Python can't hold.
    """
    names = tuple(table.column_names)
    columns = {name: _values(table.column(i), name, where) for i, name in enumerate(names)}
    return Table(where, names, columns, range(1, len(table) + 1))


def _values(column: pa.ChunkedArray, name: str, where: str) -> list[Any]:
    try:
        return column.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException):
        for row, value in enumerate(column, start=1):
            try:
                value.as_py()
            except (ValueError, OverflowError, pa.ArrowException) as error:
                reason = "text that is not UTF-8" if isinstance(error, UnicodeError) else "a value out of range"
                raise UserError(f"data: {where}, row {row}: column {shown(name)} holds {reason}") from None
        raise


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"data: {path} cannot be read as {path.suffix[1:]}: {' '.join(reason.split())}")


def _read_parquet(path: Path) -> Table:
    try:
        return arrow_table(pyarrow.parquet.ParquetFile(path).read(), str(path))
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, str(error)) from None


def _read_lines(path: Path) -> Table:
    """JSON lines: one object on each."""
    found, numbers = [], []
    for number, line in enumerate(read_text(path, f"data: {path}").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_without_repeats)
        except (ValueError, RecursionError) as error:
            raise _damaged(path, f"row {number}: {error}") from None
        if not isinstance(row, dict):
            raise _damaged(path, f'row {number} is not a JSON object; each line holds one, such as {{"text": …}}')
        found.append(row)
        numbers.append(number)
    names = tuple(dict.fromkeys(name for row in found for name in row))
    return Table(str(path), names, {name: [row.get(name) for row in found] for name in names}, numbers)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {shown(next(n for n in names if names.count(n) > 1))} is given twice")
    return found


def _separated(delimiter: str) -> Callable[[Path], Table]:
    """A reader of comma- or tab-separated values."""

    def read(path: Path) -> Table:
        text = io.StringIO(read_text(path, f"data: {path}"), newline="")
        found: list[list[str]] = []
        with _long_cells():
            rows = filter(None, csv.reader(text, delimiter=delimiter, strict=True))
            try:
                header = next(rows, None)
                if header is None:
                    raise _damaged(path, "it is empty")
                for number, row in enumerate(rows, start=1):
                    if len(row) != len(header):
                        raise _damaged(path, f"row {number} has {len(row)} cells, the header has {len(header)}")
                    found.append(row)
            except csv.Error as error:
                raise _damaged(path, f"row {len(found) + 1}: {error}") from None
        columns = {name: [row[i] for row in found] for i, name in enumerate(header)}
        return Table(str(path), tuple(header), columns, range(1, len(found) + 1), only_texts=True)

    return read


@contextmanager
def _long_cells() -> Iterator[None]:
    """Cells of any length, which may stand in a column that isn't used."""
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


_READERS: Mapping[str, Callable[[Path], Table]] = {
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".jsonl": _read_lines,
    ".json": _read_lines,
    ".parquet": _read_parquet,
}
SUFFIXES = tuple(_READERS)
"""The kinds of files that are read."""
