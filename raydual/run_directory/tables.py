"""Parquet files that say what they belong to, and whose content can be verified."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raydual.errors import UserError
from raydual.run_directory.storage import Storage, storage_at

_KEY = b"raydual"


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    storage_at(path.parent).write(path.name, text.encode())


def write_table(path: Path, table: pa.Table, schema: pa.Schema) -> None:
    """Write a Parquet file whole or not at all, with exactly `schema`."""
    storage_at(path.parent).write(path.name, table_bytes(table, schema))


def table_bytes(table: pa.Table, schema: pa.Schema, about: dict[str, Any] | None = None) -> pa.Buffer:
    """A table with exactly `schema` as a Parquet file; `about` is what it belongs to."""
    table = table.select(schema.names).cast(schema)
    if about is not None:
        text = json.dumps(about, separators=(",", ":")).encode()
        table = table.replace_schema_metadata({**(schema.metadata or {}), _KEY: text})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, write_page_checksum=True)
    return sink.getvalue()


def about_of(schema: pa.Schema) -> dict[str, Any]:
    """What a file says that it belongs to; empty if it was written before files said so."""
    return json.loads((schema.metadata or {}).get(_KEY, b"{}"))


def read_table(storage: Storage, name: str, schema: pa.Schema, remedy: str) -> pa.Table:
    """Read a Parquet file that has `schema`.

    Raises
    ------
    UserError
        It is missing or damaged; `remedy` is told.
    """
    try:
        table = pq.read_table(pa.BufferReader(storage.read(name)), page_checksum_verification=True)
        about = about_of(table.schema)
    except FileNotFoundError:
        raise UserError(f"{storage.at(name)}: missing; {remedy}") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{storage.at(name)}: damaged ({_first_line(error)}); {remedy}") from None
    content = content_of(table)
    table = with_later(table, schema)
    if not table.schema.equals(schema):
        raise UserError(f"{storage.at(name)}: damaged (its columns are not those of this file); {remedy}")
    if "content" in about and about["content"] != content:
        raise UserError(f"{storage.at(name)}: damaged (its content is not what was written); {remedy}")
    return table


def with_later(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table with the columns that came later, and may be empty, which older files lack."""
    for place, name in enumerate(schema.names):
        if name not in table.schema.names and schema.field(name).nullable:
            table = table.add_column(
                min(place, table.num_columns), schema.field(name), pa.nulls(len(table), schema.field(name).type)
            )
    return table


def content_of(table: pa.Table) -> str:
    """A hash of the values of a small table, which checks what a Parquet file's checksums leave out."""
    return hashlib.sha256(json.dumps(table.to_pydict()).encode()).hexdigest()[:16]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
