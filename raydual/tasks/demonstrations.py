"""The demonstrations of a seed, as they are or as a control wants them (docs/science.md, sections 1 and 5)."""

import random

from raydual.controls import Control
from raydual.tasks.examples import Examples, demonstration_indices


def demonstration_examples(train: Examples, seed: int, count: int, labels: int, control: Control) -> Examples:
    """The `count` demonstrations of `seed` in prompt order; of a control, reordered or with other labels.

    `labels` is how many the task has. What is drawn at random depends on the seed (and the number of the order) alone.
    """
    chosen = train.take(demonstration_indices(seed, len(train), count))
    if control.order:
        chosen = chosen.take(_other_order(count, seed, control.order))
    return Examples(chosen.queries, _labels(chosen.labels, labels, seed, control))


def _other_order(count: int, seed: int, number: int) -> list[int]:
    """A random order that is not the given one, where there is another."""
    order, draw = list(range(count)), random.Random(f"order {number} of seed {seed}")
    while count > 1 and order == list(range(count)):
        draw.shuffle(order)
    return order


def _labels(own: tuple[int, ...], labels: int, seed: int, control: Control) -> tuple[int, ...]:
    if control.labels == "random":
        draw = random.Random(f"labels of seed {seed}")
        return tuple(draw.randrange(labels) for _ in own)
    if control.labels == "flipped":
        return tuple((label + 1) % labels for label in own)
    return own
