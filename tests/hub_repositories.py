"""What the built-in sweeps ask of the hub, small: a tiny Qwen3, and the six tasks' data in their real layout."""

import io
import json
from itertools import cycle
from pathlib import Path
from typing import Any

import datasets
import yaml

from raydual.settings.schema import Controls
from raydual.settings.task import Task, builtin_tasks

from .loopback_hub import Repository, files_of
from .tiny import save_tiny, tiny_examples

MODEL = "Qwen/Qwen3-0.6B-Base"
_ROWS = {"train": 60, "validation": 40, "test": 40}
_TEXTS = ("text", "sentence", "premise", "hypothesis")


def repositories(folder: Path) -> dict[str, Repository]:
    """The model and the data sets, by their names on the hub; `folder` is for files in between."""
    found = {MODEL: Repository(_model_files(folder / "model"))}
    for layout in (_sst2, _sst5, _rotten_tomatoes, _subj, _ag_news, _super_glue):
        name, files = layout()
        found[f"datasets/{name}"] = Repository(files)
    return found


def _model_files(folder: Path) -> dict[str, bytes]:
    """A model whose tokenizer tells the label words of all six tasks apart, with what else a repository holds."""
    sentences = [text for text, _ in tiny_examples(60)]
    texts = [" " + " ".join(Controls().abstract_words)] * 20
    for task in map(Task.model_validate, builtin_tasks().values()):
        queries = [task.query(dict.fromkeys(task.columns, text)) for text in sentences]
        texts += [f"{query} {word}" for query, word in zip(queries, cycle(task.label_words), strict=False)]
    files = files_of(save_tiny(folder, texts=texts))
    return {**files, "README.md": b"# A tiny Qwen3\n", "LICENSE": b"Apache-2.0\n", ".gitattributes": b"* text\n"}


def _rows(columns: tuple[str, ...], labels: int, split: str, hidden: bool = False) -> list[dict[str, Any]]:
    rows = []
    for index, (text, _) in enumerate(tiny_examples(_ROWS[split], seed=len(split))):
        own = dict.fromkeys(_TEXTS, f"{text} {split}") | {"idx": index, "label": -1 if hidden else index % labels}
        rows.append({name: own.get(name, f"class {index % labels}") for name in columns})
    return rows


def _parquet(rows: list[dict[str, Any]], words: list[str]) -> bytes:
    """Rows as the hub's Parquet files hold them, whose labels have names."""
    kinds = {"idx": datasets.Value("int32"), "label": datasets.ClassLabel(names=words)}
    features = datasets.Features({name: kinds.get(name, datasets.Value("string")) for name in rows[0]})
    file = io.BytesIO()
    datasets.Dataset.from_list(rows, features=features).to_parquet(file)
    return file.getvalue()


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _card(configs: dict[str, dict[str, str]], columns: tuple[str, ...], words: list[str]) -> bytes:
    """A README whose header names the files of each configuration's splits, and their columns."""
    kinds: dict[str, Any] = {
        "idx": "int32", "label": {"class_label": {"names": {str(i): word for i, word in enumerate(words)}}}
    }  # fmt: skip
    features = [{"name": name, "dtype": kinds.get(name, "string")} for name in columns]
    header = {
        "dataset_info": [{"config_name": name, "features": features} for name in configs],
        "configs": [
            {"config_name": name, "data_files": [{"split": split, "path": path} for split, path in files.items()]}
            for name, files in configs.items()
        ],
    }
    return f"---\n{yaml.safe_dump(header)}---\n# A data set\n".encode()


def _sst2() -> tuple[str, dict[str, bytes]]:
    columns, words = ("idx", "sentence", "label"), ["negative", "positive"]
    files = {
        f"data/{split}-00000-of-00001.parquet": _parquet(_rows(columns, 2, split, split == "test"), words)
        for split in _ROWS
    }
    return "stanfordnlp/sst2", {
        **files, "README.md": _card({"default": {split: f"data/{split}-*" for split in _ROWS}}, columns, words)
    }  # fmt: skip


def _sst5() -> tuple[str, dict[str, bytes]]:
    columns, names = ("text", "label", "label_text"), {"train": "train", "validation": "dev", "test": "test"}
    files = {f"{name}.jsonl": _lines(_rows(columns, 5, split)) for split, name in names.items()}
    return "SetFit/sst5", {**files, "README.md": b"# Stanford Sentiment Treebank - Fine-Grained\n"}


def _rotten_tomatoes() -> tuple[str, dict[str, bytes]]:
    columns, words = ("text", "label"), ["neg", "pos"]
    files = {f"{split}.parquet": _parquet(_rows(columns, 2, split), words) for split in _ROWS}
    card = _card({"default": {split: f"{split}.parquet" for split in _ROWS}}, columns, words)
    return "cornell-movie-review-data/rotten_tomatoes", {**files, "README.md": card}


def _subj() -> tuple[str, dict[str, bytes]]:
    columns = ("text", "label", "label_text")
    return "SetFit/subj", {f"{split}.jsonl": _lines(_rows(columns, 2, split)) for split in ("train", "test")}


def _ag_news() -> tuple[str, dict[str, bytes]]:
    columns, words, splits = ("text", "label"), ["World", "Sports", "Business", "Sci/Tech"], ("train", "test")
    files = {f"data/{s}-00000-of-00001.parquet": _parquet(_rows(columns, 4, s), words) for s in splits}
    card = _card({"default": {split: f"data/{split}-*" for split in splits}}, columns, words)
    return "fancyzhx/ag_news", {**files, "README.md": card}


def _super_glue() -> tuple[str, dict[str, bytes]]:
    """Two of its configurations, so that the wrong one could be read."""
    columns, words = ("premise", "hypothesis", "idx", "label"), ["entailment", "contradiction", "neutral"]
    files = {}
    for config in ("cb", "rte"):
        for split in _ROWS:
            path = f"{config}/{split}-00000-of-00001.parquet"
            files[path] = _parquet(_rows(columns, 3, split, split == "test"), words)
    configs = {config: {split: f"{config}/{split}-*" for split in _ROWS} for config in ("cb", "rte")}
    return "aps/super_glue", {**files, "README.md": _card(configs, columns, words)}
