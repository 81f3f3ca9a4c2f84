"""More seeds or controls for a run: only what is missing is measured, and the rows are those of a run in one go."""

import json

import pyarrow as pa
import pytest

from raydual.cluster.choice import stored_choice
from raydual.cluster.run import Computed
from raydual.errors import UserError
from raydual.pipeline import Timings, _manifest, taken
from raydual.run_directory.directory import MEASUREMENTS, RunDirectory, measurement_table
from raydual.run_directory.resume import check, verify
from raydual.run_directory.schemas import EXAMPLES, SEED_SEARCH
from raydual.settings.reading import validate_config
from raydual.statistics.reduce import reduce_run
from raydual.study import Study

from .test_examples import table_of

BATCH = 3


def config(seeds=4, keep=None, controls=(), **over):
    settings = {
        "name": "s",
        "task": "sst2",
        "seeds": seeds,
        "split": {"selection": 50},
        "search": {"seeds": {"keep": keep, "slices": [25, 50]}} if keep else {},
        "measures": {"resamples": 200},
        "controls": controls if isinstance(controls, dict) else dict.fromkeys(controls, True),
    }
    return validate_config({**settings, **over}, "test")


def measured_row(unit):
    """A value that tells which seed was fine-tuned on."""
    value = unit.seed + 100 * unit.tuned_on
    return {
        "seed": unit.seed, "control": unit.control.name, "metric": "simaou", "condition": "icl-ft", "layer": -1,
        "value": value / 1000, "examples": 2, "undefined": 0, "reason": None,
    }  # fmt: skip


def go(path, settings, resume=False, said=None, old=False):
    """What a sweep does, with values that are made up; returns the units that were measured."""
    run = RunDirectory(path)
    check(run, settings, resume)
    with taken(run, settings, resume):
        if settings.search.seeds and run.seed_search() is None:
            run.write_seed_search(searched(settings))
        choice = stored_choice(run, settings)
        units = Study(settings, None).units(choice.seeds)
        todo = [unit for unit in units if (unit.seed, unit.control.name) not in run.finished()]
        for start in range(0, len(todo), BATCH):
            batch = todo[start : start + BATCH]
            examples = pa.concat_tables(
                table_of([unit.seed], unit.tuned_on).set_column(1, EXAMPLES.field(1), pa.array([unit.control.name] * 2))
                for unit in batch
            )
            rows = measurement_table(map(measured_row, batch))
            if old:
                run.rows.add(rows, settings.fingerprint(), None)
            else:
                run.write_measurements(rows, examples)
        run.write_manifest(_manifest(run, choice, Timings(), Computed()))
    return [(unit.seed, unit.control.name) for unit in todo]


def searched(settings):
    """Scores of which the later seeds are the better ones, but one, and the first two were stopped."""
    order = sorted(settings.seeds, key=lambda seed: (seed % 5, seed))
    kept = order[-settings.search.seeds.keep :]
    rows = [
        {
            "seed": seed, "examples": 25 if place < 2 else 50, "accuracy": 0.5 + 0.01 * place,
            "stopped_at": 25 if place < 2 else None, "kept": seed in kept, "reason": None,
        }
        for place, seed in enumerate(order)
    ]  # fmt: skip
    return pa.Table.from_pylist(sorted(rows, key=lambda row: row["seed"]), SEED_SEARCH)


def rows_of(path):
    run = RunDirectory(path)
    rows = sorted(map(str, run.measured(MEASUREMENTS.names).to_pylist()))
    return rows, sorted(str(row) for table in run.example_tables() for row in table.to_pylist())


CASES = {
    "more seeds": (config(4), config(7), 3),
    "seeds before the others": (config(seeds=[4, 5, 6]), config(seeds=[1, 4, 5, 6]), 1),
    "more controls": (config(4), config(4, controls=("random_step", "untrained")), 8),
    "more orders": (
        config(3, controls={"permutations": 1}), config(3, controls={"permutations": 3}), 6,
    ),
    "controls on more seeds": (
        config(4, controls={"random_step": True, "seeds": 2}),
        config(4, controls={"random_step": True}),
        2,
    ),
    # The last seed's next one was the first, and is the fifth.
    "another next seed": (config(4, controls=("other_seed",)), config(6, controls=("other_seed",)), 4 + 1),
    "a seed between": (
        config(seeds=[1, 3, 5], controls=("other_seed",)), config(seeds=[1, 2, 3, 5], controls=("other_seed",)), 2 + 1,
    ),
    "a search keeps more": (config(9, keep=3), config(9, keep=5), 2),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("old", [False, True], ids=["now", "of an older version"])
def test_only_what_is_missing_is_measured_and_the_rows_are_those_of_one_go(tmp_path, case, old, capsys):
    first, then, more = CASES[case]
    path = tmp_path / "run"
    before = go(path, first, old=old)
    again = go(path, then, resume=True)
    assert len(again) == len(set(again)) == more
    go(tmp_path / "whole", then)
    found, expected = rows_of(path), rows_of(tmp_path / "whole")
    assert found[0] == expected[0]
    if not old:
        assert found[1] == expected[1]
    taken_out = set(before) & set(again)
    assert taken_out == {
        (s, c) for s, c in before if case in ("another next seed", "a seed between") and (s, c) in again
    }
    run = RunDirectory(path)
    verify(run, print)
    (entry,) = run.manifest()["additions"]
    assert entry["before"] == first.fingerprint()
    assert sorted(map(tuple, entry["measured_again"])) == sorted(taken_out)
    assert "goes on with" in capsys.readouterr().out
    assert go(path, then, resume=True) == []
    assert len(run.additions()) == 1


def test_a_search_that_kept_more_says_so_in_its_table(tmp_path):
    go(tmp_path / "run", config(9, keep=3))
    go(tmp_path / "run", config(9, keep=5), resume=True)
    run = RunDirectory(tmp_path / "run")
    assert [row["seed"] for row in run.seed_search().to_pylist() if row["kept"]] == sorted(
        row["seed"] for row in searched(config(9, keep=5)).to_pylist() if row["kept"]
    )


@pytest.mark.parametrize(
    ("first", "then", "words"),
    [
        (config(5), config(3), "fewer seeds, 3, 4 have been measured"),
        (config(3, controls=("untrained",)), config(3), "fewer controls, untrained has been measured"),
        (config(9, keep=4), config(12, keep=4), "has chosen among 9"),
        (config(9, keep=4), config(9, keep=3), "the search has kept 4; use 4 or more"),
        (config(9, keep=4), config(9, keep=8), "followed no more than 7 seeds"),
        (config(3), config(5, demonstrations=7), "demonstrations changed from 32 to 7"),
        (config(3), config(3, finetune={"learning_rate": 0.1}), r"learning_rate changed from 0\.0005 to 0\.1;"),
        (config(3), config(3, measures={"margin": 0.1}), r"resamples changed from 200 to 9999, .*margin"),
        (config(9, keep=4), config(9, keep=4, search={}), "search"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_in_one_line_and_nothing_changes(tmp_path, first, then, words):
    path = tmp_path / "run"
    go(path, first)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with pytest.raises(UserError, match=words) as error:
        go(path, then, resume=True)
    assert "\n" not in str(error.value)
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_what_was_only_planned_may_be_left_out(tmp_path):
    path = tmp_path / "run"
    go(path, config(3))
    run = RunDirectory(path)
    run.write_manifest(run.manifest())
    go(path, config(6), resume=True)
    for file in run.measurements.glob("*.parquet"):
        if 5 in measured_seeds(file):
            file.unlink()
    with pytest.raises(UserError, match="fewer seeds"):
        go(path, config(2), resume=True)
    assert go(path, config(3), resume=True) == []


def measured_seeds(file):
    import pyarrow.parquet as pq

    return pq.read_table(file)["seed"].to_pylist()


def test_rows_of_the_run_before_are_foreign_without_the_record(tmp_path):
    """Older versions' rows bear a fingerprint of the plan: only the record tells that they belong here."""
    path = tmp_path / "run"
    go(path, config(3), old=True)
    go(path, config(5), resume=True)
    record = path / "additions.json"
    text = json.loads(record.read_text())
    record.write_text(json.dumps([{**text[0], "before": "0" * 16}]))
    with pytest.raises(UserError, match="foreign"):
        verify(RunDirectory(path), print)
    record.write_text("{")
    with pytest.raises(UserError, match="additions.json: damaged"):
        verify(RunDirectory(path), print)


def test_summary_and_comparisons_are_made_of_all(tmp_path):
    path = tmp_path / "run"
    go(path, config(3))
    go(path, config(6, controls=("random_step",)), resume=True)
    run = RunDirectory(path)
    reduce_run(run)
    assert {(r["control"], r["n"]) for r in run.summary().to_pylist()} == {("none", 6), ("random_step", 6)}
