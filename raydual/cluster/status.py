"""What the pool of replicas tells of itself."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """A job at a replica: its name, and how much of how many cases is done."""

    name: str
    done: float
    total: int


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
