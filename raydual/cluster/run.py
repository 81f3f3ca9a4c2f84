"""What a run does on Ray: search, then measure, on the same replicas."""

from collections import Counter
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from typing import Any

import ray

from raydual.cluster.choice import Choice
from raydual.cluster.measuring import Measuring, TooManyFailedError, groups_of
from raydual.cluster.search import count_trials, search
from raydual.cluster.session import Session, Where, check_machine, session
from raydual.console import say
from raydual.errors import UserError
from raydual.plan.progress import MeasureNews, earlier, stage
from raydual.run_directory.directory import RunDirectory, is_unused
from raydual.settings.controls import MEASUREMENT
from raydual.study import Study


@dataclass(frozen=True)
class Computed:
    """Where a run computed, and what it lost on the way."""

    hardware: dict[str, Any] = field(default_factory=dict)
    losses: dict[str, int] = field(default_factory=dict)


def session_for(study: Study, place: Where, run: RunDirectory) -> AbstractContextManager[Session]:
    """A session for one run alone; first checks that this machine, if it is the one, holds what the run wants."""
    useful = useful_replicas(study)
    check_machine(study, place, useful)
    about = {"model": study.config.model, "data": study.dataset.source, "run": str(run)}
    return session(place, study.config.name, useful, about)


def useful_replicas(study: Study) -> int:
    """How many replicas could work at once."""
    return max(count_trials(study.config), len(study.units(study.config.seeds)))


class OnRay:
    """A run's two stages on the replicas of a session; gauges call the run by its `name`."""

    def __init__(self, study: Study, run: RunDirectory, opened: Session, name: str) -> None:
        self.study, self.run, self.connection = study, run, opened.connection
        self.workplace = opened.workplace_for(study)
        self.workplace.gauges.run = name
        self.key, self.shared = opened.share(study, self.workplace)

    def search(self) -> Choice:
        """Try seeds and fine-tuning settings, and store what is chosen."""
        with stage("search", count_trials(self.study.config), self.workplace.gauges) as progress:
            self.workplace.watch.progress = progress
            return search(self.study, self.key, self.workplace.pool, self.workplace.layout, self.run, progress)

    def measure(self, choice: Choice) -> None:
        """Measure every unit of the chosen seeds that has no rows yet.

        Raises
        ------
        UserError
            Too many seeds failed in a row.
        """
        everything = self.study.units(choice.seeds)
        groups = groups_of(everything, self.workplace.layout, self.run.finished())
        todo = sum(len(group) for group in groups)
        controls = {unit.control.name: unit.control.label for unit in everything if unit.control is not MEASUREMENT}
        if controls:
            say(f"controls: {', '.join(controls.values())}")
        done = len(everything) - todo
        if done:
            say(f"measure: {done} of {len(everything)} are there already")
        if not todo:
            return
        asked = Counter(unit.control.name for unit in everything)
        catalogue = self.study.config.catalogue
        before = self.run.measured(*earlier(catalogue)) if done else None
        news = MeasureNews(self.workplace.gauges, asked, before, catalogue)
        measuring = Measuring(
            self.study, self.key, self.shared, choice.finetune, self.workplace.pool, self.workplace.watch
        )
        try:
            with (
                stage("measure", todo, self.workplace.gauges) as progress,
                closing(measuring.batches(groups)) as batches,
            ):
                self.workplace.watch.progress = progress
                for batch in batches:
                    self.run.write_measurements(batch.rows, batch.examples)
                    progress.advance(len(batch.rows["seed"].unique()), news.update(batch.rows))
        except TooManyFailedError as error:
            kept = not is_unused(self.run.storage)
            remedy = (
                "what was computed is kept, --resume tries these again" if kept else "nothing had been computed before"
            )
            raise UserError(f"{error}; {remedy}") from None

    def finish(self) -> Computed:
        """Say which replicas were lost; the session goes on without this run's progress."""
        self.workplace.watch.progress = None
        losses = ray.get(self.workplace.pool.status.remote())
        if losses.lost:
            say(f"replicas were lost {losses.lost} time(s), {losses.retried} piece(s) of work were tried again for it")
        connection = self.connection
        hardware = {"ray": connection.describe(), "cpus": connection.cpus, "gpus": connection.gpus}
        hardware |= {"replicas_at_most": losses.most, "devices": sorted(set(losses.devices))}
        return Computed(hardware, {"replicas_lost": losses.lost, "retried": losses.retried})
