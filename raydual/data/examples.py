"""Examples of a task: read from the embedded corpus, a local file or the hub, checked, and split."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raydual.data.files import SUFFIXES, Table, arrow_table, read_table
from raydual.embedded import reviews_file
from raydual.errors import UserError, shown
from raydual.files import is_directory
from raydual.hub import Repository, dataset_splits
from raydual.settings.schema import DataFiles, Split, SweepConfig
from raydual.settings.task import Task

_HELD_OUT = 0.2


@dataclass(frozen=True)
class Examples:
    """Labelled prompts: `queries[i]` is the filled template of example i, `labels[i]` its label id.

    `where` and `rows[i]` say for messages where it was read; they are empty for examples that were made.
    """

    queries: tuple[str, ...]
    labels: tuple[int, ...]
    where: str = field(default="", compare=False)
    rows: tuple[int, ...] = field(default=(), compare=False)

    def __len__(self) -> int:
        return len(self.queries)

    def take(self, indices: Sequence[int]) -> "Examples":
        """The examples at `indices`, in that order."""
        return Examples(
            tuple(self.queries[i] for i in indices),
            tuple(self.labels[i] for i in indices),
            self.where,
            tuple(self.rows[i] for i in indices) if self.rows else (),
        )

    def place(self, index: int) -> str:
        """Where an example was read, for messages."""
        return f"{self.where}, row {self.rows[index]}" if self.rows else f"example {index}"


@dataclass(frozen=True)
class Dataset:
    """A task's examples: demonstrations come from `train`, choices from `selection`, numbers from `measured`."""

    train: Examples
    selection: Examples
    measured: Examples
    source: str


def demonstration_indices(seed: int, train_size: int, count: int) -> list[int]:
    """Which training examples are the demonstrations of `seed`, in prompt order (docs/science.md, section 1)."""
    return random.Random(seed).sample(range(train_size), count)


def load_dataset(config: SweepConfig) -> Dataset:
    """The examples that a sweep needs.

    Raises
    ------
    UserError
        A file that is missing or unreadable, a column or label that is not there, too few examples, no hub.
    """
    train, validation, source = _read_tables(config)
    train_examples, validation_examples = (_examples(table, config.task) for table in (train, validation))
    if config.demonstrations > len(train_examples):
        raise UserError(
            f"demonstrations: {config.demonstrations} are asked for, but the training set ({train.where}) "
            f"has {len(train_examples)} examples"
        )
    selection, measured = _split(validation_examples, config.split, config.protocol, validation.where)
    return Dataset(train_examples, selection, measured, source)


def _split(examples: Examples, split: Split, protocol: str, where: str) -> tuple[Examples, Examples]:
    """(selection, measured): disjoint, unless the protocol is Dai's."""
    order = list(range(len(examples)))
    wanted = split.selection + (split.measured or 1)
    if wanted > len(order):
        raise UserError(
            f"split: {split.selection} selection and {split.measured or 'at least 1'} measured examples are asked "
            f"for, but the validation set ({where}) has {len(order)}"
        )
    if split.selection or split.measured or split.measured_at_most:
        random.Random(split.shuffle_seed).shuffle(order)
    end = len(order) if split.measured is None else wanted
    if split.measured_at_most:
        end = min(end, split.selection + split.measured_at_most)
    measured = examples.take(sorted(order[split.selection : end]))
    selection = measured if protocol == "dai" else examples.take(order[: split.selection])
    return selection, measured


def _read_tables(config: SweepConfig) -> tuple[Table, Table, str]:
    """(train, validation) tables, and the source in words."""
    data, task = config.data, config.task
    if data == "embedded":
        files = DataFiles(
            train=str(reviews_file(task.name, "train")), validation=str(reviews_file(task.name, "validation"))
        )
        source = f"embedded reviews ({task.name})"
    elif data == "hub":
        return _read_hub(task)
    elif isinstance(data, DataFiles):
        files, source = data, f"{data.train}, {data.validation or 'a fifth of it held out'}"
    else:
        files, source = _files_at(Path(data)), data
    train = read_table(Path(files.train))
    if files.validation is not None:
        return train, read_table(Path(files.validation)), source
    return *_hold_out(train), source


def _files_at(path: Path) -> DataFiles:
    """A directory with one train.* and one validation.* file, or a single file."""
    if not is_directory(path):
        return DataFiles(train=str(path))
    found: dict[str, str] = {}
    for split in ("train", "validation"):
        files = sorted(p for p in path.glob(f"{split}.*") if p.suffix in SUFFIXES)
        if len(files) != 1:
            raise UserError(
                f"data: {path} must hold one {split} file ({', '.join(split + s for s in SUFFIXES)}), "
                f"found {len(files)}"
            )
        found[split] = str(files[0])
    return DataFiles(**found)


def _hold_out(table: Table) -> tuple[Table, Table]:
    """A fixed fifth of the rows held out, the same on every machine."""
    order = random.Random(0).sample(range(len(table)), len(table))
    count = round(len(table) * _HELD_OUT)
    kept, held_out = sorted(order[count:]), sorted(order[:count])
    return table.take(kept, table.where), table.take(held_out, f"{table.where} (a fifth held out)")


def _read_hub(task: Task) -> tuple[Table, Table, str]:
    hub = task.hub
    assert hub is not None, "checked by the config"
    splits = (hub.train, hub.validation)
    found = dataset_splits(Repository("data", hub.id, hub.revision), hub.config, splits)
    tables = [arrow_table(rows.data.table, f"{hub.id}, {split}") for rows, split in zip(found, splits, strict=True)]
    return tables[0], tables[1], f"{hub.id} on the Hugging Face hub"


def _examples(table: Table, task: Task) -> Examples:
    """The rows of a table as filled templates and label ids."""
    for column in (*task.columns.values(), task.label_column):
        if table.names.count(column) > 1:
            raise UserError(f"data: {table.where} has more than one column {shown(column)}; rename all but one")
        if column not in table.names:
            found = ", ".join(name if name.isprintable() else shown(name) for name in table.names) or "none"
            raise UserError(f"data: {table.where} has no column {shown(column)}; it has {found}")
    columns = {name: _texts(table, column) for name, column in task.columns.items()}
    rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
    queries = tuple(task.query(fields) for fields in rows)
    return Examples(queries, _labels(table, task), table.where, tuple(table.rows))


def _texts(table: Table, name: str) -> list[str]:
    texts = table.columns[name]
    for row, text in zip(table.rows, texts, strict=True):
        if not isinstance(text, str) or not text.strip() or not _is_unicode(text):
            raise UserError(
                f"data: {table.where}, row {row}: column {shown(name)} holds {shown(text)} instead of a text"
            )
    return [text.strip() for text in texts]


def _is_unicode(text: str) -> bool:
    """Whether no half of a surrogate pair stands alone, as JSON's escapes allow and no tokenizer does."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _labels(table: Table, task: Task) -> tuple[int, ...]:
    allowed = task.label_values or tuple(range(len(task.label_words)))
    ids: dict[Any, int] = {value: index for index, value in enumerate(allowed)}
    as_text = {_plain(value): index for value, index in ids.items()}
    values = table.columns[task.label_column]
    found = [as_text.get(_plain(value)) if table.only_texts else _id_of(value, ids) for value in values]
    unknown = [index for index, label in enumerate(found) if label is None]
    if unknown:
        # A column of texts such as '0' is blamed on a row only if there is none that no reading makes a label.
        strange = (i for i in unknown if not isinstance(values[i], str) or _plain(values[i]) not in as_text)
        index = next(strange, unknown[0])
        hint = "" if _plain(values[index]) not in as_text else "; give task.label_values in the kind that the data has"
        raise UserError(
            f"data: {table.where}, row {table.rows[index]}: label {shown(values[index])} is outside the task "
            f"{shown(task.name)}, which has {', '.join(map(shown, allowed))}{hint}"
        )
    return tuple(label for label in found if label is not None)


def _id_of(value: Any, ids: dict[Any, int]) -> int | None:
    known = isinstance(value, str | int | float) and not isinstance(value, bool)
    return ids.get(value) if known else None


def _plain(value: Any) -> str:
    """A label as a file of texts writes it: a whole number without a decimal point."""
    text = str(value).strip()
    whole, _, rest = text.partition(".")
    return whole if rest and not rest.strip("0") and whole.lstrip("-").isdigit() else text
