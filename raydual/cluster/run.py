"""The stages of a run on Ray, one after the other, each freeing its actors before the next one starts."""

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from raydual.cluster.connect import Connection, connect
from raydual.cluster.plan import ReplicaPlan, plan_replicas
from raydual.cluster.progress import MeasureGauges, StageProgress, say
from raydual.cluster.search import Choice, search, stored_choice
from raydual.cluster.stream import measure
from raydual.controls import MEASUREMENT
from raydual.errors import UserError
from raydual.measure.study import Study, Unit
from raydual.reduce import reduce_run
from raydual.report import write_report
from raydual.report.console import headline_lines
from raydual.report.data import RunData
from raydual.report.words import standing_lines
from raydual.results import RunDirectory

_PACKAGES = ("raydual", "torch", "transformers", "ray", "numpy", "scipy", "tokenizers", "datasets")


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


def run_study(study: Study, run: RunDirectory, where: str, address: str | None) -> None:
    """Search, measure, reduce and report; prints what a person watching wants to know."""
    config, timings = study.config, Timings()
    say(f"sweep {config.name}: {where}")
    say(f"model {config.model} ({config.dtype}), data {study.dataset.source}")
    say(f"task {config.task.name}, {config.demonstrations} demonstrations, protocol {config.protocol}")
    hardware: dict[str, Any] = {}
    choice = stored_choice(run, config)
    if choice is None or _todo(study, run, choice):
        with connect(address) as connection, _unwrapped_user_errors():
            timings.seconds["start ray"] = round(connection.seconds, 2)
            hardware = {"ray": connection.describe(), "cpus": connection.cpus, "gpus": connection.gpus}
            choice = _on_ray(study, run, connection, timings)
    else:
        say("everything has been measured; only the summary and the report are made again")
    with timings.stage("reduce"):
        reduce_run(run)
    manifest = _manifest(run, choice, timings, hardware)
    report = write_report(run, manifest)
    # Last, so that a run that has it is complete.
    run.write_manifest(manifest)
    for line in (*headline_lines(run), *standing_lines(RunData(run, manifest))):
        say(line)
    say(str(report))


def _on_ray(study: Study, run: RunDirectory, connection: Connection, timings: Timings) -> Choice:
    """Search and measure; returns what was chosen."""
    plan = plan_replicas(connection.cpus, connection.gpus, study.config.execution)
    say(connection.describe())
    say(f"{plan.replicas} replica(s) of {plan.cpus:g} CPU and {plan.gpus:g} GPU")
    with timings.stage("search"):
        choice = stored_choice(run, study.config) or search(study, plan, run)
    with timings.stage("measure"):
        _measure(study, choice, plan, run)
    return choice


def _todo(study: Study, run: RunDirectory, choice: Choice) -> list[Unit]:
    """The units of the chosen seeds that have no rows yet."""
    finished = run.finished()
    return [unit for unit in study.units(choice.seeds) if (unit.seed, unit.control.name) not in finished]


def _measure(study: Study, choice: Choice, plan: ReplicaPlan, run: RunDirectory) -> None:
    todo, everything = _todo(study, run, choice), study.units(choice.seeds)
    controls = {unit.control.name: unit.control.label for unit in everything if unit.control is not MEASUREMENT}
    if controls:
        say(f"controls: {', '.join(controls.values())}")
    done = len(everything) - len(todo)
    if done:
        say(f"measure: {done} of {len(everything)} are there already")
    if not todo:
        return
    progress, gauges = StageProgress("measure", len(todo)), MeasureGauges()
    for rows in measure(study, todo, choice.finetune, plan):
        run.write_measurements(rows)
        progress.advance(len(rows["seed"].unique()), gauges.update(rows))


@contextmanager
def _unwrapped_user_errors() -> Iterator[None]:
    """A `UserError` raised on a worker arrives wrapped in Ray's own errors; let it out."""
    try:
        yield
    except Exception as error:
        found: BaseException | None = error
        while found is not None and not isinstance(found, UserError):
            found = getattr(found, "cause", None) or found.__cause__
        if found is None or found is error:
            raise
        raise UserError(str(found)) from error


def _manifest(run: RunDirectory, choice: Choice, timings: Timings, hardware: dict[str, Any]) -> dict[str, Any]:
    failures = [{"seed": seed, "control": control, "reason": reason} for seed, control, reason in run.failures()]
    finished = run.finished() - {(seed, control) for seed, control, _ in run.failures()}
    return {
        "name": run.config().name,
        "fingerprint": run.config().fingerprint(),
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
        "hardware": hardware | {"machine": platform.machine(), "system": platform.system()},
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # raydual itself, run from a checkout that is not installed
        return "not installed"
