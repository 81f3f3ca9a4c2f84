"""What is measured beside the usual, and how: the settings `measures`."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from raydual.catalogue.entries import CATALOGUE
from raydual.catalogue.metric import Metric
from raydual.catalogue.own import measures_in
from raydual.errors import UserError
from raydual.files import read_text
from raydual.settings.base import Count, Flag, Index, Settings, Weight, growing
from raydual.settings.task import Name

NEWER_MEASURES = {"margin", "context_weights", "patch", "parts", "outputs", "influence", "shots", "order"}
"""Settings of `measures` that the first version did not have."""


class OwnMetrics(Settings):
    """A user's own metrics: the Python `file` that they were read from, its `source` and what it says of them.

    The source goes wherever the settings go, so that neither workers nor a run directory need the file.
    """

    file: Name
    source: str
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _fit(self) -> "OwnMetrics":
        CATALOGUE.with_own(self.metrics)
        return self


def _read_own(value: Any) -> Any:
    """A file's name becomes what is in it; a source whose metrics are not said is run, to know them."""
    try:
        if isinstance(value, str) and value:
            value = {"file": value, "source": read_text(Path(value), f"{value}: cannot read the file of metrics")}
        if isinstance(value, dict) and value.keys() == {"file", "source"}:
            found = measures_in(str(value["source"]), str(value["file"]))
            value = {**value, "metrics": tuple(one.metric for one in found)}
    except UserError as error:
        raise ValueError(str(error)) from None
    return value


class Patch(Settings):
    """One patch of MLP weights for all queries, fitted on the selection examples (docs/science.md, section 4)."""

    ridge: Weight = Field(default=1e-3, description="of the least squares, in units of the inputs' mean squared norm")


class Measures(Settings):
    """Variants of the metrics (docs/science.md, section 4), and metrics beside the built-in ones."""

    update_field: Literal["attn_out", "hidden"] = Field(default="attn_out", description="h of SimAOU")
    query_field: Literal["query", "query_normed"] = Field(
        default="query", description="Kendall's: before, after the heads' norm (the same where a family has none)"
    )
    keep_first_token: Flag = Field(default=False, description="keep each text's first token in SimAM and Kendall")
    kendall_examples: Count | None = Field(default=None, description="Kendall on the first so many; None: all")
    kendall_softmax: Flag = Field(default=False, description="rank after a softmax in float64, as Dai's code does")
    resamples: Annotated[int, Field(strict=True, ge=100, le=1_000_000)] = 9999
    noise_seed: Index = 0
    margin: Annotated[float, Field(strict=True, gt=0, lt=1)] = Field(
        default=0.05, description="differences below this share of a metric's largest value count as none that matters"
    )
    context_weights: Flag = Field(
        default=False, description="the context as a change of each query's MLP weights: a pass more over the queries"
    )
    patch: Patch | None = None
    parts: Flag = Field(default=False, description="λ, the exact update and SimDual by kind of token")
    outputs: Flag = Field(default=False, description="output distributions, calibration and flips")
    influence: Count | None = Field(
        default=None, description="influence of each demonstration, on the first so many examples; None: not measured"
    )
    shots: tuple[Count, ...] = Field(default=(), description="measured after the first so many demonstrations too")
    order: Annotated[int, Field(strict=True, ge=0, le=1000)] = Field(
        default=0, description="how many other orders of the demonstrations the spread over orders is taken of"
    )
    own: Annotated[OwnMetrics | None, BeforeValidator(_read_own)] = Field(
        default=None, description="a Python file with metrics (docs/own_metric.md)"
    )

    @field_validator("shots")
    @classmethod
    def _shots_grow(cls, shots: tuple[int, ...]) -> tuple[int, ...]:
        return growing(shots, "shots")

    def measured(self, metric: Metric) -> bool:
        """Whether nothing switches the metric off."""
        return self.switched(metric) is not None

    def switched(self, metric: Metric) -> Metric | None:
        """The metric with the conditions that are measured; None if it is switched off."""
        return metric.switched(lambda switch: bool(getattr(self, switch)))

    def margin_of(self, metric: Metric) -> float:
        """The margin of equivalence in a metric's own unit; NaN for one without bounds."""
        low, high = metric.bounds
        return math.nan if low is None or high is None else self.margin * max(abs(low), abs(high))
