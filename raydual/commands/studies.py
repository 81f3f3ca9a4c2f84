"""The study that the commands on one seed work on."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydual.errors import UserError

if TYPE_CHECKING:
    from raydual.one_seed.laboratory import Laboratory
    from raydual.settings.schema import Finetune, SweepConfig


def laboratory(where: str, overrides: Sequence[str] | None, seed: int = 0, control: str | None = None) -> "Laboratory":
    """The study at `where`, a sweep file or a run directory; checks the seed and the control first.

    Raises
    ------
    UserError
        A mistake in any of them.
    """
    from raydual.settings.controls import control_named
    from raydual.settings.schema import LARGEST

    config, settings, seeds = read_study(where, overrides or ())
    if not 0 <= seed < LARGEST:
        raise UserError(f"--seed {seed}: a seed is 0 or greater, and less than {LARGEST}")
    if control is not None:
        control_named(control)
    from raydual.one_seed.laboratory import Laboratory

    return Laboratory(config, settings, seeds)


def title(laboratory: "Laboratory") -> str:
    """The study in a line for a person."""
    config, settings = laboratory.study.config, laboratory.settings
    return (
        f"model {config.model} ({config.dtype}), task {config.task.name}, {config.demonstrations} demonstrations; "
        f"fine-tuning: {settings.optimizer}, learning rate {settings.learning_rate:g}"
    )


def about(laboratory: "Laboratory") -> dict[str, Any]:
    """The study for another program."""
    config = laboratory.study.config
    return {
        "model": config.model,
        "dtype": config.dtype,
        "task": config.task.name,
        "demonstrations": config.demonstrations,
        "finetune": laboratory.settings.model_dump(mode="json"),
    }


def read_study(where: str, overrides: Sequence[str]) -> "tuple[SweepConfig, Finetune, Sequence[int]]":
    """A sweep, its fine-tuning settings and its measured seeds, from a sweep file or a run directory."""
    from raydual.settings.reading import load_config

    if "://" not in where and not Path(where).is_dir():
        config = load_config(Path(where), overrides)
        return config, config.finetune, config.seeds
    from raydual.run_directory.directory import RunDirectory

    run = RunDirectory(where)
    if not run.has_config():
        raise UserError(f"{where}: not a run directory, it holds no config.yaml")
    config = run.config(overrides)
    candidates, tried = run.seed_search(), run.finetune_search()
    seeds = [row["seed"] for row in candidates.to_pylist() if row["kept"]] if candidates else config.seeds
    if tried is None or any(override.startswith("finetune") for override in overrides):
        return config, config.finetune, seeds
    best = next((row for row in tried.to_pylist() if row["chosen"]), None)
    if best is None:
        raise UserError(f"{where}: its search has chosen no fine-tuning settings; go on with it: --resume")
    chosen = {name: best[name] for name in ("optimizer", "learning_rate", "epochs")}
    return config, config.finetune.model_copy(update=chosen), seeds
