"""`raydual plan`: before a sweep is started."""

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raydual.commands.options import AsJson, Overrides, SweepFile
from raydual.commands.output import print_json
from raydual.console import following
from raydual.errors import UserError
from raydual.files import QUICKSTART

if TYPE_CHECKING:
    from raydual.plan.power import Power
    from raydual.settings.schema import SweepConfig

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
    pilot: Annotated[
        str | None,
        typer.Option(metavar="RUN_DIR", help="A run from which to say which differences the sweep could find."),
    ] = None,
    components: Annotated[
        tuple[float, float, float] | None,
        typer.Option(
            metavar="SEED EXAMPLE REST",
            help="The same without a pilot: standard deviations of a paired difference's parts, of its seed, of its "
            "example, and of what is left.",
        ),
    ] = None,
    difference: Annotated[
        float | None, typer.Option(metavar="D", help="With either: how many seeds find a difference of D.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a sweep will cost, and what it could tell.

    Seeds, tokens, FLOPs, memory, and time on hardware that has been measured; no weights are loaded for it. With a
    pilot run, or stated components of variance: the smallest differences that it finds four times of five.
    """
    _check_power(pilot, components, difference)
    if replicas < 1 or (memory is not None and not 0 < memory < math.inf):
        raise UserError("--replicas and --memory: must be positive numbers")
    from raydual.plan.estimate import Plan, estimate, hardware_named
    from raydual.plan.power import power_lines, undecidable
    from raydual.settings.reading import load_sweep
    from raydual.study import prepare_study

    there = memory or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    sweep, cells, total = load_sweep(Path(config), overrides or ()), [], 0.0
    device = hardware_named(hardware, sweep.cells[0].config.dtype)
    for cell in sweep.cells:
        # A log is told of mistakes alone: where the hub is asked, that says itself what takes long.
        with following("plan", in_log=False):
            study = prepare_study(cell.config, weights=False)
            found = estimate(study, on_gpu=memory is not None)
            examples = len(study.dataset.measured.queries)
            telling = _power(cell.config, pilot, components, difference, found.seeds, examples)
        planned = Plan(found, cell.config, device, replicas, round(there, 1))
        total += planned.seconds
        if as_json:
            told = {"warning": undecidable(cell.config), "power": [one.as_json() for one in telling]}
            cells.append({"cell": cell.values, **planned.as_json(), **told})
            continue
        if sweep.axes:
            print(", ".join(f"{axis} {value}" for axis, value in cell.values.items()))
        for line in planned.lines():
            print(line)
        for line in power_lines(telling, found.seeds, examples) if telling else ():
            print(line)
        if warning := undecidable(cell.config):
            print(warning)
    if as_json:
        print_json({"name": sweep.name, "cells": cells})
    elif sweep.axes:
        print(f"all {len(sweep.cells)} combinations: about {total / 60:.0f} min")


Parts = tuple[float, float, float]


def _check_power(pilot: str | None, components: Parts | None, difference: float | None) -> None:
    if pilot is not None and components is not None:
        raise UserError("--pilot and --components: give one of them")
    if components is not None and (min(components) < 0 or not math.isfinite(sum(components)) or not sum(components)):
        raise UserError("--components: three standard deviations of 0 or more, not all 0")
    if difference is not None and not 0 < difference < math.inf:
        raise UserError(f"--difference {difference:g}: must be a positive number")
    if difference is not None and pilot is None and components is None:
        raise UserError("--difference: needs --pilot or --components")


def _power(
    config: "SweepConfig",
    pilot: str | None,
    components: Parts | None,
    difference: float | None,
    seeds: int,
    examples: int,
) -> "list[Power]":
    """What the sweep could tell, as far as it is known how differences vary."""
    from raydual.plan.power import Contrast, pilot_contrasts, power
    from raydual.run_directory.directory import RunDirectory
    from raydual.statistics.design import Components

    contrasts: list[Contrast] = []
    if components is not None:
        parts = Components(*components)
        contrasts.append(Contrast("a metric", "a control", parts, max(1, config.controls.number)))
    elif pilot is not None:
        run = RunDirectory(pilot)
        if not run.has_config():
            raise UserError(f"--pilot {pilot}: not a run directory, it holds no config.yaml")
        contrasts += pilot_contrasts(run, config, seeds, examples)
    return [power(contrast, seeds, examples, difference) for contrast in contrasts]
