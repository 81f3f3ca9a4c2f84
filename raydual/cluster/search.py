"""Ray Tune chooses seeds, then fine-tuning settings, on the selection set; the replicas of the pool do the work."""

import itertools
import json
import logging
import math
import tempfile
from collections import deque
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from raydual.cluster.callbacks import tune_callbacks
from raydual.cluster.choice import Choice, store_choice
from raydual.cluster.connect import own_folder
from raydual.cluster.reuse import kept_trial_processes
from raydual.cluster.trials import Lookup, SearchTrial
from raydual.console import say
from raydual.errors import UserError
from raydual.loggers import store_events
from raydual.plan.halving import Halving, SeedScore, choose
from raydual.plan.layout import Layout
from raydual.plan.progress import StageProgress
from raydual.run_directory.directory import RunDirectory
from raydual.run_directory.journal import Journal
from raydual.settings.schema import SweepConfig
from raydual.study import Study

_MOST_TRIALS = 32
_FOLDER = "raydual-tune-"


class SearchOrder(Searcher):
    """Hands Tune the seeds, a generation at a time, and once all are in, the fine-tuning settings."""

    def __init__(self, study: Study, journal: Journal, beside: str, progress: StageProgress) -> None:
        super().__init__(metric="key", mode="max")
        self.config, self.journal, self.beside = study.config, journal, beside
        self.running: dict[str, dict[str, Any]] = {}
        self.seed_scores: dict[int, SeedScore] = {}
        self.stopped: dict[int, int] = {}
        self.settings_scores: list[dict[str, Any]] = []
        seeds = self.config.search.seeds
        self.halving = Halving(self.config.seeds, study.slices, seeds.keep) if seeds else None
        self.groups_started = 0
        self.queue: deque[dict[str, Any]] = deque()
        self.mistake: str | None = None
        self.completed = self.broken_in_a_row = 0
        self.progress = progress

    def _next_group(self) -> list[dict[str, Any]]:
        """The trials that start together once all before them are over; empty: there are no more."""
        self.groups_started += 1
        generations = self.halving.generations() if self.halving else []
        if self.groups_started <= len(generations):
            return [{"kind": "seed", "seed": seed} for seed in generations[self.groups_started - 1]]
        if self.groups_started == len(generations) + 1:
            return self._finetune_trials()
        return []

    def _finetune_trials(self) -> list[dict[str, Any]]:
        search = self.config.search.finetune
        if search is None:
            return []
        seeds = self.chosen_seeds()[: search.seeds]
        if not seeds:
            raise UserError("search: no seed is left to try fine-tuning settings on; see search/journal.jsonl")
        axes = {
            name: getattr(search, name) or (getattr(self.config.finetune, name),)
            for name in ("optimizer", "learning_rate", "epochs")
        }
        return [
            {"kind": "finetune", "settings": dict(zip(axes, values, strict=True)), "seeds": seeds}
            for values in itertools.product(*axes.values())
        ]

    def chosen_seeds(self) -> tuple[int, ...]:
        """The seeds that are measured."""
        if self.halving is None:
            return tuple(sorted(self.config.seeds))
        return tuple(choose(list(self.seed_scores.values()), self.halving.keep))

    def suggest(self, trial_id: str) -> Any:
        """The next trial, None while a group is being completed, or the end."""
        if self.mistake:
            return Searcher.FINISHED
        if not self.queue:
            if self.running:
                return None
            self.queue = deque(self._next_group())
            if not self.queue:
                return Searcher.FINISHED
        self.running[trial_id] = {**self.queue.popleft(), "beside": self.beside}
        self._show_counts()
        return self.running[trial_id]

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keep a report that is not the trial's last."""
        if result.get("mistake"):
            self.mistake = result["mistake"]
            return
        report = json.loads(result["report"])
        # What broke may have broken for reasons that are gone when the search is resumed.
        if not report.get("broken"):
            self.journal.add(result["key"], report)
        if self.running[trial_id]["kind"] == "seed":
            seed, examples = report["seed"], report["examples"]
            accuracy = report["right"] / examples if examples else math.nan
            self.seed_scores[seed] = SeedScore(seed, examples, accuracy, self.stopped.get(seed), report["reason"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Keep a trial's last report, which Tune hands over here alone if the trial ended of itself."""
        if result is None:
            self._lost(self.running.pop(trial_id))
            return
        self.on_trial_result(trial_id, result)
        trial = self.running.pop(trial_id)
        if self.mistake:
            return
        report = json.loads(result["report"])
        if trial["kind"] == "finetune":
            self.settings_scores.append(report)
        self._count_broken(trial, report)
        self.completed += 1
        self._show_counts()
        self.progress.advance(1, _describe(trial, report))

    def _show_counts(self) -> None:
        if self.progress.gauges:
            stopped = len(self.stopped)
            counts = {"running": len(self.running), "done": self.completed - stopped, "stopped": stopped}
            for state, count in counts.items():
                self.progress.gauges.set("raydual_trials", count, state=state)

    def _lost(self, trial: dict[str, Any]) -> None:
        """Begin a trial anew whose process was lost; Tune itself does so only while it computes."""
        trial["lost"] = trial.get("lost", 0) + 1
        if trial["lost"] <= self.config.execution.retries:
            self.queue.appendleft(trial)
        elif not self.mistake:
            words = f"the process of {_trial_words(trial)} was lost"
            self.mistake = f"search: {words} more often than execution.retries allows"

    def _count_broken(self, trial: dict[str, Any], report: dict[str, Any]) -> None:
        """Stop where nothing but failures comes back."""
        self.broken_in_a_row = self.broken_in_a_row + 1 if report.get("broken") else 0
        if self.broken_in_a_row >= self.config.execution.failures_in_a_row:
            self.mistake = (
                f"search: {self.broken_in_a_row} trials failed one after another, the last one, {_trial_words(trial)}: "
                f"{report['reason']}"
            )

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles it; what speaks to the terminal stays behind."""
        return {**self.__dict__, "progress": None}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is what a search resumes from."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as above."""


def _trial_words(trial: dict[str, Any]) -> str:
    if trial["kind"] == "seed":
        return f"seed {trial['seed']}"
    return f"learning rate {trial['settings']['learning_rate']:g}"


def _describe(trial: dict[str, Any], report: dict[str, Any]) -> str:
    if report["reason"]:
        return f"{_trial_words(trial)}: {report['reason']}"
    if trial["kind"] == "seed":
        accuracy = report["right"] / report["examples"]
        return f"{_trial_words(trial)}: in-context accuracy {accuracy:.3f} on {report['examples']} examples"
    return f"{_trial_words(trial)}: fine-tuned accuracy {report['accuracy']:.3f}"


class HalvingScheduler(FIFOScheduler):
    """Stops the poorer seeds at each slice, by `Halving`."""

    def __init__(self, order: SearchOrder) -> None:
        super().__init__()
        self.order = order

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """CONTINUE or STOP."""
        report = json.loads(result["report"])
        halving = self.order.halving
        if halving is None or not report or "seed" not in report or report["reason"]:
            return TrialScheduler.CONTINUE
        accuracy = report["right"] / report["examples"]
        if halving.goes_on(report["seed"], report["examples"], accuracy):
            return TrialScheduler.CONTINUE
        self.order.stopped[report["seed"]] = report["examples"]
        return TrialScheduler.STOP


def search(study: Study, key: str, pool: Any, layout: Layout, run: RunDirectory, progress: StageProgress) -> Choice:
    """Choose seeds and fine-tuning settings as the sweep says.

    Raises
    ------
    UserError
        No trial could be scored, or too many failed one after another; what was found is kept for `--resume`.
    """
    order = SearchOrder(study, run.journal(say), _here(), progress)
    _tune(study, key, pool, layout, order, run)
    if order.mistake:
        raise UserError(order.mistake)
    scores = list(order.seed_scores.values())
    return store_choice(run, study.config, order.chosen_seeds(), scores, order.settings_scores)


def count_trials(config: SweepConfig) -> int:
    """How many trials a sweep's search has."""
    search = config.search.finetune
    settings = 0
    if search is not None:
        settings = len(search.learning_rate) * len(search.epochs or "1") * len(search.optimizer or "1")
    return (len(config.seeds) if config.search.seeds else 0) + settings


def _here() -> str:
    """The resource that the node of this process alone has."""
    own = ray.get_runtime_context().get_node_id()
    resources = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == own)
    return next(name for name in sorted(resources) if name.startswith("node:") and name != "node:__internal_head__")


def _tune(study: Study, key: str, pool: Any, layout: Layout, order: SearchOrder, run: RunDirectory) -> None:
    # Trials that are lost are begun anew, and told where that is in vain.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    execution, total = study.config.execution, count_trials(study.config)
    known = dict(order.journal.reports)
    lookup = Lookup(study.config.name, pool, key, study.slices, known, 1 + execution.retries)
    trial = tune.with_parameters(SearchTrial, lookup=lookup)
    trial.__qualname__ = SearchTrial.__name__  # as Ray's dashboard shows it
    with own_folder(_FOLDER, tempfile.gettempdir()) as storage, kept_trial_processes():
        tuner = tune.Tuner(
            trial,
            tune_config=tune.TuneConfig(
                search_alg=order,
                scheduler=HalvingScheduler(order),
                num_samples=total * (1 + execution.retries),
                max_concurrent_trials=min(layout.replicas, _MOST_TRIALS, total),
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=storage,
                callbacks=tune_callbacks(execution.loggers, study.config.name),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=execution.retries),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        tuner.fit()
        if "tensorboard" in execution.loggers:
            store_events(run, Path(storage), "search")
    if order.completed < total and not order.mistake:
        order.mistake = f"search: only {order.completed} of {total} trials came back; go on with --resume"
