"""The built-in tasks are Dai's six, prompts and all; a sweep file can change any of them or bring its own."""

import json

import datasets
import pytest

from raydual import hub as hub_module
from raydual.errors import UserError
from raydual.loading import dump_config, load_config, validate_config
from raydual.tasks.examples import load_dataset
from raydual.tasks.prompts import encode_demonstrations, label_tokens
from raydual.tasks.task import Task, builtin_tasks

from .tiny import tiny_tokenizer

TABLE = {
    "sst2": (32, ("negative", "positive")),
    "sst5": (32, ("terrible", "bad", "neutral", "good", "great")),
    "mr": (32, ("Negative", "Positive")),
    "subj": (32, ("objective", "subjective")),
    "agnews": (22, ("World", "Sports", "Business", "Technology")),
    "cb": (19, ("True", "False", "Neither")),
}
# What the hub holds: (id, config, splits, columns).
HUB = {
    "sst2": ("stanfordnlp/sst2", None, ("train", "validation", "test"), ("idx", "sentence", "label")),
    "sst5": ("SetFit/sst5", None, ("train", "validation", "test"), ("text", "label", "label_text")),
    "mr": ("cornell-movie-review-data/rotten_tomatoes", None, ("train", "validation", "test"), ("text", "label")),
    "subj": ("SetFit/subj", None, ("train", "test"), ("text", "label", "label_text")),
    "agnews": ("fancyzhx/ag_news", None, ("train", "test"), ("text", "label")),
    "cb": (
        "aps/super_glue", "cb", ("train", "validation", "test"), ("premise", "hypothesis", "idx", "label"),
    ),
}  # fmt: skip
# A row, its label, and the prompt with its label word.
RENDERED = {
    "sst2": ({"sentence": "a gem ."}, 1, "Sentence: a gem . Label: positive"),
    "sst5": ({"text": "a gem ."}, 0, "Sentence: a gem . Label: terrible"),
    "mr": ({"text": "a gem ."}, 1, "Review: a gem . Sentiment: Positive"),
    "subj": ({"text": "he leaves town ."}, 0, "Input: he leaves town . Type: objective"),
    "agnews": (
        {"text": "Oil falls. Prices fell."}, 2,
        "Classify the news articles into the categories of World, Sports, Business, and Technology. "
        "Article: Oil falls. Prices fell. Answer: Business",
    ),
    "cb": (
        {"premise": "A: I doubt it rained.", "hypothesis": "it rained"}, 1,
        "A: I doubt it rained. Question: it rained. True, False, or Neither? Answer: False",
    ),
}  # fmt: skip
each_task = pytest.mark.parametrize("name", TABLE)


def task_named(name: str) -> Task:
    return Task.model_validate(builtin_tasks()[name])


def sweep(task, **over):
    return validate_config({"name": "t", "task": task, "seeds": 2, **over}, "test")


def fake_rows(name: str, split: str, count: int) -> datasets.Dataset:
    """Rows with the columns of the hub, of the kinds that are there."""
    columns, labels = HUB[name][3], [i % len(TABLE[name][1]) for i in range(count)]
    if split == "test" and "test" not in (task_named(name).hub.train, task_named(name).hub.validation):
        labels = [-1] * count
    found = {"label": labels, "idx": list(range(count)), "label_text": [f"class {label}" for label in labels]}
    rows = {c: found.get(c) or [f"{c} {split} {i}" for i in range(count)] for c in columns}
    return datasets.Dataset.from_dict(rows)


@pytest.fixture
def hub(monkeypatch):
    """A hub that holds what `HUB` says, 60 training rows and 25 of each other split; it notes what was asked."""
    asked = []

    def load(path, name=None, *, split, revision=None):
        asked.append((path, name, split, revision))
        (task,) = [task for task, entry in HUB.items() if entry[:2] == (path, name)]
        return [fake_rows(task, part, 60 if part == "train" else 25) for part in split]

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(hub_module, "_silence", lambda seconds: None)
    return asked


# The table


def test_the_built_in_tasks_are_these():
    found = {name: task_named(name) for name in builtin_tasks()}
    assert {name: (task.demonstrations, task.label_words) for name, task in found.items()} == TABLE
    assert all(task.name == name for name, task in found.items())
    assert all(task.separator == " " for task in found.values())


@each_task
def test_a_sweep_that_names_a_task_takes_its_demonstrations(name):
    config = sweep(name)
    assert config.task == task_named(name)
    assert config.demonstrations == TABLE[name][0]
    assert sweep(name, demonstrations=3).demonstrations == 3


@each_task
def test_a_whole_task_survives_being_written_to_a_file(name, tmp_path):
    config = sweep(name)
    (tmp_path / "s.yaml").write_text(dump_config(config), encoding="utf-8")
    assert load_config(tmp_path / "s.yaml") == config


@each_task
def test_a_row_reads_as_in_dai(name, tmp_path):
    row, label, expected = RENDERED[name]
    (tmp_path / "d.jsonl").write_text((json.dumps({**row, "label": label}) + "\n") * 10, encoding="utf-8")
    config = sweep(name, data=str(tmp_path / "d.jsonl"), demonstrations=2)
    found = load_dataset(config)
    query, word = found.train.queries[0], config.task.label_words[found.train.labels[0]]
    assert f"{query} {word}" == expected
    tokenizer = tiny_tokenizer()
    demonstrations = encode_demonstrations(tokenizer, config.task, found.train.take([0, 1]), 0)
    assert tokenizer.decode(demonstrations.prefix.tolist()) == f"{expected} {expected}"


@each_task
def test_no_two_label_words_share_their_first_token(name):
    prompts = [prompt for *_, prompt in RENDERED.values()]
    words = [f"it {word}" for _, label_words in TABLE.values() for word in label_words]
    found = label_tokens(tiny_tokenizer((prompts + words) * 20), task_named(name))
    assert len({word[0] for word in found}) == len(TABLE[name][1])


# From the hub


@each_task
def test_every_task_loads_from_the_hub(name, hub):
    found = load_dataset(sweep(name, split={"selection": 5}))
    path, config, _, _ = HUB[name]
    splits = ("train", "test" if name in ("subj", "agnews") else "validation")
    assert hub == [(path, config, list(splits), None)]
    assert (len(found.train), len(found.selection), len(found.measured)) == (60, 5, 20)
    assert set(found.train.labels) == set(range(len(TABLE[name][1])))
    for examples, split in ((found.train, splits[0]), (found.measured, splits[1])):
        assert all(f" {split} " in query for query in examples.queries)


def test_both_texts_of_cb_are_of_the_same_row(hub):
    found = load_dataset(sweep("cb"))
    for i, query in enumerate(found.train.queries):
        assert query == f"premise train {i} Question: hypothesis train {i}. True, False, or Neither? Answer:"
        assert found.train.labels[i] == i % 3


def test_a_split_may_be_chosen_and_a_hidden_label_is_told(hub):
    task = {"name": "cb", "hub": {"id": "aps/super_glue", "config": "cb", "validation": "test", "revision": "abc"}}
    with pytest.raises(UserError, match="aps/super_glue, test, row 1: label -1 is outside the task 'cb'"):
        load_dataset(sweep(task))
    assert {revision for *_, revision in hub} == {"abc"}


# Changed and custom tasks


def from_file(path, text: str):
    path.write_text(f"name: t\nseeds: 2\n{text}", encoding="utf-8")
    return load_config(path)


def test_what_a_sweep_does_not_change_of_a_task_stays(tmp_path):
    config = from_file(tmp_path / "s.yaml", 'data: hub\ntask: {name: sst2, separator: "\\n"}\n')
    assert config.task == task_named("sst2").model_copy(update={"separator": "\n"})
    assert config.demonstrations == 32
    everything = {
        "template": "News: {text} Type:", "separator": "\n\n", "label_words": ["world", "sport", "money", "science"],
        "demonstrations": 4,
    }  # fmt: skip
    changed = sweep({"name": "agnews", **everything})
    assert changed.task == Task.model_validate({**builtin_tasks()["agnews"], **everything})
    assert changed.demonstrations == 4
    assert task_named("agnews").demonstrations == 22


def test_a_template_may_hold_a_newline_and_name_its_own_fields(tmp_path):
    text = """
task:
  name: cb
  columns: {a: premise, b: hypothesis}
  template: "{a}\\nQuestion: {b}. True, False, or Neither?\\nAnswer:"
data: d.jsonl
demonstrations: 2
"""
    rows = [{"premise": f"p{i}", "hypothesis": f"h{i}", "label": i % 3} for i in range(10)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = load_dataset(from_file(tmp_path / "s.yaml", text))
    assert "p0\nQuestion: h0. True, False, or Neither?\nAnswer:" in found.train.queries + found.measured.queries


CUSTOM = """
task:
  name: tickets
  columns: {subject: title, body: text}
  label_column: team
  label_values: [billing, support]
  template: "Ticket: {subject} / {body} Team:"
  separator: "\\n"
  label_words: [money, help]
  demonstrations: 4
"""


def tickets(count: int) -> list[dict]:
    return [{"title": f"t{i}", "text": f"b{i}", "team": ("support", "billing")[i % 2]} for i in range(count)]


def check_tickets(config) -> None:
    assert (config.task.name, config.demonstrations, config.task.separator) == ("tickets", 4, "\n")
    assert config.task.label_words == ("money", "help")
    found = load_dataset(config)
    assert len(found.train) > 4
    for query, label in zip(found.train.queries, found.train.labels, strict=True):
        number = int(query.removeprefix("Ticket: t").partition(" ")[0])
        assert query == f"Ticket: t{number} / b{number} Team:"
        assert label == (number + 1) % 2


def test_a_custom_task_on_a_file_is_written_wholly_in_the_sweep(tmp_path):
    (tmp_path / "tickets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tickets(30)), encoding="utf-8")
    config = from_file(tmp_path / "s.yaml", f"data: tickets.jsonl\n{CUSTOM}")
    assert config.task.hub is None
    check_tickets(config)


def test_a_custom_task_on_the_hub_is_written_wholly_in_the_sweep(tmp_path, monkeypatch):
    asked = []

    def load(path, name=None, *, split, revision=None):
        asked.append((path, name, split, revision))
        return [datasets.Dataset.from_list(tickets(30)) for _ in split]

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(hub_module, "_silence", lambda seconds: None)
    hub = "  hub: {id: me/tickets, config: english, revision: v2, train: old, validation: new}\n"
    check_tickets(from_file(tmp_path / "s.yaml", f"data: hub\n{CUSTOM}{hub}"))
    assert asked == [("me/tickets", "english", ["old", "new"], "v2")]


def test_a_custom_task_must_say_what_has_no_default(tmp_path):
    with pytest.raises(UserError, match=r"task\.label_words: required, but missing"):
        sweep({"name": "mine"})
    with pytest.raises(UserError, match="the task 'mine' names no hub data set"):
        sweep({"name": "mine", "label_words": ["a", "b"]})
    with pytest.raises(UserError, match=r"task\.label_words\.0: input should be a text, found True"):
        from_file(tmp_path / "s.yaml", "data: hub\ntask: {name: mine, label_words: [Yes, No]}\n")
