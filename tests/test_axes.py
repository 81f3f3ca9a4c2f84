"""Sweeps whose settings are lists: every combination, each a run of its own, and what compares them."""

import itertools
import math
import re

import numpy as np
import pytest
import scipy.stats
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from raydual.catalogue.entries import OVERALL
from raydual.cells import CellsDirectory, pairs_along, reduce_cells
from raydual.errors import UserError
from raydual.files import SWEEPS
from raydual.report.__main__ import main as report
from raydual.report.cells import write_cells_report
from raydual.run_directory.directory import measurement_table
from raydual.settings.axes import AXES, axes_of, expand
from raydual.settings.reading import Cell, Sweep, load_config, load_sweep
from raydual.statistics.reduce import reduce_run
from raydual.sweep import main as sweep_main

from .default_catalogue import CATALOGUE
from .pages import page_of
from .synthetic import synthetic_config, synthetic_rows

BASE = {"name": "s", "model": "embedded", "task": "sst2", "data": "embedded", "demonstrations": 4, "seeds": 6}


def sweep_file(folder, **changes):
    path = folder / "s.yaml"
    path.write_text(yaml.safe_dump({**BASE, **changes}), encoding="utf-8")
    return path


def test_settings_with_one_value_make_one_cell_without_a_name(tmp_path):
    sweep = load_sweep(sweep_file(tmp_path))
    assert (sweep.name, sweep.axes, len(sweep.cells)) == ("s", {}, 1)
    assert sweep.cells[0].config == load_config(sweep_file(tmp_path))
    assert sweep.cells[0].config.name == "s"


def test_lists_make_their_product(tmp_path):
    custom = {"name": "mine", "template": "{text} :", "label_words": ["good", "bad"]}
    path = sweep_file(
        tmp_path, task=["sst2", custom], demonstrations=[4, 8, 2], data=str(tmp_path / "x.csv"),
        protocol=["split", "dai"], finetune={"learning_rate": [1.0, 0.5], "optimizer": "adamw"},
    )  # fmt: skip
    sweep = load_sweep(path)
    assert sweep.axes == {
        "task": ["sst2", "mine"],
        "demonstrations": ["4", "8", "2"],
        "protocol": ["split", "dai"],
        "finetune.learning_rate": ["1", "0.5"],
    }
    found = [
        (c.config.task.name, c.config.demonstrations, c.config.protocol, c.config.finetune.learning_rate)
        for c in sweep.cells
    ]
    assert found == list(itertools.product(["sst2", "mine"], [4, 8, 2], ["split", "dai"], [1.0, 0.5]))
    assert all(cell.config.finetune.optimizer == "adamw" for cell in sweep.cells)
    assert len({cell.name for cell in sweep.cells}) == len({c.config.fingerprint() for c in sweep.cells}) == 24
    assert sweep.cells[0].name == "sst2_4_split_1"


def test_a_task_that_is_an_axis_brings_its_own_number_of_demonstrations(tmp_path):
    path = sweep_file(tmp_path, task=["sst2", "agnews", "cb"], data="hub")
    raw = yaml.safe_load(path.read_text())
    del raw["demonstrations"]
    path.write_text(yaml.safe_dump(raw))
    assert [cell.config.demonstrations for cell in load_sweep(path).cells] == [32, 22, 19]


@given(
    st.dictionaries(
        st.sampled_from([axis for axis in AXES if axis != "finetune.projections"]),
        st.lists(st.integers(1, 99), min_size=1, max_size=3, unique=True),
        max_size=4,
    )
)
@settings(deadline=None)
def test_every_combination_is_there_once_and_its_name_may_be_a_directorys(axes):
    raw = {"seeds": 3, "finetune": {}}
    for axis, values in axes.items():
        group, _, leaf = axis.rpartition(".")
        (raw[group] if group else raw)[leaf] = values
    before = repr(raw)
    cells = list(expand(raw))
    assert repr(raw) == before
    assert axes_of(raw) == axes
    assert len(cells) == len({cell.name for cell in cells}) == math.prod(map(len, axes.values()))
    for cell in cells:
        assert re.fullmatch(r"[A-Za-z0-9._-]*", cell.name)
        assert axes_of(cell.raw) == {}
        for axis, value in cell.values.items():
            group, _, leaf = axis.rpartition(".")
            assert str((cell.raw[group] if group else cell.raw)[leaf]) == value
        for other in AXES:
            group, _, leaf = other.rpartition(".")
            assert other in axes or leaf not in (cell.raw[group] if group else cell.raw)


def test_projections_are_an_axis_only_as_lists_of_lists(tmp_path):
    assert not load_sweep(sweep_file(tmp_path, finetune={"projections": ["v_proj"]})).axes
    sweep = load_sweep(sweep_file(tmp_path, finetune={"projections": [["v_proj"], ["k_proj", "v_proj"]]}))
    assert [cell.config.finetune.projections for cell in sweep.cells] == [("v_proj",), ("k_proj", "v_proj")]


def test_models_are_named_by_their_last_part_if_that_tells_them_apart(tmp_path):
    names = {}
    for models in (["Qwen/Qwen3-0.6B-Base", "Qwen/Qwen3-4B-Base"], ["one/model", "two/model"]):
        names[models[0]] = [cell.name for cell in load_sweep(sweep_file(tmp_path, model=models)).cells]
    assert list(names.values()) == [["Qwen3-0.6B-Base", "Qwen3-4B-Base"], ["one-model-1", "two-model-2"]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"demonstrations": []}, "demonstrations: an axis needs at least one value"),
        ({"demonstrations": [4, 4]}, "demonstrations: the same value is listed twice"),
        ({"demonstrations": [4, 0]}, "at demonstrations 0: demonstrations: input should be greater than 0"),
        ({"task": ["sst2", "sst7"]}, "at task sst7: task 'sst7' is not one of"),
        (
            {
                "finetune": {"learning_rate": [1.0, 2.0]},
                "search": {"finetune": {"learning_rate": [1.0]}},
                "split": {"selection": 5},
            },
            "finetune.learning_rate: cannot be an axis and searched",
        ),
    ],
)
def test_mistakes_name_the_axis_and_the_cell(tmp_path, changes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        load_sweep(sweep_file(tmp_path, **changes))


def test_what_takes_one_cell_asks_for_one(tmp_path):
    path = sweep_file(tmp_path, demonstrations=[4, 8])
    with pytest.raises(UserError, match="--set demonstrations=4"):
        load_config(path)
    assert load_config(path, ["demonstrations=8"]).demonstrations == 8


def test_the_papers_protocol_is_what_it_says():
    sweep = load_sweep(SWEEPS / "dai.yaml")
    assert [cell.config.task.name for cell in sweep.cells] == ["sst2", "sst5", "mr", "subj", "agnews", "cb"]
    for cell in sweep.cells:
        config = cell.config
        assert (config.protocol, config.seeds, config.search.seeds.keep) == ("dai", tuple(range(1, 8)), 1)
        assert len(set(config.search.finetune.learning_rate)) == 36
        assert (config.finetune.optimizer, config.finetune.loss, config.finetune.epochs) == ("sgd", "all", 1)
        assert config.finetune.projections == ("k_proj", "v_proj")


SHIFTS = {"4": 0.0, "8": 0.2, "16": 0.0}


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """A sweep over demonstrations and tasks whose values were made up: at 8 every metric is 0.2 higher."""
    directory = CellsDirectory(tmp_path_factory.mktemp("cells") / "made")
    made = []
    for task, demonstrations in itertools.product(("sst2", "sst5"), SHIFTS):
        config = synthetic_config(9, search=False, task=task, demonstrations=int(demonstrations), name=f"x-{task}")
        name, values = f"{task}_{demonstrations}", {"task": task, "demonstrations": demonstrations}
        made.append(Cell(name, values, config))
    directory.start(Sweep("made", {"task": ["sst2", "sst5"], "demonstrations": list(SHIFTS)}, tuple(made)))
    for cell in made:
        run, rng = directory.cell(cell.name), np.random.default_rng(sum(map(ord, cell.name)))
        run.start(cell.config)
        shift = SHIFTS[cell.values["demonstrations"]]
        rows = [
            {**row, "value": row["value"] + shift + rng.normal(0, 0.01)}
            for row in synthetic_rows(9, 2, failed=())
            if row["seed"] != 3 or cell.name != "sst2_8"
        ]
        run.write_measurements(measurement_table(rows))
        reduce_run(run)
    reduce_cells(directory)
    return directory


def test_each_cell_is_compared_with_the_one_that_has_the_first_value_alone_otherwise(cells):
    stored = cells.stored()
    assert list(pairs_along("demonstrations", list(SHIFTS), stored["cells"])) == [
        ("sst2_8", "sst2_4"), ("sst2_16", "sst2_4"), ("sst5_8", "sst5_4"), ("sst5_16", "sst5_4"),
    ]  # fmt: skip
    pairs = {(row["cell"], row["reference"]) for row in cells.comparisons().to_pylist() if row["axis"] == "task"}
    assert pairs == {(f"sst5_{k}", f"sst2_{k}") for k in SHIFTS}


def test_comparisons_along_an_axis_are_paired_over_common_seeds(cells):
    rows = {
        (row["cell"], row["metric"], row["condition"]): row
        for row in cells.comparisons().to_pylist()
        if row["axis"] == "demonstrations"
    }
    assert len(rows) == 4 * sum(len(metric.conditions) for metric in CATALOGUE.values())
    for cell in ("sst2_8", "sst5_16"):
        row = rows[cell, "simdual", "icl-ft"]
        own, reference = (
            cells.cell(name).measured(["seed", "metric", "layer", "value"]).to_pandas()
            for name in (cell, row["reference"])
        )
        values = [x[(x.metric == "simdual") & (x.layer == OVERALL)].set_index("seed").value for x in (own, reference)]
        differences = (values[0] - values[1]).dropna()
        assert row["n"] == len(differences) == (8 if cell == "sst2_8" else 9)
        assert row["difference"] == pytest.approx(differences.mean())
        assert row["p"] == pytest.approx(scipy.stats.wilcoxon(differences).pvalue)
        assert row["p_holm"] >= row["p"]
    assert rows["sst5_8", "simdual", "icl-ft"]["p_holm"] < 0.05
    assert rows["sst5_16", "simdual", "icl-ft"]["p_holm"] > 0.05


def test_the_summary_of_all_cells_says_which_row_is_whose(cells):
    table = cells.summary().to_pandas()
    assert set(table.cell) == set(cells.stored()["cells"])
    assert (table.cell == table.task + "_" + table.demonstrations).all()
    assert len(table) == sum(cells.cell(name).summary().num_rows for name in cells.stored()["cells"])


@pytest.mark.long
def test_the_report_compares_along_the_axes_and_leads_to_each_cell(cells):
    assert report([str(cells.path)]) == 0
    page = cells.report_file.read_text(encoding="utf-8")
    assert page == write_cells_report(cells).read_text(encoding="utf-8")
    found = page_of(cells.report_file)
    text = found.text
    for name in cells.stored()["cells"]:
        assert f'href="cells/{name}/report.html"' in page
        assert cells.cell(name).report_file.is_file()
    assert re.search(r"SimDual, in-context against fine-tuned: from [^;]* at demonstrations 4 to [^;]* at 8 ", text)
    assert not re.search(
        r"SimDual, in-context against fine-tuned: from [^;.]*\.[^;]* at demonstrations 4 to [^a]* at 16 ", text
    )
    assert "Along demonstrations" in text
    assert "Along task" in text
    assert "( 0.705 / 0.714 )" in text.replace("(0", "( 0").replace("4)", "4 )")
    assert found.loads == []
    assert not re.search(r"\bcells?\b", text)
    for part in (
        "Does it stand above",
        "How to read this",
        "Methods, ready to paste",
        "What was run",
        "What the metrics are",
    ):
        assert part in text
    for axis in ("demonstrations", "task"):
        for kind in ("svg", "csv"):
            assert (cells.path / "figures" / f"along-{axis}-simdual.{kind}").is_file()


def test_a_directory_is_gone_on_with_only_where_it_fits(cells, tmp_path, capsys):
    path = sweep_file(tmp_path, demonstrations=[4, 8])
    for arguments, message in (
        (["--output", str(cells.path)], "already exists"),
        (["--output", str(cells.path), "--resume"], "cannot resume with other axes"),
        (["--output", str(tmp_path / "none"), "--resume"], "nothing to resume"),
        (["--output", str(tmp_path / "new"), "--set", "demonstrations=[4, 500000]"], "500000 are asked for"),
    ):
        assert sweep_main([str(path), *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
