"""Read a sweep file and its command-line overrides; every mistake becomes a `UserError` that names its place."""

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from raydual.errors import UserError, did_you_mean, shown
from raydual.files import is_directory, read_text, user_path
from raydual.settings.axes import axes_of, expand
from raydual.settings.schema import SweepConfig
from raydual.settings.yaml_text import Block, dump_yaml, parse_yaml

_MOST_CELLS = 1000
_MOST_LINES = 20


@dataclass(frozen=True)
class Cell:
    """One combination of a sweep's axes: its directory's name, the value of each axis in words, and its sweep."""

    name: str
    values: dict[str, str]
    config: SweepConfig


@dataclass(frozen=True)
class Sweep:
    """A sweep file: its name, the values in words of the settings that are lists, a cell for each combination."""

    name: str
    axes: dict[str, list[str]]
    cells: tuple[Cell, ...]


def load_config(path: Path, overrides: Iterable[str] = ()) -> SweepConfig:
    """The sweep of the file `path` with `key=value` overrides; relative paths in the file are relative to it.

    Raises
    ------
    UserError
        One line for each problem: file, key, what was found and what is allowed; or the sweep has axes.
    """
    raw = _read(path, overrides)
    axes = axes_of(raw)
    if axes:
        example = " ".join(f"--set {axis}={_in_yaml(values[0])}" for axis, values in axes.items() if values)
        raise UserError(f"{path}: lists several values of {', '.join(axes)}; name one of each here, such as {example}")
    return validate_config(raw, str(path))


def load_sweep(path: Path, overrides: Iterable[str] = ()) -> Sweep:
    """All that the file `path` asks for: every cell of its axes, a single one if it has none.

    Raises
    ------
    UserError
        As `load_config`, for the first cell with a problem; or an axis is empty, repeats a value, or is searched.
    """
    raw = _read(path, overrides)
    axes = axes_of(raw)
    searched = (raw.get("search") or {}).get("finetune") if isinstance(raw.get("search"), dict) else None
    for axis, values in axes.items():
        if not values:
            raise UserError(f"{path}: {axis}: an axis needs at least one value, found an empty list")
        if len({_in_yaml(value) for value in values}) != len(values):
            raise UserError(f"{path}: {axis}: the same value is listed twice")
        if isinstance(searched, dict) and axis.removeprefix("finetune.") in searched:
            raise UserError(f"{path}: {axis}: cannot be an axis and searched by search.finetune at once")
    count = math.prod(len(values) for values in axes.values())
    if count > _MOST_CELLS:
        raise UserError(f"{path}: {', '.join(axes)}: {count:,} combinations, at most {_MOST_CELLS:,} are run at once")
    cells = []
    for cell in expand(raw):
        named = {**cell.raw, "name": f"{raw['name']}-{cell.name}"} if axes and "name" in raw else cell.raw
        cells.append(Cell(cell.name, cell.values, validate_config(named, f"{path}{' at ' * bool(axes)}{cell.where}")))
    words = {axis: list(dict.fromkeys(cell.values[axis] for cell in cells)) for axis in axes}
    return Sweep(str(raw.get("name")), words, tuple(cells))


def _in_yaml(value: Any) -> str:
    """A value as it is written after `--set key=`."""
    return dump_yaml(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()


def _read(path: Path, overrides: Iterable[str]) -> dict[str, Any]:
    """The settings of a sweep file with overrides, not yet checked."""
    raw = parse_yaml(read_text(path, f"{path}: cannot read the sweep file"), str(path))
    if not isinstance(raw, dict):
        found = "nothing" if raw is None else type(raw).__name__
        raise UserError(f"{path}: a sweep file is a mapping of settings, found {found}")
    _absolute_paths(raw, path.resolve().parent, str(path))
    for override in overrides:
        _apply_override(raw, override)
    return raw


def validate_config(raw: Mapping[str, Any], where: str) -> SweepConfig:
    """`raw` as a `SweepConfig`; problems are reported as being in `where`."""
    try:
        return SweepConfig.model_validate(raw)
    except ValidationError as error:
        lines = [f"{where}: {line}" for line in _describe_all(error.errors(include_url=False))]
        more = [f"{where}: and {len(lines) - _MOST_LINES:,} more problems"] if len(lines) > _MOST_LINES else []
        raise UserError("\n".join(lines[:_MOST_LINES] + more)) from None


def stored_config(text: str, where: str, overrides: Iterable[str] = ()) -> SweepConfig:
    """The sweep that `dump_config` wrote, whose paths are absolute, with `key=value` overrides."""
    raw = parse_yaml(text, where)
    if not isinstance(raw, dict):
        raise UserError(f"{where}: damaged, it holds no settings")
    for override in overrides:
        _apply_override(raw, override)
    return validate_config(raw, where)


def dump_config(config: SweepConfig) -> str:
    """The resolved sweep as YAML that `load_config` reads back to an equal one."""
    settings = config.model_dump(mode="json")
    if config.measures.own:
        settings["measures"]["own"]["source"] = Block(config.measures.own.source)
    if settings["seeds"] == list(range(len(config.seeds))):
        settings["seeds"] = len(config.seeds)
    return dump_yaml(settings, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)


def is_local_path(name: str) -> bool:
    """Whether `name` is written as a path (`./x`, `../x`, `/x`, `~/x`) and not as a hub id."""
    return name.startswith((".", "/", "~"))


def _absolute_paths(raw: dict[str, Any], base: Path, where: str) -> None:
    """Make the paths of `model`, `data` and `measures.own` absolute, in place, reading relative ones from `base`."""

    def resolved(value: Any, key: str) -> Any:
        if not isinstance(value, str):
            return value
        return str(user_path(value, base, f"{where}: {key}"))

    def absolute(value: Any) -> Any:
        if isinstance(value, list):
            return [absolute(part) for part in value]
        if not isinstance(value, str) or value in ("", "embedded"):
            return value
        path = resolved(value, "model")
        return path if is_local_path(value) or is_directory(Path(path)) else value

    if "model" in raw:
        raw["model"] = absolute(raw["model"])
    data = raw.get("data")
    if isinstance(data, dict):
        raw["data"] = {key: resolved(file, f"data.{key}") for key, file in data.items()}
    elif isinstance(data, str) and data not in ("", "embedded", "hub"):
        raw["data"] = resolved(data, "data")
    measures = raw.get("measures")
    if isinstance(measures, dict) and isinstance(measures.get("own"), str) and measures["own"]:
        raw["measures"] = {**measures, "own": resolved(measures["own"], "measures.own")}


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *parents, leaf = key.split(".")
    if not equals or not all((*parents, leaf)):
        raise UserError(f"--set {_one_line(override)}: expected key=value, for example --set demonstrations=16")
    if not text.strip():
        raise UserError(f"--set {_one_line(override)}: no value is given; for none write {_one_line(key)}=null")
    value = parse_yaml(text, f"--set {_one_line(key)}")
    place = raw
    for parent in parents:
        if isinstance(place.get(parent), str) and parent == "task":
            place[parent] = {"name": place[parent]}
        if not isinstance(place.setdefault(parent, {}), dict):
            place[parent] = {}
        place = place[parent]
    place[leaf] = value
    if key.split(".")[0] in ("model", "data", "measures"):
        _absolute_paths(raw, Path.cwd(), f"--set {_one_line(key)}")


def _one_line(text: str) -> str:
    return shown(text)[1:-1]


@cache
def known_keys() -> list[str]:
    """Every key of a sweep, dotted."""

    def walk(model: type[BaseModel], prefix: str) -> Iterable[str]:
        for name, field in model.model_fields.items():
            yield prefix + name
            candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
            for nested in candidates:
                if isinstance(nested, type) and issubclass(nested, BaseModel):
                    yield from walk(nested, f"{prefix}{name}.")

    return list(walk(SweepConfig, ""))


def _nearest(key: str) -> str:
    """The known key that looks most like `key`, in full or by its last part."""
    known, parent = known_keys(), key.rpartition(".")[0]
    leaf = key.rpartition(".")[2]
    siblings = [k for k in known if k.rpartition(".")[0] == parent]
    for pool in (siblings, known):
        leaves = {k.rpartition(".")[2]: k for k in reversed(pool)}
        close = difflib.get_close_matches(leaf, leaves, n=1)
        if close:
            return f"; did you mean {leaves[close[0]]!r}?"
    return f"; known here: {', '.join(k.rpartition('.')[2] for k in siblings) or ', '.join(SweepConfig.model_fields)}"


def _describe_all(problems: Sequence[Any]) -> Iterator[str]:
    """One line for each key that has a problem; the branches of a union are told as alternatives."""
    by_key: dict[str, list[Any]] = {}
    for problem in problems:
        by_key.setdefault(_place(problem), []).append(problem)
    for key, found in by_key.items():
        # A list is "too short" if one of its items has a problem, which is told by itself.
        if found[0]["type"] != "too_short" or not any(other.startswith(f"{key}.") for other in by_key):
            yield _describe(key, found)


def _place(problem: Any) -> str:
    """The dotted key of a problem, without the names that pydantic gives to the branches of a union."""
    known = _field_names()
    last = len(problem["loc"]) - 1
    return ".".join(
        str(part)
        for index, part in enumerate(problem["loc"])
        if isinstance(part, int) or part in known or (index == last and problem["type"] == "extra_forbidden")
    )


def _describe(key: str, problems: Sequence[Any]) -> str:
    first = problems[0]
    if first["type"] == "extra_forbidden":
        return f"unknown key {shown(key)}{_nearest(key)}"
    if first["type"] == "missing":
        return f"{key}: required, but missing"
    messages = dict.fromkeys(_PHRASES.get(p["type"]) or _lower(p["msg"]) for p in problems)
    found = "" if first["type"] == "value_error" else f", found {shown(first['input'])}"
    text = (f"{key}: " if key else "") + "; or ".join(messages) + found + _remedy(problems)
    return " ".join(text.splitlines())


def _remedy(problems: Sequence[Any]) -> str:
    """What most likely was meant, if that can be told."""
    found = problems[0]["input"]
    if any(p["type"] == "string_type" for p in problems) and isinstance(found, bool | int | float):
        return "; put it in quotes"
    allowed = [word for p in problems if p["type"] == "literal_error" for word in _QUOTED.findall(p["ctx"]["expected"])]
    return did_you_mean(found, allowed) if isinstance(found, str) else ""


_QUOTED = re.compile("'([^']*)'")
_PHRASES = {
    "string_pattern_mismatch": "input should be of letters, digits, '.', '_' and '-', a letter or digit first",
    "invalid_key": "a key should be a text",
    "string_unicode": "input should be a text of whole Unicode characters",
    "tuple_type": "input should be a list",
    "dict_type": "input should be a mapping",
    "model_type": "input should be a mapping",
    "model_attributes_type": "input should be a mapping",
    "string_type": "input should be a text",
    "int_type": "input should be a whole number",
    "float_type": "input should be a number",
    "bool_type": "input should be true or false",
}


def _lower(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return message[0].lower() + message[1:]


@cache
def _field_names() -> set[str]:
    return {part for key in known_keys() for part in key.split(".")}
