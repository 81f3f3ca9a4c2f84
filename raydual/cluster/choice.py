"""What a search chose: stored once it has finished, and read back."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from raydual.errors import UserError
from raydual.plan.halving import SeedScore
from raydual.run_directory.directory import FINETUNE_SEARCH, SEED_SEARCH, RunDirectory
from raydual.settings.schema import Finetune, SweepConfig


@dataclass(frozen=True)
class Choice:
    """What is to be measured."""

    seeds: tuple[int, ...]
    finetune: Finetune


def store_choice(
    run: RunDirectory,
    config: SweepConfig,
    chosen: tuple[int, ...],
    scores: Sequence[SeedScore],
    reports: list[dict[str, Any]],
) -> Choice:
    """Store what a finished search tried and chose: the `scores` of seeds, the `reports` of fine-tuning settings."""
    kept = set(chosen)
    if config.search.seeds is not None:
        rows = [{**asdict(score), "kept": score.seed in kept} for score in sorted(scores, key=lambda score: score.seed)]
        run.write_seed_search(pa.Table.from_pylist(rows, SEED_SEARCH))
    settings = config.finetune
    if config.search.finetune is not None:
        best = _best(reports, config.search.finetune.objective)
        rows = [
            {**report, **report["settings"], "chosen": report is best}
            for report in sorted(reports, key=lambda r: sorted(map(str, r["settings"].items())))
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
