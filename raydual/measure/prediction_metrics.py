"""The metrics of what a seed predicts: functions of its `SeedPredictions` (docs/science.md, section 4)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from raydual.catalogue.entries import CATALOGUE, MetricError, of_label
from raydual.catalogue.marks import Measure, Value, of_predictions
from raydual.measure.call import by_condition, call
from raydual.metrics.prediction import Recall, jaccard, kappa, rec2ftp, reverse_recall


@dataclass(frozen=True)
class Predictions:
    """What one condition predicted: label ids `[examples]`, and whether the label and the greedy token are right.

    `scores` `[examples, labels]` are mean log-probabilities of the label words.
    """

    label: Int[np.ndarray, "examples"]
    right: Bool[np.ndarray, "examples"]
    greedy_right: Bool[np.ndarray, "examples"]
    scores: Float[np.ndarray, "examples labels"]

    @property
    def confidence(self) -> Float[np.ndarray, "examples"]:
        """The probability of the predicted label among the label words."""
        scores = self.scores.astype(np.float64)
        return 1 / np.exp(scores - scores.max(axis=1, keepdims=True)).sum(axis=1)


@dataclass(frozen=True)
class SeedPredictions:
    """What one seed predicted of all measured examples, their `gold` label ids `[examples]`, and how many labels."""

    zsl: Predictions
    icl: Predictions
    ft: Predictions
    gold: Int[np.ndarray, "examples"]
    labels: int
    patch: Predictions | None = None

    @property
    def examples(self) -> int:
        """How many examples are measured."""
        return len(self.gold)

    @cached_property
    def by_condition(self) -> dict[str, Predictions]:
        """The predictions of each condition."""
        patched = {} if self.patch is None else {"patch": self.patch}
        return {"zsl": self.zsl, "icl": self.icl, "ft": self.ft, **patched}

    @cached_property
    def pairs(self) -> dict[str, "Pair"]:
        """The comparisons of two of them."""
        names = ("icl-ft",) if self.patch is None else ("icl-ft", "icl-patch", "patch-ft")
        return {name: Pair(self, *name.split("-")) for name in names}


_WORDS = {"icl": "the context", "ft": "fine-tuning", "patch": "the patch"}


@dataclass(frozen=True)
class Pair:
    """Two conditions beside each other, by their names: the `other` stands where fine-tuning does in Rec2FTP."""

    of: SeedPredictions
    name: str
    other_name: str

    @property
    def one(self) -> Predictions:
        """What the first predicts."""
        return self.of.by_condition[self.name]

    @property
    def other(self) -> Predictions:
        """What the second predicts."""
        return self.of.by_condition[self.other_name]

    @property
    def words(self) -> tuple[str, str]:
        """What the two are called in a sentence."""
        return _WORDS[self.name], _WORDS[self.other_name]

    @property
    def alike(self) -> Bool[np.ndarray, "examples"]:
        """Whether both predict the same label."""
        return self.one.label == self.other.label

    @cached_property
    def recall(self) -> Recall:
        """Rec2FTP."""
        return rec2ftp(self.of.zsl.right, self.one.right, self.other.right)

    @cached_property
    def reverse(self) -> Recall:
        """Reverse recall."""
        return reverse_recall(self.of.zsl.right, self.one.right, self.other.right)


@runtime_checkable
class OfSeed(Protocol):
    """What metrics without values by example are functions of, one seed at a time."""

    @property
    def labels(self) -> int:
        """How many labels there are."""

    @property
    def examples(self) -> int:
        """How many examples are measured."""


def predicted_values(functions: Sequence[Measure], found: OfSeed) -> Iterator[tuple[str, str, Value]]:
    """(metric, condition, value) of every metric of predictions, or of another kind that is of a whole seed."""

    def checked(one: Measure, result: Any) -> dict[str, Value]:
        conditions = one.metric.conditions_with_labels(found.labels)
        return {name: _value(one, x, found.examples) for name, x in by_condition(one, result, conditions).items()}

    for one in functions:
        for condition, value in call(one, (found,), checked).items():
            yield one.metric.name, condition, value


def _value(one: Measure, result: Any, examples: int) -> Value:
    if isinstance(result, Value):
        return result
    if not isinstance(result, int | float | np.number):
        raise MetricError(f"metric {one.metric.name!r}: must give a number or a Value, gave {type(result).__name__}")
    number = float(result)
    if np.isinf(number):
        raise MetricError(f"metric {one.metric.name!r}: gave {number:g}; what is undefined is NaN")
    return Value(number, examples, None if number == number else "it is undefined for this seed")


@of_predictions(CATALOGUE["accuracy"])
def accuracy(found: SeedPredictions) -> dict[str, Value]:
    """Accuracy by label words."""
    return {name: Value(float(one.right.mean()), len(one.right)) for name, one in found.by_condition.items()}


@of_predictions(CATALOGUE["greedy_accuracy"])
def greedy_accuracy(found: SeedPredictions) -> dict[str, Value]:
    """Accuracy of the greedy token."""
    return {name: Value(float(one.greedy_right.mean()), len(one.right)) for name, one in found.by_condition.items()}


@of_predictions(CATALOGUE["rec2ftp"])
def recall(found: SeedPredictions) -> dict[str, Value]:
    """Rec2FTP; its examples are its denominator."""
    return {name: _recalled(pair.recall, pair.words[1]) for name, pair in found.pairs.items()}


def _recalled(recall: Recall, corrects: str) -> Value:
    return Value(
        recall.value, recall.of, None if recall.of else f"{corrects} corrects no example that zero-shot gets wrong"
    )


@of_predictions(CATALOGUE["rec2ftp_both"])
def recall_numerator(found: SeedPredictions) -> dict[str, Value]:
    """Its numerator."""
    return {name: Value(float(pair.recall.both), found.examples) for name, pair in found.pairs.items()}


@of_predictions(CATALOGUE["rec2ftp_ft"])
def recall_denominator(found: SeedPredictions) -> dict[str, Value]:
    """Its denominator."""
    return {name: Value(float(pair.recall.of), found.examples) for name, pair in found.pairs.items()}


@of_predictions(CATALOGUE["reverse_recall"])
def recall_the_other_way(found: SeedPredictions) -> dict[str, Value]:
    """Reverse recall."""
    return {name: _recalled(pair.reverse, pair.words[0]) for name, pair in found.pairs.items()}


@of_predictions(CATALOGUE["jaccard"])
def changes(found: SeedPredictions) -> dict[str, Value]:
    """Jaccard index of the changed predictions."""

    def value(pair: Pair) -> Value:
        changed = jaccard(found.zsl.label, pair.one.label, pair.other.label)
        reason = None if changed == changed else f"neither {' nor '.join(pair.words)} changes a prediction"
        return Value(changed, found.examples, reason)

    return {name: value(pair) for name, pair in found.pairs.items()}


@of_predictions(CATALOGUE["agreement"])
def agreement(found: SeedPredictions) -> dict[str, Value]:
    """Agreement, over all examples and over those of each gold label."""
    values = {name: Value(float(pair.alike.mean()), found.examples) for name, pair in found.pairs.items()}
    for name, pair in found.pairs.items():
        for label in range(found.labels):
            of_gold = pair.alike[found.gold == label]
            share, reason = (
                (float(of_gold.mean()), None) if len(of_gold) else (float("nan"), "no example has this label")
            )
            values[of_label(name, label)] = Value(share, len(of_gold), reason)
    return values


@of_predictions(CATALOGUE["kappa"])
def agreement_beyond_chance(found: SeedPredictions) -> dict[str, Value]:
    """Cohen's κ."""

    def value(pair: Pair) -> Value:
        beyond = kappa(pair.one.label, pair.other.label, found.labels)
        one, other = (word.removeprefix("the ") for word in pair.words)
        reason = None if beyond == beyond else f"{one} and {other} predict one and the same label throughout"
        return Value(beyond, found.examples, reason)

    return {name: value(pair) for name, pair in found.pairs.items()}
