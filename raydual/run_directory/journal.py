"""The search's journal: every report as it came, so that a resumed search computes none of them again."""

import json
from collections.abc import Callable, Collection
from typing import Any

from raydual.errors import UserError
from raydual.run_directory.storage import Storage

_PART = 200


class Journal:
    """Reports by key, kept in `journal.jsonl`.

    A local file is appended to. An object store cannot append: there the last part is written again with each report,
    and a new one begun (`journal-1.jsonl`, …) before it gets large.

    Parameters
    ----------
    storage : the folder.
    settings : fingerprint of the sweep; reports of another one are refused, but for those in `also`.
    say : told which lines are damaged.
    """

    def __init__(
        self, storage: Storage, settings: str = "", say: Callable[[str], None] = print, also: Collection[str] = ()
    ) -> None:
        self.storage, self.settings, self.accepted = storage, settings, {settings, *also}
        self.reports: dict[str, dict[str, Any]] = {}
        names = [e.name for e in storage.list() if e.name.startswith("journal") and e.name.endswith(".jsonl")]
        names.sort(key=_number)
        self.part = _number(names[-1]) if names else 0
        self.lines: list[str] = []
        self.healthy = True
        for name in names:
            self.lines = self._read(name, say)

    @property
    def name(self) -> str:
        """The file that reports are added to."""
        return f"journal-{self.part}.jsonl" if self.part else "journal.jsonl"

    def add(self, key: str, report: dict[str, Any]) -> None:
        """Keep one report."""
        if key in self.reports:
            return
        line = json.dumps({"key": key, "report": report, "settings": self.settings})
        if self.storage.local and self.healthy:
            self.storage.append(self.name, f"\n{line}".encode())
        else:
            self._write([*self.lines, line])
        self.reports[key] = report
        self.lines.append(line)

    def _write(self, lines: list[str]) -> None:
        if not self.storage.local and len(lines) > _PART:
            self.part, lines, self.lines = self.part + 1, lines[-1:], []
        self.storage.write(self.name, "\n".join(lines).encode())
        self.healthy = True

    def _read(self, name: str, say: Callable[[str], None]) -> list[str]:
        """The good lines of a file, whose reports are taken in."""
        content = self.storage.read(name).decode("utf-8", errors="replace").split("\n")
        kept, damaged = [], []
        for number, line in enumerate(content, start=1):
            if not line.strip():
                continue
            entry = _entry(line)
            if entry is None:
                damaged.append(number)
                continue
            if self.settings and entry.get("settings", self.settings) not in self.accepted:
                raise UserError(
                    f"{self.storage.at(name)}, line {number}: a report of another sweep; "
                    "remove the file, and --resume computes its reports again"
                )
            self.reports[entry["key"]] = entry["report"]
            kept.append(line)
        self.healthy = not damaged
        # The last line may be half a line: the one that was being written when the run was killed.
        for number in damaged:
            if number < len(content):
                say(f"{self.storage.at(name)}, line {number}: damaged; its report is computed again")
        return kept


def _number(name: str) -> int:
    digits = name.removeprefix("journal").removeprefix("-").removesuffix(".jsonl")
    return int(digits) if digits.isdecimal() else 0


def _entry(line: str) -> dict[str, Any] | None:
    """A line's entry, or None if it is damaged."""
    try:
        entry = json.loads(line)
        key, report = entry["key"], entry["report"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(key, str) or not isinstance(report, dict):
        return None
    if "seed" in report:
        numbers = [report.get(name) for name in ("seed", "examples", "right")]
        whole = all(isinstance(n, int) and n >= 0 for n in numbers)
        if not whole or report["right"] > report["examples"] or "reason" not in report:
            return None
    return entry
