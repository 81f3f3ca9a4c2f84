"""The values by example of a whole run, in one table."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from raydual.run_directory.directory import RunDirectory


def examples(run: RunDirectory | Path | str, columns: Sequence[str] | None = None) -> pa.Table:
    """The values by example of a whole run as one table (docs/examples.md), all columns or some.

    `run` is a run directory, or its path or address.

    Raises
    ------
    UserError
        The run has none, or no such column; or a file is damaged.
    """
    directory = run if isinstance(run, RunDirectory) else RunDirectory(run)
    return pa.concat_tables(directory.example_tables(columns))
