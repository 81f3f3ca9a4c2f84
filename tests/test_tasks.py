"""From files to examples: what a seed sees, and what is said of each mistake in data and model."""

import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydual.data.examples import demonstration_indices, load_dataset
from raydual.data.prompts import encode_demonstrations
from raydual.errors import UserError
from raydual.model.source import ModelSource
from raydual.settings.reading import validate_config
from raydual.study import prepare_study

from .tiny import TEMPLATE, save_tiny, tiny_examples, tiny_tokenizer

few = settings(max_examples=25, deadline=None)
COLUMNS = {"columns": {"text": "text"}}
ROWS = [{"text": text, "label": label} for text, label in tiny_examples(47)]


def sweep(data, **over):
    task = {"name": "sst2", **COLUMNS, **over.pop("task", {})}
    base = {"name": "t", "task": task, "data": str(data), "seeds": 3, "demonstrations": 5}
    return validate_config({**base, **over}, "test")


def told(call, *arguments) -> str:
    """What the user is told when the call fails, which is one line."""
    with pytest.raises(UserError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def write_jsonl(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_any(path: Path, rows) -> Path:
    if path.suffix in (".jsonl", ".json"):
        return write_jsonl(path, rows)
    table = pa.Table.from_pylist(rows)
    if path.suffix == ".parquet":
        pa.parquet.write_table(table, path)
    else:
        options = pa.csv.WriteOptions(delimiter="\t" if path.suffix == ".tsv" else ",")
        pa.csv.write_csv(table, path, options)
    return path


# Which examples


@few
@given(st.integers(0, 10**6), st.integers(1, 200), st.data())
def test_a_seed_draws_its_demonstrations_as_it_always_has(seed, size, data):
    count = data.draw(st.integers(1, size))
    found = demonstration_indices(seed, size, count)
    assert found == random.Random(seed).sample(range(size), count)
    assert len(set(found)) == count


def test_the_demonstrations_of_seed_0_are_these():
    assert demonstration_indices(0, 6920, 4) == [6917, 3155, 6209, 3445]


def test_selection_and_measured_examples_are_disjoint_and_fixed(tmp_path):
    path = write_jsonl(tmp_path / "d.jsonl", [{"text": f"number {i}", "label": i % 2} for i in range(100)])
    found = load_dataset(sweep(path, split={"selection": 7}))
    assert (len(found.train), len(found.selection), len(found.measured)) == (80, 7, 13)
    parts = [set(part.queries) for part in (found.train, found.selection, found.measured)]
    assert len(set.union(*parts)) == 100
    assert load_dataset(sweep(path, split={"selection": 7}, seeds=[8])) == found
    other = load_dataset(sweep(path, split={"selection": 7, "shuffle_seed": 1}))
    assert set(other.selection.queries) != parts[1]
    fewer = load_dataset(sweep(path, split={"selection": 7, "measured": 3}))
    assert fewer.selection == found.selection
    assert set(fewer.measured.queries) < parts[2]


def test_dai_chooses_on_what_it_measures(tmp_path):
    path = write_jsonl(tmp_path / "d.jsonl", ROWS)
    found = load_dataset(sweep(path, protocol="dai"))
    assert found.selection == found.measured
    assert len(found.measured) == round(0.2 * len(ROWS))


# Files

KINDS = ["csv", "tsv", "jsonl", "json", "parquet"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_examples(tmp_path, kind):
    texts = ['plain, with "quotes"', "café ✓ {braces}", "  trimmed  "] * 5
    rows = [{"text": text, "label": i % 2} for i, text in enumerate(texts)]
    for name in ("train", "validation"):
        write_any(tmp_path / f"{name}.{kind}", rows[:11] if name == "train" else rows[11:])
    whole = load_dataset(sweep(tmp_path))
    assert whole.train.queries == tuple(TEMPLATE.format(text=text.strip()) for text in texts[:11])
    assert whole.train.labels == tuple(i % 2 for i in range(11))
    assert whole.measured.queries == tuple(TEMPLATE.format(text=text.strip()) for text in texts[11:])
    named = {name: str(tmp_path / f"{name}.{kind}") for name in ("train", "validation")}
    same = load_dataset(validate_config({**sweep(".").model_dump(mode="json"), "data": named}, "test"))
    assert (same.train, same.measured) == (whole.train, whole.measured)


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_single_file_the_same_fifth_is_held_out(tmp_path, kind):
    found = load_dataset(sweep(write_any(tmp_path / f"all.{kind}", ROWS)))
    assert (len(found.train), len(found.measured)) == (38, 9)
    reference = load_dataset(sweep(write_jsonl(tmp_path / "reference.jsonl", ROWS)))
    assert (found.train, found.measured) == (reference.train, reference.measured)
    everything = sorted(found.train.queries + found.measured.queries)
    assert everything == sorted(TEMPLATE.format(**row) for row in ROWS)


def test_labels_may_be_words_and_prompts_have_several_fields(tmp_path):
    rows = [{"a": f"first {i}", "b": f"second {i}", "grade": ("no", "yes")[i % 2]} for i in range(20)]
    task = {
        "columns": {"one": "a", "two": "b"}, "template": "{two} after {one}:",
        "label_column": "grade", "label_values": ["yes", "no"],
    }  # fmt: skip
    found = load_dataset(sweep(write_jsonl(tmp_path / "d.jsonl", rows), task=task))
    for query, label in zip(found.train.queries, found.train.labels, strict=True):
        number = int(query.split()[1])
        assert query == f"second {number} after first {number}:"
        assert label == (number + 1) % 2


MISTAKES = {
    "a missing file": ("nowhere.jsonl", None, {}, ["nowhere.jsonl", "does not exist"]),
    "an unknown suffix": ("d.xlsx", b"x", {}, ["d.xlsx is not one of .csv, .tsv, .jsonl, .json, .parquet"]),
    "a broken parquet file": ("d.parquet", b"PAR1 no more", {}, ["d.parquet cannot be read as parquet"]),
    "an empty parquet file": ("d.parquet", b"", {}, ["d.parquet cannot be read as parquet"]),
    "broken JSON": ("d.jsonl", b'{"text": "a", ', {}, ["d.jsonl cannot be read as jsonl"]),
    "an empty file": ("d.csv", b"", {}, ["d.csv cannot be read as csv"]),
    "a file without rows": ("d.csv", b"text,label\n", {}, ["demonstrations: 5 are asked", "has 0 examples"]),
    "ragged rows": ("d.csv", b"text,label\na,0\nb,1,2\n", {}, ["d.csv cannot be read as csv"]),
    "a missing column": (
        "d.jsonl", [{"sentence": "a", "stars": 0}], {}, ["no column 'text'", "it has sentence, stars"],
    ),
    "a missing label column": ("d.jsonl", [{"text": "a"}], {}, ["no column 'label'; it has text"]),
    "more demonstrations than examples": (
        "d.jsonl", ROWS, {"demonstrations": 39}, ["demonstrations: 39 are asked for", "has 38 examples"],
    ),
    "too few validation examples": (
        "d.jsonl", ROWS, {"split": {"selection": 9}}, ["split: 9 selection", "held out", "has 9"],
    ),
    "too few measured examples": (
        "d.jsonl", ROWS, {"split": {"selection": 2, "measured": 8}}, ["2 selection and 8", "has 9"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_in_the_data_names_its_place(tmp_path, mistake):
    name, content, over, expected = MISTAKES[mistake]
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        write_jsonl(path, content)
    message = told(load_dataset, sweep(path, **over))
    for part in expected:
        assert part in message


BAD_ROWS = {
    "a label outside the task": ({"label": 2}, ["label 2 is outside the task 'sst2'", "0, 1"]),
    "no label": ({"label": None}, ["label None is outside the task"]),
    "an empty text": ({"text": ""}, ["column 'text' holds '' instead of a text"]),
    "a blank text": ({"text": " \n"}, ["column 'text' holds ' \\n' instead of a text"]),
    "no text": ({"text": None}, ["column 'text' holds None instead of a text"]),
}


@pytest.mark.parametrize("mistake", BAD_ROWS)
def test_each_bad_row_is_named_by_its_number(tmp_path, mistake):
    change, expected = BAD_ROWS[mistake]
    rows = [dict(row) for row in ROWS]
    rows[6].update(change)
    write_jsonl(tmp_path / "train.jsonl", rows)
    write_jsonl(tmp_path / "validation.jsonl", ROWS)
    message = told(load_dataset, sweep(tmp_path))
    for part in ("train.jsonl, row 7:", *expected):
        assert part in message


def test_true_and_lists_are_no_labels_and_numbers_are_no_texts(tmp_path):
    flags = write_jsonl(tmp_path / "flags.jsonl", [{"text": "a", "label": i % 2 == 0} for i in range(10)])
    assert "label True is outside" in told(load_dataset, sweep(flags))
    lists = write_jsonl(tmp_path / "lists.jsonl", [{"text": "a", "label": [0]} for _ in range(10)])
    assert "label [0] is outside" in told(load_dataset, sweep(lists))
    numbers = write_jsonl(tmp_path / "numbers.jsonl", [{"text": i, "label": 0} for i in range(10)])
    assert "instead of a text" in told(load_dataset, sweep(numbers))


def test_a_directory_must_hold_one_file_of_each_split(tmp_path):
    assert "must hold one train file" in told(load_dataset, sweep(tmp_path))
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    assert "must hold one validation file" in told(load_dataset, sweep(tmp_path))
    write_jsonl(tmp_path / "validation.jsonl", ROWS)
    write_any(tmp_path / "train.csv", ROWS)
    assert "found 2" in told(load_dataset, sweep(tmp_path))


SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.mark.parametrize(("task", "train", "validation", "labels"), [("sst2", 6920, 872, 2), ("sst5", 8544, 1101, 5)])
def test_the_real_data_sets_load_whole(task, train, validation, labels):
    if not (SHARED / task).is_dir():
        pytest.skip("the real data sets are not beside this checkout")
    found = load_dataset(validate_config({"name": "t", "task": task, "data": str(SHARED / task), "seeds": 3}, "test"))
    assert (len(found.train), len(found.measured), len(found.selection)) == (train, validation, 0)
    assert set(found.train.labels) == set(found.measured.labels) == set(range(labels))
    assert all(query.startswith("Sentence: ") and query.endswith(" Label:") for query in found.train.queries)


# Model and study


def changed_config(directory: Path, target: Path, **over) -> ModelSource:
    target.mkdir(exist_ok=True)
    config = json.loads((directory / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | over))
    return ModelSource(str(target))


def test_a_whole_model_directory_is_accepted(tiny_directory):
    source = ModelSource(str(tiny_directory))
    assert source.config()["model_type"] == "qwen3"
    assert source.weights_directory() == tiny_directory
    assert source.tokenizer().encode(" positive").tokens == ["Ġpositive"]


def test_a_tokenizer_that_cuts_or_pads_is_set_to_neither(tiny_directory, tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=50)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    found = ModelSource(str(tmp_path)).tokenizer()
    text = "Sentence: lovely film Label: positive"
    assert found.encode(text).ids == ModelSource(str(tiny_directory)).tokenizer().encode(text).ids


def test_each_mistake_in_a_model_directory_names_its_place(tiny_directory, tmp_path):
    nowhere = ModelSource(str(tmp_path / "nowhere"))
    assert "nowhere is not a directory" in told(nowhere.config)
    (tmp_path / "empty").mkdir()
    empty = ModelSource(str(tmp_path / "empty"))
    assert "has no config.json" in told(empty.config)
    message = told(empty.tokenizer)
    assert "has no tokenizer.json" in message
    assert "save_pretrained" in message
    assert "is of type 'gpt2'" in told(changed_config(tiny_directory, tmp_path / "a", model_type="gpt2").config)
    for window in ({"use_sliding_window": True}, {"layer_types": ["full_attention", "sliding_attention"]}):
        assert "sliding window" in told(changed_config(tiny_directory, tmp_path / "a", **window).config)
    (tmp_path / "a" / "config.json").write_text("{")
    assert "config.json is not valid JSON" in told(ModelSource(str(tmp_path / "a")).config)
    (tmp_path / "a" / "tokenizer.json").write_text("{}")
    assert "not a readable tokenizer" in told(ModelSource(str(tmp_path / "a")).tokenizer)


def test_pickled_weights_are_never_loaded(tiny_directory, tmp_path):
    source = changed_config(tiny_directory, tmp_path / "a")
    (tmp_path / "a" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    message = told(source.weights_directory)
    assert "safetensors" in message
    assert "never loaded" in message


@pytest.mark.parametrize("ask", ["config", "tokenizer", "weights_directory"])
def test_without_the_hub_both_ways_out_are_named(ask, tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    message = told(getattr(ModelSource("Qwen/Qwen3-0.6B-Base"), ask))
    for part in ("'Qwen/Qwen3-0.6B-Base'", "connect to the hub", "local directory", "`embedded`"):
        assert part in message


@pytest.fixture(scope="module")
def short_model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("short"), max_position_embeddings=97)


def test_a_context_that_no_prompt_fits_in_is_told_before_anything_is_run(short_model, tmp_path):
    path = write_jsonl(tmp_path / "d.jsonl", ROWS)
    message = told(prepare_study, sweep(path, model=str(short_model), demonstrations=23))
    assert "demonstrations: with 23 of them the shortest prompt has" in message
    assert "holds 97; take fewer" in message
    study = prepare_study(sweep(path, model=str(short_model), demonstrations=2))
    tokenizer = study.source.tokenizer()
    assert len(study.demonstrations(tokenizer, 0).examples) == 2
    assert len(study.queries(tokenizer, "measured")) == 9


def test_a_study_without_weights_or_with_clashing_labels_ends_early(short_model, tmp_path):
    path = write_jsonl(tmp_path / "d.jsonl", ROWS)
    changed_config(short_model, tmp_path / "a")
    assert "safetensors" in told(prepare_study, sweep(path, model=str(tmp_path / "a"), demonstrations=2))
    clash = {"label_words": ["great", "greatly"]}
    assert "share their first token" in told(prepare_study, sweep(path, model=str(short_model), task=clash))


def test_a_seed_of_a_study_has_the_demonstrations_of_the_rule(short_model, tmp_path):
    study = prepare_study(sweep(write_jsonl(tmp_path / "d.jsonl", ROWS), model=str(short_model), demonstrations=2))
    tokenizer, train = study.source.tokenizer(), study.dataset.train
    for seed in (0, 1, 12345):
        chosen = train.take(random.Random(seed).sample(range(len(train)), 2))
        expected = encode_demonstrations(tokenizer, study.config.task, chosen, seed)
        found = study.demonstrations(tokenizer, seed)
        np.testing.assert_equal(dataclasses.asdict(found), dataclasses.asdict(expected))
