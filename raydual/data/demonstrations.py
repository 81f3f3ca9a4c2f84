"""The demonstrations of a seed, as they are or as a control wants them (docs/science.md, sections 1 and 5)."""

import random
from collections.abc import Callable
from typing import TypeAlias

from raydual.data.examples import Examples, demonstration_indices
from raydual.settings.controls import Control

Labels: TypeAlias = tuple[int, ...]


def demonstration_examples(train: Examples, seed: int, count: int, labels: int, control: Control) -> Examples:
    """The `count` demonstrations of `seed` in prompt order; of a control, reordered or with other labels.

    `labels` is how many the task has. What is drawn at random depends on the seed (and the number of the order) alone.
    """
    chosen = train.take(demonstration_indices(seed, len(train), count))
    if control.order:
        chosen = chosen.take(other_order(count, seed, control.order))
    relabelled = _RELABELLED.get(control.labels)
    return Examples(chosen.queries, relabelled(chosen.labels, labels, seed) if relabelled else chosen.labels)


def other_order(count: int, seed: int, number: int) -> list[int]:
    """A random order that is not the given one, where there is another."""
    order, draw = list(range(count)), random.Random(f"order {number} of seed {seed}")
    while count > 1 and order == list(range(count)):
        draw.shuffle(order)
    return order


def _random(own: Labels, labels: int, seed: int) -> Labels:
    draw = random.Random(f"labels of seed {seed}")
    return tuple(draw.randrange(labels) for _ in own)


def _flipped(own: Labels, labels: int, seed: int) -> Labels:
    return tuple((label + 1) % labels for label in own)


_RELABELLED: dict[str, Callable[[Labels, int, int], Labels]] = {
    "random": _random,
    "flipped": _flipped,
}
"""What a control makes of the demonstrations' labels, of how many the task has and of the seed."""
