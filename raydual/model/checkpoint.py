"""Whether a model's config and weights belong together, from the headers of its files alone. Loads no torch."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from raydual.errors import UserError, shown
from raydual.files import read_text, regular_file
from raydual.model.anatomy import (
    BACKBONE,
    EMBEDDING,
    FAMILIES,
    NO_WEIGHTS,
    PLAIN_WEIGHTS,
    UNEMBEDDING,
    Shapes,
    completed,
    expected_shapes,
    inconsistencies,
    refusal,
)

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_FLOATS = ("F64", "F32", "F16", "BF16")
_POINTER = b"version https://git-lfs"
_AGAIN = "download or save the whole model again"


def read_config(path: Path) -> dict[str, Any]:
    """A model's config.json, checked to be one that can be measured, whose sizes fit each other.

    What it leaves out has the value that its family takes for it.

    Raises
    ------
    UserError
        It cannot be measured (see `anatomy.refusal`), or its sizes can't be.
    """
    config = _json_mapping(path, "a model's config")
    if reason := refusal(config):
        raise UserError(f"model: {path} {reason}")
    config = completed(config)
    for problem in inconsistencies(config):
        raise UserError(f"model: {path}: {problem}; the file is damaged, or not this model's: {_AGAIN}")
    return config


def check_weights(directory: Path, config: Mapping[str, Any]) -> None:
    """Compare the headers of a directory's safetensors files with its config; no weight is read.

    Raises
    ------
    UserError
        No weights, a damaged file, or a weight that is missing, is one too many, or has another shape or kind.
    """
    found = _headers(directory)
    expected = expected_shapes(config)
    if config["tie_word_embeddings"] and UNEMBEDDING in found:
        expected[UNEMBEDDING] = expected[EMBEDDING]
        if EMBEDDING not in found:
            del expected[EMBEDDING]
    problems = list(_differences(found, expected, FAMILIES[config["model_type"]].title))
    if problems:
        more = f" (likewise or otherwise wrong: {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(f"model: {directory}: {problems[0]}{more}")


Header = tuple[Path, tuple[int, ...], str]
"""Where a weight is, its shape and its kind of number."""


def _differences(found: Mapping[str, Header], expected: Shapes, family: str) -> Iterator[str]:
    """What is wrong, the more telling first."""
    for name, (path, _, kind) in found.items():
        if kind not in _FLOATS:
            yield f"{name} in {path.name} is of kind {kind}, a quantised model; {PLAIN_WEIGHTS}"
    for name in expected:
        if name not in found:
            yield f"no file holds the weight {name}, which config.json asks for; {_AGAIN}"
    for name, (path, shape, _) in found.items():
        if name in expected and shape != expected[name]:
            yield (
                f"{name} in {path.name} has the shape {list(shape)}, but config.json asks for "
                f"{list(expected[name])}; config and weights are of different models: {_AGAIN}"
            )
    for name, (path, _, _) in found.items():
        if name not in expected:
            yield f"{shown(name)} in {path.name} is no weight of the {family} that config.json describes; {_AGAIN}"


def _headers(directory: Path) -> dict[str, Header]:
    """Every weight of a directory; those of a model without its head get the names that they have in the whole."""
    if (directory / SINGLE).is_file():
        found = _header(directory / SINGLE)
    elif (directory / INDEX).is_file():
        found = _indexed(directory)
    else:
        raise UserError(no_weights(directory))
    found = {name: header for name, header in found.items() if not name.endswith(NO_WEIGHTS)}
    if not any(name.startswith(BACKBONE) for name in found):
        found = {name if name == UNEMBEDDING else f"{BACKBONE}{name}": header for name, header in found.items()}
    return found


def no_weights(where: object) -> str:
    """What is said of a place without weights that can be loaded."""
    return (
        f"model: {where} has no safetensors weights ({SINGLE} or {INDEX}); pickled weights are never loaded: "
        "save them with `save_pretrained`"
    )


def named_files(index: Path) -> list[str]:
    """The files of weights that an index names, which lie beside it.

    Raises
    ------
    UserError
        It is damaged, or names something else.
    """
    return list(dict.fromkeys(_weight_map(index).values()))


def _weight_map(index: Path) -> dict[str, str]:
    """The file of each weight."""
    found = _json_mapping(index, "an index of weights").get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(file, str) for file in found.values()):
        raise UserError(f"model: {index} names no files in its weight_map; {_AGAIN}")
    for file in found.values():
        if Path(file).name != file:
            raise UserError(f"model: {index} names {shown(file)}, which is not a file beside it; {_AGAIN}")
    return found


def _indexed(directory: Path) -> dict[str, Header]:
    index = _weight_map(directory / INDEX)
    found: dict[str, Header] = {}
    for file in named_files(directory / INDEX):
        if not (directory / file).is_file():
            raise UserError(f"model: {directory} has no {file}, which {INDEX} names; {_AGAIN}")
        found |= _header(directory / file)
    for name, file in index.items():
        if name not in found or found[name][0].name != file:
            raise UserError(f"model: {directory / file} has no weight {shown(name)}, though {INDEX} says so; {_AGAIN}")
    return found


def _header(path: Path) -> dict[str, Header]:
    try:
        with path.open("rb") as file:
            start = file.read(len(_POINTER))
        if not start:
            raise UserError(f"model: {path} is empty; {_AGAIN}")
        if start == _POINTER:
            raise UserError(f"model: {path} is a Git LFS pointer, not the weights; fetch them with `git lfs pull`")
        with safe_open(path, framework="numpy") as weights:
            slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118 - not a mapping
            return {name: (path, tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except (OSError, SafetensorError) as error:
        raise UserError(f"model: {path} is damaged or cut short ({one_line(error)}); {_AGAIN}") from None


def _json_mapping(path: Path, what: str) -> dict[str, Any]:
    text = read_text(regular_file(path, f"model: {path}"), f"model: {path}")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"model: {path} is not valid JSON: {one_line(error)}") from None
    if not isinstance(found, dict):
        raise UserError(f"model: {path} is not {what}: it is a {type(found).__name__}, not a mapping")
    return found


def one_line(error: BaseException) -> str:
    """What an error of another library says, on one line of bearable length."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]}…"
