"""Signs of life of what this process computes, for whoever watches it from another thread."""

from dataclasses import dataclass


@dataclass
class Pulse:
    """Counters that only grow while this process computes.

    `beats` counts layers that have attended, `tokens` those that went through the model, and `done` the cases of the
    present batch of `total`, in fractions.
    """

    beats: int = 0
    tokens: int = 0
    done: float = 0.0
    total: int = 0

    def begin(self, total: int) -> None:
        """A batch of `total` cases is begun."""
        self.done, self.total = 0.0, total

    def beat(self) -> None:
        """A layer has attended."""
        self.beats += 1


PULSE = Pulse()
"""The counters of this process."""
