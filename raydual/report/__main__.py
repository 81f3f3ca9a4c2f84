"""`python -m raydual.report RUN_DIR`: make the summary and the report of a run directory again."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from raydual.cells import CELLS, CellsDirectory, reduce_cells
from raydual.errors import UserError, exit_on_user_error
from raydual.reduce import reduce_run
from raydual.report import write_report
from raydual.report.cells import write_cells_report
from raydual.results import CONFIG, RunDirectory, copy_run
from raydual.resume import verify
from raydual.storage import storage_at

_INSTEAD = "wait for it, or make a report of what is there so far with --into DIR"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m raydual.report", description=__doc__)
    parser.add_argument(
        "run", metavar="RUN_DIR", help="a run directory, wherever it lies now: a path, s3://BUCKET/PATH or gs://…"
    )
    parser.add_argument(
        "--into", metavar="DIR",
        help="copy what has been measured to a new directory and make the report there: of a run in progress, from an "
        "object store, or of one that is not to be changed",
    )  # fmt: skip
    args = parser.parse_args(arguments)
    return exit_on_user_error(lambda: _again(args.run, args.into))


def _again(where: str, into: str | None) -> None:
    if into is not None:
        copy_run(storage_at(where), storage_at(into))
        where = into
    cells = CellsDirectory(where)
    if not cells.storage.exists(CELLS):
        print(_one(RunDirectory(where)))
        return
    with cells.locked(_note, _INSTEAD):
        for name in cells.stored()["cells"]:
            _one(cells.cell(name))
        reduce_cells(cells)
        print(write_cells_report(cells))


def _one(run: RunDirectory) -> Path | str:
    if not run.has_config() and not run.damaged_config():
        raise UserError(f"{run}: not a run directory, it holds no {CONFIG}")
    with run.locked(_note, _INSTEAD):
        verify(run, _note)
        reduce_run(run)
        return write_report(run)


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
