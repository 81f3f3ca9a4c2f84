"""How alike are in-context learning and fine-tuning in Qwen3? Distributions over seeds, with controls.

The names below are the programmatic interface; each is loaded when it is first used, so that importing the package
is quick.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_WHERE = {
    "SweepConfig": "raydual.settings.schema",
    "Finetune": "raydual.settings.schema",
    "UserError": "raydual.errors",
    "load_config": "raydual.settings.reading",
    "load_sweep": "raydual.settings.reading",
    "Control": "raydual.settings.controls",
    "control_named": "raydual.settings.controls",
    "RunDirectory": "raydual.run_directory.directory",
    "examples": "raydual.run_directory.whole",
    "execute": "raydual.pipeline",
    "execute_cells": "raydual.pipeline",
    "estimate": "raydual.plan.estimate",
    "reduce_run": "raydual.statistics.reduce",
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
    "Laboratory": "raydual.one_seed.laboratory",
    "Evaluation": "raydual.one_seed.laboratory",
    "record": "raydual.one_seed.laboratory",
    "record_seed": "raydual.one_seed.recordings",
    "verify_dual": "raydual.one_seed.dual",
    "verify_context_weights": "raydual.one_seed.context_weights",
    "fit_patches": "raydual.model.fitted_patches",
    "linear_attention_model": "raydual.one_seed.linear_attention",
    "attention_weights": "raydual.one_seed.laboratory",
    "Measurer": "raydual.measure.measurer",
    "SeedMeasurer": "raydual.measure.seeds",
    "CATALOGUE": "raydual.catalogue.entries",
    "Metric": "raydual.catalogue.entries",
    "Value": "raydual.catalogue.marks",
    "of_predictions": "raydual.catalogue.marks",
    "of_ranks": "raydual.catalogue.marks",
    "of_recordings": "raydual.catalogue.marks",
    "cosine": "raydual.metrics.similarity",
    "simaou": "raydual.metrics.similarity",
    "simam": "raydual.metrics.similarity",
    "norm_matched_null": "raydual.metrics.similarity",
    "kendall_tau": "raydual.measure.ranking",
    "rec2ftp": "raydual.metrics.prediction",
    "kappa": "raydual.metrics.prediction",
    "describe": "raydual.statistics.over_seeds",
    "as_dataset": "raydual.interchange",
    "as_xarray": "raydual.interchange",
}

__all__ = sorted([*_WHERE, "__version__"])


def __getattr__(name: str) -> Any:
    if name == "__version__":
        try:
            return version("raydual")
        except PackageNotFoundError:
            return "(a checkout that is not installed)"
    if name not in _WHERE:
        raise AttributeError(f"module 'raydual' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return __all__
