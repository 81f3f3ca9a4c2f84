"""Examples of a task: read from the embedded corpus, a local file or the hub, checked, and split."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from raydual.config import DataFiles, Split, SweepConfig
from raydual.embedded import reviews_file
from raydual.errors import UserError
from raydual.tasks.task import Task

_READERS = {
    ".csv": pyarrow.csv.read_csv,
    ".tsv": lambda path: pyarrow.csv.read_csv(path, parse_options=pyarrow.csv.ParseOptions(delimiter="\t")),
    ".jsonl": pyarrow.json.read_json,
    ".json": pyarrow.json.read_json,
    ".parquet": pyarrow.parquet.read_table,
}
_HELD_OUT = 0.2


@dataclass(frozen=True)
class Examples:
    """Labelled prompts: `queries[i]` is the filled template of example i, `labels[i]` its label id."""

    queries: tuple[str, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.queries)

    def take(self, indices: Sequence[int]) -> "Examples":
        """The examples at `indices`, in that order."""
        return Examples(tuple(self.queries[i] for i in indices), tuple(self.labels[i] for i in indices))


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
    train_examples, validation_examples = (_examples(table, config.task, where) for table, where in (train, validation))
    if config.demonstrations > len(train_examples):
        raise UserError(
            f"demonstrations: {config.demonstrations} are asked for, but the training set ({train[1]}) "
            f"has {len(train_examples)} examples"
        )
    selection, measured = _split(validation_examples, config.split, config.protocol, validation[1])
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


Table = tuple[pa.Table, str]


def _read_tables(config: SweepConfig) -> tuple[Table, Table, str]:
    """(train, validation) tables, each with the name of its place, and the source in words."""
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
    train = _read_file(Path(files.train))
    if files.validation is not None:
        return (train, files.train), (_read_file(Path(files.validation)), files.validation), source
    kept, held_out = _hold_out(train)
    place = f"{files.train}, a fifth held out"
    return (kept, files.train), (held_out, place), source


def _files_at(path: Path) -> DataFiles:
    """A directory with one train.* and one validation.* file, or a single file."""
    if not path.is_dir():
        return DataFiles(train=str(path))
    found: dict[str, str] = {}
    for split in ("train", "validation"):
        files = sorted(p for p in path.glob(f"{split}.*") if p.suffix in _READERS)
        if len(files) != 1:
            raise UserError(
                f"data: {path} must hold one {split} file ({', '.join(split + s for s in _READERS)}), "
                f"found {len(files)}"
            )
        found[split] = str(files[0])
    return DataFiles(**found)


def _hold_out(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """A fixed fifth of the rows held out, the same on every machine."""
    order = random.Random(0).sample(range(len(table)), len(table))
    count = round(len(table) * _HELD_OUT)
    kept, held_out = (pa.array(sorted(part), pa.int64()) for part in (order[count:], order[:count]))
    return table.take(kept), table.take(held_out)


def _read_file(path: Path) -> pa.Table:
    if path.suffix not in _READERS:
        raise UserError(f"data: {path} is not one of {', '.join(_READERS)}")
    try:
        return _READERS[path.suffix](path)
    except FileNotFoundError:
        raise UserError(f"data: {path} does not exist") from None
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"data: {path} cannot be read as {path.suffix[1:]}: {reason}") from None


def _read_hub(task: Task) -> tuple[Table, Table, str]:
    import datasets

    hub = task.hub
    assert hub is not None, "checked by the config"
    tables = []
    for split in (hub.train, hub.validation):
        try:
            rows = datasets.load_dataset(hub.id, hub.config, split=split, revision=hub.revision)
        except Exception as error:  # the hub's client raises many kinds, none of which a user can act on
            raise UserError(
                f"data: cannot load the split {split!r} of {hub.id!r} from the Hugging Face hub "
                f"({type(error).__name__}: {str(error).partition(chr(10))[0]}); connect to the hub, or set `data` to "
                "a local CSV, JSONL or Parquet file (or to `embedded`)"
            ) from None
        tables.append((rows.data.table, f"{hub.id}, {split}"))
    return tables[0], tables[1], f"{hub.id} on the Hugging Face hub"


def _examples(table: pa.Table, task: Task, where: str) -> Examples:
    """The rows of a table as filled templates and label ids."""
    for column in (*task.columns.values(), task.label_column):
        if table.column_names.count(column) > 1:
            raise UserError(f"data: {where} has more than one column {column!r}; rename all but one")
        if column not in table.column_names:
            raise UserError(f"data: {where} has no column {column!r}; it has {', '.join(table.column_names)}")
    columns = {field: _texts(table[name], name, where) for field, name in task.columns.items()}
    rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
    queries = tuple(task.query(fields) for fields in rows)
    return Examples(queries, _labels(table[task.label_column].to_pylist(), task, where))


def _texts(column: pa.ChunkedArray, name: str, where: str) -> list[str]:
    texts = column.to_pylist()
    for row, text in enumerate(texts, start=1):
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"data: {where}, row {row}: column {name!r} holds {text!r} instead of a text")
    return [text.strip() for text in texts]


def _labels(values: Sequence[Any], task: Task, where: str) -> tuple[int, ...]:
    allowed = task.label_values or tuple(range(len(task.label_words)))
    ids = {value: index for index, value in enumerate(allowed)}
    for row, value in enumerate(values, start=1):
        if isinstance(value, bool) or not isinstance(value, str | int | float) or value not in ids:
            raise UserError(
                f"data: {where}, row {row}: label {value!r} is outside the task {task.name!r}, "
                f"which has {', '.join(map(repr, allowed))}"
            )
    return tuple(ids[value] for value in values)
