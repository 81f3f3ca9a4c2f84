"""Ray Tune chooses seeds, then fine-tuning settings, on the selection set; the replicas of the pool do the work."""

import itertools
import json
import logging
import math
import tempfile
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from raydual.cluster.connect import own_folder, unwrapped_user_errors
from raydual.cluster.halving import Halving, SeedScore, choose
from raydual.cluster.plan import Layout
from raydual.cluster.pool import Lost
from raydual.cluster.progress import StageProgress, say
from raydual.config import Finetune, SweepConfig
from raydual.errors import UserError
from raydual.journal import Journal
from raydual.measure.study import Study
from raydual.results import FINETUNE_SEARCH, SEED_SEARCH, RunDirectory

_MOST_TRIALS = 32
_FOLDER = "raydual-tune-"


@dataclass(frozen=True)
class Choice:
    """What is to be measured."""

    seeds: tuple[int, ...]
    finetune: Finetune


def slice_key(seed: int, examples: int) -> str:
    """The journal's key of a seed's report at a slice."""
    return f"seed {seed} at {examples}"


def settings_key(settings: dict[str, Any], seeds: tuple[int, ...]) -> str:
    """The journal's key of a fine-tuning setting's report."""
    return f"finetune {json.dumps(settings, sort_keys=True)} on {list(seeds)}"


@dataclass(frozen=True)
class Lookup:
    """What every trial needs: the pool, the study's key in it, the reports that are known, and the bounds."""

    pool: Any
    study: str
    slices: tuple[int, ...]
    known: dict[str, dict[str, Any]]
    tries: int


class SearchTrial(tune.Trainable):
    """A trial is a seed (a step is a slice of the selection set) or a fine-tuning setting (one step).

    It computes nothing itself: it asks the pool, whose replicas hold the model.
    """

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """A place beside the driver, which every node has more than enough of."""
        return tune.PlacementGroupFactory([{config["beside"]: 0.001}])

    def setup(self, config: dict[str, Any], lookup: Lookup) -> None:  # type: ignore[override]  # by `with_parameters`
        """Take what all trials share."""
        self.lookup = lookup
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Turn to another trial."""
        self.trial, self.slice, self.right = new_config, 0, 0
        self.replica: int | None = None
        return True

    def step(self) -> dict[str, Any]:
        """One report."""
        try:
            return self._score_seed() if self.trial["kind"] == "seed" else self._score_settings()
        except UserError as error:
            return {"key": "", "report": "null", "mistake": str(error), tune.result.DONE: True}

    def _score_seed(self) -> dict[str, Any]:
        slices = self.lookup.slices
        seed, end = self.trial["seed"], slices[self.slice]
        start = slices[self.slice - 1] if self.slice else 0
        key = slice_key(seed, end)
        report = self.lookup.known.get(key)
        if report is None:
            found = self._ask("score_slice", (seed, start, end), f"search: seed {seed}, examples {start} to {end}")
            reason = found["reason"]
            examples = 0 if reason else end
            report = {"seed": seed, "examples": examples, "right": self.right + found["right"], "reason": reason}
            report |= {"broken": True} if found.get("broken") else {}
        self.right, self.slice = report["right"], self.slice + 1
        last = self.slice == len(slices) or report["reason"] is not None
        return _reported(key, report, last)

    def _score_settings(self) -> dict[str, Any]:
        settings, seeds = self.trial["settings"], tuple(self.trial["seeds"])
        key = settings_key(settings, seeds)
        report = self.lookup.known.get(key)
        if report is None:
            words = ", ".join(f"{name} {value}" for name, value in settings.items())
            found = self._ask("score_settings", (settings, seeds), f"search: {words}")
            report = {"settings": settings, **found}
        return _reported(key, report, True)

    def _ask(self, method: str, arguments: tuple, name: str) -> dict[str, Any]:
        """What a replica finds, the one that was asked before if it is there."""
        lookup = self.lookup
        with unwrapped_user_errors():
            asked = lookup.pool.run.remote(method, lookup.study, arguments, name, lookup.tries, self.replica)
            found, self.replica = ray.get(asked)
        if isinstance(found, Lost):
            unknown = {"accuracy": math.nan, "greedy_accuracy": math.nan, "loss": math.nan, "diverged": 0, "right": 0}
            return {**unknown, "reason": f"{found.attempts} workers were lost with it: {found.reason}", "broken": True}
        return found


def _reported(key: str, report: dict[str, Any], last: bool) -> dict[str, Any]:
    """A report as Tune carries it: one string, since Tune flattens nested results."""
    return {"key": key, "report": json.dumps(report), tune.result.DONE: last}


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
        self.queue: list[dict[str, Any]] = []
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
            self.queue = self._next_group()
            if not self.queue:
                return Searcher.FINISHED
        self.running[trial_id] = {**self.queue.pop(0), "beside": self.beside}
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
        self.progress.advance(1, _describe(trial, report))

    def _lost(self, trial: dict[str, Any]) -> None:
        """Begin a trial anew whose process was lost; Tune itself does so only while it computes."""
        trial["lost"] = trial.get("lost", 0) + 1
        if trial["lost"] <= self.config.execution.retries:
            self.queue.insert(0, trial)
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
    _tune(study, key, pool, layout, order)
    if order.mistake:
        raise UserError(order.mistake)
    return _store(run, study.config, order)


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


def _tune(study: Study, key: str, pool: Any, layout: Layout, order: SearchOrder) -> None:
    # Trials that are lost are begun anew, and told where that is in vain.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    execution, total = study.config.execution, count_trials(study.config)
    known = dict(order.journal.reports)
    lookup = Lookup(pool, key, study.slices, known, 1 + execution.retries)
    with own_folder(_FOLDER, tempfile.gettempdir()) as storage:
        tuner = tune.Tuner(
            tune.with_parameters(SearchTrial, lookup=lookup),
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
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=execution.retries),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        tuner.fit()
    if order.completed < total and not order.mistake:
        order.mistake = f"search: only {order.completed} of {total} trials came back; go on with --resume"


def _store(run: RunDirectory, config: SweepConfig, order: SearchOrder) -> Choice:
    chosen = order.chosen_seeds()
    if order.halving is not None:
        rows = [
            {**asdict(score), "kept": score.seed in chosen}
            for score in sorted(order.seed_scores.values(), key=lambda score: score.seed)
        ]
        run.write_seed_search(pa.Table.from_pylist(rows, SEED_SEARCH))
    settings = config.finetune
    if config.search.finetune is not None:
        best = _best(order.settings_scores, config.search.finetune.objective)
        rows = [
            {**report, **report["settings"], "chosen": report is best}
            for report in sorted(order.settings_scores, key=lambda r: sorted(map(str, r["settings"].items())))
        ]
        table = pa.Table.from_pylist([{k: row.get(k) for k in FINETUNE_SEARCH.names} for row in rows], FINETUNE_SEARCH)
        run.write_finetune_search(table)
        settings = settings.model_copy(update=best["settings"])
    return Choice(chosen, settings)


def _best(reports: list[dict[str, Any]], objective: str) -> dict[str, Any]:
    """The report with the highest objective; ties go to the smaller learning rate, then to fewer epochs."""
    usable = [report for report in reports if not math.isnan(report[objective])]
    if not usable:
        reasons = [report["reason"] for report in reports if report.get("reason")]
        if reasons:
            raise UserError(f"search.finetune: no setting could be scored; the last one: {reasons[-1]}")
        raise UserError("search.finetune: every setting diverged; name smaller learning rates")

    def rank(report: dict[str, Any]) -> tuple:
        settings = report["settings"]
        return -report[objective], settings["learning_rate"], settings["epochs"], settings["optimizer"]

    return min(usable, key=rank)


def stored_choice(run: RunDirectory, config: SweepConfig) -> Choice | None:
    """What a search that has been completed chose, or what the sweep names if it searches nothing; else None."""
    seeds, settings = run.seed_search(), run.finetune_search()
    if (config.search.seeds and seeds is None) or (config.search.finetune and settings is None):
        return None
    chosen = tuple(sorted(config.seeds))
    if seeds is not None:
        chosen = tuple(row["seed"] for row in seeds.to_pylist() if row["kept"])
    finetune = config.finetune
    if settings is not None:
        best = next(row for row in settings.to_pylist() if row["chosen"])
        finetune = finetune.model_copy(update={name: best[name] for name in ("optimizer", "learning_rate", "epochs")})
    return Choice(chosen, finetune)
