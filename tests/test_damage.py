"""Every file of a run may be damaged, foreign, twice there or gone: it is named, and made anew or refused."""

import json
import random
import shutil

import pyarrow.parquet as pq
import pytest

from raydual.cells import CellsDirectory
from raydual.errors import UserError
from raydual.pipeline import taken
from raydual.report.__main__ import main as report
from raydual.run_directory.directory import MEASUREMENTS, RunDirectory, measurement_table, write_table
from raydual.run_directory.measurements import Measurements
from raydual.run_directory.resume import check
from raydual.settings.reading import Cell, Sweep
from raydual.statistics.reduce import reduce_run

from .synthetic import synthetic_config, synthetic_rows, synthetic_run

pytestmark = pytest.mark.long

SEEDS, LAYERS = 7, 2
CONFIG = synthetic_config(SEEDS)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A complete run, of which each test damages a copy."""
    run = synthetic_run(tmp_path_factory.mktemp("sound") / "run", SEEDS, LAYERS, failed=(4,))
    reduce_run(run)
    return run


@pytest.fixture
def run(sound, tmp_path):
    shutil.copytree(sound.path, tmp_path / "run")
    return RunDirectory(tmp_path / "run")


def go_on(run: RunDirectory, config=CONFIG) -> set[int]:
    """What `--resume` does, with values that are made up; returns the seeds that were measured again."""
    with taken(run, config, resume=True):
        missing = sorted(set(range(SEEDS)) - {seed for seed, _ in run.finished()})
        if missing:
            rows = [row for row in synthetic_rows(SEEDS, LAYERS, failed=(4,)) if row["seed"] in missing]
            run.write_measurements(measurement_table(rows))
    return set(missing)


def a_file(run: RunDirectory):
    return sorted(run.measurements.glob("*.parquet"))[1]


def seeds_of(path) -> set[int]:
    return set(pq.read_table(path)["seed"].to_pylist())


def in_the_middle(content: bytes) -> bytes:
    middle = len(content) // 4
    return content[:middle] + bytes(b ^ 0x55 for b in content[middle : middle + 64]) + content[middle + 64 :]


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"PAR1 broken"),
    "garbage in the middle": lambda path: path.write_bytes(in_the_middle(path.read_bytes())),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_of_measurements_is_named_and_its_seeds_are_measured_again(run, sound, damage, capsys):
    path = a_file(run)
    seeds = seeds_of(path)
    DAMAGES[damage](path)
    assert report([str(run.path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"error: {path}: damaged" in said
    assert "--resume" in said
    assert go_on(run) == seeds
    assert f"{path}: damaged" in capsys.readouterr().out
    assert run.manifest() is None
    assert path.with_name(f"{path.name}.damaged").exists()
    assert reduce_run(run).equals(sound.summary())
    assert go_on(run) == set()


def test_no_changed_byte_of_a_file_of_measurements_goes_unnoticed(run):
    path = a_file(run)
    content = path.read_bytes()
    draw = random.Random(0)
    for place in [*range(16), *draw.sample(range(len(content)), 200), *range(len(content) - 200, len(content))]:
        changed = bytearray(content)
        changed[place] ^= 1 << draw.randrange(8)
        path.write_bytes(bytes(changed))
        assert [file.name for file in Measurements(run.rows.storage, run.rows.examples).files() if file.damage] == [
            path.name
        ]


@pytest.mark.parametrize("name", ["seeds", "finetune"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_table_of_the_search_is_named_and_made_again(run, name, damage, capsys):
    path = run.search / f"{name}.parquet"
    DAMAGES[damage](path)
    assert report([str(run.path)]) == 2
    said = capsys.readouterr().err
    assert f"{path}: " in said
    assert said.count("\n") == 1
    assert go_on(run) == set()
    assert f"{path}: damaged; made again" in capsys.readouterr().out
    assert {"seeds": run.seed_search, "finetune": run.finetune_search}[name]() is None


def test_no_changed_byte_of_a_table_of_the_search_changes_what_is_read(run):
    path = run.search / "finetune.parquet"
    content, table = path.read_bytes(), run.finetune_search()
    for place in range(0, len(content), 3):
        changed = bytearray(content)
        changed[place] ^= 0x15
        path.write_bytes(bytes(changed))
        try:
            found = run.finetune_search()
        except UserError:
            continue
        assert found.to_pydict().__repr__() == table.to_pydict().__repr__()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe"])
def test_a_damaged_manifest_is_named_and_written_again(run, content, capsys):
    run.manifest_file.write_bytes(content)
    assert report([str(run.path)]) == 2
    said = capsys.readouterr().err
    assert f"{run.manifest_file}: damaged" in said
    assert said.count("\n") == 1
    go_on(run)
    assert run.manifest() is None
    assert report([str(run.path)]) == 0


def test_figures_and_reports_that_are_gone_are_made_again(run):
    shutil.rmtree(run.figures)
    for name in ("summary.parquet", "comparisons.parquet", "summary.json"):
        (run.path / name).write_bytes(b"broken")
    assert report([str(run.path)]) == 0
    assert len(list(run.figures.glob("*.svg"))) >= 3


def test_measurements_that_are_gone_are_told_and_measured_again(run, sound, capsys):
    shutil.rmtree(run.measurements)
    assert report([str(run.path)]) == 2
    assert "holds 0 of the 7 seeds and controls that manifest.json counts" in capsys.readouterr().err
    assert go_on(run) == set(range(SEEDS))
    assert reduce_run(run).equals(sound.summary())


# What does not belong together


def edit(run: RunDirectory, old: str, new: str) -> None:
    text = run.config_file.read_text(encoding="utf-8")
    assert old in text
    run.config_file.write_text(text.replace(old, new), encoding="utf-8")


def test_settings_edited_by_hand_are_told_and_put_back_by_the_sweep_that_measured(run, sound, capsys):
    edit(run, "noise_seed: 0", "noise_seed: 1")
    assert report([str(run.path)]) == 2
    assert f"{run.config_file}: its settings are not those that the rows" in capsys.readouterr().err
    with pytest.raises(UserError, match="config.yaml: its settings are not those"):
        check(run, run.config(), resume=True)
    assert go_on(run) == set()
    assert "was changed since the rows were measured" in capsys.readouterr().out
    assert run.config() == CONFIG
    assert reduce_run(run).equals(sound.summary())


@pytest.mark.parametrize("content", [b"", b"name: [", b"name: x\n", None])
def test_settings_that_are_damaged_or_gone_are_written_again_by_the_sweep_that_measured(run, content, capsys):
    run.config_file.unlink() if content is None else run.config_file.write_bytes(content)
    assert report([str(run.path)]) == 2
    said = capsys.readouterr().err
    assert str(run.config_file if content is not None else run.path) in said
    with pytest.raises(UserError):
        check(run, synthetic_config(SEEDS, demonstrations=4), resume=True)
    assert go_on(run) == set()
    assert run.config() == CONFIG


def test_rows_of_another_sweep_are_refused(run, tmp_path, capsys):
    other = RunDirectory(tmp_path / "other")
    other.start(synthetic_config(SEEDS, demonstrations=4))
    rows = [row for row in synthetic_rows(SEEDS, LAYERS, ()) if row["seed"] < 2]
    path = run.measurements / other.write_measurements(measurement_table(rows))
    shutil.copy(other.measurements / path.name, path)
    for tried in (lambda: report([str(run.path)]), lambda: _refused(run)):
        assert tried() == 2
        said = capsys.readouterr().err
        assert str(path) in said
        assert said.count("\n") == 1
    path.unlink()
    assert report([str(run.path)]) == 0


def _refused(run: RunDirectory) -> int:
    from raydual.errors import exit_on_user_error

    return exit_on_user_error(lambda: go_on(run) and None)


def test_rows_measured_with_other_fine_tuning_settings_are_refused(run, capsys):
    table = run.finetune_search()
    rows = [{**row, "chosen": row["learning_rate"] == 1e-3 and row["epochs"] == 1} for row in table.to_pylist()]
    run.write_finetune_search(type(table).from_pylist(rows, table.schema))
    assert report([str(run.path)]) == 2
    assert "other fine-tuning settings" in capsys.readouterr().err
    assert _refused(run) == 2


@pytest.mark.parametrize("name", ["Copy of {}", "{} (1).parquet", "extra.parquet"])
def test_a_copied_file_is_refused_and_not_counted_twice(run, name, capsys):
    path = a_file(run)
    copy = run.measurements / name.format(path.name)
    shutil.copy(path, copy)
    assert report([str(run.path)]) == 2
    assert copy.name in capsys.readouterr().err
    assert _refused(run) == 2
    copy.unlink()
    assert report([str(run.path)]) == 0


def test_the_same_seed_in_two_files_is_refused(run, capsys):
    run.write_measurements(measurement_table(row for row in synthetic_rows(SEEDS, LAYERS, ()) if row["seed"] == 2))
    assert report([str(run.path)]) == 2
    assert "both hold seed 2 (control none), which would count twice" in capsys.readouterr().err
    assert _refused(run) == 2


def test_a_foreign_parquet_file_is_refused(run, capsys):
    shutil.copy(run.summary_file, run.measurements / "seed-000001-0123456789ab.parquet")
    assert report([str(run.path)]) == 2
    assert "seed-000001-0123456789ab.parquet: foreign (its columns" in capsys.readouterr().err
    assert _refused(run) == 2


def test_a_manifest_of_other_settings_is_refused_by_the_report(run, capsys):
    manifest = {**run.manifest(), "fingerprint": "0" * 16}
    run.manifest_file.write_text(json.dumps(manifest), encoding="utf-8")
    assert report([str(run.path)]) == 2
    assert "manifest.json: belongs to other settings" in capsys.readouterr().err


# Runs of versions that wrote no fingerprints


@pytest.fixture
def old(run):
    """The run as an older version would have left it."""
    for path in run.measurements.glob("*.parquet"):
        table = pq.read_table(path)
        write_table(run.measurements / f"seed-000001-{path.stem[-12:]}.parquet", table, MEASUREMENTS)
        path.unlink()
    for name in ("seeds", "finetune"):
        table = pq.read_table(run.search / f"{name}.parquet").replace_schema_metadata(None)
        write_table(run.search / f"{name}.parquet", table, table.schema)
    return RunDirectory(run.path)


def test_an_older_run_is_reported_and_said_not_to_be_verified(old, sound, capsys):
    assert report([str(old.path)]) == 0
    assert "written by an older version" in capsys.readouterr().err
    assert old.summary().equals(sound.summary())
    assert go_on(old) == set()


def test_a_damaged_file_of_an_older_run_is_named_and_measured_again(old, sound, capsys):
    path = a_file(old)
    seeds = seeds_of(path)
    path.write_bytes(path.read_bytes()[:-100])
    assert report([str(old.path)]) == 2
    assert f"{path}: damaged" in capsys.readouterr().err
    assert go_on(old) == seeds
    assert reduce_run(old).equals(sound.summary())


def test_an_older_file_with_seeds_that_the_sweep_lacks_is_refused(old, capsys):
    rows = [{**row, "seed": 900} for row in synthetic_rows(1, LAYERS, ())]
    write_table(old.measurements / "seed-000900-0123456789ab.parquet", measurement_table(rows), MEASUREMENTS)
    assert report([str(old.path)]) == 2
    assert "holds seed 900, which is not of this sweep" in capsys.readouterr().err


# A sweep with axes


@pytest.mark.parametrize("damage", ["empty", "garbage", "a directory"])
def test_a_damaged_list_of_cells_is_named_and_written_again(tmp_path, damage, capsys):
    cells = CellsDirectory(tmp_path / "cells")
    axes = {"demonstrations": ["4", "8"]}
    made = [
        Cell(k, {"demonstrations": k}, synthetic_config(3, search=False, demonstrations=int(k))) for k in ("4", "8")
    ]
    sweep = Sweep("x", axes, tuple(made))
    cells.start(sweep)
    for cell in made:
        run = cells.cell(cell.name)
        run.start(cell.config)
        run.write_measurements(measurement_table(synthetic_rows(3, 1, ())))
    assert report([str(cells.path)]) == 0
    DAMAGES[damage](cells.sweep_file)
    capsys.readouterr()
    assert report([str(cells.path)]) == 2
    assert "cells" in capsys.readouterr().err
    cells.check(sweep, resume=True)
    with cells.locked(print):
        cells.start(sweep)
    assert cells.stored()["axes"] == axes
    assert report([str(cells.path)]) == 0


def test_a_sweep_with_axes_that_stored_nothing_leaves_nothing(tmp_path):
    cells = CellsDirectory(tmp_path / "cells")
    config = synthetic_config(3, search=False)
    with pytest.raises(UserError), cells.locked(print):
        cells.start(Sweep("x", {"demonstrations": ["4"]}, (Cell("4", {"demonstrations": "4"}, config),)))
        with taken(cells.cell("4"), config, resume=False):
            raise UserError("cluster: it has 1 CPU")
    assert not cells.path.exists()
