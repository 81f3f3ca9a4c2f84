"""Run directories, and rows, compared: the same numbers, none missing, none twice, bit for bit or up to rounding.

rounding = Rounding.of_run(run)             # derived once: run's units are measured again, moved by rounding
assert_same_run(other, run, rounding)       # another layout: batches, replicas, nodes, order, kernels
assert_same_run(resumed, run)               # the same batches: bit for bit
"""

import math
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raydual.model.loading import load_model
from raydual.run_directory.directory import FAILED, MEASUREMENTS, NO_CONTROL, RunDirectory
from raydual.settings.schema import Finetune
from raydual.statistics.reduce import reduce_run
from raydual.study import prepare_study

from .rounding import Bounds, Key, SearchBounds, rounding_bounds, search_bounds

KEY = ("seed", "control", "metric", "condition", "layer")
Row = Mapping[str, Any]
_LOOSE, _FEW = 0.01, 0.05


@dataclass(frozen=True)
class Rounding:
    """How far the numbers of a run may be from those of the same sweep computed in another layout."""

    numbers: Bounds
    search: SearchBounds

    @classmethod
    def of_run(cls, run: RunDirectory) -> "Rounding":
        """Derived from a finished run's settings and choices."""
        config, manifest = run.config(), run.manifest()
        assert manifest is not None, f"{run.path} is not finished"
        study = prepare_study(config)
        loaded = load_model(config.model, revision=config.revision, dtype=config.dtype)
        chosen = manifest["seeds"]["chosen"]
        settings = [
            config.finetune.model_copy(update={name: row[name] for name in ("optimizer", "learning_rate", "epochs")})
            for row in _rows(run.finetune_search())
        ]
        return cls(
            numbers=rounding_bounds(loaded, study, study.units(chosen), Finetune(**manifest["finetune"])),
            search=search_bounds(loaded, study, [row["seed"] for row in _rows(run.seed_search())], settings, chosen),
        )


def loose(bounds: Bounds) -> float:
    """Share of the bounds that are above a hundredth: so many numbers are hardly compared."""
    return float(np.mean([bound > _LOOSE for bound in bounds.values()]))


def assert_same_run(found: RunDirectory, expected: RunDirectory, rounding: Rounding | None = None) -> None:
    """Two finished runs of one sweep have the same rows, searches, summary and comparisons.

    Without `rounding` every number is the same one, bit for bit. With it, values may differ by as much as it says, and
    the summary and comparisons must be what `found`'s own rows reduce to.
    """
    rows = [run.measured(MEASUREMENTS.names).to_pylist() for run in (found, expected)]
    assert_same_rows(*rows, None if rounding is None else rounding.numbers)
    _assert_same_search(found, expected, None if rounding is None else rounding.search)
    if rounding is None:
        _assert_equal_tables(found, expected)
    else:
        with tempfile.TemporaryDirectory() as folder:
            _assert_equal_tables(found, _reduced(found, Path(folder)))


def assert_same_rows(
    found: Iterable[Row], expected: Iterable[Row], bounds: Bounds | None = None, few: float = _FEW
) -> None:
    """The same rows in any order, none missing, none twice; values alike within `bounds`, else bit for bit.

    At most the share `few` of the bounds may be so loose that they hardly compare anything.
    """
    own, other = _by_key(found), _by_key(expected)
    assert own.keys() == other.keys(), f"only one side has {sorted(own.keys() ^ other.keys())[:5]}"
    assert own, "there is nothing to compare"
    if bounds is not None:
        assert loose(bounds) <= few, f"rounding decides {loose(bounds):.1%} of the numbers: nothing is compared"
    wrong = []
    for key, row in own.items():
        bound = None if bounds is None or key[2] == FAILED else bounds[key]
        kept = {} if bound == math.inf else {name: row[name] for name in row if name not in ("value", *KEY)}
        if not within(row["value"], other[key]["value"], bound) or any(kept[n] != other[key][n] for n in kept):
            wrong.append(f"{key}: {dict(row)} is not {dict(other[key])} within {bound}")
    assert not wrong, "\n".join([f"{len(wrong)} of {len(own)} rows differ", *wrong[:5]])


def assert_same_values(
    found: Mapping[tuple[str, str, int], float],
    expected: Mapping[tuple[str, str, int], float],
    bounds: Bounds,
    seed: int,
    control: str = NO_CONTROL,
    drawn: Sequence[str] = (),
) -> None:
    """One seed's numbers by (metric, condition, layer) are alike within `bounds`, but for those of metrics `drawn`."""
    rows = [
        [
            {"seed": seed, "control": control, "metric": metric, "condition": condition, "layer": layer, "value": value}
            for (metric, condition, layer), value in values.items()
            if metric not in drawn
        ]
        for values in (found, expected)
    ]
    assert_same_rows(*rows, bounds)


def within(found: float, expected: float, bound: float | None) -> bool:
    """Whether two values are at most `bound` apart, or both undefined; an infinite bound allows one to be.

    To a bound comes the last bit of float32, in which shares of examples are taken. None: they must be the same.
    """
    if bound == math.inf:
        return True
    if math.isnan(found) or math.isnan(expected):
        return math.isnan(found) and math.isnan(expected)
    if bound is None:
        return found == expected
    return abs(found - expected) <= bound + np.finfo(np.float32).eps * max(1.0, abs(expected))


def _by_key(rows: Iterable[Row]) -> dict[Key, Row]:
    found: dict[Key, Row] = {}
    for row in rows:
        key = tuple(row[name] for name in KEY)
        assert key not in found, f"{key} is there twice"
        found[key] = row
    return found


def _rows(table: pa.Table | None) -> list[dict[str, Any]]:
    return [] if table is None else table.to_pylist()


def _assert_same_search(found: RunDirectory, expected: RunDirectory, bounds: SearchBounds | None) -> None:
    if bounds is not None:
        # A choice follows from counts of right predictions: if rounding decides one, the choices may be others.
        assert not any(bounds.unsure.values()), f"rounding decides the search over seeds: {bounds.unsure}"
        assert not bounds.unsure_tuned, f"rounding decides {bounds.unsure_tuned} predictions of the fine-tuning search"
    for read in (RunDirectory.seed_search, RunDirectory.finetune_search):
        own, other = (sorted(_rows(read(run)), key=str) for run in (found, expected))
        assert len(own) == len(other)
        losses = [[row.pop("loss", 0.0) for row in rows] for rows in (own, other)]
        assert str(own) == str(other)
        bound = None if bounds is None else bounds.loss
        assert all(within(a, b, bound) for a, b in zip(*losses, strict=True)), (losses, bound)


def _assert_equal_tables(found: RunDirectory, expected: RunDirectory) -> None:
    for read in (RunDirectory.summary, RunDirectory.comparisons):
        own, other = (_sorted(read(run)) for run in (found, expected))
        assert len(own) == len(other) > 0
        # As text, so that two undefined values are the same.
        assert [str(row) for row in own] == [str(row) for row in other]


def _sorted(table: pa.Table) -> Sequence[Row]:
    names = [name for name in table.column_names if not pa.types.is_floating(table.schema.field(name).type)]
    return table.sort_by([(name, "ascending") for name in names]).to_pylist()


def _reduced(run: RunDirectory, folder: Path) -> RunDirectory:
    """The run's rows reduced anew, elsewhere."""
    copied = RunDirectory(folder / run.path.name)
    copied.path.mkdir()
    shutil.copy(run.config_file, copied.config_file)
    shutil.copytree(run.measurements, copied.measurements)
    shutil.copytree(run.storage.path("examples"), copied.storage.path("examples"))
    reduce_run(copied)
    return copied
