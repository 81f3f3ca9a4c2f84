"""A finished run's headline numbers and report for TensorBoard, MLflow and Weights & Biases (`execution.loggers`).

What the search tries goes there by Ray Tune's own callbacks (`raydual.cluster.callbacks`).
"""

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from raydual.console import note
from raydual.errors import UserError
from raydual.report.data import RunData
from raydual.run_directory.directory import RunDirectory
from raydual.settings.schema import SweepConfig

PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
"""What each logger is, to Python."""
PROJECT = "raydual"
"""The experiment (MLflow) or project (Weights & Biases) that runs go to, unless their own variables name another."""


def check_loggers(config: SweepConfig) -> None:
    """Check that what a sweep logs to is installed.

    Raises
    ------
    UserError
        It is not; the message says which extra brings it.
    """
    for name in config.execution.loggers:
        if find_spec(PACKAGES[name]) is None:
            raise UserError(
                f"execution.loggers: {name} needs {PACKAGES[name]}, which is not installed: "
                f"pip install 'raydual[{name}]', or leave it out"
            )


def log_run(data: RunData, report: Path | str) -> None:
    """Send a finished run's headline numbers and its report; what a logger refuses is noted."""
    numbers = {f"{metric.name}/{row['condition']}": row["mean"] for metric, row in data.headline() if row["n"]}
    for name in data.config.execution.loggers:
        try:
            _LOGS[name](data, numbers, str(report))
        except Exception as error:  # of the logger's own, after all has been computed and stored
            note(f"{name} was not told of the run: {type(error).__name__}: {' '.join(str(error).split())[:300]}")


def settings_of(config: SweepConfig) -> dict[str, Any]:
    """What a logger calls the parameters of a run."""
    kept = ("name", "model", "revision", "dtype", "demonstrations", "protocol")
    return {**{key: getattr(config, key) for key in kept}, "task": config.task.name, "seeds": len(config.seeds)}


def store_events(run: RunDirectory, folder: Path, place: str) -> None:
    """Move TensorBoard's event files from a folder to a place in the run directory, wherever that lies."""
    for path in sorted(folder.rglob("events.out.tfevents.*")):
        run.storage.write(f"tensorboard/{place}/{path.parent.name}/{path.name}", path.read_bytes())


def _to_tensorboard(data: RunData, numbers: dict[str, float], report: str) -> None:
    from tensorboardX import SummaryWriter

    with tempfile.TemporaryDirectory(prefix="raydual-log-") as folder:
        with SummaryWriter(str(Path(folder) / data.config.name), write_to_disk=True) as writer:
            for name, value in numbers.items():
                writer.add_scalar(name, value)
            writer.add_text("report", report)
        store_events(data.run, Path(folder), "run")


def _to_mlflow(data: RunData, numbers: dict[str, float], report: str) -> None:
    import mlflow

    if not os.environ.get("MLFLOW_EXPERIMENT_NAME"):
        mlflow.set_experiment(PROJECT)
    with mlflow.start_run(run_name=data.config.name):
        mlflow.log_params({key: value for key, value in settings_of(data.config).items() if value is not None})
        mlflow.log_metrics({name.replace("-", "_"): value for name, value in numbers.items()})
        mlflow.log_text(data.run.storage.read_text("report.html"), "report.html")
        mlflow.log_text(data.run.storage.read_text("summary.json"), "summary.json")
        mlflow.set_tag("report", report)


def _to_wandb(data: RunData, numbers: dict[str, float], report: str) -> None:
    import wandb

    project = os.environ.get("WANDB_PROJECT") or PROJECT
    with wandb.init(project=project, name=data.config.name, config=settings_of(data.config)) as opened:
        page = wandb.Html(data.run.storage.read_text("report.html"), inject=False)
        opened.log({**numbers, "report": page})
        opened.summary["report_path"] = report


_LOGS = {"tensorboard": _to_tensorboard, "mlflow": _to_mlflow, "wandb": _to_wandb}
