"""Settings: what is read is what was written, and every mistake is one line that names its place."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydual.catalogue.entries import CATALOGUE
from raydual.errors import UserError
from raydual.files import SWEEPS
from raydual.settings.measures import NEWER_MEASURES
from raydual.settings.reading import dump_config, load_config, load_sweep, validate_config
from raydual.settings.schema import _NEWER_FINETUNE

BASE = {"name": "s", "task": "sst2", "data": "embedded", "seeds": 10}


@pytest.fixture
def sweep_file(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("name: s\ntask: sst2\ndata: embedded\nseeds: 10\nfinetune: {learning_rate: 1e-3}\n")
    return path


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_sweep_that_comes_along_is_valid_and_survives_being_written(path, tmp_path):
    sweep, again = load_sweep(path), tmp_path / "again.yaml"
    assert sweep.name == path.stem
    for cell in sweep.cells:
        again.write_text(dump_config(cell.config))
        assert load_config(again) == cell.config


@given(
    seeds=st.lists(st.integers(0, 10**6), min_size=1, max_size=20, unique=True),
    rate=st.floats(1e-8, 10),
    k=st.integers(1, 500),
    separator=st.text(max_size=4),
)
def test_settings_survive_being_written_and_read(tmp_path_factory, seeds, rate, k, separator):
    task = {"name": "sst2", "separator": separator}
    config = validate_config(
        {**BASE, "task": task, "seeds": seeds, "demonstrations": k, "finetune": {"learning_rate": rate}}, "t"
    )
    path = tmp_path_factory.mktemp("again") / "s.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(path) == config


def test_overrides_and_numbers_in_exponent_notation(sweep_file):
    config = load_config(sweep_file, ["demonstrations=16", "finetune.learning_rate=5e-05", 'task.separator="\\n"'])
    assert (config.demonstrations, config.finetune.learning_rate, config.task.separator) == (16, 5e-5, "\n")
    assert load_config(sweep_file).finetune.learning_rate == 1e-3
    assert config.seeds == tuple(range(10))


def test_paths_in_a_file_are_relative_to_it_and_overrides_to_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "sweeps" / "model").mkdir(parents=True)
    path = tmp_path / "sweeps" / "s.yaml"
    path.write_text("name: s\ntask: sst2\nmodel: model\ndata: ../reviews.csv\nseeds: 1\n")
    config = load_config(path)
    assert Path(config.model) == tmp_path / "sweeps" / "model"
    assert Path(config.data) == tmp_path / "reviews.csv"
    monkeypatch.chdir(tmp_path)
    assert Path(load_config(path, ["data=other.csv"]).data) == tmp_path / "other.csv"
    assert load_config(path, ["model=Qwen/Qwen3-4B-Base"]).model == "Qwen/Qwen3-4B-Base"


def test_what_a_sweep_leaves_out_has_its_default(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("name: s\ntask: cb\nseeds: 7\n")
    config = load_config(path)
    assert (config.data, config.model, config.demonstrations, config.protocol) == ("hub", "embedded", 19, "split")


MISTAKES = {
    "demonstratons=3": "unknown key 'demonstratons'; did you mean 'demonstrations'?",
    "finetune.learning_rat=1": "did you mean 'finetune.learning_rate'?",
    "batch_size=3": "did you mean 'execution.batch_size'?",
    "demonstrations=-3": "demonstrations: input should be greater than 0, found -3",
    "demonstrations=many": "demonstrations: input should be a whole number, found 'many'",
    "demonstrations=true": "demonstrations",
    "seeds=-1": "seeds: a number of seeds must be positive",
    "seeds=[1,1]": "seeds: the same value is listed twice",
    "seeds=[1,-2]": "seeds.1: input should be greater than or equal to 0, found -2",
    "finetune.learning_rate=-1": "finetune.learning_rate: input should be greater than 0, found -1",
    "finetune.learning_rate=.inf": "finetune.learning_rate: input should be a finite number",
    "finetune=3": "finetune: input should be a mapping, found 3",
    "task=sst7": "task 'sst7' is not one of sst2, sst5",
    "task.label_words=[a]": "task.label_words",
    "task.template='x {a}'": "uses the fields ['a']",
    "task.template='x {'": "malformed",
    "protocol=other": "protocol: input should be 'split' or 'dai', found 'other'",
    "dtype=float16": "dtype: input should be 'float32' or 'bfloat16', found 'float16'",
    "split.selection=-1": "split.selection: input should be greater than or equal to 0, found -1",
    "search.seeds={keep: 100}": "search.seeds.keep is 100, but only 10 seeds are named",
    "search.seeds={keep: 2}": "split.selection is 0, but search needs",
    "search.finetune.learning_rate=0.1": "search.finetune.learning_rate: input should be a list, found 0.1",
    "execution.replicas=x": "execution.replicas: input should be a whole number; or input should be 'auto'",
    "name='a b'": "name",
    "foo": "expected key=value",
    "name: {": "expected key=value",
    "name={": "not valid YAML",
}


@pytest.mark.parametrize("override", MISTAKES)
def test_each_mistake_is_one_line_that_names_its_place(sweep_file, override):
    with pytest.raises(UserError) as error:
        load_config(sweep_file, [override])
    assert MISTAKES[override] in str(error.value)
    assert "\n" not in str(error.value)


def test_every_mistake_of_a_file_is_told_at_once(sweep_file):
    with pytest.raises(UserError) as error:
        load_config(sweep_file, ["demonstrations=-3", "protocl=dai"])
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: [", "line 1: not valid YAML"),
        (b"- 1\n", "a sweep file is a mapping"),
        (b"name: a\nname: b\n", "not valid YAML: the key 'name' is given twice"),
        (b"name: \xff\n", "not UTF-8"),
        (b"", "a sweep file is a mapping"),
        (b"name: s\n", "task: required, but missing"),
    ],
)
def test_a_broken_file_says_where(tmp_path, content, message):
    path = tmp_path / "s.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match="s.yaml") as error:
        load_config(path)
    assert message in str(error.value)


def test_the_fingerprint_changes_with_what_is_measured_and_with_nothing_else(sweep_file):
    same = load_config(sweep_file, ["execution.batch_size=3", "execution.replicas=2"]).fingerprint()
    assert same == load_config(sweep_file).fingerprint()
    for override in ("demonstrations=31", "finetune.epochs=2", "task.separator=x", "measures.noise_seed=1"):
        assert load_config(sweep_file, [override]).fingerprint() != same


def test_a_margin_belongs_to_the_fingerprint_and_its_default_leaves_that_of_older_runs(sweep_file):
    config = load_config(sweep_file)
    newer = {"measures": {"own", *NEWER_MEASURES}, "finetune": _NEWER_FINETUNE}
    kept_out = {"execution": True, "name": True, "examples": True, **newer}
    settings = config.model_dump(mode="json", exclude=kept_out)
    older = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    assert config.fingerprint() == load_config(sweep_file, ["measures.margin=0.05"]).fingerprint() == older
    assert load_config(sweep_file, ["measures.margin=0.02"]).fingerprint() != older


def test_a_margin_is_a_share_of_the_largest_value(sweep_file):
    measures = load_config(sweep_file, ["measures.margin=0.02"]).measures
    margins = {name: measures.margin_of(CATALOGUE[name]) for name in ("accuracy", "simdual", "rec2ftp", "update_norm")}
    assert margins == pytest.approx(
        {"accuracy": 0.02, "simdual": 0.02, "rec2ftp": 2.0, "update_norm": float("nan")}, nan_ok=True
    )


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--help"], 0, "--resume"),
        (["--set", "demonstratons=3"], 2, "did you mean 'demonstrations'"),
        (["nowhere.yaml"], 2, "nowhere.yaml: cannot read the sweep file"),
    ],
)
def test_help_and_mistakes_load_neither_torch_nor_ray(tmp_path, arguments, code, said):
    probe = (
        "import sys, raydual.sweep\n"
        "code = raydual.sweep.main(sys.argv[1:])\n"
        "assert not {'torch', 'ray', 'transformers'} & set(sys.modules)\n"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe, *arguments], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
