"""Seeds that memory does not hold at once are measured by halves: the same rows, none lost, none twice."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raydual.errors import UserError
from raydual.measure.grouping import Groups, group_size
from raydual.measure.measurer import Measurer
from raydual.measure.seeds import SeedMeasurer
from raydual.model.anatomy import Shape
from raydual.one_seed.laboratory import Laboratory
from raydual.plan.cost import MemoryFormula
from raydual.settings.schema import Execution, Finetune

from .rounding import rounding_bounds, search_bounds
from .tolerance import assert_same_rows, within

SETTINGS = {
    "task": "sst2", "model": "embedded", "data": "embedded", "demonstrations": 4, "split": {"measured": 20},
    "finetune": {"learning_rate": 1.0}, "seeds": 5, "execution": {"seeds_per_batch": 5},
}  # fmt: skip


def room_for(most, seen):
    def function(group):
        seen.append(len(group))
        if len(group) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return [item * 10 for item in group]

    return function


@pytest.mark.long
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 40), st.integers(1, 40), st.integers(1, 40))
def test_every_item_is_done_once_in_order_whatever_memory_holds(count, size, most):
    seen, groups = [], Groups(size)
    found = [x for part in groups.each(list(range(count)), room_for(most, seen)) for x in part]
    assert found == [10 * i for i in range(count)]
    failures = [n for n in seen if n > most]
    assert failures == sorted(failures, reverse=True)
    assert not count or groups.size <= max(size, 1)
    if failures:
        assert groups.size <= most
        before = len(seen)
        groups.each(list(range(count)), room_for(most, seen))
        assert max(seen[before:]) <= most, "a size that failed is not tried again"


def test_what_does_not_hold_one_is_a_mistake_with_a_remedy():
    with pytest.raises(UserError, match=r"execution\.batch_size: memory does not hold one seed"):
        Groups(4).each([1, 2, 3], room_for(0, []))


def test_other_errors_are_let_through():
    def broken(group):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        Groups(4).each([1], broken)


@pytest.mark.long
def test_a_bench_that_runs_out_of_memory_gives_the_same_rows(monkeypatch):
    laboratory = Laboratory(SETTINGS)
    study, tokenizer = laboratory.study, laboratory.loaded.tokenizer
    units = study.units(laboratory.seeds)
    cases = [study.case(tokenizer, unit) for unit in units]
    expected = laboratory.measurer.measure(units[0].control, cases)
    own, sizes = SeedMeasurer.measure_all, []

    def tight(self, sets, *arguments, **options):
        sizes.append(len(sets))
        if len(sets) > 2:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")
        return own(self, sets, *arguments, **options)

    monkeypatch.setattr(SeedMeasurer, "measure_all", tight)
    measurer = Measurer(laboratory.loaded, study, laboratory.settings)
    found = measurer.measure(units[0].control, cases)
    assert sizes == [5, 2, 2, 1]
    keys = ("seed", "control", "metric", "condition", "layer")
    assert [[row[key] for key in keys] for row in found] == [[row[key] for key in keys] for row in expected]
    monkeypatch.setattr(SeedMeasurer, "measure_all", own)
    assert_same_rows(found, expected, rounding_bounds(laboratory.loaded, study, units, laboratory.settings))
    monkeypatch.setattr(SeedMeasurer, "measure_all", tight)
    assert measurer.measure(units[0].control, cases)
    assert sizes[4:] == [2, 2, 1]


def test_the_search_scores_settings_in_groups_that_memory_holds(monkeypatch):
    from raydual.measure.scoring import Scorer

    laboratory = Laboratory({**SETTINGS, "split": {"selection": 30, "measured": 5}})
    scorer = Scorer(laboratory.loaded, laboratory.study)
    sets = [scorer.demonstrations(seed) for seed in range(5)]
    tuning = Finetune(learning_rate=3.0)
    expected = scorer.finetuned(sets, tuning)
    bounds = search_bounds(laboratory.loaded, laboratory.study, [], [tuning], range(5))
    monkeypatch.setattr("raydual.measure.scoring.group_size", lambda *_: 2)
    found = Scorer(laboratory.loaded, laboratory.study).finetuned(sets, tuning)
    assert found.diverged == expected.diverged
    assert within(found.accuracy, expected.accuracy, bounds.unsure_tuned / (5 * 30))
    assert within(found.loss, expected.loss, bounds.loss)


def test_the_number_of_seeds_follows_free_memory(monkeypatch):
    laboratory = Laboratory(SETTINGS)
    demonstrations, queries = laboratory.demonstrations(0), laboratory.queries
    auto, tuning = Execution(), Finetune()
    shape = Shape.of(laboratory.loaded.model.config.to_dict())
    a_seed = MemoryFormula(shape, 4, auto.batch_size).seed(len(demonstrations.prefix), queries.longest, tuning)

    def size(free, execution=auto):
        monkeypatch.setattr("raydual.measure.grouping.free_bytes", lambda _: free)
        return group_size(laboratory.loaded, queries, demonstrations, tuning, execution)

    assert size(0) == size(a_seed) == 1
    assert size(int(3.9 * a_seed / 0.8)) == 3
    assert size(10**15) == 8
    assert size(0, Execution(seeds_per_batch=21)) == 21


def test_the_memory_formula_bounds_what_a_seed_really_takes():
    """Peak of the tensors alive while seeds are measured, from torch's own profile of allocations."""
    from torch.profiler import ProfilerActivity, profile

    laboratory = Laboratory({**SETTINGS, "demonstrations": 16, "split": {"measured": 64}})
    sets = [laboratory.demonstrations(seed) for seed in range(4)]
    seeds = laboratory.seed_measurer
    assert seeds.zero_shot, "made once, before"
    formula = MemoryFormula(Shape.of(laboratory.loaded.model.config.to_dict()), 4, 64)
    estimate = sum(formula.seed(len(s.prefix), seeds.queries.longest, laboratory.settings) for s in sets)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        seeds.measure(sets)
    events = sorted(
        (e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()
    )
    alive = peak = 0
    for event in events:
        alive += event.nbytes()
        peak = max(peak, alive)
    assert peak > 0
    assert 0.3 * estimate < peak < 1.5 * estimate
