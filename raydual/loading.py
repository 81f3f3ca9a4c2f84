"""Read a sweep file and its command-line overrides; every mistake becomes a `UserError` that names its place."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from raydual.axes import axes_of, expand
from raydual.config import SweepConfig
from raydual.errors import UserError


class _Loader(yaml.SafeLoader):
    """YAML 1.2 floats: `1e-4` is a number, not a word."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        repeated = {key for key in keys if keys.count(key) > 1}
        if repeated:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {sorted(map(str, repeated))[0]!r} is given twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def parse_yaml(text: str, where: str) -> Any:
    """The content of a YAML text; a syntax error names `where` and the line."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader with one more number format
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{where}{line}: not valid YAML: {getattr(error, 'problem', None) or error}") from None


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
    cells = []
    for cell in expand(raw):
        named = {**cell.raw, "name": f"{raw['name']}-{cell.name}"} if axes and "name" in raw else cell.raw
        cells.append(Cell(cell.name, cell.values, validate_config(named, f"{path}{' at ' * bool(axes)}{cell.where}")))
    words = {axis: list(dict.fromkeys(cell.values[axis] for cell in cells)) for axis in axes}
    return Sweep(str(raw.get("name")), words, tuple(cells))


def _in_yaml(value: Any) -> str:
    """A value as it is written after `--set key=`."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()


def _read(path: Path, overrides: Iterable[str]) -> dict[str, Any]:
    """The settings of a sweep file with overrides, not yet checked."""
    try:
        raw = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise UserError(f"{path}: cannot read the sweep file: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: cannot read the sweep file: it is not UTF-8 text") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: a sweep file is a mapping of settings, found {type(raw).__name__}")
    _absolute_paths(raw, path.resolve().parent)
    for override in overrides:
        _apply_override(raw, override)
    return raw


def validate_config(raw: Mapping[str, Any], where: str) -> SweepConfig:
    """`raw` as a `SweepConfig`; problems are reported as being in `where`."""
    try:
        return SweepConfig.model_validate(raw)
    except ValidationError as error:
        lines = [f"{where}: {line}" for line in _describe_all(error.errors())]
        raise UserError("\n".join(lines)) from None


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
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, default_flow_style=None, width=110)


def is_local_path(name: str) -> bool:
    """Whether `name` is written as a path (`./x`, `../x`, `/x`, `~/x`) and not as a hub id."""
    return name.startswith((".", "/", "~"))


def _absolute_paths(raw: dict[str, Any], base: Path) -> None:
    """Make the paths of `model` and `data` absolute, in place, reading relative ones from `base`."""

    def resolved(value: Any) -> Any:
        return str((base / Path(value).expanduser()).resolve()) if isinstance(value, str) else value

    def absolute(value: Any) -> Any:
        if isinstance(value, list):
            return [absolute(part) for part in value]
        if not isinstance(value, str) or value == "embedded":
            return value
        return resolved(value) if is_local_path(value) or (base / value).is_dir() else value

    if "model" in raw:
        raw["model"] = absolute(raw["model"])
    data = raw.get("data")
    if isinstance(data, dict):
        raw["data"] = {key: resolved(file) for key, file in data.items()}
    elif isinstance(data, str) and data not in ("embedded", "hub"):
        raw["data"] = resolved(data)


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set {override}: expected key=value, for example --set demonstrations=16")
    value = parse_yaml(text, f"--set {key}")
    *parents, leaf = key.split(".")
    place = raw
    for parent in parents:
        if isinstance(place.get(parent), str) and parent == "task":
            place[parent] = {"name": place[parent]}
        if not isinstance(place.setdefault(parent, {}), dict):
            place[parent] = {}
        place = place[parent]
    place[leaf] = value
    if key.split(".")[0] in ("model", "data"):
        _absolute_paths(raw, Path.cwd())


def _known_keys() -> list[str]:
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
    known, parent = _known_keys(), key.rpartition(".")[0]
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
        return f"unknown key {key!r}{_nearest(key)}"
    if first["type"] == "missing":
        return f"{key}: required, but missing"
    messages = dict.fromkeys(_PHRASES.get(p["type"]) or _lower(p["msg"]) for p in problems)
    found = "" if first["type"] == "value_error" else f", found {first['input']!r}"
    return (f"{key}: " if key else "") + "; or ".join(messages) + found


_PHRASES = {
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


def _field_names() -> set[str]:
    return {part for key in _known_keys() for part in key.split(".")}
