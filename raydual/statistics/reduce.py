"""Measured rows become distributions over seeds: one pass over the files, then the metrics one by one, side by side."""

import math
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits

from raydual.catalogue.entries import OVERALL, Metric
from raydual.catalogue.metric import ZERO
from raydual.run_directory.directory import COMPARISONS, NO_CONTROL, SUMMARY, RunDirectory
from raydual.run_directory.schemas import BOTH
from raydual.settings.controls import control_named
from raydual.settings.schema import SweepConfig
from raydual.statistics.bootstrap import Bootstrap
from raydual.statistics.buckets import Buckets, Values, Variant, gather
from raydual.statistics.by_example import ExampleFile, add_examples
from raydual.statistics.family import decide
from raydual.statistics.over_seeds import compare_all, describe_all, holm
from raydual.statistics.proportions import Both, of_seeds

Row = dict[str, Any]

LARGE_ROWS = 20_000_000
"""With more measured rows than this a run is large: its metrics are worth other machines' time."""

_JOB_BYTES = 16 * 2**20
_MOST_THREADS = 8


@dataclass(frozen=True)
class Piece:
    """A metric under one condition, and its baselines: (metric, condition, values); label splits are not `compared`.

    Within `margin` two values count as equivalent; NaN: it has none. `equal` names the controls that cannot change it.
    `whole` is what a share is of, 1 or 100; None: it is no share of examples.
    """

    metric: str
    condition: str
    own: Values
    compared: bool
    margin: float
    baselines: tuple[tuple[str, str, Values], ...]
    equal: frozenset[str] = frozenset()
    whole: float | None = None

    @property
    def bytes(self) -> int:
        """The size of all values in it."""
        return self.own.values.nbytes + sum(base.values.nbytes for _, _, base in self.baselines)


@dataclass(frozen=True)
class Job:
    """What is reduced at once: some pieces, in the order of the catalogue."""

    pieces: tuple[Piece, ...]

    @property
    def name(self) -> str:
        """The metrics in it."""
        first, last = self.pieces[0].metric, self.pieces[-1].metric
        return first if first == last else f"{first} to {last}"

    @property
    def bytes(self) -> int:
        """The size of all values in it."""
        return sum(piece.bytes for piece in self.pieces)


@dataclass(frozen=True)
class Reduced:
    """The rows of `SUMMARY` and of `COMPARISONS` that a job comes to."""

    rows: list[Row]
    compared: list[Row]


Mapper = Callable[[Callable[[Job], Reduced], Iterable[Job]], Iterable[Reduced]]
"""Like `map`: the function's results of all jobs, in their order. It takes jobs as it goes, so that few are held."""


def reduce_run(run: RunDirectory, map_large: Mapper | None = None) -> pa.Table:
    """Write `summary.parquet`, `comparisons.parquet` and `summary.json` of a run directory; returns the summary.

    The metrics are reduced in threads; those of a run of more than `LARGE_ROWS` by `map_large`, where it is given.
    """
    config = run.config()
    with gather(run) as buckets:
        mapped = map_large if map_large is not None and buckets.rows > LARGE_ROWS else map_in_threads
        function = partial(
            reduce_job,
            bootstrap=Bootstrap(config.measures.resamples, config.measures.noise_seed),
            failed=Counter(control for _, control, _ in buckets.failures),
        )
        found = list(mapped(function, jobs_of(buckets, config)))
        rows = [row for part in found for row in part.rows]
        compared = [row for part in found for row in part.compared]
        # Values by example are kept of all demonstrations alone.
        of_all = [[row for row in table if row["shots"] == config.demonstrations] for table in (rows, compared)]
        add_examples(_example_files(run), config.catalogue, *of_all)
        headline = _headline(config, buckets, rows)
    table = pa.Table.from_pylist(rows, schema=SUMMARY)
    run.write_summary(table, pa.Table.from_pylist(compared, schema=COMPARISONS), headline)
    return table


def _example_files(run: RunDirectory) -> list[ExampleFile]:
    """The run's files of values by example, if it keeps any."""
    rows = run.rows
    return [
        ExampleFile(file.units, partial(rows.examples.read, file.examples)) for file in rows.sound() if file.examples
    ]


def map_in_threads(function: Callable[[Job], Reduced], jobs: Iterable[Job]) -> Iterator[Reduced]:
    """`map` on the cores of this machine, in order; each core has a job, so NumPy's BLAS starts no threads besides."""
    threads = min(_cores(), _MOST_THREADS)
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads, "reduce") as pool:
        running: deque[Future[Reduced]] = deque()
        for job in jobs:
            running.append(pool.submit(function, job))
            if len(running) > threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def jobs_of(buckets: Buckets, config: SweepConfig) -> Iterator[Job]:
    """The work, in jobs whose values take about as much memory: many metrics of few seeds, or one of many."""
    pieces: list[Piece] = []
    for piece in _pieces(buckets, config):
        if pieces and sum(held.bytes for held in pieces) + piece.bytes > _JOB_BYTES:
            yield Job(tuple(pieces))
            pieces = []
        pieces.append(piece)
    if pieces:
        yield Job(tuple(pieces))


def _pieces(buckets: Buckets, config: SweepConfig) -> Iterator[Piece]:
    for metric in config.catalogue.values():
        for condition in metric.conditions_with_labels(len(config.task.label_words)):
            compared = condition in metric.conditions
            baselines = list(config.catalogue.baselines_of(metric, condition)) if compared else []
            own = buckets.values(metric.name, condition)
            zero = [(ZERO, condition, _zero(own))] if metric.above_zero and condition == "icl-ft" else []
            yield Piece(
                metric.name,
                condition,
                own,
                compared,
                config.measures.margin_of(metric),
                (*((*base, buckets.values(*base)) for base in baselines), *zero),
                frozenset(of.control for of in own.variants if not can_change(metric, condition, of.control, config)),
                metric.bounds[1] if metric.share else None,
            )


def can_change(metric: Metric, condition: str, control: str, config: SweepConfig) -> bool:
    """Whether a control changes anything of what a metric is computed from."""
    return control_named(control).changes(metric.arms or condition.split(", ")[0], config.finetune.gradient)


def _zero(own: Values) -> Values:
    """0 where the measurement has a value."""
    measured = [at for at, of in enumerate(own.variants) if of.control == NO_CONTROL]
    zero = np.where(np.isnan(own.values[measured]), np.nan, 0.0)
    variants = [own.variants[at] for at in measured]
    return Values(variants, own.layers, own.seeds, zero, own.measured[measured], own.examples[measured])


def reduce_job(job: Job, bootstrap: Bootstrap, failed: Mapping[str, int]) -> Reduced:
    """Reduce a job; `failed` is the number of failed seeds of each control."""
    return Reduced(_distributions(job.pieces, bootstrap, failed), _comparisons(job.pieces, bootstrap))


def _distributions(pieces: Sequence[Piece], bootstrap: Bootstrap, failed: Mapping[str, int]) -> list[Row]:
    """The summary's rows, in order of piece, control, number of demonstrations (all first) and layer."""
    places = [
        (piece, variant, layer)
        for piece in pieces
        for variant in range(len(piece.own.variants))
        for layer in range(len(piece.own.layers))
        if piece.own.measured[variant, layer].any()
    ]
    samples = [piece.own.values[c, i][piece.own.measured[c, i]] for piece, c, i in places]
    return [
        {
            "metric": piece.metric,
            "condition": piece.condition,
            **piece.own.variants[variant]._asdict(),
            "layer": int(piece.own.layers[layer]),
            **asdict(distribution),
            "failed": failed.get(piece.own.variants[variant].control, 0),
            **asdict(_share(piece, variant, layer)),
        }
        for (piece, variant, layer), distribution in zip(places, describe_all(samples, bootstrap), strict=True)
    ]


def _share(piece: Piece, variant: int, layer: int) -> Both:
    """What the shares of seeds alone say of other examples."""
    if piece.whole is None or piece.own.layers[layer] != OVERALL:
        return Both()
    values = piece.own.values[variant, layer]
    return Both(*(of_seeds(values, piece.own.examples[variant], piece.whole) or ()))


@dataclass(frozen=True)
class Family:
    """The values of all layers that are compared, paired over seeds; `names` are the columns that say of what.

    Those that are not `tested` are equal by construction.
    """

    names: Row
    layers: Int[np.ndarray, "layers"]
    own: Float[np.ndarray, "layers seeds"]
    base: Float[np.ndarray, "layers seeds"]
    tested: bool = True

    @cached_property
    def differences(self) -> Float[np.ndarray, "layers seeds"]:
        """One minus the other; NaN where one is missing or undefined."""
        return self.own - self.base

    def means(self) -> Iterator[Row]:
        """The columns of both means, and of the differences' standard deviation, of every layer."""
        for own, base, differences in zip(self.own, self.base, self.differences, strict=True):
            both = ~np.isnan(differences)
            n = np.count_nonzero(both)
            yield {
                "mean": float(own[both].mean()) if n else math.nan,
                "baseline_mean": float(base[both].mean()) if n else math.nan,
                "sd": float(differences[both].std(ddof=1)) if n > 1 else math.nan,
                **asdict(Both()),
            }

    @property
    def of_control(self) -> bool:
        """Whether a control is compared with, rather than a baseline."""
        return bool(self.names["control"] != self.names["baseline_control"])


Compared = tuple[Row, Float[np.ndarray, "seeds"]]
"""A row of comparisons, and the differences to be tested: all NaN where none are."""


def _comparisons(pieces: Sequence[Piece], bootstrap: Bootstrap) -> list[Row]:
    """The rows of comparisons, in order of piece, baselines before controls."""
    families = [[*_against_baselines(piece), *_against_controls(piece)] for piece in pieces]
    differences = [layer for of_piece in families for family in of_piece for layer in family.differences]
    found = iter(compare_all(differences, bootstrap))
    rows: list[Row] = []
    for piece, of_piece in zip(pieces, families, strict=True):
        against_controls: dict[int, list[Compared]] = {}
        for family in of_piece:
            compared: list[Compared] = [
                (
                    {**family.names, "layer": layer, **asdict(comparison), **means},
                    values if family.tested else np.full_like(values, np.nan),
                )
                for layer, values, comparison, means in zip(
                    family.layers.tolist(),
                    family.differences,
                    islice(found, len(family.layers)),
                    family.means(),
                    strict=True,
                )
            ]
            overall = [one for one in compared if one[0]["layer"] == OVERALL]
            _correct([one for one in compared if one[0]["layer"] != OVERALL], piece.margin, bootstrap.seed)
            if family.of_control:
                against_controls.setdefault(family.names["shots"], []).extend(overall)
            else:
                _correct(overall, piece.margin, bootstrap.seed)
            rows += [row for row, _ in compared]
        for compared in against_controls.values():
            _correct(compared, piece.margin, bootstrap.seed)
    return rows


def _correct(compared: Sequence[Compared], margin: float, seed: int | list[int]) -> None:
    """Add to the rows of a family what corrects for the number of its comparisons."""
    if not compared:
        return
    decisions = decide(np.stack([differences for _, differences in compared]), margin, seed)
    corrected = holm(np.array([row["p"] for row, _ in compared])).tolist()
    tests = sum(not math.isnan(decision.p_max_t) for decision in decisions)
    for (row, _), p_holm, decision in zip(compared, corrected, decisions, strict=True):
        row |= {"p_holm": p_holm, **asdict(decision), "tests": tests}


def _against_baselines(piece: Piece) -> Iterator[Family]:
    """A metric beside each baseline of the same control and demonstrations; label splits have none."""
    for baseline, condition, base in piece.baselines:
        for at, variant in enumerate(piece.own.variants):
            if variant in base.variants:
                names = _names(piece, variant, baseline, condition, variant.control)
                yield Family(names, *_paired(piece.own, at, base, base.variants.index(variant)))


def _against_controls(piece: Piece) -> Iterator[Family]:
    """The measurement beside every control, both after as many demonstrations."""
    own = piece.own
    for at, (control, shots) in enumerate(own.variants if piece.compared else ()):
        plain = Variant(NO_CONTROL, shots)
        if control != NO_CONTROL and plain in own.variants:
            names = _names(piece, plain, piece.metric, piece.condition, control)
            values = _paired(own, own.variants.index(plain), own, at)
            yield Family(names, *values, control not in piece.equal)


def _names(piece: Piece, variant: Variant, baseline: str, baseline_condition: str, baseline_control: str) -> Row:
    return {
        "metric": piece.metric,
        "condition": piece.condition,
        "baseline": baseline,
        "baseline_condition": baseline_condition,
        "control": variant.control,
        "baseline_control": baseline_control,
        "shots": variant.shots,
    }


def _paired(
    own: Values, at: int, base: Values, base_at: int
) -> tuple[Int[np.ndarray, "layers"], Float[np.ndarray, "layers seeds"], Float[np.ndarray, "layers seeds"]]:
    """The layers of both, and the values of each there, paired over seeds."""
    layers, own_layers, base_layers = np.intersect1d(own.layers, base.layers, return_indices=True)
    _, own_seeds, base_seeds = np.intersect1d(own.seeds, base.seeds, return_indices=True)
    return layers, own.values[at][np.ix_(own_layers, own_seeds)], base.values[base_at][np.ix_(base_layers, base_seeds)]


def _headline(config: SweepConfig, buckets: Buckets, rows: list[Row]) -> Row:
    """What `summary.json` holds: the overall numbers, and how many seeds they rest on."""
    failed = {seed for seed, control, _ in buckets.failures if control == NO_CONTROL}
    catalogue = config.catalogue
    kept = ("metric", "condition", "control", "n", "undefined", "mean", "sd", "median")
    return {
        "name": config.name,
        "protocol": config.protocol,
        "seeds": {
            "asked": len(config.seeds),
            "measured": len(buckets.finished - failed),
            "failed": [{"seed": s, "control": control, "reason": why} for s, control, why in buckets.failures],
        },
        "metrics": [
            {"label": catalogue[row["metric"]].label} | {key: _plain(row[key]) for key in kept} | _intervals(row)
            for row in rows
            if row["layer"] == OVERALL and row["shots"] == config.demonstrations
        ],
    }


def _intervals(row: Row) -> Row:
    """Of other seeds with these examples, null where all are alike; of other seeds and examples, and its parts."""
    alike = row["ci_low"] == row["ci_high"]
    ends = {name: None if alike else _plain(row[name]) for name in ("ci_low", "ci_high")}
    return {**ends, **{field.name: row[field.name] for field in BOTH}}


def _plain(value: Any) -> Any:
    """NaN is not JSON; null stands for undefined."""
    return None if isinstance(value, float) and math.isnan(value) else value
