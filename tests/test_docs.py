"""The documents say of settings, tasks and controls what the code does."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from raydual.settings.controls import MEASUREMENT, controls_of
from raydual.settings.schema import Controls, SweepConfig
from raydual.settings.task import Task, builtin_tasks
from raydual.settings.yaml_text import parse_yaml

from .sweeping import ROOT

SWEEPS = (ROOT / "sweeps" / "README.md").read_text(encoding="utf-8")
SCIENCE = (ROOT / "docs" / "science.md").read_text(encoding="utf-8")
NOTHING = {"none", "all", "all the others", "no limit", "that of `finetune`", "no search"}
"""How the table says that a setting left out is `null`."""
UNSET = {"required", "the task's", "no search"}
ROUND = 10**6
"""Larger limits are those of the machine, which the table does not name."""


def table(text: str, heading: str) -> list[list[str]]:
    """The rows of the first table after a heading, each a list of cells."""
    lines = ("|" + text.split(heading)[1].split("\n|", 1)[1].split("\n\n")[0]).splitlines()
    rows = [re.split(r"(?<!\\)\|", line.strip()[1:-1]) for line in lines]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def settings(model: type[BaseModel] = SweepConfig, prefix: str = "") -> Iterator[tuple[str, dict[str, Any], Any]]:
    """(dotted key, JSON schema, default) of every setting that is no group."""
    whole = model.model_json_schema()
    for name, field in model.model_fields.items():
        group = next((kind for kind in _parts(field.annotation) if _is_group(kind)), None)
        if group:
            yield from settings(group, f"{prefix}{name}.")
        else:
            yield prefix + name, whole["properties"][name], field.default


def _parts(annotation: Any) -> list[Any]:
    return [annotation, *getattr(annotation, "__args__", ())]


def _is_group(kind: Any) -> bool:
    return (
        isinstance(kind, type)
        and issubclass(kind, BaseModel)
        and kind.__name__ not in ("Task", "DataFiles", "OwnMetrics")
    )


def kind_of(schema: dict[str, Any]) -> str:
    """What a setting may be, in the words of the table."""
    if "$ref" in schema:
        # A file's name, which its text is read from.
        return "text" if schema["$ref"].endswith("/OwnMetrics") else "mapping"
    if "anyOf" in schema:
        return ", ".join(kind_of(option) for option in schema["anyOf"] if option != {"type": "null"})
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum") or [schema["const"]])
    if schema["type"] == "array":
        return f"list of: {kind_of(schema['items'])}"
    name = {"boolean": "true, false", "string": "text", "integer": "whole number", "number": "number"}[schema["type"]]
    return name + _limits(schema)


def _limits(schema: dict[str, Any]) -> str:
    signs = {"exclusiveMinimum": ">", "minimum": "≥", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{sign} {schema[key]:,}" for key, sign in signs.items() if key in schema and schema[key] <= ROUND]
    return f" {', '.join(found)}" if found else ""


def says(cell: str, default: Any) -> bool:
    """Whether a cell of the table names a default."""
    if default is PydanticUndefined:
        return cell in UNSET
    if default is None:
        return cell in NOTHING
    found = parse_yaml(cell.strip("`"), "table")
    return found == (list(default) if isinstance(default, tuple) else default)


ROWS = {row[0].strip("`"): row[1:] for row in table(SWEEPS, "## Settings")}


def test_the_table_of_settings_lists_every_setting_once_in_order():
    assert [row[0].strip("`") for row in table(SWEEPS, "## Settings")] == [name for name, _, _ in settings()]


@pytest.mark.parametrize(("name", "schema", "default"), list(settings()), ids=[name for name, _, _ in settings()])
def test_a_setting_has_the_kind_and_the_default_that_the_table_names(name, schema, default):
    kind, shown, _ = ROWS[name]
    assert kind == kind_of(schema)
    assert says(shown, default), f"{shown!r} is not {default!r}"


def test_the_check_of_a_default_can_fail():
    assert not says("`sgd`", "adamw")
    assert not says("3", 4)
    assert not says("none", 0)
    assert not says("required", None)


def test_the_parts_of_a_task_are_those_that_are_named():
    named = SWEEPS.split("## Tasks")[1].split("`{", 1)[1].split("}`", 1)[0]
    assert {part.strip() for part in named.split(",")} == set(Task.model_fields)


def test_every_task_and_every_control_has_a_row_where_science_defines_them():
    tasks = [name.strip() for row in table(SCIENCE, "## 1. Tasks and prompts") for name in row[0].split(",")]
    assert [name for name in tasks if name != "custom"] == list(builtin_tasks())
    every = Controls(
        **{name: True for name, field in Controls.model_fields.items() if field.annotation is bool},
        labels=("random", "flipped", "abstract"), permutations=1,
    )  # fmt: skip
    rows = {row[0].split(",")[0].strip("`"): row[2] for row in table(SCIENCE, "## 5. Controls")}
    known = {control.name: control for control in controls_of(every) if control is not MEASUREMENT}
    assert list(rows) == list(known)
    assert {name for name, null in rows.items() if null} == {name for name, control in known.items() if control.is_null}
