"""`raydual init`, `tasks`, `models`, `show`, and the schema that editors check sweeps with."""

import csv
import json
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator, ValidationError

from raydual.commands import main
from raydual.data.examples import load_dataset
from raydual.model.anatomy import Shape
from raydual.model.known import known_models, stated
from raydual.settings.axes import AXES
from raydual.settings.editor import SCHEMA, schema_text
from raydual.settings.reading import load_config, load_sweep
from raydual.settings.schema import SweepConfig
from raydual.settings.task import builtin_tasks
from raydual.settings.yaml_text import parse_yaml
from raydual.study import prepare_study

from .sweeping import ROOT
from .test_docs import settings
from .tiny import BASE, LABELS, save_tiny, tiny_examples

YAMLS = sorted((ROOT / "sweeps").glob("*.yaml"))


@pytest.fixture
def reviews(tmp_path):
    """A review file with labels in words."""
    with (tmp_path / "mine.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [(i, text, LABELS[label]) for i, (text, label) in enumerate(tiny_examples(60))]
        csv.writer(file).writerows([["number", "review", "verdict"], *rows])
    return tmp_path / "mine.csv"


def told(capsys, *arguments):
    code = main([*map(str, arguments)])
    out, errors = capsys.readouterr()
    return code, out, errors


# init


def test_without_options_it_writes_a_sweep_that_needs_no_download(tmp_path, capsys):
    file = tmp_path / "first.yaml"
    code, out, _ = told(capsys, "init", file)
    assert (code, out) == (0, f"wrote {file}; next: raydual plan {file}, then raydual sweep {file}\n")
    config = load_config(file)
    assert (config.name, config.model, config.data, config.task.name) == ("first", "embedded", "embedded", "sst2")
    assert prepare_study(config).dataset.measured
    assert file.read_text().count("#") > 8


def test_a_model_and_a_file_of_ones_own_are_named_from_where_the_sweep_lies(reviews, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_tiny(tmp_path / "model")
    (tmp_path / "deep").mkdir()
    file = tmp_path / "deep" / "own study.yaml"
    options = ["--data", reviews.name, "--model", "model", "--text", "review", "--label", "verdict"]
    assert told(capsys, "init", file, *options)[0] == 0
    written = parse_yaml(file.read_text(), "it")
    assert (written["data"], written["model"]) == ("../mine.csv", "../model")
    study = prepare_study(load_config(file))
    assert study.config.task.label_words == LABELS
    assert len(study.dataset.selection) == 4
    assert len(study.dataset.measured) == 8
    assert told(capsys, "plan", file)[0] == 0


def test_labels_that_are_numbers_need_words(tmp_path, capsys):
    (tmp_path / "train.jsonl").write_text("".join(f'{{"text": "{t}", "label": {y}}}\n' for t, y in tiny_examples(40)))
    (tmp_path / "validation.jsonl").write_text(
        "".join(f'{{"text": "{t}", "label": {y}}}\n' for t, y in tiny_examples(30))
    )
    code, _, errors = told(capsys, "init", tmp_path / "s.yaml", "--data", tmp_path)
    assert code == 2
    assert "the labels are 0, 1; say which words stand for them, such as --words negative,positive" in errors
    assert not (tmp_path / "s.yaml").exists()
    assert told(capsys, "init", tmp_path / "s.yaml", "--data", tmp_path, "--words", "bad, good")[0] == 0
    config = load_config(tmp_path / "s.yaml")
    assert config.task.label_words == ("bad", "good")
    assert len(load_dataset(config).selection) == 10


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--task", "sst3"], "--task sst3: is not one of sst2, sst5, mr, subj, agnews, cb; did you mean 'sst"),
        (["--data", "mine.csv"], "has the columns number, review, verdict; name one by --label"),
        (["--data", "mine.csv", "--label", "verdikt"], "no column 'verdikt'; did you mean 'verdict'?; it has number"),
        (["--data", "mine.csv", "--label", "number"], "column 'number' holds 60 different labels"),
        (["--data", "other.tsv", "--label", "verdict"], "has the columns a, b, verdict; name one by --text"),
        (["--data", "mine.csv", "--label", "verdict", "--text", "review", "--words", "a,b,c"], "3 words for 2 labels"),
        (["--data", "mein.csv"], "it does not exist; did you mean 'mine.csv'?"),
        (["--data", "mine.csv", "--task", "sst2", "--model", ""], "model: "),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(options, said, reviews, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.tsv").write_text("a\tb\tverdict\nx\ty\tno\n")
    code, out, errors = told(capsys, "init", "s.yaml", *options)
    assert (code, out) == (2, "")
    (line,) = errors.splitlines()
    assert said in line
    assert not (tmp_path / "s.yaml").exists()


def test_a_file_that_is_there_is_left_alone(tmp_path, capsys):
    (tmp_path / "s.yaml").write_text("mine")
    code, _, errors = told(capsys, "init", tmp_path / "s.yaml")
    assert (code, errors) == (2, f"error: {tmp_path / 's.yaml'}: already exists and is left alone; name another file\n")
    assert (tmp_path / "s.yaml").read_text() == "mine"


@pytest.mark.parametrize("task", list(builtin_tasks()))
def test_every_built_in_task_makes_a_sweep(task, tmp_path, capsys):
    file = tmp_path / f"{task}.yaml"
    assert told(capsys, "init", file, "--task", task, "--model", "Qwen/Qwen3-0.6B-Base")[0] == 0
    config = load_config(file)
    assert (config.task.name, config.model) == (task, "Qwen/Qwen3-0.6B-Base")
    assert config.data == ("embedded" if task in ("sst2", "sst5") else "hub")


# tasks, models


def test_tasks_are_listed_as_they_are(capsys):
    found = json.loads(told(capsys, "tasks", "--json")[1])
    assert {one["task"]: one["label_words"] for one in found} == {
        name: task["label_words"] for name, task in builtin_tasks().items()
    }
    lines = told(capsys, "tasks")[1].splitlines()
    assert [line.split()[0] for line in lines[1 : len(found) + 1]] == list(builtin_tasks())


def test_the_sizes_of_models_give_the_number_of_weights_that_the_hub_shows():
    for model in known_models():
        if model.name != "embedded":
            assert model.shape.parameters == stated()[model.name]["parameters"], model.name


def test_a_wrong_size_would_be_noticed():
    sizes = stated()["Qwen/Qwen3-0.6B-Base"]
    assert Shape.of({**sizes, "num_key_value_heads": 4}).parameters != sizes["parameters"]


def test_models_cost_what_the_plan_says(capsys):
    rows = {row["model"]: row for row in json.loads(told(capsys, "models", "--json")[1])["models"]}
    (planned,) = json.loads(told(capsys, "plan", "--memory", "100", "--json")[1])["cells"]
    assert rows["embedded"]["flops"] == planned["flops"]
    assert rows["embedded"]["seconds"] == planned["seconds"]
    assert rows["embedded"]["bytes_of_weights"] == planned["memory"]["bytes_of_weights"]
    sizes = [rows[f"Qwen/Qwen3-{size}-Base"] for size in ("0.6B", "1.7B", "4B", "8B")]
    assert sorted(row["flops"] for row in sizes) == [row["flops"] for row in sizes]
    out = told(capsys, "models")[1]
    assert re.search(r"^Qwen/Qwen3-0.6B-Base +qwen3 +596.0 M +2.22 GiB", out, re.MULTILINE)


# The schema


@pytest.fixture(scope="module")
def validator():
    return Draft7Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))


def test_the_schemas_file_is_what_the_settings_say():
    assert SCHEMA.read_text(encoding="utf-8") == schema_text(), "raydual schema > sweeps/sweep.schema.json"
    Draft7Validator.check_schema(json.loads(schema_text()))


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_every_sweep_that_ships_fits_it_and_names_it(path, validator):
    text = path.read_text(encoding="utf-8")
    validator.validate(parse_yaml(text, path.name))
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert named
    assert (path.parent / named[1]).samefile(SCHEMA)


def test_what_init_writes_fits_it_and_names_it(reviews, tmp_path, capsys, validator):
    for file, options in (("a", []), ("b", ["--data", reviews, "--text", "review", "--label", "verdict"])):
        assert told(capsys, "init", tmp_path / file, *options)[0] == 0
        text = (tmp_path / file).read_text()
        validator.validate(parse_yaml(text, file))
        assert text.startswith(f"# yaml-language-server: $schema={SCHEMA}\n")


WRITTEN = [
    {},
    {"task": {"name": "sst2", "separator": "\n"}},
    {"task": {"name": "own", "label_words": ["a", "b"]}, "data": "x.csv"},
    {"task": ["sst2", {"name": "sst5"}], "model": ["embedded", "other"], "demonstrations": [4, 8]},
    {"finetune": {"learning_rate": [1e-4, 1e-3], "projections": [["k_proj"], ["v_proj"]], "epochs": 2}},
    {"search": None, "controls": None},
    {"search": {"seeds": {"keep": 2, "slices": None}}, "split": {"selection": 9}},
    {"seeds": [4, 5]},
    {"data": {"train": "x.csv"}, "protocol": ["split", "dai"]},
    {"execution": {"replicas": "auto", "seeds_per_batch": 4}},
]
REFUSED = [
    {"tusk": "sst2"},
    {"task": "sst3"},
    {"task": {"name": "own"}},
    {"seeds": 0},
    {"seeds": []},
    {"demonstrations": "many"},
    {"finetune": {"learning_rate": -1}},
    {"finetune": {"optimizer": ["sgd", "adam"]}},
    {"controls": {"labels": ["flipd"]}},
    {"search": {"seeds": {}}},
    {"measures": {"own": 3}},
    {"execution": {"replicas": "some"}},
]


@pytest.mark.parametrize("change", WRITTEN, ids=str)
def test_what_a_user_may_write_fits_both_the_schema_and_the_settings(change, validator, tmp_path):
    raw = {**parse_yaml(BASE, "base"), **change}
    validator.validate(raw)
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(raw))
    load_sweep(tmp_path / "s.yaml")


@pytest.mark.parametrize("change", REFUSED, ids=str)
def test_what_the_settings_refuse_the_schema_refuses_too(change, validator):
    with pytest.raises(ValidationError):
        validator.validate({**parse_yaml(BASE, "base"), **change})


def test_the_schema_knows_every_setting_and_every_axis(validator):
    schema = validator.schema
    for key, _, _ in settings():
        place, *rest = key.split(".")
        field = schema["properties"][place]
        for part in rest:
            reference = next(one["$ref"] for one in field.get("anyOf", [field]) if "$ref" in one)
            field = schema["$defs"][reference.rpartition("/")[2]]["properties"][part]
        assert (key in AXES) == any("minItems" in one and "items" in one for one in field.get("anyOf", [])[1:]) or (
            key == "seeds" or key.startswith("search.")
        ), key


@given(st.sampled_from(sorted(SweepConfig.model_fields)), st.text(min_size=1, max_size=6))
def test_a_key_with_a_slip_is_refused(name, slip):
    misspelt = name + slip
    validator = Draft7Validator(json.loads(schema_text()))
    assert not validator.is_valid({**parse_yaml(BASE, "base"), misspelt: 1})


# show


def test_show_prints_the_table_of_the_run_again(plain, capsys):
    code, out, _ = told(capsys, "show", plain.path)
    assert code == 0
    assert "fine-tuning: sgd, learning rate" in out.splitlines()[0]
    table = json.loads((plain.path / "summary.json").read_text())["metrics"]
    accuracy = next(r for r in table if (r["metric"], r["condition"], r["control"]) == ("accuracy", "icl", "none"))
    assert re.search(rf"^Accuracy, in-context +{accuracy['mean']:.3f} ", out, re.MULTILINE)
    found = json.loads(told(capsys, "show", plain.path, "--json")[1])
    headline = {(row["metric"], row["condition"]): row["mean"] for row in found["headline"]}
    assert headline["accuracy", "icl"] == accuracy["mean"]
    assert found["finetune"] == json.loads((plain.path / "manifest.json").read_text())["finetune"]


def test_show_of_what_is_no_run_is_one_line(tmp_path, capsys):
    code, out, errors = told(capsys, "show", tmp_path)
    assert (code, out) == (2, "")
    assert errors == f"error: {tmp_path}: not a run directory, it holds no config.yaml\n"
