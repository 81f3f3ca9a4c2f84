"""`raydual plan`: before a sweep is started."""

import math
import os
from pathlib import Path
from typing import Annotated

import typer

from raydual.commands.options import AsJson, Overrides, SweepFile
from raydual.commands.output import print_json
from raydual.console import following
from raydual.errors import UserError
from raydual.files import QUICKSTART

commands = typer.Typer()


@commands.command()
def plan(
    config: SweepFile = str(QUICKSTART),
    overrides: Overrides = None,
    hardware: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="As in the table of measured speeds.", show_default="its latest row"),
    ] = None,
    replicas: Annotated[
        int, typer.Option("--replicas", "--gpus", metavar="N", show_default=True, help="How many.")
    ] = 1,
    memory: Annotated[
        float | None,
        typer.Option(metavar="GIB", help="Of a GPU.", show_default="no GPU, this machine's memory"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a sweep will cost.

    Seeds, tokens, FLOPs, memory, and time on hardware that has been measured; no weights are loaded for it.
    """
    if replicas < 1 or (memory is not None and not 0 < memory < math.inf):
        raise UserError("--replicas and --memory: must be positive numbers")
    from raydual.plan.estimate import Plan, estimate, hardware_named
    from raydual.settings.reading import load_sweep
    from raydual.study import prepare_study

    there = memory or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    sweep, cells, total = load_sweep(Path(config), overrides or ()), [], 0.0
    device = hardware_named(hardware, sweep.cells[0].config.dtype)
    for cell in sweep.cells:
        # A log is told of mistakes alone: where the hub is asked, that says itself what takes long.
        with following("plan", in_log=False):
            found = estimate(prepare_study(cell.config, weights=False), on_gpu=memory is not None)
        planned = Plan(found, cell.config, device, replicas, round(there, 1))
        total += planned.seconds
        if as_json:
            cells.append({"cell": cell.values, **planned.as_json()})
            continue
        if sweep.axes:
            print(", ".join(f"{axis} {value}" for axis, value in cell.values.items()))
        for line in planned.lines():
            print(line)
    if as_json:
        print_json({"name": sweep.name, "cells": cells})
    elif sweep.axes:
        print(f"all {len(sweep.cells)} cells: about {total / 60:.0f} min")
