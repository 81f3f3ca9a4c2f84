"""The study that the commands on one seed work on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydual.console import Done, following, note
from raydual.errors import UserError
from raydual.process.pulse import PULSE
from raydual.statistics.unchanged import warnings_of

if TYPE_CHECKING:
    from raydual.measure.rows import Row
    from raydual.one_seed.laboratory import Laboratory
    from raydual.settings.schema import Finetune, SweepConfig

SEARCHED = "chosen by the run's search"
NOT_SEARCHED = "not searched: the sweep's own value"
NOT_YET = "not searched yet: the sweep's own value"
AS_SET = "as the sweep says, which searches none"
SET = "not searched: set by --set"
BY_HAND = "changed by --set, not what the run's search chose"


@dataclass(frozen=True)
class Found:
    """A sweep, its fine-tuning settings, where those come from in words, and its measured seeds."""

    config: "SweepConfig"
    finetune: "Finetune"
    origin: str
    seeds: Sequence[int]


@dataclass(frozen=True)
class OneSeed:
    """What a command on one seed works with: a laboratory, and where its fine-tuning settings come from."""

    laboratory: "Laboratory"
    origin: str

    def title(self) -> str:
        """The study in a line for a person."""
        config, settings = self.laboratory.study.config, self.laboratory.settings
        return (
            f"model {config.model} ({config.dtype}), task {config.task.name}, {config.demonstrations} demonstrations; "
            f"fine-tuning: {settings.optimizer}, learning rate {settings.learning_rate:g} ({self.origin})"
        )

    def about(self) -> dict[str, Any]:
        """The study for another program."""
        config = self.laboratory.study.config
        return {
            "model": config.model,
            "dtype": config.dtype,
            "task": config.task.name,
            "demonstrations": config.demonstrations,
            "finetune": self.laboratory.settings.model_dump(mode="json"),
            "finetune_origin": self.origin,
        }

    def measure(self, seed: int, control: str) -> "list[Row]":
        """Every metric of a seed, with progress and a warning where an arm changed nothing."""
        with following(f"seed {seed}", self._done):
            rows = self.laboratory.measure(seed, control)
        for line in warnings_of(self.laboratory.after_all(rows), self.laboratory.study.config.dtype):
            note(line)
        return rows

    def _done(self) -> Done:
        if "loaded" not in vars(self.laboratory):
            return Done(words="loading the model")
        return Done(PULSE.done, PULSE.total, PULSE.part)


def one_seed(where: str, overrides: Sequence[str] | None, seed: int = 0, control: str | None = None) -> OneSeed:
    """The study at `where`, a sweep file or a run directory; checks the seed and the control first.

    Raises
    ------
    UserError
        A mistake in any of them.
    """
    from raydual.settings.base import LARGEST
    from raydual.settings.controls import control_named

    found = read_study(where, overrides or ())
    if not 0 <= seed < LARGEST:
        raise UserError(f"--seed {seed}: a seed is 0 or greater, and less than {LARGEST}")
    if control is not None:
        control_named(control)
    from raydual.one_seed.laboratory import Laboratory

    return OneSeed(Laboratory(found.config, found.finetune, found.seeds), found.origin)


def read_study(where: str, overrides: Sequence[str]) -> Found:
    """What a sweep file or a run directory says.

    Of a run directory the fine-tuning settings are those that its search chose, but for what `overrides` change.
    """
    from raydual.settings.reading import load_config

    keys = [override.partition("=")[0].strip() for override in overrides]
    by_hand = any(key.partition(".")[0] == "finetune" for key in keys)
    if "://" not in where and not Path(where).is_dir():
        config = load_config(Path(where), overrides)
        return Found(config, config.finetune, _origin(config, by_hand, NOT_SEARCHED), config.seeds)
    from raydual.run_directory.directory import RunDirectory

    run = RunDirectory(where)
    if not run.has_config():
        raise UserError(f"{where}: not a run directory, it holds no config.yaml")
    config = run.config(overrides)
    candidates, tried = run.seed_search(), run.finetune_search()
    seeds = [row["seed"] for row in candidates.to_pylist() if row["kept"]] if candidates else config.seeds
    if tried is None:
        return Found(config, config.finetune, _origin(config, by_hand, NOT_YET), seeds)
    best = next((row for row in tried.to_pylist() if row["chosen"]), None)
    if best is None:
        raise UserError(f"{where}: its search has chosen no fine-tuning settings; go on with it: --resume")
    searched = {name: best[name] for name in ("optimizer", "learning_rate", "epochs")}
    kept = {name: value for name, value in searched.items() if not {"finetune", f"finetune.{name}"} & set(keys)}
    return Found(config, config.finetune.model_copy(update=kept), BY_HAND if by_hand else SEARCHED, seeds)


def _origin(config: "SweepConfig", by_hand: bool, where_searched: str) -> str:
    """Where settings come from that no search has chosen."""
    if by_hand:
        return SET
    return where_searched if config.search.finetune else AS_SET
