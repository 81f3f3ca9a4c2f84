"""Models that can be named: the embedded one, and well-known ones on the hub. Loads no torch."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from raydual.model.anatomy import Shape
from raydual.model.source import ModelSource

_FILE = Path(__file__).with_name("known.yaml")


@dataclass(frozen=True)
class KnownModel:
    """A model by the name that a sweep gives it, its `family` (`model_type`), and its sizes."""

    name: str
    family: str
    shape: Shape


def stated() -> dict[str, dict[str, Any]]:
    """What the file says of each hub model: sizes as in its config.json, and the hub's number of `parameters`."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return found


@cache
def known_models() -> tuple[KnownModel, ...]:
    """The embedded model, and those of the file, in its order."""
    config = ModelSource("embedded").config()
    embedded = KnownModel("embedded", config["model_type"], Shape.of(config))
    return (
        embedded,
        *(KnownModel(name, sizes["model_type"], Shape.of(sizes)) for name, sizes in stated().items()),
    )
