"""`raydual report`: summary and report of a run directory, made again, or of several, compared."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
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
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN_DIR",
            help="A run directory, wherever it lies now: a path, s3://BUCKET/PATH or gs://…; several are compared, "
            "which needs --into.",
        ),
    ],
    into: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Copy what has been measured to a new directory and make the report there: of a run in progress, "
            "from an object store, or of one that is not to be changed. Of several runs: where the comparison goes.",
        ),
    ] = None,
) -> None:
    """Make the report of a run again, or compare runs.

    The last line is the path of the report.
    """
    if len(runs) > 1:
        print(_comparison(runs, into))
        return
    run = runs[0]
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


def _comparison(places: Sequence[str], into: str | None) -> Path | str:
    """Compare runs from their files, which stay as they are; the report goes to `into`."""
    from raydual.cells import CELLS
    from raydual.report.cells import write_comparison
    from raydual.report.compared import Compared
    from raydual.run_directory.directory import CONFIG, RunDirectory, check_unused
    from raydual.run_directory.resume import verify
    from raydual.run_directory.storage import storage_at

    if into is None:
        raise UserError("report: several runs are compared in a place of its own; name a new directory with --into DIR")
    if len(set(places)) < len(places):
        raise UserError("report: a run is named twice; name each of those to compare once")
    runs = {name: RunDirectory(place) for name, place in _names(places).items()}
    for run in runs.values():
        if run.storage.exists(CELLS):
            raise UserError(f"{run}: a sweep with axes, which is compared within; name the runs under cells/ instead")
        if not run.has_config():
            raise UserError(f"{run}: not a run directory, it holds no {CONFIG}")
        verify(run, note)
    target = storage_at(into)
    check_unused(target)
    target.make("figures")
    return write_comparison(Compared.of_runs(runs), target)


def _names(places: Sequence[str]) -> dict[str, str]:
    """A short name for each run: the last part of its place, or all of it where that is not enough."""
    last = [PurePosixPath(place.rstrip("/")).name or place for place in places]
    return dict(zip(last if len(set(last)) == len(last) else places, places, strict=True))


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
