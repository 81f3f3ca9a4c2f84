"""`raydual report`: summary and report of a run directory, made again."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raydual.console import note
from raydual.errors import UserError

if TYPE_CHECKING:
    from raydual.run_directory.directory import RunDirectory

commands = typer.Typer()

_INSTEAD = "wait for it, or make a report of what is there so far with --into DIR"


@commands.command()
def report(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN_DIR", help="A run directory, wherever it lies now: a path, s3://BUCKET/PATH or gs://…"
        ),
    ],
    into: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Copy what has been measured to a new directory and make the report there: of a run in progress, "
            "from an object store, or of one that is not to be changed.",
        ),
    ] = None,
) -> None:
    """Make a run directory's summary and report again.

    The last line is the path of the report.
    """
    from raydual.cells import CELLS, CellsDirectory, reduce_cells
    from raydual.report.cells import write_cells_report
    from raydual.run_directory.copying import copy_run
    from raydual.run_directory.directory import RunDirectory
    from raydual.run_directory.storage import storage_at

    if into is not None:
        copy_run(storage_at(run), storage_at(into))
        run = into
    cells = CellsDirectory(run)
    if not cells.storage.exists(CELLS):
        print(_one(RunDirectory(run)))
        return
    with cells.locked(note, _INSTEAD):
        for name in cells.stored()["cells"]:
            _one(cells.cell(name))
        reduce_cells(cells)
        print(write_cells_report(cells))


def _one(run: "RunDirectory") -> Path | str:
    from raydual.report import write_report
    from raydual.run_directory.directory import CONFIG
    from raydual.run_directory.resume import verify
    from raydual.statistics.reduce import reduce_run

    if not run.has_config() and not run.damaged_config():
        raise UserError(f"{run}: not a run directory, it holds no {CONFIG}")
    with run.locked(note, _INSTEAD):
        verify(run, note)
        reduce_run(run)
        return write_report(run)
