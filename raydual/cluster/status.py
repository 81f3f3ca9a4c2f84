"""What the pool of replicas tells of itself."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """What a replica is at: a name, how much of how many cases is done, and what comes before them (`Pulse.part`)."""

    name: str
    done: float = 0.0
    total: int = 0
    part: str = ""

    @property
    def words(self) -> str:
        """It as a person is told."""
        name = self.name.partition(": ")[2]
        return f"{self.part} of {name}" if self.part else name


@dataclass(frozen=True)
class Status:
    """The pool at a moment: replicas by state, what they work at, and what was lost so far.

    `retried` counts jobs, `retried_by` the units in them, by control.
    """

    states: dict[str, int]
    work: tuple[Work, ...]
    devices: tuple[str, ...]
    tokens: int
    memory: dict[str, int]
    lost: int
    retried: int
    retried_by: dict[str, int]
    most: int
    wanted: int
    waited: float
    queued: int
