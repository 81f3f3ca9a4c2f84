"""A trial of the search, as Ray Tune runs it: it asks the pool, whose replicas hold the model."""

import json
import math
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune

from raydual.cluster.connect import unwrapped_user_errors
from raydual.cluster.pool import Lost
from raydual.errors import UserError


def slice_key(seed: int, examples: int) -> str:
    """The journal's key of a seed's report at a slice."""
    return f"seed {seed} at {examples}"


def settings_key(settings: dict[str, Any], seeds: tuple[int, ...]) -> str:
    """The journal's key of a fine-tuning setting's report."""
    return f"finetune {json.dumps(settings, sort_keys=True)} on {list(seeds)}"


@dataclass(frozen=True)
class Lookup:
    """What every trial needs: the sweep's name, the pool, the study's key in it, the known reports, and the bounds."""

    sweep: str
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

    def __repr__(self) -> str:
        """What Ray's dashboard calls the actor, which is kept for many trials."""
        return f"search of {self.lookup.sweep}"

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
            asked = lookup.pool.run.options(name=f"pool: {name}").remote(
                method, lookup.study, arguments, name, lookup.tries, self.replica
            )
            found, self.replica = ray.get(asked)
        if isinstance(found, Lost):
            unknown = {"accuracy": math.nan, "greedy_accuracy": math.nan, "loss": math.nan, "diverged": 0, "right": 0}
            return {**unknown, "reason": f"{found.attempts} workers were lost with it: {found.reason}", "broken": True}
        return found


def _reported(key: str, report: dict[str, Any], last: bool) -> dict[str, Any]:
    """A report as Tune carries it: one string, since Tune flattens nested results; beside it numbers for loggers."""
    told = {"key": key, "report": json.dumps(report), tune.result.DONE: last}
    if "seed" in report and report["examples"]:
        return {**told, "accuracy": report["right"] / report["examples"], "examples": report["examples"]}
    numbers = {name: report[name] for name in ("accuracy", "greedy_accuracy", "loss") if name in report}
    return {**told, **{name: value for name, value in numbers.items() if math.isfinite(value)}}
