"""`python -m raydual.sweep`: the whole run, top to bottom - search, measure, reduce, report."""

import argparse
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from raydual.config import SweepConfig
from raydual.errors import exit_on_user_error
from raydual.loading import Sweep, load_config, load_sweep
from raydual.stopping import received, stoppable

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
        epilog="Without CONFIG: sweeps/sst2.yaml if the Ray cluster has GPUs or may start some, else "
        "sweeps/quickstart.yaml.",
    )
    parser.add_argument("config", nargs="?", type=Path, metavar="CONFIG", help="a sweep file (YAML)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="change one setting, for example --set demonstrations=16 or --set search.seeds.keep=8; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--output", metavar="DIR", help="the run directory, a path, s3://BUCKET/PATH or gs://… (default: runs/NAME)"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in that directory")
    parser.add_argument(
        "--address",
        help="a Ray cluster, `auto` (any on this machine) or `local`; default: the cluster that RAY_ADDRESS or "
        "`ray start` names, else local",
    )
    waiting = parser.add_mutually_exclusive_group()
    waiting.add_argument(
        "--wait", type=_minutes, default=30.0, metavar="MINUTES",
        help="how long to wait for nodes that the cluster's autoscaler may start (default: 30)",
    )  # fmt: skip
    waiting.add_argument(
        "--no-wait", action="store_const", const=None, dest="wait", help="use the nodes that are there, ask for no more"
    )
    return parser


def _minutes(text: str) -> float:
    minutes = float(text)
    if not 0 < minutes < 1e6:
        raise ValueError(text)
    return minutes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: that of a signal (128 and its number) where one ended the run."""
    arguments = sys.argv[1:] if arguments is None else arguments
    args = parser().parse_args(arguments)
    with stoppable():
        try:
            return exit_on_user_error(lambda: _run(args))
        except KeyboardInterrupt:
            number = received()
            again = shlex.join([a for a in arguments if a != "--resume"])
            how = f"go on with: python -m raydual.sweep {again} --resume"
            if not _left_something(args):
                how = "nothing had been computed"
            print(f"stopped by {signal.Signals(number).name}; {how}", file=sys.stderr)
            return 128 + number


def _left_something(args: argparse.Namespace) -> bool:
    """Whether a run directory that can be gone on with is there."""
    names = [load_sweep(args.config, args.overrides).name] if args.config else ["quickstart", "sst2"]
    runs = [_run_directory(_place(args.output, name)) for name in names]
    return any(run.has_config() or run.storage.exists("cells.json") for run in runs)


def _run(args: argparse.Namespace) -> None:
    if args.config is not None:
        sweep = load_sweep(args.config, args.overrides)
        output, where = _place(args.output, sweep.name), str(args.config)
        if sweep.axes:
            execute_cells(sweep, output, where=where, resume=args.resume, address=args.address, wait_minutes=args.wait)
        else:
            run = _run_directory(output)
            execute(
                sweep.cells[0].config, run, where=where, resume=args.resume, address=args.address,
                wait_minutes=args.wait,
            )  # fmt: skip
        return
    # Both read before Ray is started, which takes seconds: a mistake in the settings answers at once.
    small, large = (SWEEPS / "quickstart.yaml", SWEEPS / "sst2.yaml")
    configs = {path: load_config(path, args.overrides) for path in (small, large)}
    runs = {path: _run_directory(_place(args.output, config.name)) for path, config in configs.items()}
    from raydual.cluster.connect import connect
    from raydual.cluster.nodes import gpus_coming

    about = {
        "sweep": " or ".join(config.name for config in configs.values()),
        "run": " or ".join(dict.fromkeys(map(str, runs.values()))),
    }
    with connect(args.address, about) as connection:
        path = large if connection.gpus or (args.wait and gpus_coming()) else small
        execute(
            configs[path], runs[path], where=str(path), resume=args.resume, address=args.address,
            wait_minutes=args.wait,
        )  # fmt: skip


def _place(output: str | None, name: str) -> Path | str:
    """Where the run goes: a URL as it is, a path from the root."""
    # Loaded only now: help and mistakes in the settings need no pyarrow.
    from raydual.storage import lasting, storage_at

    where = lasting(output) if output else Path("runs") / name
    storage = storage_at(where)
    return storage.path().absolute() if storage.local else where


def _run_directory(where: Path | str) -> "RunDirectory":
    from raydual.results import RunDirectory

    return RunDirectory(where)


def _say(text: str) -> None:
    print(text, flush=True)


def execute(
    config: SweepConfig,
    run: "RunDirectory",
    *,
    where: str = "settings",
    resume: bool = False,
    address: str | None = None,
    wait_minutes: float | None = 30.0,
) -> "RunDirectory":
    """Carry out a sweep in `run`; what is already there is not computed again.

    Parameters
    ----------
    where : what the run's first line names as the origin of the settings.
    address : a Ray cluster; default: the one this process is connected to, or that the user started, or a local Ray.
    wait_minutes : how long to wait for nodes that the cluster's autoscaler may start; None: use those that are there.

    Raises
    ------
    UserError
        A mistake in the settings, data, model, files or cluster; nothing that was measured is lost.
    """
    from raydual.measure.study import prepare_study
    from raydual.resume import check

    check(run, config, resume)
    study = prepare_study(config)
    with _taken(run, config, resume):
        from raydual.cluster.run import run_study
        from raydual.cluster.session import Where

        run_study(study, run, where, Where(address, wait_minutes))
    return run


@contextmanager
def _taken(run: "RunDirectory", config: SweepConfig, resume: bool) -> Iterator[None]:
    """Hold a run directory, made ready; if nothing was stored in it in the end, it is removed."""
    from raydual.resume import check, repair

    with run.locked(_say):
        # Again, now that no other driver can change what is found.
        check(run, config, resume)
        if resume:
            repair(run, config, _say)
        run.start(config)
        yield


def execute_cells(
    sweep: Sweep,
    output: Path | str,
    *,
    where: str = "settings",
    resume: bool = False,
    address: str | None = None,
    wait_minutes: float | None = 30.0,
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
    from raydual.results import is_unused
    from raydual.resume import check

    directory = CellsDirectory(output)
    directory.check(sweep, resume)
    for cell in sweep.cells:
        run = directory.cell(cell.name)
        check(run, cell.config, resume and not is_unused(run.storage))
    studies = [prepare_study(cell.config) for cell in sweep.cells]
    with directory.locked(_say):
        directory.check(sweep, resume)
        directory.start(sweep)
        from raydual.cluster.run import run_study, useful_replicas
        from raydual.cluster.session import Where, check_machine, session

        place, most = Where(address, wait_minutes), max(map(useful_replicas, studies))
        check_machine(studies[0], place, most)
        about = {"run": str(output), "cells": str(len(sweep.cells)), "axes": ", ".join(sweep.axes)}
        with session(place, sweep.name, most, about) as opened:
            _say(f"sweep {sweep.name}: {len(sweep.cells)} cells, {', '.join(sweep.axes)}")
            _say(opened.connection.describe())
            # Those of one model after each other: they share its replicas.
            models = list(dict.fromkeys(study.config.model for study in studies))
            work = sorted(zip(sweep.cells, studies, strict=True), key=lambda pair: models.index(pair[1].config.model))
            for number, (cell, study) in enumerate(work, start=1):
                _say(f"\ncell {number} of {len(sweep.cells)}: {', '.join(f'{k} {v}' for k, v in cell.values.items())}")
                run = directory.cell(cell.name)
                with _taken(run, cell.config, resume and not is_unused(run.storage)):
                    run_study(study, run, where, place, opened)
        reduce_cells(directory)
        _say(f"\n{write_cells_report(directory)}")
    return directory


if __name__ == "__main__":
    sys.exit(main())
