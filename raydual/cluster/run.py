"""The stages of a run on Ray, one after the other, on the same replicas."""

import platform
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePosixPath
from typing import Any

import ray

from raydual.cluster.choice import Choice, stored_choice
from raydual.cluster.connect import unwrapped_user_errors
from raydual.cluster.measuring import Measuring, TooManyFailedError, groups_of
from raydual.cluster.progress import EARLIER, MeasureNews, StageProgress, say
from raydual.cluster.reducing import map_on_ray
from raydual.cluster.search import count_trials, search
from raydual.cluster.session import Session, Where, Workplace, check_machine, session
from raydual.controls import MEASUREMENT
from raydual.errors import UserError
from raydual.measure.study import Study
from raydual.reduce import reduce_run
from raydual.report import write_report
from raydual.report.console import headline_lines
from raydual.report.data import RunData
from raydual.report.words import standing_lines
from raydual.results import RunDirectory, is_unused

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


def run_study(study: Study, run: RunDirectory, where: str, place: Where, shared: Session | None = None) -> None:
    """Search, measure, reduce and report; prints what a person watching wants to know.

    Parameters
    ----------
    where : what the first line names as the origin of the settings.
    place : where Ray is, unless a `shared` session is given, that goes on after this run.
    """
    config, timings = study.config, Timings()
    say(f"sweep {config.name}: {where}")
    commit = f" at {study.commit[:7]}" if study.commit else ""
    say(f"model {config.model}{commit} ({config.dtype}), data {study.dataset.source}")
    say(f"task {config.task.name}, {config.demonstrations} demonstrations, protocol {config.protocol}")
    choice = stored_choice(run, config)
    computed = Computed()
    if choice is None or _is_unfinished(study, run, choice):
        with nullcontext(shared) if shared else _session(study, place, run) as opened, unwrapped_user_errors():
            # The cells of a sweep share its name.
            name = f"{shared.name}/{PurePosixPath(str(run)).name}" if shared else config.name
            choice, computed = _on_ray(study, run, opened, timings, name)
            with timings.stage("reduce"):
                # One machine's threads need no copies of the values.
                reduce_run(run, map_on_ray if opened.connection.joined else None)
    else:
        say("everything has been measured; only the summary and the report are made again")
        with timings.stage("reduce"):
            reduce_run(run)
    manifest = _manifest(run, choice, timings, computed) | {"model_commit": study.commit}
    report = write_report(run, manifest)
    # Last, so that a run that has it is complete.
    run.write_manifest(manifest)
    for line in (*headline_lines(run), *standing_lines(RunData(run, manifest))):
        say(line)
    say(str(report))


@dataclass(frozen=True)
class Computed:
    """Where a run computed, and what it lost on the way."""

    hardware: dict[str, Any] = field(default_factory=dict)
    losses: dict[str, int] = field(default_factory=dict)


@contextmanager
def _session(study: Study, place: Where, run: RunDirectory) -> Iterator[Session]:
    useful = useful_replicas(study)
    check_machine(study, place, useful)
    about = {"model": study.config.model, "data": study.dataset.source, "run": str(run)}
    with session(place, study.config.name, useful, about) as opened:
        say(opened.connection.describe())
        yield opened


def useful_replicas(study: Study) -> int:
    """How many replicas could work at once."""
    return max(count_trials(study.config), len(study.units(study.config.seeds)))


def _on_ray(study: Study, run: RunDirectory, opened: Session, timings: Timings, name: str) -> tuple[Choice, Computed]:
    """Search and measure; returns what was chosen, and where it was computed. Gauges call the run by its `name`."""
    connection = opened.connection
    timings.seconds["start ray"] = round(connection.seconds, 2)
    workplace = opened.workplace_for(study)
    workplace.gauges.run = name
    key, shared = opened.share(study, workplace)
    with timings.stage("search"):
        choice = stored_choice(run, study.config) or _search(study, key, workplace, run)
    with timings.stage("measure"):
        _measure(study, choice, key, shared, workplace, run)
    workplace.watch.progress = None
    losses = ray.get(workplace.pool.status.remote())
    if losses.lost:
        say(f"replicas were lost {losses.lost} time(s), {losses.retried} piece(s) of work were tried again for it")
    hardware = {"ray": connection.describe(), "cpus": connection.cpus, "gpus": connection.gpus}
    hardware |= {"replicas_at_most": losses.most, "devices": sorted(set(losses.devices))}
    return choice, Computed(hardware, {"replicas_lost": losses.lost, "retried": losses.retried})


def _search(study: Study, key: str, workplace: Workplace, run: RunDirectory) -> Choice:
    progress = StageProgress("search", count_trials(study.config), workplace.gauges)
    workplace.watch.progress = progress
    return search(study, key, workplace.pool, workplace.layout, run, progress)


def _is_unfinished(study: Study, run: RunDirectory, choice: Choice) -> bool:
    """Whether units of the chosen seeds have no rows yet."""
    finished = run.finished()
    return any((unit.seed, unit.control.name) not in finished for unit in study.units(choice.seeds))


def _measure(study: Study, choice: Choice, key: str, shared: Any, workplace: Workplace, run: RunDirectory) -> None:
    everything = study.units(choice.seeds)
    groups = groups_of(everything, workplace.layout, run.finished())
    todo = sum(len(group) for group in groups)
    controls = {unit.control.name: unit.control.label for unit in everything if unit.control is not MEASUREMENT}
    if controls:
        say(f"controls: {', '.join(controls.values())}")
    done = len(everything) - todo
    if done:
        say(f"measure: {done} of {len(everything)} are there already")
    if not todo:
        return
    progress = StageProgress("measure", todo, workplace.gauges)
    asked = Counter(unit.control.name for unit in everything)
    news = MeasureNews(workplace.gauges, asked, run.measured(*EARLIER) if done else None)
    workplace.watch.progress = progress
    measuring = Measuring(study, key, shared, choice.finetune, workplace.pool, workplace.watch)
    try:
        with closing(measuring.batches(groups)) as batches:
            for rows in batches:
                run.write_measurements(rows)
                progress.advance(len(rows["seed"].unique()), news.update(rows))
    except TooManyFailedError as error:
        kept = not is_unused(run.storage)
        remedy = "what was computed is kept, --resume tries these again" if kept else "nothing had been computed before"
        raise UserError(f"{error}; {remedy}") from None


def _manifest(run: RunDirectory, choice: Choice, timings: Timings, computed: Computed) -> dict[str, Any]:
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
        "losses": computed.losses,
        "hardware": computed.hardware | {"machine": platform.machine(), "system": platform.system()},
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # raydual itself, run from a checkout that is not installed
        return "not installed"
