"""Axes of a sweep: settings that are lists, and the cells that their product makes."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from raydual.settings.schema import Finetune

AXES = ("model", "task", "demonstrations", "protocol", *(f"finetune.{name}" for name in Finetune.model_fields))
"""Every setting that may be a list."""
_LONGEST_WORD = 60


@dataclass(frozen=True)
class CellSettings:
    """One combination: its directory's name, the value of each axis in words, and the settings, not yet checked."""

    name: str
    values: dict[str, str]
    raw: dict[str, Any]

    @property
    def where(self) -> str:
        """What a message about it names."""
        return ", ".join(f"{axis} {value}" for axis, value in self.values.items())


def axes_of(raw: dict[str, Any]) -> dict[str, list[Any]]:
    """The values of every setting that is an axis, in the order of `AXES`."""
    found = {}
    for axis in AXES:
        group, _, leaf = axis.rpartition(".")
        settings = raw.get(group) if group else raw
        value = settings.get(leaf) if isinstance(settings, dict) else None
        if isinstance(value, list) and (leaf != "projections" or any(isinstance(part, list) for part in value)):
            found[axis] = value
    return found


def expand(raw: dict[str, Any]) -> Iterator[CellSettings]:
    """The settings of every cell: the product of the axes, the last one turning fastest."""
    axes = axes_of(raw)
    words = {axis: [_in_words(value) for value in values] for axis, values in axes.items()}
    names = {axis: _directory_words(found) for axis, found in words.items()}
    for places in itertools.product(*(range(len(values)) for values in axes.values())):
        settings = {**raw, **({"finetune": dict(raw["finetune"])} if isinstance(raw.get("finetune"), dict) else {})}
        at = dict(zip(axes, places, strict=True))
        for axis, place in at.items():
            group, _, leaf = axis.rpartition(".")
            (settings[group] if group else settings)[leaf] = axes[axis][place]
        name = "_".join(names[axis][place] for axis, place in at.items())
        yield CellSettings(name, {axis: words[axis][place] for axis, place in at.items()}, settings)


def _in_words(value: Any) -> str:
    """A value of an axis as a report shows it."""
    if isinstance(value, dict):
        return str(value.get("name"))
    if isinstance(value, list):
        return " and ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _directory_words(values: list[str]) -> list[str]:
    """A name for each value that a directory may have: the last part of paths and hub ids, if that tells them apart."""
    last = [_directory_word(value.rstrip("/").rsplit("/", 1)[-1]) for value in values]
    if len(set(last)) == len(last):
        return last
    return [f"{_directory_word(value)}-{number}" for number, value in enumerate(values, start=1)]


def _directory_word(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text)[:_LONGEST_WORD].strip("-.") or "x"
