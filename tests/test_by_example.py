"""Values by example, file by file, against the whole matrices at once."""

import math
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pytest

from raydual.catalogue.entries import CATALOGUE, OVERALL
from raydual.metrics.prediction import jaccard, kappa, rec2ftp, reverse_recall
from raydual.statistics import by_example
from raydual.statistics.by_example import Answers, ExampleFile, add_examples, kappa_cells, sums_of
from raydual.statistics.crossed import crossed, of_means
from raydual.statistics.proportions import exact

SEEDS, EXAMPLES, LABELS = 11, 17, 3


def unit(seed, control):
    """The rows of a seed under a control, and what they hold as arrays."""
    rng = np.random.default_rng([seed, len(control)])
    gold = np.random.default_rng(0).integers(0, LABELS, EXAMPLES).astype(np.int16)
    columns = {
        "seed": np.full(EXAMPLES, seed),
        "control": [control] * EXAMPLES,
        "example": np.arange(EXAMPLES, dtype=np.int32),
        "gold": gold,
    }
    for arm in ("zsl", "icl", "ft"):
        label = np.where(rng.random(EXAMPLES) < 0.5, gold, rng.integers(0, LABELS, EXAMPLES)).astype(np.int16)
        columns |= {f"prediction.{arm}": label, f"right.{arm}": label == gold, f"greedy_right.{arm}": label == gold}
    values = rng.normal(0.3, 0.1, EXAMPLES).astype(np.float32)
    values[rng.random(EXAMPLES) < 0.1] = np.nan
    columns["simaou.icl-ft"] = values
    columns["simaou_random.icl-ft"] = rng.normal(0, 0.1, EXAMPLES).astype(np.float32)
    return columns


def files_of(units, at_a_time=3):
    """The units in files, their rows in any order; what was read is counted."""
    found, read = [], []
    for start in range(0, len(units), at_a_time):
        batch = units[start : start + at_a_time]
        table = pa.concat_tables([pa.table(unit(*one)) for one in batch])
        table = table.take(np.random.default_rng(start).permutation(len(table)))

        def reader(names, table=table):
            read.append(table)
            return table.select([name for name in names if name in table.column_names])

        found.append(ExampleFile(batch, reader))
    return found, read


UNITS = [
    (seed, control) for control in ("none", "other_seed") for seed in range(SEEDS) if seed < 7 or control == "none"
]


def matrix(column, control="none", seeds=range(SEEDS)):
    return np.stack([unit(seed, control)[column] for seed in seeds]).astype(float)


def contrast(metric, condition="icl-ft", control="none", base=None):
    return (metric, condition, control), base


@pytest.mark.parametrize("at_once", [1, 4, 64])
def test_it_is_what_the_whole_matrices_come_to_and_every_file_is_read_once(at_once, monkeypatch):
    monkeypatch.setattr(by_example, "_SEEDS_AT_ONCE", at_once)
    files, read = files_of(UNITS)
    own, paired, null = (
        contrast("simaou"),
        contrast("simaou", base=("simaou", "icl-ft", "other_seed")),
        contrast("simaou", base=("simaou_random", "icl-ft", "none")),
    )
    found = sums_of(files, CATALOGUE, [own, paired, null])
    assert len(read) == len(files)
    values = of_means(matrix("simaou.icl-ft"))
    assert asdict(found[own]) == pytest.approx(asdict(crossed([values])))
    expected = crossed([values.minus(of_means(matrix("simaou_random.icl-ft")))])
    assert asdict(found[null]) == pytest.approx(asdict(expected))
    shared = range(7)
    expected = of_means(matrix("simaou.icl-ft", "none", shared)).minus(
        of_means(matrix("simaou.icl-ft", "other_seed", shared))
    )
    assert asdict(found[paired]) == pytest.approx(asdict(crossed([expected])))


def answers(seeds=range(SEEDS)):
    names = ["gold", *(f"{kind}.{arm}" for kind in ("prediction", "right") for arm in ("zsl", "icl", "ft"))]
    return {name: np.stack([unit(seed, "none")[name] for seed in seeds]) for name in names}


def test_shares_are_those_that_are_measured():
    files, _ = files_of(UNITS)
    wanted = [
        *(contrast("accuracy", arm) for arm in ("zsl", "icl", "ft")),
        *(contrast(name) for name in ("rec2ftp", "reverse_recall", "jaccard", "agreement", "kappa")),
        contrast("agreement", "icl-ft, gold 1"),
    ]
    found = {(c[0][0], c[0][1]): one.mean for c, one in sums_of(files, CATALOGUE, wanted).items()}
    columns, plain = answers(), {}
    for seed in range(SEEDS):
        of = {name: values[seed] for name, values in columns.items()}
        right = [of[f"right.{arm}"] for arm in ("zsl", "icl", "ft")]
        label = [of[f"prediction.{arm}"] for arm in ("zsl", "icl", "ft")]
        alike = label[1] == label[2]
        for key, value in {
            **{("accuracy", arm): one.mean() for arm, one in zip(("zsl", "icl", "ft"), right, strict=True)},
            ("rec2ftp", "icl-ft"): rec2ftp(*right).value,
            ("reverse_recall", "icl-ft"): reverse_recall(*right).value,
            ("jaccard", "icl-ft"): jaccard(*label),
            ("agreement", "icl-ft"): alike.mean(),
            ("agreement", "icl-ft, gold 1"): alike[of["gold"] == 1].mean(),
            ("kappa", "icl-ft"): kappa(label[1], label[2], LABELS),
        }.items():
            plain.setdefault(key, []).append(value)
    assert found == pytest.approx({key: np.nanmean(values) for key, values in plain.items()})


def test_what_an_example_moves_kappa_by_is_what_leaving_it_out_takes():
    rng = np.random.default_rng(0)
    icl, ft = rng.integers(0, 3, (2, 1, 400)).astype(np.int16)
    ft[0, :200] = icl[0, :200]
    columns = {"gold": np.zeros((1, 400), np.int16), "prediction.icl": icl, "prediction.ft": ft}
    cells = kappa_cells(Answers(columns))
    assert cells.values[0] == pytest.approx(kappa(icl[0], ft[0], 3))
    assert cells.moves.sum() == pytest.approx(0)
    for example in (0, 7, 250, 399):
        without = np.delete(np.arange(400), example)
        left = kappa(icl[0, without], ft[0, without], 3)
        assert cells.values[0] - left == pytest.approx(cells.moves[0, example], abs=2e-5)
    alike = {"gold": columns["gold"], "prediction.icl": 0 * icl, "prediction.ft": 0 * ft}
    assert math.isnan(kappa_cells(Answers(alike)).values[0])


def rows(n=SEEDS, **over):
    row = {"metric": "simaou", "condition": "icl-ft", "control": "none", "layer": OVERALL, "n": n, "mean": 0.3}
    return {**row, "ci_low_both": None, "ci_high_both": None, **over}


def test_rows_are_filled_where_all_their_seeds_are_there():
    files, _ = files_of(UNITS)
    known, fewer, layer = rows(), rows(SEEDS - 1, metric="simaou_random"), rows(layer=0)
    base = {"baseline": "simaou", "baseline_condition": "icl-ft", "baseline_control": "other_seed", "difference": 0.01}
    paired, untested = rows(7, **base, p_max_t=0.2), rows(7, **{**base, "baseline": "zero"}, p_max_t=math.nan)
    add_examples(files, CATALOGUE, [known, fewer, layer], [paired, untested])
    for row, centre in ((known, 0.3), (paired, 0.01)):
        assert (row["ci_low_both"] + row["ci_high_both"]) / 2 == pytest.approx(centre)
        assert row["sd_interaction"] > 0
        assert row["examples"] == EXAMPLES
    for row in (fewer, layer, untested):
        assert row["ci_low_both"] is None


def test_an_interval_ends_where_its_metric_does():
    files, _ = files_of(UNITS)
    near = rows(mean=0.999)
    add_examples(files, CATALOGUE, [near], [])
    assert near["ci_high_both"] == 1.0
    assert near["ci_low_both"] > 0.9


def test_shares_keep_a_width_where_all_agree():
    everyone = {**unit(0, "none"), "right.icl": np.ones(EXAMPLES, bool)}
    tables = [pa.table({**everyone, "seed": np.full(EXAMPLES, seed)}) for seed in range(4)]
    tables += [
        pa.table({**everyone, "seed": np.full(EXAMPLES, s), "control": ["untrained"] * EXAMPLES}) for s in range(4)
    ]
    table = pa.concat_tables(tables)
    units = [(seed, control) for seed in range(4) for control in ("none", "untrained")]
    own = rows(4, metric="accuracy", condition="icl", mean=1.0)
    base = {"baseline": "accuracy", "baseline_condition": "icl", "baseline_control": "untrained", "difference": 0.0}
    paired = rows(4, metric="accuracy", condition="icl", **base, p_max_t=1.0)
    add_examples([ExampleFile(units, lambda _: table)], CATALOGUE, [own], [paired])
    assert (own["ci_low_both"], own["ci_high_both"]) == pytest.approx(exact(EXAMPLES, EXAMPLES))
    assert paired["ci_high_both"] == pytest.approx(1 - exact(EXAMPLES, EXAMPLES)[0])
    assert paired["ci_low_both"] == -paired["ci_high_both"]
