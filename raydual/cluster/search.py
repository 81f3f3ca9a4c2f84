"""Ray Tune chooses seeds, then fine-tuning settings, on the selection set; one set of replicas for both."""

import itertools
import json
import math
import tempfile
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from raydual.cluster.halving import Halving, SeedScore, choose
from raydual.cluster.plan import ReplicaPlan
from raydual.cluster.progress import StageProgress, say
from raydual.config import Finetune, SweepConfig
from raydual.errors import UserError
from raydual.journal import Journal
from raydual.measure.study import Study
from raydual.results import FINETUNE_SEARCH, SEED_SEARCH, RunDirectory


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


class SearchTrial(tune.Trainable):
    """A trial is a seed (a step is a slice of the selection set) or a fine-tuning setting (one step)."""

    def setup(  # type: ignore[override]  # `tune.with_parameters` gives the others
        self, config: dict[str, Any], study: Study, threads: int, known: dict[str, dict]
    ) -> None:
        """Take what all trials share; the model is loaded when the first report has to be computed."""
        self.study, self.threads, self.known = study, threads, known
        self.scorer: Any = None
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Turn to another trial on the same model."""
        self.trial, self.slice, self.right, self.prefix = new_config, 0, 0, None
        return True

    def _load(self) -> Any:
        if self.scorer is None:
            import torch

            from raydual.measure.scoring import Scorer
            from raydual.model.loading import load_model

            torch.set_num_threads(self.threads)
            config = self.study.config
            loaded = load_model(config.model, revision=config.revision, dtype=config.dtype)
            self.scorer = Scorer(loaded, self.study)
        return self.scorer

    def step(self) -> dict[str, Any]:
        """One report."""
        return self._score_seed() if self.trial["kind"] == "seed" else self._score_settings()

    def _score_seed(self) -> dict[str, Any]:
        slices = self.study.slices
        seed, end = self.trial["seed"], slices[self.slice]
        start = slices[self.slice - 1] if self.slice else 0
        key = slice_key(seed, end)
        report = self.known.get(key)
        if report is None:
            report = self._compute_slice(seed, start, end)
        self.right, self.slice = report["right"], self.slice + 1
        last = self.slice == len(slices) or report["reason"] is not None
        return _reported(key, report, last)

    def _compute_slice(self, seed: int, start: int, end: int) -> dict[str, Any]:
        scorer = self._load()
        if self.prefix is None:
            demonstrations = scorer.demonstrations(seed)
            reason = scorer.unfit(demonstrations)
            if reason:
                return {"seed": seed, "examples": 0, "right": 0, "reason": reason}
            self.prefix = scorer.encode(demonstrations)
        right = self.right + scorer.in_context_right(self.prefix, start, end)
        return {"seed": seed, "examples": end, "right": right, "reason": None}

    def _score_settings(self) -> dict[str, Any]:
        settings, seeds = self.trial["settings"], tuple(self.trial["seeds"])
        key = settings_key(settings, seeds)
        report = self.known.get(key)
        if report is None:
            scorer = self._load()
            chosen = self.study.config.finetune.model_copy(update=settings)
            score = scorer.finetuned([scorer.demonstrations(seed) for seed in seeds], chosen)
            report = {"settings": settings, **asdict(score)}
        return _reported(key, report, True)


def _reported(key: str, report: dict[str, Any], last: bool) -> dict[str, Any]:
    """A report as Tune carries it: one string, since Tune flattens nested results."""
    return {"key": key, "report": json.dumps(report), tune.result.DONE: last}


class SearchOrder(Searcher):
    """Hands Tune the seeds, a generation at a time, and once all are in, the fine-tuning settings."""

    def __init__(self, study: Study, journal: Journal) -> None:
        super().__init__(metric="key", mode="max")
        self.config, self.journal = study.config, journal
        self.running: dict[str, dict[str, Any]] = {}
        self.seed_scores: dict[int, SeedScore] = {}
        self.stopped: dict[int, int] = {}
        self.settings_scores: list[dict[str, Any]] = []
        seeds = self.config.search.seeds
        self.halving = Halving(self.config.seeds, study.slices, seeds.keep) if seeds else None
        self.groups_started = 0
        self.queue: list[dict[str, Any]] = []
        self.progress = StageProgress("search", self.total())

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

    def total(self) -> int:
        """How many trials there are."""
        search = self.config.search.finetune
        settings = 0
        if search is not None:
            settings = len(search.learning_rate) * len(search.epochs or "1") * len(search.optimizer or "1")
        return (len(self.config.seeds) if self.halving else 0) + settings

    def chosen_seeds(self) -> tuple[int, ...]:
        """The seeds that are measured."""
        if self.halving is None:
            return tuple(sorted(self.config.seeds))
        return tuple(choose(list(self.seed_scores.values()), self.halving.keep))

    def suggest(self, trial_id: str) -> Any:
        """The next trial, None while a group is being completed, or the end."""
        if not self.queue:
            if self.running:
                return None
            self.queue = self._next_group()
            if not self.queue:
                return Searcher.FINISHED
        self.running[trial_id] = self.queue.pop(0)
        return self.running[trial_id]

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keep a report that is not the trial's last."""
        report = json.loads(result["report"])
        self.journal.add(result["key"], report)
        if self.running[trial_id]["kind"] == "seed":
            seed, examples = report["seed"], report["examples"]
            accuracy = report["right"] / examples if examples else float("nan")
            self.seed_scores[seed] = SeedScore(seed, examples, accuracy, self.stopped.get(seed), report["reason"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Keep a trial's last report, which Tune hands over here alone if the trial ended of itself."""
        if result is not None:
            self.on_trial_result(trial_id, result)
        trial = self.running.pop(trial_id)
        if result is None:
            return
        report = json.loads(result["report"])
        if trial["kind"] == "finetune":
            self.settings_scores.append(report)
        self.progress.advance(1, _describe(trial, report))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is what a search resumes from."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as above."""


def _describe(trial: dict[str, Any], report: dict[str, Any]) -> str:
    if trial["kind"] == "seed":
        if report["reason"]:
            return f"seed {report['seed']}: {report['reason']}"
        accuracy = report["right"] / report["examples"]
        return f"seed {report['seed']}: in-context accuracy {accuracy:.3f} on {report['examples']} examples"
    settings = report["settings"]
    return f"learning rate {settings['learning_rate']:g}: fine-tuned accuracy {report['accuracy']:.3f}"


class HalvingScheduler(FIFOScheduler):
    """Stops the poorer seeds at each slice, by `Halving`."""

    def __init__(self, order: SearchOrder) -> None:
        super().__init__()
        self.order = order

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """CONTINUE or STOP."""
        report = json.loads(result["report"])
        halving = self.order.halving
        if halving is None or "seed" not in report or report["reason"]:
            return TrialScheduler.CONTINUE
        accuracy = report["right"] / report["examples"]
        if halving.goes_on(report["seed"], report["examples"], accuracy):
            return TrialScheduler.CONTINUE
        self.order.stopped[report["seed"]] = report["examples"]
        return TrialScheduler.STOP


def search(study: Study, plan: ReplicaPlan, run: RunDirectory) -> Choice:
    """Choose seeds and fine-tuning settings as the sweep says."""
    order = SearchOrder(study, run.journal(say))
    _tune(study, plan, order)
    return _store(run, study.config, order)


def _tune(study: Study, plan: ReplicaPlan, order: SearchOrder) -> None:
    trainable = tune.with_parameters(SearchTrial, study=study, threads=plan.threads, known=dict(order.journal.reports))
    trainable = tune.with_resources(trainable, {"cpu": plan.cpus, "gpu": plan.gpus})
    with tempfile.TemporaryDirectory(prefix="raydual-tune-", ignore_cleanup_errors=True) as storage:
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=order,
                scheduler=HalvingScheduler(order),
                num_samples=order.total(),
                max_concurrent_trials=plan.replicas,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                storage_path=storage,
                verbose=0,
                failure_config=tune.FailureConfig(fail_fast=True),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        results = tuner.fit()
    if results.errors:
        raise results.errors[0]


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
        table = pa.Table.from_pylist([{k: row[k] for k in FINETUNE_SEARCH.names} for row in rows], FINETUNE_SEARCH)
        run.write_finetune_search(table)
        settings = settings.model_copy(update=best["settings"])
    return Choice(chosen, settings)


def _best(reports: list[dict[str, Any]], objective: str) -> dict[str, Any]:
    """The report with the highest objective; ties go to the smaller learning rate, then to fewer epochs."""
    usable = [report for report in reports if not math.isnan(report[objective])]
    if not usable:
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
