"""A run directory as the tables of other libraries: a `datasets` data set, an `xarray` data set."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raydual.errors import UserError
from raydual.run_directory.directory import MEASUREMENTS, RunDirectory

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Kind = Literal["measurements", "summary", "comparisons"]


def as_dataset(run: "RunDirectory | Path | str", table: Kind = "measurements") -> Any:
    """A table of a run as a `datasets.Dataset`: a row for each seed, control, metric, condition and layer, or the like.

    Parameters
    ----------
    run : a run directory, or where it lies.
    table : every seed's `measurements`, the `summary` over seeds, or the `comparisons` with baselines and controls.

    Raises
    ------
    UserError
        There is no such run, or a file of it is missing or damaged.
    """
    import datasets

    return datasets.Dataset(_table(run, table))


def as_xarray(run: "RunDirectory | Path | str") -> Any:
    """Every seed's values as an `xarray.Dataset`, and what was run as its `attrs`.

    A variable for each metric, of the dimensions `control`, `condition`, `seed` and `layer` (-1: overall). NaN is what
    is undefined, or was not measured.

    Raises
    ------
    UserError
        There is no such run, a file of it is missing or damaged, or xarray is not installed.
    """
    try:
        import xarray
    except ImportError:
        raise UserError("xarray is not installed: pip install 'raydual[xarray]'") from None
    where = _run(run)
    frame: pd.DataFrame = _table(where, "measurements").to_pandas()
    axes = ["control", "condition", "seed", "layer"]
    measured = frame[frame["metric"] != "failed"]
    values = [
        rows.set_index(axes)["value"].to_xarray().rename(str(metric))
        for metric, rows in measured.groupby("metric", sort=False)
    ]
    config = where.config()
    about = {"name": config.name, "model": config.model, "task": config.task.name, "fingerprint": config.fingerprint()}
    return xarray.merge(values, join="outer").assign_attrs(about)


def _run(run: "RunDirectory | Path | str") -> RunDirectory:
    found = run if isinstance(run, RunDirectory) else RunDirectory(run)
    if not found.has_config():
        raise UserError(f"{found}: not a run directory, it holds no config.yaml")
    return found


def _table(run: "RunDirectory | Path | str", table: Kind) -> "pa.Table":
    found = _run(run)
    if table == "summary":
        return found.summary()
    return found.comparisons() if table == "comparisons" else found.measured(MEASUREMENTS.names)
