"""A task as data: where its examples come from, how a prompt is made of one, and the words for its labels."""

import string
from functools import cache
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from raydual.errors import shown

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
    label_values: tuple[str | Annotated[int, Field(strict=True)], ...] | None = Field(
        default=None, description="what the label column holds for each label id; default: the ids themselves"
    )
    template: Name = "Sentence: {text} Label:"
    separator: str = " "
    label_words: Annotated[tuple[Name, ...], Field(min_length=2)]
    demonstrations: Annotated[int, Field(strict=True, gt=0)] = 32

    @model_validator(mode="after")
    def _check(self) -> "Task":
        self._check_template()
        self._check_labels()
        return self

    def _check_template(self) -> None:
        template = shown(self.template)
        try:
            parts = [part[1:] for part in string.Formatter().parse(self.template) if part[1] is not None]
        except ValueError as error:
            raise ValueError(f"template {template} is malformed: {error}") from None
        fields = {name for name, _, _ in parts if name is not None}
        if not fields or fields != set(self.columns):
            raise ValueError(
                f"template {template} uses the fields {shown(sorted(fields))}, "
                f"but columns names {shown(sorted(self.columns))}; they must be the same"
            )
        for name, layout, conversion in parts:
            if not str(name).isidentifier():
                raise ValueError(f"the field {shown(name)} of the template is not a name: letters, digits and _")
            if layout or conversion:
                raise ValueError(f"template {template} changes how {name!r} is written; write {{{name}}} alone")

    def _check_labels(self) -> None:
        words, values = self.label_words, self.label_values
        if len(set(words)) != len(words):
            raise ValueError(f"label_words {shown(list(words))} repeats a word")
        for word in words:
            if word != word.strip():
                raise ValueError(f"the label word {shown(word)} begins or ends with a blank; a space is put before it")
        if values is None:
            return
        if len(values) != len(words):
            raise ValueError(f"label_values has {len(values)} entries for {len(words)} label_words")
        if len(set(map(str, values))) != len(values):
            raise ValueError(f"label_values {shown(list(values))} repeats a value")

    def query(self, fields: dict[str, str]) -> str:
        """The filled template, without a label."""
        return self.template.format(**fields)


@cache
def builtin_tasks() -> dict[str, dict]:
    """The settings of every built-in task, by name."""
    tasks = yaml.safe_load(BUILTIN.read_text(encoding="utf-8"))
    return {name: {"name": name, **settings} for name, settings in tasks.items()}
