"""`raydual sweep`: settings and places worked out, then handed to the pipeline."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raydual.commands.options import Overrides
from raydual.errors import UserError
from raydual.files import QUICKSTART, SWEEPS

if TYPE_CHECKING:
    from raydual.run_directory.directory import RunDirectory

commands = typer.Typer()

_WAIT_MINUTES = 30.0


@commands.command(
    epilog="Without CONFIG: sweeps/sst2.yaml if the Ray cluster has GPUs or may start some, else "
    "sweeps/quickstart.yaml."
)
def sweep(
    context: typer.Context,
    config: Annotated[Path | None, typer.Argument(metavar="CONFIG", help="A sweep file (YAML).")] = None,
    overrides: Overrides = None,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="The run directory, a path, s3://BUCKET/PATH or gs://…",
            show_default="runs/NAME",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in that directory.")] = False,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="A Ray cluster, `auto` (any on this machine) or `local`.",
            show_default="the cluster that RAY_ADDRESS or `ray start` names, else local",
        ),
    ] = None,
    wait: Annotated[
        float | None,
        typer.Option(
            metavar="MINUTES",
            help="How long to wait for nodes that the cluster's autoscaler may start.",
            show_default=f"{_WAIT_MINUTES:g}",
        ),
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Use the nodes that are there, ask for no more.")] = False,
) -> None:
    """Search, measure, reduce over seeds and report.

    A whole run: it measures how alike in-context learning and fine-tuning are. The last line is the path of the report.
    """
    how = {"resume": resume, "address": address, "wait_minutes": _minutes(wait, no_wait)}
    try:
        if config is not None:
            _run(config, overrides or (), output, how)
        else:
            _run_what_fits(overrides or (), output, how)
    except KeyboardInterrupt as stopped:
        left = _left_something(config, overrides or (), output)
        stopped.add_note(f"go on with: {context.obj.again('--resume')}" if left else "nothing had been computed")
        raise


def _minutes(wait: float | None, no_wait: bool) -> float | None:
    if wait is None:
        return None if no_wait else _WAIT_MINUTES
    if no_wait:
        raise UserError("--wait and --no-wait: give one of them")
    if not 0 < wait < 1e6:
        raise UserError(f"--wait {wait:g}: minutes are more than 0 and less than 1,000,000")
    return wait


def _run(config: Path, overrides: Sequence[str], output: str | None, how: dict[str, Any]) -> None:
    from raydual.settings.reading import load_sweep

    sweep = load_sweep(config, overrides)
    place = _place(output, sweep.name)
    from raydual.pipeline import execute, execute_cells

    if sweep.axes:
        execute_cells(sweep, place, where=str(config), **how)
    else:
        execute(sweep.cells[0].config, _run_directory(place), where=str(config), **how)


def _run_what_fits(overrides: Sequence[str], output: str | None, how: dict[str, Any]) -> None:
    """The quickstart, or the sweep for GPUs where the cluster has some."""
    from raydual.settings.reading import load_config

    # Both read before Ray is started, which takes seconds: a mistake in the settings answers at once.
    small, large = QUICKSTART, SWEEPS / "sst2.yaml"
    configs = {path: load_config(path, overrides) for path in (small, large)}
    runs = {path: _run_directory(_place(output, config.name)) for path, config in configs.items()}
    from raydual.cluster.connect import connect
    from raydual.cluster.nodes import gpus_coming
    from raydual.pipeline import execute

    about = {
        "sweep": " or ".join(config.name for config in configs.values()),
        "run": " or ".join(dict.fromkeys(map(str, runs.values()))),
    }
    with connect(how["address"], about) as connection:
        path = large if connection.gpus or (how["wait_minutes"] and gpus_coming()) else small
        execute(configs[path], runs[path], where=str(path), **how)


def _left_something(config: Path | None, overrides: Sequence[str], output: str | None) -> bool:
    """Whether a run directory that can be gone on with is there."""
    from raydual.settings.reading import load_sweep

    names = [load_sweep(config, overrides).name] if config else ["quickstart", "sst2"]
    runs = [_run_directory(_place(output, name)) for name in names]
    return any(run.has_config() or run.storage.exists("cells.json") for run in runs)


def _place(output: str | None, name: str) -> Path | str:
    """Where the run goes: a URL as it is, a path from the root."""
    from raydual.run_directory.storage import lasting, storage_at

    where = lasting(output) if output else Path("runs") / name
    storage = storage_at(where)
    return storage.path().absolute() if storage.local else where


def _run_directory(where: Path | str) -> "RunDirectory":
    from raydual.run_directory.directory import RunDirectory

    return RunDirectory(where)
