"""Values by example: those of the plain measurement, in the order of the set, whose means are the measured rows."""

import numpy as np
import pyarrow as pa
import pytest

import raydual
from raydual.errors import UserError
from raydual.measure.measurer import Measurer
from raydual.measure.seeds import SeedMeasurer
from raydual.model.loading import load_model
from raydual.run_directory.directory import RunDirectory, measurement_table
from raydual.run_directory.resume import check, repair
from raydual.run_directory.schemas import ARMS, EXAMPLES, heads_field, layers_field, score_field, value_field
from raydual.settings.controls import control_named
from raydual.settings.reading import validate_config

from .default_catalogue import CATALOGUE
from .reference import seed as plain
from .reference.finetune import FinetuneSettings
from .sweeping import ROOT
from .synthetic import synthetic_config, synthetic_rows
from .test_equals_plain import RANDOM, bounds_of, plain_task, prompts, study_of, sweep
from .tiny import LABELS, label_ids, save_tiny, tiny_examples, tiny_tokenizer

FEW = 7
BY_HEAD = [(m.name, condition) for m in CATALOGUE.values() if m.per_head for condition in m.conditions]
FLOAT32 = 1e-6


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """A tiny model and study with ranks of the first few examples alone, in chunks that are not in the set's order."""
    directory = save_tiny(tmp_path_factory.mktemp("model"), loud=label_ids(tiny_tokenizer()))
    config = sweep(directory, measures={"kendall_examples": FEW}, execution={"batch_size": 5}, examples="heads")
    loaded = load_model(str(directory))
    study = study_of(config, tiny_examples())
    queries, sets = prompts(loaded, study)
    return config, loaded, study, queries, sets


@pytest.fixture(scope="module")
def measured(setting):
    config, loaded, _, queries, sets = setting
    return SeedMeasurer(loaded, queries, config).measure_all(sets)


def column(table, name):
    """A column as an array in float64; what was not measured is left out."""
    return np.array(table[name].drop_null().to_pylist(), dtype=np.float64)


def values_of(found, seed):
    return {(r["metric"], r["condition"], r["layer"]): r["value"] for r in found.rows if r["seed"] == seed}


def value_keys(table):
    names = [name for name in table.column_names if f"{name}.layers" in table.column_names]
    return [tuple(name.split(".")) for name in names]


@pytest.mark.long
def test_every_value_equals_the_plain_one_of_its_example_alone(setting, measured):
    config, loaded, study, _, _ = setting
    pairs = tiny_examples()
    bounds = bounds_of(loaded, study)
    seed, table = 1, measured.examples[1]
    settings = plain.MeasureSettings()
    chosen = [pairs[:60][i] for i in plain.random.Random(seed).sample(range(60), config.demonstrations)]
    recorded = plain.record_seed(
        loaded.model, loaded.tokenizer, chosen, pairs[60:77], plain_task(config),
        FinetuneSettings(**config.finetune.model_dump()), settings,
    )  # fmt: skip
    assert table["seed"].unique().to_pylist() == [seed]
    assert table["example"].to_pylist() == list(range(17))
    compared = 0
    for row, example in zip(table.to_pylist(), recorded.examples, strict=True):
        assert row["gold"] == example.label
        for arm in ARMS:
            scores = [row[f"score.{arm}.{word}"] for word in LABELS]
            np.testing.assert_allclose(scores, example.scores[arm], rtol=0, atol=1e-3)
            if abs(np.subtract(*example.scores[arm])) > 2e-3:
                assert (row[f"prediction.{arm}"], row[f"right.{arm}"]) == (example.prediction(arm), example.right(arm))
            assert row[f"greedy_right.{arm}"] == example.greedy_right(arm)
        alone = plain.SeedRecord(recorded.demonstrations, recorded.finetuned, [example])
        expected = plain.values_of(alone, settings, np.random.default_rng(0))
        for metric, condition in value_keys(table):
            found, layers = row[f"{metric}.{condition}"], row[f"{metric}.{condition}.layers"]
            if found is None:
                assert metric in RANDOM or CATALOGUE[metric].family == "kendall"
                assert row["example"] >= FEW
                continue
            # Of one example of 17 rounding may move a value as far as that of their sum.
            for layer, value in enumerate([*layers, found], start=0):
                key = (metric, condition, layer if layer < len(layers) else -1)
                bound = len(table) * bounds[seed, "none", *key] + FLOAT32
                if metric in RANDOM or not bound < 0.1:
                    continue
                assert value == pytest.approx(expected[key], abs=bound, nan_ok=True), (row["example"], key)
                compared += 1
    assert compared > 17 * 4 * 10


def test_the_mean_over_examples_is_the_measured_row(measured):
    for seed, table in enumerate(measured.examples):
        values = values_of(measured, seed)
        for arm in ARMS:
            assert column(table, f"right.{arm}").mean() == values["accuracy", arm, -1]
            assert column(table, f"greedy_right.{arm}").mean() == values["greedy_accuracy", arm, -1]
        keys = value_keys(table)
        assert {metric for metric, _ in keys} == {name for name, metric in CATALOGUE.items() if metric.per_layer}
        for metric, condition in keys:
            layers = column(table, f"{metric}.{condition}.layers")
            assert len(layers) == (FEW if CATALOGUE[metric].family == "kendall" else 17)
            for layer, of_layer in enumerate(layers.T):
                mean = np.nanmean(of_layer) if not np.isnan(of_layer).all() else np.nan
                assert mean == pytest.approx(values[metric, condition, layer], rel=1e-5, abs=1e-6, nan_ok=True)
            if not np.isnan(layers).any():
                overall = column(table, f"{metric}.{condition}").mean()
                assert overall == pytest.approx(values[metric, condition, -1], rel=1e-5, abs=1e-6)


def test_recall_and_agreement_follow_from_the_predictions(measured):
    for seed, table in enumerate(measured.examples):
        values = values_of(measured, seed)
        wrong, icl, ft = ~table["right.zsl"].to_numpy(), *(table[f"right.{arm}"].to_numpy() for arm in ("icl", "ft"))
        assert (wrong & icl & ft).sum() == values["rec2ftp_both", "icl-ft", -1]
        alike = table["prediction.icl"].to_numpy() == table["prediction.ft"].to_numpy()
        assert alike.mean() == values["agreement", "icl-ft", -1]


def test_a_layer_is_the_mean_of_its_heads(measured):
    table = measured.examples[2]
    names = [name.removesuffix(".heads") for name in table.column_names if name.endswith(".heads")]
    assert names == [".".join(key) for key in BY_HEAD]
    for name in names:
        heads = column(table, f"{name}.heads")
        assert heads.shape == (17, 3, 6)
        np.testing.assert_allclose(heads.mean(axis=-1), column(table, f"{name}.layers"), atol=FLOAT32)
    assert (np.ptp(column(table, "lambda.icl.heads"), axis=-1) > 1e-3).all(), "heads differ"


def test_the_check_of_the_order_can_fail(measured):
    """In another order of the examples, ranks of the first few and predictions would be others'."""
    table = measured.examples[0]
    assert len(set(column(table, "kendall.icl-ft"))) == FEW
    assert len(set(column(table, "lambda.icl"))) == 17


@pytest.mark.parametrize("kept", ["overall", "layers", "off"])
def test_what_is_kept_changes_no_number(setting, measured, kept):
    config, loaded, _, queries, sets = setting
    other = config.model_copy(update={"examples": kept})
    assert other.fingerprint() == config.fingerprint()
    found = SeedMeasurer(loaded, queries, other).measure_all(sets)
    assert [str(row) for row in found.rows] == [str(row) for row in measured.rows]
    assert len(found.examples) == (0 if kept == "off" else len(sets))
    suffixes = {"overall": (), "layers": (".layers",)}.get(kept, ())
    for table, whole in zip(found.examples, measured.examples, strict=kept != "off"):
        lists = [n for n in whole.column_names if n.endswith((".layers", ".heads"))]
        expected = [n for n in whole.column_names if n not in lists or n.endswith(suffixes)]
        assert table.column_names == expected
        # As text, so that two undefined values are the same.
        assert str(table.to_pylist()) == str(whole.select(expected).to_pylist())


def test_the_columns_are_those_that_the_schema_describes(measured):
    table = measured.examples[0]
    assert table.schema.names[: len(EXAMPLES)] == EXAMPLES.names
    fields = {f.name: f for f in [*EXAMPLES, *(score_field(arm, word) for arm in ARMS for word in LABELS)]}
    for metric, condition in value_keys(table):
        for field in (value_field(metric, condition), layers_field(metric, condition, 3)):
            fields[field.name] = field
    fields |= {field.name: field for field in (heads_field(*key, 3, 6) for key in BY_HEAD)}
    assert set(fields) == set(table.schema.names)
    for field in table.schema:
        assert field.equals(fields[field.name])
        assert field.metadata[b"description"]


@pytest.mark.parametrize("name", ["untrained", "labels_abstract"])
def test_a_control_has_the_same_columns(setting, measured, name):
    _, loaded, study, _, _ = setting
    control = control_named(name)
    case = study.case(loaded.tokenizer, study.unit(1, control, (0, 1, 2)))
    (table,) = Measurer(loaded, study).measure_all(control, [case]).examples
    assert table.schema.equals(measured.examples[1].schema)
    assert table["control"].unique().to_pylist() == [name]
    assert not table["score.icl.negative"].equals(measured.examples[1]["score.icl.negative"])


def test_a_laboratory_gives_those_of_a_seed(setting):
    config, loaded, study, _, _ = setting
    laboratory = object.__new__(raydual.Laboratory)
    laboratory.study, laboratory.settings, laboratory.seeds = study, config.finetune, config.seeds
    laboratory.__dict__["loaded"] = loaded
    table = laboratory.examples(1, "random_step")
    assert (table["seed"].unique().to_pylist(), table["control"].unique().to_pylist()) == ([1], ["random_step"])
    off = config.model_copy(update={"examples": "off"})
    laboratory.study = study_of(off, tiny_examples())
    with pytest.raises(UserError, match="examples: is off"):
        laboratory.examples(1)


# In the run directory


def table_of(seeds, value=0.25):
    """Two examples of each seed, with one metric."""
    rows = [
        {field.name: 0 for field in EXAMPLES}
        | {"seed": seed, "control": "none", "example": example, "gold": example % 2, "lambda.icl": value}
        | {f"{kind}.{arm}": example == 0 for kind in ("right", "greedy_right") for arm in ARMS}
        for seed in seeds
        for example in range(2)
    ]
    return pa.Table.from_pylist(rows, pa.schema([*EXAMPLES, value_field("lambda", "icl")]))


@pytest.fixture
def run(tmp_path):
    """A run of six seeds in two files."""
    found = RunDirectory(tmp_path / "run")
    found.start(synthetic_config(6, search=False))
    for seeds in ((0, 1, 2), (3, 4, 5)):
        write(found, seeds)
    return found


def write(run, seeds):
    rows = measurement_table(row for row in synthetic_rows(6, 2, ()) if row["seed"] in seeds)
    return run.write_measurements(rows, table_of(seeds))


def example_files(run):
    return sorted((run.path / "examples").glob("*.parquet"))


def test_a_run_gives_them_as_one_table(run):
    table = raydual.examples(run.path)
    assert sorted(table["seed"].to_pylist()) == sorted([*range(6)] * 2)
    assert table.schema.equals(table_of([0]).schema)
    few = raydual.examples(run, ["seed", "lambda.icl"])
    assert few.column_names == ["seed", "lambda.icl"]
    assert [len(one) for one in run.example_tables(["gold"])] == [6, 6]
    with pytest.raises(UserError, match=r"no column 'lambda.icl-ft'; did you mean 'lambda.icl'\?"):
        raydual.examples(run, ["lambda.icl-ft"])


def test_a_run_without_them_says_so(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.start(synthetic_config(3, search=False))
    run.write_measurements(measurement_table(synthetic_rows(3, 2, ())))
    assert len(run.finished()) == 3
    with pytest.raises(UserError, match="keeps no values by example"):
        raydual.examples(run)


@pytest.mark.parametrize("harm", ["changed", "cut", "gone"])
def test_a_batch_whose_values_are_damaged_is_measured_again(run, harm):
    file = example_files(run)[0]
    data = file.read_bytes()
    if harm == "gone":
        file.unlink()
    else:
        file.write_bytes(data[:-3] if harm == "cut" else data[:200] + bytes([data[200] ^ 1]) + data[201:])
    again = RunDirectory(run.path)
    with pytest.raises(
        UserError, match=rf"its values by example, .*{file.name}, are {'gone' if harm == 'gone' else 'dam'}"
    ):
        again.finished()
    config, said = run.config(), []
    check(again, config, resume=True)
    repair(again, config, said.append)
    assert again.finished() == {(seed, "none") for seed in (3, 4, 5)}
    assert len(said) == 1
    assert "its seeds are measured again" in said[0]
    assert (file.with_name(f"{file.name}.damaged")).exists() == (harm != "gone")
    write(again, (0, 1, 2))
    assert len(raydual.examples(RunDirectory(run.path))) == 12


def test_values_of_a_batch_that_was_not_finished_are_not_read_and_removed(run):
    before = len(raydual.examples(run))
    run.rows.examples.add(table_of([9]), {})
    assert len(example_files(run)) == 3
    assert len(raydual.examples(RunDirectory(run.path))) == before
    repair(run, run.config(), print)
    assert len(example_files(run)) == 2


def test_a_run_keeps_the_same_values_throughout(run):
    for kept in ("layers", "off"):
        with pytest.raises(UserError, match=f"examples changed from overall to {kept}"):
            check(run, run.config([f"examples={kept}"]), resume=True)


def test_off_is_a_word_as_yaml_writes_it(tmp_path):
    config = validate_config({"name": "s", "task": "sst2", "seeds": 2, "examples": False}, "test")
    assert config.examples == "off"
    with pytest.raises(UserError, match="examples"):
        validate_config({"name": "s", "task": "sst2", "seeds": 2, "examples": True}, "test")
    run = RunDirectory(tmp_path / "run")
    run.start(config)
    assert run.config().examples == "off"


# The page


def code_of(page, heading):
    """The first block of Python after a heading of a page."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").split(heading)[1]
    return text.split("```python\n")[1].split("```")[0]


def crossed(seeds, examples, sds, generator):
    """Values of seeds and examples that are crossed: a mean of 0.3, and effects of these standard deviations."""
    of_seed, of_example, rest = (
        generator.normal(0, sd, shape) for sd, shape in zip(sds, [(seeds, 1), examples, (seeds, examples)], strict=True)
    )
    return 0.3 + of_seed + of_example + rest


def components(values):
    """Variances of seeds, examples and the rest, by the mean squares of a balanced two-way table."""
    seeds, examples = values.shape
    rows, columns = values.mean(axis=1), values.mean(axis=0)
    rest = values - rows[:, None] - columns + values.mean()
    ms_rest = (rest**2).sum() / ((seeds - 1) * (examples - 1))
    return (examples * rows.var(ddof=1) - ms_rest) / examples, (seeds * columns.var(ddof=1) - ms_rest) / seeds, ms_rest


def test_the_mixed_model_of_the_page_finds_the_components(tmp_path, monkeypatch, capsys):
    pytest.importorskip("statsmodels")
    values = crossed(12, 30, (0.1, 0.2, 0.05), np.random.default_rng(3))
    run = RunDirectory(tmp_path / "runs" / "sst2")
    run.start(synthetic_config(12, search=False))
    columns = {
        name: np.zeros(360, field.type.to_pandas_dtype()) for name, field in zip(EXAMPLES.names, EXAMPLES, strict=True)
    }
    columns |= {"seed": np.repeat(range(12), 30), "example": np.tile(range(30), 12), "control": ["none"] * 360}
    columns["simaou.icl-ft"] = values.ravel()
    table = pa.table(columns).cast(pa.schema([*EXAMPLES, value_field("simaou", "icl-ft")]))
    run.write_measurements(measurement_table(synthetic_rows(12, 2, ())), table)
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(code_of("examples.md", "## A mixed model"), found)
    fit = found["fit"]
    estimates = dict(zip(found["model"].exog_vc.names, fit.vcomp, strict=True)) | {"rest": fit.scale}
    expected = dict(zip(("seed", "example", "rest"), components(values), strict=True))
    assert estimates == pytest.approx(expected, rel=0.02)
    assert fit.params["Intercept"] == pytest.approx(values.mean(), abs=1e-6)
    assert capsys.readouterr().out.count("\n") == 2
