"""How alike two conditions predict: recall the other way round, changed predictions, agreement by chance."""

import math
from collections import Counter


def reverse_recall(zsl: list[bool], icl: list[bool], ft: list[bool]) -> float:
    """Percentage, of what the context corrects, that fine-tuning corrects too; each argument says who is right."""
    corrected = [tuning for before, context, tuning in zip(zsl, icl, ft, strict=True) if context and not before]
    return 100 * sum(corrected) / len(corrected) if corrected else math.nan


def jaccard(zsl: list[int], icl: list[int], ft: list[int]) -> float:
    """Predictions that both change over those that either changes; each argument holds the predicted label ids."""
    by_context = {n for n in range(len(zsl)) if icl[n] != zsl[n]}
    by_tuning = {n for n in range(len(zsl)) if ft[n] != zsl[n]}
    either = by_context | by_tuning
    return len(by_context & by_tuning) / len(either) if either else math.nan


def agreement(icl: list[int], ft: list[int]) -> float:
    """Share of equal predictions; NaN where there are none."""
    return sum(a == b for a, b in zip(icl, ft, strict=True)) / len(icl) if icl else math.nan


def kappa(icl: list[int], ft: list[int]) -> float:
    """Cohen's κ; NaN where both always predict one and the same label (in counts, so that this is exact)."""
    pairs = len(icl) ** 2
    left, right = Counter(icl), Counter(ft)
    by_chance = sum(left[label] * right[label] for label in left)
    alike = len(icl) * sum(a == b for a, b in zip(icl, ft, strict=True))
    return (alike - by_chance) / (pairs - by_chance) if by_chance != pairs else math.nan
