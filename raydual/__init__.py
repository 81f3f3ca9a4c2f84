"""How alike are in-context learning and fine-tuning in Qwen3? Distributions over seeds, with controls.

The names below are the programmatic interface; each is loaded when it is first used, so that importing the package
is quick.
"""

from importlib import import_module
from importlib.metadata import version
from typing import Any

_WHERE = {
    "SweepConfig": "raydual.config",
    "Finetune": "raydual.config",
    "UserError": "raydual.errors",
    "load_config": "raydual.loading",
    "load_sweep": "raydual.loading",
    "Control": "raydual.controls",
    "control_named": "raydual.controls",
    "RunDirectory": "raydual.results",
    "execute": "raydual.pipeline",
    "execute_cells": "raydual.pipeline",
    "estimate": "raydual.estimate",
    "reduce_run": "raydual.reduce",
    "write_report": "raydual.report",
    "load_model": "raydual.model.loading",
    "LoadedModel": "raydual.model.loading",
    "dual_attention": "raydual.model.attention",
    "Recorder": "raydual.model.recording",
    "recording": "raydual.model.recording",
    "finetune": "raydual.model.finetune",
    "with_projections": "raydual.model.stacked",
    "fresh_model": "raydual.model.fresh",
    "random_step": "raydual.model.random_step",
    "Laboratory": "raydual.measure.single",
    "Evaluation": "raydual.measure.single",
    "record": "raydual.measure.single",
    "record_seed": "raydual.measure.interchange",
    "verify_dual": "raydual.measure.dual",
    "linear_attention_model": "raydual.model.linear",
    "attention_weights": "raydual.measure.single",
    "Bench": "raydual.measure.bench",
    "Replica": "raydual.measure.replica",
    "CATALOGUE": "raydual.metrics.catalogue",
    "Metric": "raydual.metrics.catalogue",
    "Value": "raydual.metrics.measure",
    "of_predictions": "raydual.metrics.measure",
    "of_ranks": "raydual.metrics.measure",
    "of_recordings": "raydual.metrics.measure",
    "cosine": "raydual.metrics.similarity",
    "simaou": "raydual.metrics.similarity",
    "simam": "raydual.metrics.similarity",
    "norm_matched_null": "raydual.metrics.similarity",
    "kendall_tau": "raydual.measure.ranking",
    "rec2ftp": "raydual.metrics.prediction",
    "kappa": "raydual.metrics.prediction",
    "describe": "raydual.metrics.statistics",
}

__all__ = sorted([*_WHERE, "__version__"])


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("raydual")
    if name not in _WHERE:
        raise AttributeError(f"module 'raydual' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return __all__
