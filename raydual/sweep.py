"""`python -m raydual.sweep`: the whole run, top to bottom - search, measure, reduce, report."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raydual.config import SweepConfig
from raydual.errors import exit_on_user_error
from raydual.loading import load_config

if TYPE_CHECKING:
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
        config = load_config(args.config, args.overrides)
        execute(
            config,
            _run_directory(args, config),
            where=str(args.config),
            resume=args.resume,
            address=args.address,
        )
        return
    # Both read before Ray is started, which takes seconds: a mistake in the settings answers at once.
    small, large = (SWEEPS / "quickstart.yaml", SWEEPS / "sst2.yaml")
    configs = {path: load_config(path, args.overrides) for path in (small, large)}
    from raydual.cluster.connect import connect

    with connect(args.address) as connection:
        path = large if connection.gpus else small
        config = configs[path]
        execute(config, _run_directory(args, config), where=str(path), resume=args.resume, address=args.address)


def _run_directory(args: argparse.Namespace, config: SweepConfig) -> "RunDirectory":
    # Loaded only now: help and mistakes in the settings need no pyarrow.
    from raydual.results import RunDirectory

    return RunDirectory((args.output or Path("runs") / config.name).absolute())


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


if __name__ == "__main__":
    sys.exit(main())
