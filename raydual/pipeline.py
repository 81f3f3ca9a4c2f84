"""A run, top to bottom: check, search, measure, reduce, report.

What a mistake in the settings or the data does not need (Ray, SciPy, Matplotlib) is imported where it is used, so that
such a mistake is told in less than a second.
"""

import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from raydual.console import following, say
from raydual.run_directory.directory import RunDirectory, is_unused
from raydual.run_directory.resume import check, repair
from raydual.settings.controls import MEASUREMENT
from raydual.settings.reading import Sweep
from raydual.settings.schema import SweepConfig
from raydual.study import Study, prepare_study

if TYPE_CHECKING:
    from raydual.cells import CellsDirectory
    from raydual.cluster.choice import Choice
    from raydual.cluster.run import Computed
    from raydual.cluster.session import Session, Where

_PACKAGES = ("raydual", "torch", "transformers", "ray", "numpy", "scipy", "tokenizers", "datasets")


def execute(
    config: SweepConfig,
    run: RunDirectory,
    *,
    where: str = "settings",
    resume: bool = False,
    address: str | None = None,
    wait_minutes: float | None = 30.0,
) -> RunDirectory:
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
    check(run, config, resume)
    study = _prepared(config)
    with taken(run, config, resume):
        from raydual.cluster.session import Where

        _run_study(study, run, where, Where(address, wait_minutes))
    return run


def _prepared(config: SweepConfig) -> Study:
    """The study of a sweep, with all that may be checked before Ray starts."""
    from raydual.loggers import check_loggers

    check_loggers(config)
    return prepare_study(config)


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

    directory = CellsDirectory(output)
    directory.check(sweep, resume)
    for cell in sweep.cells:
        run = directory.cell(cell.name)
        check(run, cell.config, resume and not is_unused(run.storage))
    studies = [_prepared(cell.config) for cell in sweep.cells]
    with directory.locked(say):
        directory.check(sweep, resume)
        directory.start(sweep)
        from raydual.cluster.run import useful_replicas
        from raydual.cluster.session import Where, check_machine, session
        from raydual.report.cells import write_cells_report

        place, most = Where(address, wait_minutes), max(map(useful_replicas, studies))
        check_machine(studies[0], place, most)
        about = {"run": str(output), "cells": str(len(sweep.cells)), "axes": ", ".join(sweep.axes)}
        with session(place, sweep.name, most, about) as opened:
            say(f"sweep {sweep.name}: {len(sweep.cells)} combinations, {', '.join(sweep.axes)}")
            say(opened.connection.describe())
            # Those of one model after each other: they share its replicas.
            models = list(dict.fromkeys(study.config.model for study in studies))
            work = sorted(zip(sweep.cells, studies, strict=True), key=lambda pair: models.index(pair[1].config.model))
            for number, (cell, study) in enumerate(work, start=1):
                values = ", ".join(f"{axis} {value}" for axis, value in cell.values.items())
                say(f"\ncombination {number} of {len(sweep.cells)}: {values}")
                run = directory.cell(cell.name)
                with taken(run, cell.config, resume and not is_unused(run.storage)):
                    _run_study(study, run, where, place, opened)
        reduce_cells(directory)
        say(f"\n{write_cells_report(directory)}")
    return directory


@contextmanager
def taken(run: RunDirectory, config: SweepConfig, resume: bool) -> Iterator[None]:
    """Hold a run directory, made ready; if nothing was stored in it in the end, it is removed."""
    with run.locked(say):
        # Again, now that no other driver can change what is found.
        check(run, config, resume)
        if resume:
            repair(run, config, say)
        run.start(config)
        yield


def _run_study(study: Study, run: RunDirectory, where: str, place: "Where", shared: "Session | None" = None) -> None:
    """Search, measure, reduce and report; prints what a person watching wants to know.

    Parameters
    ----------
    where : what the first line names as the origin of the settings.
    place : where Ray is, unless a `shared` session is given, that goes on after this run.
    """
    from raydual.cluster.choice import stored_choice
    from raydual.cluster.run import Computed
    from raydual.loggers import log_run
    from raydual.plan.power import undecidable
    from raydual.report import write_report
    from raydual.report.data import RunData
    from raydual.statistics.reduce import reduce_run

    config, timings = study.config, Timings()
    say(f"sweep {config.name}: {where}")
    commit = f" at {study.commit[:7]}" if study.commit else ""
    say(f"model {config.model}{commit} ({config.dtype}), data {study.dataset.source}")
    say(f"task {config.task.name}, {config.demonstrations} demonstrations, protocol {config.protocol}")
    if warning := undecidable(config):
        say(warning)
    choice = stored_choice(run, config)
    if choice is None or _is_unfinished(study, run, choice):
        choice, computed = _compute(study, run, place, shared, timings)
    else:
        computed = Computed()
        say("everything has been measured; only the summary and the report are made again")
        with timings.stage("reduce"), following("reduce", file=sys.stdout):
            reduce_run(run)
    manifest = _manifest(run, choice, timings, computed) | {"model_commit": study.commit}
    with following("report", file=sys.stdout):
        manifest["warnings"] = RunData(run, manifest).warnings
        report = write_report(run, manifest)
    # Last, so that a run that has it is complete.
    run.write_manifest(manifest)
    if config.execution.loggers:
        log_run(RunData(run, manifest), report)
    _say_results(run, manifest)
    say(str(report))


def _compute(
    study: Study, run: RunDirectory, place: "Where", shared: "Session | None", timings: "Timings"
) -> tuple["Choice", "Computed"]:
    """What needs Ray: search and measure, and reduce while it is there."""
    from raydual.cluster.choice import stored_choice
    from raydual.cluster.connect import unwrapped_user_errors
    from raydual.cluster.reducing import map_on_ray
    from raydual.cluster.run import OnRay, session_for
    from raydual.statistics.reduce import reduce_run

    # The cells of a sweep share its name.
    name = f"{shared.name}/{PurePosixPath(str(run)).name}" if shared else study.config.name
    with nullcontext(shared) if shared else session_for(study, place, run) as opened, unwrapped_user_errors():
        if not shared:
            say(opened.connection.describe())
        timings.seconds["start ray"] = round(opened.connection.seconds, 2)
        on_ray = OnRay(study, run, opened, name)
        with timings.stage("search"):
            choice = stored_choice(run, study.config) or on_ray.search()
        with timings.stage("measure"):
            on_ray.measure(choice)
        computed = on_ray.finish()
        with timings.stage("reduce"), following("reduce", file=sys.stdout):
            # One machine's threads need no copies of the values.
            reduce_run(run, map_on_ray if opened.connection.joined else None)
    return choice, computed


def _is_unfinished(study: Study, run: RunDirectory, choice: "Choice") -> bool:
    """Whether units of the chosen seeds have no rows yet."""
    finished = run.finished()
    return any((unit.seed, unit.control.name) not in finished for unit in study.units(choice.seeds))


def _say_results(run: RunDirectory, manifest: dict[str, Any]) -> None:
    """The headline numbers, and which stand above their nulls and controls."""
    from raydual.report.console import headline_lines
    from raydual.report.data import RunData
    from raydual.report.words import standing_lines

    for line in (*headline_lines(run), *standing_lines(RunData(run, manifest))):
        say(line)
    for line in manifest["warnings"]:
        say(f"warning: {line}")


class Timings:
    """Wall-clock seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - started, 2)


def _manifest(run: RunDirectory, choice: "Choice", timings: Timings, computed: "Computed") -> dict[str, Any]:
    failures = [{"seed": seed, "control": control, "reason": reason} for seed, control, reason in run.failures()]
    finished = run.finished() - {(seed, control) for seed, control, _ in run.failures()}
    return {
        "name": run.config().name,
        "fingerprint": run.config().fingerprint(),
        "additions": run.additions(),
        "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seeds": {
            "asked": len(run.config().seeds),
            "chosen": list(choice.seeds),
            "measured": sum(control == MEASUREMENT.name for _, control in finished),
            "controls": sum(control != MEASUREMENT.name for _, control in finished),
            "failed": failures,
        },
        "finetune": choice.finetune.model_dump(mode="json"),
        "seconds": timings.seconds,
        "losses": computed.losses,
        "hardware": computed.hardware | {"machine": platform.machine(), "system": platform.system()},
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # raydual itself, run from a checkout that is not installed
        return "not installed"
