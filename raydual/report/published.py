"""Published numbers of the same metrics, beside what was measured (docs/science.md, section 7)."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from raydual.catalogue.entries import CATALOGUE, CONDITIONS
from raydual.report.data import RunData
from raydual.report.words import DASH, digits_of, interval, number, with_interval

_FILE = Path(__file__).with_name("published.yaml")
_SOURCES = ("Dai, GPT 1.3B", "Dai, GPT 2.7B", "Deutch, six tasks", "Deutch, layer-causal")


@cache
def _numbers() -> dict[str, Any]:
    found = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    for key in {key for numbers in (*found["dai"].values(), found["deutch"]) for key in numbers}:
        name, condition = key.split()
        if name not in CATALOGUE or condition not in CATALOGUE[name].conditions:
            raise ValueError(f"{_FILE.name}: {key!r} is not in the catalogue")
    return found


def _is_theirs(data: RunData) -> bool:
    """Whether the task is one of Dai's, and the data may be too: the embedded reviews are not."""
    return data.config.task.name in _numbers()["dai"] and data.config.data != "embedded"


def published_table(data: RunData) -> dict[str, Any] | None:
    """The measured numbers beside the published ones of the same task, or None if there are none."""
    if not _is_theirs(data):
        return None
    dai, deutch = _numbers()["dai"][data.config.task.name], _numbers()["deutch"]
    rows = []
    for key in dict.fromkeys([*dai, *deutch]):
        name, condition = key.split()
        row = data.overall(name, condition)
        if row is None:
            continue
        digits = digits_of(CATALOGUE[name])
        rows.append(
            {
                "label": CATALOGUE[name].label,
                "condition": CONDITIONS[condition],
                "mean": number(row["mean"], digits),
                "interval": interval(row, digits),
                "values": [number(v, digits) for v in (*dai.get(key, (None,) * 2), *deutch.get(key, (None,) * 2))],
            }
        )
    return {"sources": _SOURCES, "rows": rows} if rows else None


def published_by_task(cells: list[tuple[str, RunData]]) -> dict[str, Any] | None:
    """Dai's table with the measured numbers of cells, each with its heading; None if no cell has one of Dai's tasks."""
    known = [(heading, data) for heading, data in cells if _is_theirs(data)]
    if not known:
        return None
    rows = []
    for key in next(iter(_numbers()["dai"].values())):
        name, condition = key.split()
        digits, found = digits_of(CATALOGUE[name]), []
        for _, data in known:
            row = data.overall(name, condition)
            theirs = _numbers()["dai"][data.config.task.name][key]
            found.append(
                {
                    "measured": with_interval(row, digits) if row else DASH,
                    "published": f"({' / '.join(number(value, digits) for value in theirs)})",
                }
            )
        rows.append({"label": CATALOGUE[name].label, "condition": CONDITIONS[condition], "cells": found})
    return {"tasks": [heading for heading, _ in known], "rows": rows}
