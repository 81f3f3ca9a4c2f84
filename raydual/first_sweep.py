"""A first sweep of a user's own model and data, as a commented YAML file that is ready to run."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raydual.data.files import SUFFIXES, Table, read_table
from raydual.errors import UserError, did_you_mean, shown
from raydual.files import is_directory
from raydual.settings.editor import SCHEMA, comment
from raydual.settings.reading import validate_config
from raydual.settings.task import builtin_tasks
from raydual.settings.yaml_text import dump_yaml, parse_yaml

_TEXT_NAMES = ("text", "sentence", "review", "question", "content", "body", "message")
_MOST_LABELS = 20
_MOST_DEMONSTRATIONS = 16
_HELD_OUT = 0.2
_RATES = {True: "0.3, 1.0, 3.0, 6.0, 10.0", False: "1e-4, 3e-4, 1e-3, 3e-3, 1e-2"}
"""Learning rates to try: of the embedded model, and of language models of usual size."""


@dataclass(frozen=True)
class Asked:
    """What a user names: a model, data, a built-in task or columns of the data, and words for the labels."""

    model: str = "embedded"
    data: str | None = None
    task: str | None = None
    name: str = "first"
    text: str | None = None
    label: str | None = None
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Sizes:
    """How many validation examples there are, if that is known, and how many demonstrations a prompt has."""

    validation: int | None
    demonstrations: int


def sweep_text(asked: Asked, folder: Path = Path()) -> str:
    """The sweep file that is to lie in `folder`.

    Raises
    ------
    UserError
        The data cannot be read, or do not tell what is text and what is label.
    """
    local = asked.data is not None and asked.data not in ("embedded", "hub")
    known = builtin_tasks()
    if asked.task is not None and asked.task not in known:
        raise UserError(f"--task {asked.task}: is not one of {', '.join(known)}{did_you_mean(asked.task, known)}")
    task: str | dict[str, Any] = asked.task or "sst2"
    if local and asked.task is None:
        task, sizes = _own_task(asked)
    else:
        of_task = known[str(task)]["demonstrations"]
        sizes = _Sizes(_rows(asked.data or "")[1] if local else None, of_task)
    data = asked.data or ("embedded" if task in ("sst2", "sst5") else "hub")
    text = _filled(
        replace(asked, model=_from(folder, asked.model)), _from(folder, data) if local else data, task, sizes
    )
    raw = parse_yaml(text, "the sweep")
    validate_config({**raw, "data": str(Path(data).resolve())} if local else raw, "the sweep")
    return text


def write_sweep(file: Path, text: str) -> None:
    """Write a sweep file that is not there yet.

    Raises
    ------
    UserError
        Something is there, or it cannot be written.
    """
    try:
        with file.open("x", encoding="utf-8") as target:
            target.write(text)
    except FileExistsError:
        raise UserError(f"{file}: already exists and is left alone; name another file") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be written: {error.strerror or error}") from None


def _from(folder: Path, name: str) -> str:
    """A path as the sweep file in `folder` names it; what is no path of a directory or file stays as it is."""
    path = Path(name).expanduser()
    if name in ("", "embedded", "hub") or path.is_absolute() or not path.exists():
        return name
    return os.path.relpath(path.resolve(), folder.resolve())


def _own_task(asked: Asked) -> tuple[dict[str, Any], _Sizes]:
    """A task that fits the columns of local data."""
    table, validation = _rows(asked.data or "")
    label = _column(table, asked.label, "--label", ("label", "class", "kind", "sentiment", "target"))
    texts = [name for name in table.names if name != label]
    text = _column(table, asked.text, "--text", (*_TEXT_NAMES, *(texts if len(texts) == 1 else ())))
    values = sorted(dict.fromkeys(table.columns[label]), key=lambda value: (str(type(value)), value))
    if not 2 <= len(values) <= _MOST_LABELS:
        raise UserError(
            f"data: {table.where}: column {shown(label)} holds {len(values)} different labels, a task has 2 to "
            f"{_MOST_LABELS}; name another column by --label"
        )
    words = asked.words or tuple(map(str, values))
    if not asked.words and any(not isinstance(value, str) or value.strip().isdigit() for value in values):
        raise UserError(
            f"data: {table.where}: the labels are {', '.join(map(shown, values))}; say which words stand for them, "
            f"such as --words {','.join(('negative', 'positive', *'cdefghijklmnopqrst')[: len(values)])}"
        )
    if len(words) != len(values):
        raise UserError(
            f"--words: {len(words)} words for {len(values)} labels ({', '.join(map(shown, values))}), in this order"
        )
    task: dict[str, Any] = {
        "name": asked.name,
        "template": "Text: {text} Label:",
        "columns": {"text": text},
        "label_column": label,
        "label_values": list(values),
        "label_words": list(words),
    }
    return task, _Sizes(validation, max(1, min(_MOST_DEMONSTRATIONS, (len(table) - validation) // 2)))


def _rows(data: str) -> tuple[Table, int]:
    """The training rows of local data, and how many validation examples there are."""
    path = Path(data).expanduser()
    if not is_directory(path):
        table = read_table(path)
        return table, round(len(table) * _HELD_OUT)
    files = {
        split: [file for file in sorted(path.glob(f"{split}.*")) if file.suffix in SUFFIXES]
        for split in ("train", "validation")
    }
    for split, found in files.items():
        if len(found) != 1:
            raise UserError(f"--data {data}: must hold one {split} file ({', '.join(SUFFIXES)}), found {len(found)}")
    train, validation = (read_table(found[0]) for found in files.values())
    return train, len(validation)


def _column(table: Table, named: str | None, option: str, usual: Sequence[str]) -> str:
    """A column by its name, or the first of the usual names that is there."""
    found = named if named is not None else next((name for name in usual if name in table.names), None)
    if found is None or found not in table.names:
        meant = did_you_mean(named, table.names) if named else ""
        raise UserError(
            f"data: {table.where} has no column {shown(named)}{meant}; it has {', '.join(table.names)}"
            if named else f"data: {table.where} has the columns {', '.join(table.names)}; name one by {option}"
        )  # fmt: skip
    return found


def _filled(asked: Asked, data: str, task: str | dict[str, Any], sizes: _Sizes) -> str:
    """The commented file."""
    there = sizes.validation if sizes.validation is not None else 400
    selection = min(100, there // 3)
    slices = [max(1, selection // 4), max(2, selection // 2), selection]
    embedded = asked.model == "embedded"
    measured = "" if sizes.validation is not None else ", measured_at_most: 300"
    label_count = len(task["label_words"] if isinstance(task, dict) else builtin_tasks()[task]["label_words"])
    flipped = "labels: [flipped]" if label_count > 1 else ""
    lines = [
        comment(SCHEMA),
        "# Every setting, with its default: sweeps/README.md. What this sweep will cost: raydual plan, before it runs.",
        f"name: {asked.name}",
        "",
        "# `embedded` (comes along), a hub id such as Qwen/Qwen3-0.6B-Base (raydual models), or a local directory",
        f"model: {_yaml(asked.model)}",
        "# of the forward passes; bfloat16 halves a large model's memory on a GPU",
        "dtype: float32",
        "",
        "# A built-in task by name (raydual tasks), or one of your own: how a prompt is made of a row of the data.",
        *(_own_lines(task) if isinstance(task, dict) else [f"task: {task}"]),
        "# `embedded`, `hub`, a CSV, TSV, JSONL or Parquet file (a fifth is held out), or a directory with `train.*`",
        "# and `validation.*`; relative to this file",
        f"data: {_yaml(data)}",
        f"demonstrations: {sizes.demonstrations}",
        "",
        "# Each seed is another set of demonstrations. The best on selection examples are measured on others.",
        "seeds: 16",
        f"split: {{selection: {selection}{measured}}}",
        "search:",
        f"  seeds: {{keep: 8, slices: {slices}}}",
        "  # Too small a learning rate changes nothing, too large a one breaks the model: each is tried.",
        f"  finetune: {{learning_rate: [{_RATES[embedded]}], seeds: 2}}",
        "",
        "# What makes the numbers mean something: the same measured where no learnt link is left, or another one.",
        "controls:",
        "  random_step: true",
        "  other_seed: true",
        "  untrained: true",
        f"  {flipped}",
    ]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _own_lines(task: dict[str, Any]) -> list[str]:
    return [
        "task:",
        f"  name: {_yaml(task['name'])}",
        "  # `{text}` is filled with the column that `columns` names; the label word follows after a space",
        f"  template: {_yaml(task['template'])}",
        f"  columns: {_yaml(task['columns'])}",
        f"  label_column: {_yaml(task['label_column'])}",
        "  # what the column holds for each label, and the word that stands for it; first tokens must differ",
        f"  label_values: {_yaml(task['label_values'])}",
        f"  label_words: {_yaml(task['label_words'])}",
    ]


def _yaml(value: Any) -> str:
    """A value on one line."""
    text = dump_yaml(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("...\n").strip()
