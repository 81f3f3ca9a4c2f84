"""A JSON schema of what a user writes in a sweep file, for editors that check and complete YAML."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

from raydual.files import SWEEPS
from raydual.settings.axes import AXES
from raydual.settings.schema import SweepConfig
from raydual.settings.task import builtin_tasks

SCHEMA = SWEEPS / "sweep.schema.json"
"""The schema as a file beside the sweeps that come with raydual: `raydual schema` prints it."""
_NULL = {"type": "null"}


def comment(schema: str | Path) -> str:
    """The line of a sweep file that makes editors find the schema."""
    return f"# yaml-language-server: $schema={schema}"


def sweep_schema() -> dict[str, Any]:
    """The schema of `SweepConfig`, changed where a user may write less or more than what is made of it.

    A task may be a name, or a name and what is changed of it; an axis may be a list; `seeds` a number; a group may be
    left empty; own metrics are a file's name.
    """
    schema = SweepConfig.model_json_schema()
    definitions, fields = schema["$defs"], schema["properties"]
    _arrays(schema)
    _task(definitions["Task"])
    fields["task"] = {
        "anyOf": [{"type": "string", "enum": list(builtin_tasks())}, {"$ref": "#/$defs/Task"}],
        "description": "a built-in task by name, or a mapping; of a built-in one what it changes is enough",
    }
    fields["seeds"] = {
        "anyOf": [{"type": "integer", "minimum": 1, "maximum": fields["seeds"]["maxItems"]}, fields["seeds"]],
        "description": "a number (100: the seeds 0 to 99) or a list",
    }
    own = definitions["Measures"]["properties"]["own"]
    definitions["Measures"]["properties"]["own"] = {
        "anyOf": [{"type": "string", "minLength": 1}, _NULL], "description": own["description"],
    }  # fmt: skip
    for group in ("OwnMetrics", "Metric"):
        definitions.pop(group, None)
    for name, field in fields.items():
        if "$ref" in field and name != "task":
            fields[name] = {"anyOf": [{"$ref": field["$ref"]}, _NULL]}
    for axis in AXES:
        group, _, leaf = axis.rpartition(".")
        place = definitions["Finetune"]["properties"] if group else fields
        place[leaf] = _or_list(place[leaf])
    schema["required"] = [name for name in schema["required"] if name != "demonstrations"]
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A sweep of raydual",
        **{key: value for key, value in schema.items() if key != "title"},
    }


def schema_text() -> str:
    """The schema as its file holds it."""
    return json.dumps(sweep_schema(), indent=1, ensure_ascii=False) + "\n"


def _arrays(part: Any) -> None:
    """Bounds on how long a list is, in the words of JSON schema: pydantic takes some for those of a text."""
    if isinstance(part, dict):
        if part.get("type") == "array":
            for of_text, of_array in (("minLength", "minItems"), ("maxLength", "maxItems")):
                if of_text in part:
                    part[of_array] = part.pop(of_text)
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            _arrays(inner)


def _task(task: dict[str, Any]) -> None:
    """A built-in task that is changed in part needs none of what it has already."""
    required = [name for name in task.pop("required") if name != "name"]
    task["required"] = ["name"]
    task["anyOf"] = [{"properties": {"name": {"enum": list(builtin_tasks())}}}, {"required": required}]


def _or_list(field: dict[str, Any]) -> dict[str, Any]:
    """A value, or a list of such values: an axis."""
    about = {key: value for key, value in field.items() if key in ("default", "description", "title")}
    one = {key: deepcopy(value) for key, value in field.items() if key not in about}
    return {**about, "anyOf": [one, {"type": "array", "items": deepcopy(one), "minItems": 1}]}
