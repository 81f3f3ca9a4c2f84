"""Signs of life of what this process computes, for whoever watches it from another thread."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass
class Pulse:
    """Counters that only grow while this process computes.

    `beats` counts layers that have attended, `tokens` those that went through the model, and `done` the cases of the
    present batch of `total`, in fractions. `part` says what comes before the cases and how far that is, in words.
    """

    beats: int = 0
    tokens: int = 0
    done: float = 0.0
    total: int = 0
    part: str = ""

    def through(self, words: str, items: Sequence[Item]) -> Iterator[Item]:
        """The items, with `part` saying how many of them are done."""
        try:
            for done, item in enumerate(items):
                self.part = f"{words} {done}/{len(items)}"
                yield item
        finally:
            self.part = ""

    def begin(self, total: int) -> None:
        """A batch of `total` cases is begun."""
        self.done, self.total = 0.0, total

    def beat(self) -> None:
        """A layer has attended."""
        self.beats += 1


PULSE = Pulse()
"""The counters of this process."""
