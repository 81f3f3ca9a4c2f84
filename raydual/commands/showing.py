"""`raydual show`: what a run found, printed again."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from raydual.commands.options import AsJson
from raydual.commands.output import print_json
from raydual.errors import UserError

if TYPE_CHECKING:
    from raydual.run_directory.directory import RunDirectory

commands = typer.Typer()


@commands.command()
def show(
    run: Annotated[str, typer.Argument(metavar="RUN_DIR", help="A run directory: a path, s3://BUCKET/PATH or gs://…")],
    as_json: AsJson = False,
) -> None:
    """Print a run's headline table again.

    And what stands above its controls. Nothing is computed; `raydual report` makes summary and report anew.
    """
    from raydual.cells import CELLS, CellsDirectory
    from raydual.run_directory.directory import RunDirectory

    cells = CellsDirectory(run)
    if not cells.storage.exists(CELLS):
        found = RunDirectory(run)
        if as_json:
            print_json(_numbers(found))
        else:
            _print(found)
        return
    stored = cells.stored()["cells"]
    if as_json:
        print_json({"cells": [{"cell": name, **_numbers(cells.cell(name))} for name in stored]})
        return
    for name in stored:
        print(name)
        _print(cells.cell(name))


def _checked(run: "RunDirectory") -> "RunDirectory":
    if not run.has_config():
        raise UserError(f"{run}: not a run directory, it holds no config.yaml")
    if not run.storage.exists("summary.parquet"):
        raise UserError(f"{run}: has no summary yet; go on with the run (--resume), or make one: raydual report {run}")
    return run


def _print(run: "RunDirectory") -> None:
    from raydual.report.console import headline_lines
    from raydual.report.data import RunData
    from raydual.report.words import standing_lines

    data = RunData(_checked(run))
    tuned = run.finetune(data.config)
    rate = f"; fine-tuning: {tuned.optimizer}, learning rate {tuned.learning_rate:g}" if tuned else ""
    print(
        f"model {data.config.model} ({data.config.dtype}), task {data.config.task.name}, "
        f"{data.config.demonstrations} demonstrations{rate}"
    )
    for line in (*headline_lines(run), *standing_lines(data), *(f"warning: {line}" for line in data.warnings)):
        print(line)


def _numbers(run: "RunDirectory") -> dict[str, Any]:
    from raydual.report.data import RunData

    data = RunData(_checked(run))
    tuned = run.finetune(data.config)
    kept = ("metric", "condition", "n", "undefined", "mean", "sd", "median", "ci_low", "ci_high")
    return {
        "name": data.config.name,
        "model": data.config.model,
        "dtype": data.config.dtype,
        "task": data.config.task.name,
        "demonstrations": data.config.demonstrations,
        "finetune": tuned.model_dump(mode="json") if tuned else None,
        "headline": [{key: row[key] for key in kept} for _, row in data.headline()],
        "warnings": data.warnings,
    }
