"""Metrics of predictions: accuracy and Rec2FTP (docs/science.md, section 4)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool


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
