"""Read a sweep file and its command-line overrides; every mistake becomes a `UserError` that names its place."""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from raydual.config import SweepConfig
from raydual.errors import UserError
from raydual.tasks.task import HubDataset, Task


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


def load_config(path: Path, overrides: Iterable[str] = ()) -> SweepConfig:
    """The sweep of the file `path` with `key=value` overrides; relative paths in the file are relative to it.

    Raises
    ------
    UserError
        One line for each problem: file, key, what was found and what is allowed.
    """
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
    return validate_config(raw, str(path))


def validate_config(raw: Mapping[str, Any], where: str) -> SweepConfig:
    """`raw` as a `SweepConfig`; problems are reported as being in `where`."""
    try:
        return SweepConfig.model_validate(raw)
    except ValidationError as error:
        lines = dict.fromkeys(_describe(problem) for problem in error.errors())
        raise UserError("\n".join(f"{where}: {line}" for line in lines)) from None


def dump_config(config: SweepConfig) -> str:
    """The resolved sweep as YAML that `load_config` reads back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, default_flow_style=None, width=110)


def is_local_path(name: str) -> bool:
    """Whether `name` is written as a path (`./x`, `../x`, `/x`, `~/x`) and not as a hub id."""
    return name.startswith((".", "/", "~"))


def _absolute_paths(raw: dict[str, Any], base: Path) -> None:
    """Make the paths of `model` and `data` absolute, in place, reading relative ones from `base`."""

    def absolute(value: Any, known: tuple[str, ...]) -> Any:
        if not isinstance(value, str) or value in known:
            return value
        path = base / Path(value).expanduser()
        return str(path.resolve()) if is_local_path(value) or path.exists() else value

    if "model" in raw:
        raw["model"] = absolute(raw["model"], ("embedded",))
    data = raw.get("data")
    if isinstance(data, dict):
        raw["data"] = {key: str((base / Path(p).expanduser()).resolve()) if isinstance(p, str) else p
                       for key, p in data.items()}  # fmt: skip
    elif isinstance(data, str) and data not in ("embedded", "hub"):
        raw["data"] = str((base / Path(data).expanduser()).resolve())


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


def _describe(problem: Any) -> str:
    """One pydantic problem as `key: what is wrong`."""
    # A union adds the names of its branches to the place; they mean nothing to a user.
    models = {m.__name__ for m in (Task, HubDataset)} | {"DataFiles"}
    parts = [str(p) for p in problem["loc"] if not (str(p) in models or "[" in str(p) or str(p) in ("str", "int", "float"))]
    key = ".".join(parts)
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key!r}{_nearest(key)}"
    if problem["type"] == "missing":
        return f"{key}: required, but missing"
    found = "" if problem["type"] == "value_error" else f", found {problem['input']!r}"
    return (f"{key}: " if key else "") + message[0].lower() + message[1:] + found
