"""A task as data: where its examples come from, how a prompt is made of one, and the words for its labels."""

import string
from functools import cache
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

BUILTIN = Path(__file__).with_name("builtin.yaml")
Name = Annotated[str, Field(min_length=1)]


class HubDataset(BaseModel):
    """A data set on the Hugging Face hub and the names of its two splits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Name
    config: str | None = None
    revision: str | None = None
    train: Name = "train"
    validation: Name = "validation"


class Task(BaseModel):
    """Everything that turns rows of a data set into prompts (the table of docs/science.md, section 1)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    hub: HubDataset | None = None
    columns: dict[str, str] = Field(default={"text": "text"}, description="template field -> data column")
    label_column: Name = "label"
    label_values: tuple[str | int, ...] | None = Field(
        default=None, description="what the label column holds for each label id; default: the ids themselves"
    )
    template: Name = "Sentence: {text} Label:"
    separator: str = " "
    label_words: Annotated[tuple[Name, ...], Field(min_length=2)]
    demonstrations: Annotated[int, Field(strict=True, gt=0)] = 32

    @model_validator(mode="after")
    def _check(self) -> "Task":
        try:
            fields = {name for _, name, _, _ in string.Formatter().parse(self.template) if name is not None}
        except ValueError as error:
            raise ValueError(f"template {self.template!r} is malformed: {error}") from None
        if not fields or fields != set(self.columns):
            raise ValueError(
                f"template {self.template!r} uses the fields {sorted(fields)}, "
                f"but columns names {sorted(self.columns)}; they must be the same"
            )
        if len(set(self.label_words)) != len(self.label_words):
            raise ValueError(f"label_words {list(self.label_words)} repeats a word")
        if self.label_values is not None and len(self.label_values) != len(self.label_words):
            raise ValueError(
                f"label_values has {len(self.label_values)} entries for {len(self.label_words)} label_words"
            )
        return self

    def query(self, fields: dict[str, str]) -> str:
        """The filled template, without a label."""
        return self.template.format(**fields)


@cache
def builtin_tasks() -> dict[str, dict]:
    """The settings of every built-in task, by name."""
    tasks = yaml.safe_load(BUILTIN.read_text(encoding="utf-8"))
    return {name: {"name": name, **settings} for name, settings in tasks.items()}
