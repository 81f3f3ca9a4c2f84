"""Metrics of predictions: recalls and agreement (docs/science.md, section 4)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int


@dataclass(frozen=True)
class Recall:
    """A recall in percent with its two counts; `value` is NaN where `of` is 0."""

    both: int
    of: int

    @property
    def value(self) -> float:
        """100 * both / of."""
        return 100.0 * self.both / self.of if self.of else float("nan")


def rec2ftp(
    zsl_right: Bool[np.ndarray, "examples"],
    icl_right: Bool[np.ndarray, "examples"],
    ft_right: Bool[np.ndarray, "examples"],
) -> Recall:
    """Recall to fine-tuning predictions: of what fine-tuning corrects, how much the context corrects too (Dai)."""
    corrected = ~zsl_right & ft_right
    return Recall(both=int(np.sum(corrected & icl_right)), of=int(np.sum(corrected)))


def reverse_recall(
    zsl_right: Bool[np.ndarray, "examples"],
    icl_right: Bool[np.ndarray, "examples"],
    ft_right: Bool[np.ndarray, "examples"],
) -> Recall:
    """Of what the context corrects, how much fine-tuning corrects too."""
    return rec2ftp(zsl_right, ft_right, icl_right)


def jaccard(
    zsl: Int[np.ndarray, "examples"], icl: Int[np.ndarray, "examples"], ft: Int[np.ndarray, "examples"]
) -> float:
    """Of the examples whose predicted label changes from zero-shot, the share that both change; NaN if none does."""
    by_context, by_tuning = icl != zsl, ft != zsl
    either = int(np.sum(by_context | by_tuning))
    return int(np.sum(by_context & by_tuning)) / either if either else float("nan")


def kappa(icl: Int[np.ndarray, "examples"], ft: Int[np.ndarray, "examples"], labels: int) -> float:
    """Cohen's κ of two predictions of `labels` label ids; NaN where chance alone would make them agree always."""
    observed = float(np.mean(icl == ft))
    shares = (np.bincount(predicted, minlength=labels) / len(predicted) for predicted in (icl, ft))
    chance = float(np.dot(*shares))
    return (observed - chance) / (1 - chance) if chance < 1 else float("nan")
