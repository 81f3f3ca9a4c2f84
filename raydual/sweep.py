"""`python -m raydual.sweep`: the whole run, top to bottom - search, measure, reduce, report."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raydual.config import SweepConfig
from raydual.errors import exit_on_user_error
from raydual.loading import Sweep, load_config, load_sweep

if TYPE_CHECKING:
    from raydual.cells import CellsDirectory
    from raydual.results import RunDirectory

SWEEPS = next(
    folder for folder in (Path(__file__).parent / "sweeps", Path(__file__).parent.parent / "sweeps") if folder.is_dir()
)
"""The sweeps that come with raydual: beside the package in a checkout, inside it when installed."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m raydual.sweep",
        description="Search seeds and fine-tuning settings, measure how alike in-context learning and fine-tuning "
        "are, reduce over seeds, and write a report.",
        epilog="Without CONFIG: sweeps/sst2.yaml if the Ray cluster has GPUs, else sweeps/quickstart.yaml.",
    )
    parser.add_argument("config", nargs="?", type=Path, metavar="CONFIG", help="a sweep file (YAML)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="change one setting, for example --set demonstrations=16 or --set search.seeds.keep=8; may be repeated",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="DIR", help="the run directory (default: runs/NAME)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in that directory")
    parser.add_argument(
        "--address",
        help="a Ray cluster, `auto` (the one this machine is part of) or `local`; default: auto, else local",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    args = parser().parse_args(arguments)
    return exit_on_user_error(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    if args.config is not None:
        sweep = load_sweep(args.config, args.overrides)
        output = (args.output or Path("runs") / sweep.name).absolute()
        where = str(args.config)
        if sweep.axes:
            execute_cells(sweep, output, where=where, resume=args.resume, address=args.address)
        else:
            run = _run_directory(output)
            execute(sweep.cells[0].config, run, where=where, resume=args.resume, address=args.address)
        return
    # Both read before Ray is started, which takes seconds: a mistake in the settings answers at once.
    small, large = (SWEEPS / "quickstart.yaml", SWEEPS / "sst2.yaml")
    configs = {path: load_config(path, args.overrides) for path in (small, large)}
    from raydual.cluster.connect import connect

    with connect(args.address) as connection:
        path = large if connection.gpus else small
        config = configs[path]
        run = _run_directory((args.output or Path("runs") / config.name).absolute())
        execute(config, run, where=str(path), resume=args.resume, address=args.address)


def _run_directory(path: Path) -> "RunDirectory":
    # Loaded only now: help and mistakes in the settings need no pyarrow.
    from raydual.results import RunDirectory

    return RunDirectory(path)


def execute(
    config: SweepConfig,
    run: "RunDirectory",
    *,
    where: str = "settings",
    resume: bool = False,
    address: str | None = None,
) -> "RunDirectory":
    """Carry out a sweep in `run`; what is already there is not computed again.

    Parameters
    ----------
    where : what the run's first line names as the origin of the settings.
    address : a Ray cluster; default: the one this process or this machine is part of, or a local Ray.

    Raises
    ------
    UserError
        A mistake in the settings, data, model, files or cluster; nothing that was measured is lost.
    """
    from raydual.measure.study import prepare_study

    run.check(config, resume)
    study = prepare_study(config)
    run.start(config)
    from raydual.cluster.run import run_study

    run_study(study, run, where, address)
    return run


def execute_cells(
    sweep: Sweep, output: Path, *, where: str = "settings", resume: bool = False, address: str | None = None
) -> "CellsDirectory":
    """Carry out every cell of a sweep with axes, each in a run directory of its own, and compare them.

    Cells that are there already are gone on with if `resume`; all are checked before the first one starts.

    Raises
    ------
    UserError
        As `execute`.
    """
    from raydual.cells import CellsDirectory, reduce_cells
    from raydual.measure.study import prepare_study
    from raydual.report.cells import write_cells_report

    directory = CellsDirectory(output)
    directory.check(sweep, resume)
    for cell in sweep.cells:
        run = directory.cell(cell.name)
        run.check(cell.config, resume=resume and run.config_file.is_file())
    studies = [prepare_study(cell.config) for cell in sweep.cells]
    directory.start(sweep)
    from raydual.cluster.connect import connect
    from raydual.cluster.progress import say
    from raydual.cluster.run import run_study

    with connect(address) as connection:
        say(f"sweep {sweep.name}: {len(sweep.cells)} cells, {', '.join(sweep.axes)}")
        say(connection.describe())
        for number, (cell, study) in enumerate(zip(sweep.cells, studies, strict=True), start=1):
            say(f"\ncell {number} of {len(sweep.cells)}: {', '.join(f'{k} {v}' for k, v in cell.values.items())}")
            run = directory.cell(cell.name)
            run.start(cell.config)
            run_study(study, run, where, address)
    reduce_cells(directory)
    say(f"\n{write_cells_report(directory)}")
    return directory


if __name__ == "__main__":
    sys.exit(main())
