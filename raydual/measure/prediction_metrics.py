"""The metrics of what a seed predicts: functions of its `SeedPredictions` (docs/science.md, section 4)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

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


@dataclass(frozen=True)
class SeedPredictions:
    """What one seed predicted of all measured examples, their `gold` label ids `[examples]`, and how many labels."""

    zsl: Predictions
    icl: Predictions
    ft: Predictions
    gold: Int[np.ndarray, "examples"]
    labels: int

    @property
    def examples(self) -> int:
        """How many examples are measured."""
        return len(self.gold)

    @cached_property
    def alike(self) -> Bool[np.ndarray, "examples"]:
        """Whether the context and fine-tuning predict the same label."""
        return self.icl.label == self.ft.label

    @cached_property
    def recall(self) -> Recall:
        """Rec2FTP."""
        return rec2ftp(self.zsl.right, self.icl.right, self.ft.right)

    @cached_property
    def by_condition(self) -> dict[str, Predictions]:
        """The predictions of each condition."""
        return {"zsl": self.zsl, "icl": self.icl, "ft": self.ft}


def predicted_values(functions: Sequence[Measure], found: SeedPredictions) -> Iterator[tuple[str, str, Value]]:
    """(metric, condition, value) of every metric of predictions."""

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
def recall(found: SeedPredictions) -> Value:
    """Rec2FTP; its examples are its denominator."""
    reason = None if found.recall.of else "fine-tuning corrects no example that zero-shot gets wrong"
    return Value(found.recall.value, found.recall.of, reason)


@of_predictions(CATALOGUE["rec2ftp_both"])
def recall_numerator(found: SeedPredictions) -> Value:
    """Its numerator."""
    return Value(float(found.recall.both), found.examples)


@of_predictions(CATALOGUE["rec2ftp_ft"])
def recall_denominator(found: SeedPredictions) -> Value:
    """Its denominator."""
    return Value(float(found.recall.of), found.examples)


@of_predictions(CATALOGUE["reverse_recall"])
def recall_the_other_way(found: SeedPredictions) -> Value:
    """Reverse recall."""
    reverse = reverse_recall(found.zsl.right, found.icl.right, found.ft.right)
    reason = None if reverse.of else "the context corrects no example that zero-shot gets wrong"
    return Value(reverse.value, reverse.of, reason)


@of_predictions(CATALOGUE["jaccard"])
def changes(found: SeedPredictions) -> Value:
    """Jaccard index of the changed predictions."""
    changed = jaccard(found.zsl.label, found.icl.label, found.ft.label)
    reason = None if changed == changed else "neither the context nor fine-tuning changes a prediction"
    return Value(changed, found.examples, reason)


@of_predictions(CATALOGUE["agreement"])
def agreement(found: SeedPredictions) -> dict[str, Value]:
    """Agreement, over all examples and over those of each gold label."""
    values = {"icl-ft": Value(float(found.alike.mean()), found.examples)}
    for label in range(found.labels):
        of_gold = found.alike[found.gold == label]
        share, reason = (float(of_gold.mean()), None) if len(of_gold) else (float("nan"), "no example has this label")
        values[of_label("icl-ft", label)] = Value(share, len(of_gold), reason)
    return values


@of_predictions(CATALOGUE["kappa"])
def agreement_beyond_chance(found: SeedPredictions) -> Value:
    """Cohen's κ."""
    beyond = kappa(found.icl.label, found.ft.label, found.labels)
    reason = None if beyond == beyond else "context and fine-tuning predict one and the same label throughout"
    return Value(beyond, found.examples, reason)
