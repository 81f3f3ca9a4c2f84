"""`python -m raydual.report RUN_DIR`: make the summary and the report of a run directory again."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from raydual.cells import CellsDirectory, reduce_cells
from raydual.errors import UserError, exit_on_user_error
from raydual.reduce import reduce_run
from raydual.report import write_report
from raydual.report.cells import write_cells_report
from raydual.results import RunDirectory


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m raydual.report", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="a run directory, wherever it lies now")
    return exit_on_user_error(lambda: _again(parser.parse_args(arguments).run))


def _again(path: Path) -> None:
    cells = CellsDirectory(path)
    if cells.sweep_file.is_file():
        for name in cells.stored()["cells"]:
            _one(cells.cell(name))
        reduce_cells(cells)
        print(write_cells_report(cells))
        return
    print(_one(RunDirectory(path)))


def _one(run: RunDirectory) -> Path:
    if not run.config_file.is_file():
        raise UserError(f"{run.path}: not a run directory, it holds no config.yaml")
    reduce_run(run)
    return write_report(run)


if __name__ == "__main__":
    sys.exit(main())
