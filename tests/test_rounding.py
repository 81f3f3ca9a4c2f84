"""The bounds on rounding hold, are small enough to notice a mistake, and cover other kernels, threads and dtypes."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from raydual.measure.rows import Row
from raydual.one_seed.laboratory import Laboratory
from raydual.settings.reading import load_config

from .kernels import measured
from .rank_bounds import Order, recall_bound, tau_bound, unsure_maximum
from .reference.metrics import kendall_tau
from .reference.ranks import top_recall
from .rounding import moved_by_rounding, rounding_bounds, rounding_of
from .sweeping import make_inputs, tiny_settings
from .tolerance import assert_same_rows, loose, within

pytestmark = pytest.mark.long

# Rankings


def errors(draw: np.random.Generator, n: int) -> np.ndarray:
    """Three moves of n values; a pair of equal ones moves together, as equal tokens do."""
    moves = draw.standard_normal((3, n)) * 0.02
    moves[:, 1] = moves[:, 0]
    return moves


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 12), st.sampled_from([-2.0, -1.0, 0.5, 2.0]))
def test_no_ranking_moves_by_more_than_its_bound(seed, n, times):
    draw = np.random.default_rng(seed)
    values = draw.integers(0, 40, (2, n)) / 40.0
    values[:, 1] = values[:, 0]
    moves = [errors(draw, n) for _ in values]
    x, y = (Order.of(own, list(own + own_moves)) for own, own_moves in zip(values, moves, strict=True))
    other = [own + times * own_moves[0] for own, own_moves in zip(values, moves, strict=True)]
    before, after = (float(kendall_tau(*pair)) for pair in (values, other))
    bound = float(tau_bound(x, y))
    assert math.isnan(before) or not math.isnan(bound)
    assert within(after, before, bound)
    for k in (1, 2, n - 1):
        assert abs(top_recall(*other, k) - top_recall(*values, k)) <= recall_bound(x, y, k) + 1e-12
    first = values[0].argmax()
    if not unsure_maximum(values[:1], [own[None] for own in values[0] + moves[0]])[0]:
        assert other[0][first] >= other[0].max()


def test_what_is_far_apart_or_always_equal_is_sure():
    values = np.array([0.0, 0.0, 1.0, 2.0, 2.0001])
    order = Order.of(values, [values + 1e-3 * np.array([0.0, 0.0, 1.0, -1.0, 1.0])])
    assert order.pairs(order.tied) == 1
    assert order.pairs(order.unsure) == 1
    assert order.may_leave(1) == 1
    assert order.may_leave(2) == 0
    assert tau_bound(order, Order.of(values, [values])) == pytest.approx((2 + 9) / math.sqrt(8 * 9) - 1)


# A study


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A sweep file of a tiny model: two seeds, and controls of every kind of model."""
    folder = tmp_path_factory.mktemp("kernels")
    content = tiny_settings(
        make_inputs(folder),
        seeds=2,
        split={"measured": 13},
        search={},
        measures={},
        finetune={"learning_rate": 0.2},
        controls={"layer_causal": True, "random_step": True, "other_seed": True, "untrained": True},
        execution={"seeds_per_batch": 2, "batch_size": 8},
    )
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def bounds_of(laboratory):
    study = laboratory.study
    return rounding_bounds(laboratory.loaded, study, study.units(laboratory.seeds))


@pytest.fixture(scope="module")
def laboratory(sweep):
    return Laboratory(load_config(sweep))


@pytest.fixture(scope="module")
def rows(laboratory):
    return measured(laboratory)


@pytest.fixture(scope="module")
def bounds(laboratory):
    return bounds_of(laboratory)


def test_the_bounds_are_small_and_every_number_has_one(rows, bounds):
    assert set(bounds) == {(r["seed"], r["control"], r["metric"], r["condition"], r["layer"]) for r in rows}
    assert loose(bounds) < 0.03
    assert np.median(list(bounds.values())) < 1e-4
    taus = [bound for key, bound in bounds.items() if key[2].startswith("kendall")]
    assert max(taus) < 0.005


def test_the_same_kernels_and_batches_give_the_same_bits(laboratory, sweep, rows):
    assert_same_rows(measured(Laboratory(load_config(sweep))), rows)


def test_another_change_of_the_size_of_rounding_is_within_the_bounds(laboratory, sweep, rows, bounds):
    other = Laboratory(load_config(sweep))
    other.loaded = moved_by_rounding(laboratory.loaded, 99)
    # The drawn models are the same ones: `moved_by_rounding` knows those of the laboratory alone.
    kept = [[row for row in found if row["control"] != "untrained"] for found in (measured(other), rows)]
    assert kept[0] != kept[1]
    assert_same_rows(*kept, bounds)


@pytest.mark.parametrize(("batch_size", "seeds_per_batch"), [(1, 1), (5, 2), (64, 1)])
def test_other_batches_are_within_the_bounds(sweep, rows, bounds, batch_size, seeds_per_batch):
    changes = [f"execution.batch_size={batch_size}", f"execution.seeds_per_batch={seeds_per_batch}"]
    assert_same_rows(measured(Laboratory(load_config(sweep, changes))), rows, bounds)


def changed(rows, where, **change):
    return [{**row, **change} if (row["metric"], row["layer"], row["seed"]) == where else row for row in rows]


def test_what_is_no_rounding_is_noticed(rows, bounds):
    assert_same_rows(rows[::-1], rows, bounds)
    with pytest.raises(AssertionError, match="there twice"):
        assert_same_rows([*rows, rows[7]], rows, bounds)
    with pytest.raises(AssertionError, match="only one side"):
        assert_same_rows(rows[1:], rows, bounds)
    for metric, difference in (("simaou", 1e-3), ("kendall", 0.01), ("lambda", 1e-4), ("simdw", 1e-3)):
        where = (metric, 1, 0)
        value = next(r["value"] for r in rows if (r["metric"], r["layer"], r["seed"]) == where)
        with pytest.raises(AssertionError, match="rows differ"):
            assert_same_rows(changed(rows, where, value=value + difference), rows, bounds)
    for change in ({"value": math.nan}, {"examples": 12}, {"reason": "none"}):
        with pytest.raises(AssertionError, match="rows differ"):
            assert_same_rows(changed(rows, ("simaou", 1, 0), **change), rows, bounds)
    with pytest.raises(AssertionError, match="rounding decides"):
        assert_same_rows(rows, rows, dict.fromkeys(bounds, math.inf))
    with pytest.raises(AssertionError, match="rows differ"):
        assert_same_rows(changed(rows, ("simaou", 1, 0), value=0.5), rows)


def elsewhere(sweep: Path, folder: Path, *environments: dict[str, str]) -> list[list[Row]]:
    """The same study measured by other processes at once, whose kernels their `environments` choose."""
    outs = [folder / f"rows-{number}.json" for number in range(len(environments))]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.kernels", str(sweep), str(out)],
            cwd=Path(__file__).parent.parent, env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for out, environment in zip(outs, environments, strict=True)
    ]  # fmt: skip
    try:
        for process in processes:
            said, _ = process.communicate(timeout=300)
            assert process.returncode == 0, said
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return [json.loads(out.read_text(encoding="utf-8")) for out in outs]


OTHER_KERNELS = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}


def test_other_kernels_and_threads_are_within_the_bounds(sweep, rows, bounds, tmp_path):
    threads = {"ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "2"}
    numbers = elsewhere(sweep, tmp_path, OTHER_KERNELS, threads)
    for others in numbers:
        assert_same_rows(others, rows, bounds)
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
        assert [row["value"] for row in numbers[0]] != [row["value"] for row in rows], "the kernels are the same"


KERNELS = {
    "scalar": {"ATEN_CPU_CAPABILITY": "default"},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "compatible MKL": {"MKL_CBWR": "COMPATIBLE"},
    "MKL as AVX2": {"MKL_CBWR": "AVX2"},
    "oneDNN as SSE4.1": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
    "oneDNN as AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "oneDNN as AVX-512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "two threads": {"OMP_NUM_THREADS": "2"},
    "no oneDNN": {"WITHOUT_ONEDNN": "1"},
}


@pytest.mark.slow
@pytest.mark.parametrize("kernels", KERNELS)
def test_every_kind_of_kernel_is_within_the_bounds(sweep, rows, bounds, tmp_path, kernels):
    (others,) = elsewhere(sweep, tmp_path, KERNELS[kernels])
    assert_same_rows(others, rows, bounds)


@pytest.mark.slow
def test_in_bfloat16_the_bounds_are_wide_and_hold(sweep, tmp_path):
    content = yaml.safe_load(sweep.read_text(encoding="utf-8")) | {"dtype": "bfloat16"}
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    laboratory = Laboratory(load_config(path))
    bounds, own = bounds_of(laboratory), measured(laboratory)
    assert rounding_of(laboratory.loaded) < 0.005
    assert np.median([bound for key, bound in bounds.items() if key[2] in ("simam", "lambda", "simdw")]) < 0.05
    for kernels in ("scalar", "compatible MKL", "oneDNN as AVX2", "no oneDNN"):
        (others,) = elsewhere(path, tmp_path, KERNELS[kernels])
        assert_same_rows(others, own, bounds, few=1.0)
