"""What Ray Tune tells TensorBoard, MLflow and Weights & Biases of the search, a run or a curve for each trial."""

import os
from collections.abc import Sequence
from typing import Any

from raydual.loggers import PROJECT


def tune_callbacks(names: Sequence[str], sweep: str) -> list[Any]:
    """Tune's own callbacks for `execution.loggers`."""
    made: list[Any] = []
    if "tensorboard" in names:
        from ray.tune.logger import TBXLoggerCallback

        made.append(TBXLoggerCallback())
    if "mlflow" in names:
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        made.append(MLflowLoggerCallback(uri, experiment_name=experiment, tags={"sweep": sweep, "stage": "search"}))
    if "wandb" in names:
        from ray.air.integrations.wandb import WandbLoggerCallback

        made.append(WandbLoggerCallback(project=os.environ.get("WANDB_PROJECT") or PROJECT, group=f"{sweep} search"))
    return made
