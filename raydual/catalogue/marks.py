"""A metric's function, marked with its entry: what it is computed of, and that both fit. Loads no torch.

Built-in functions are marked so in `raydual/measure/`, a user's own ones in the file that `measures.own` names.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from raydual.catalogue.metric import Metric, MetricError

Of = Literal["recordings", "ranks", "predictions", "values", "patches", "influence", "orders"]

_OF_SEEDS = ("predictions", "orders")
"""What is a number of the whole seed."""

FIELDS = (
    *("attn_out", "hidden", "query", "query_normed", "attn_in", "scores_query"),
    *("scores_demo", "context_mass", "context_update", "part_mass", "part_update", "tuning_update"),
    *("mlp_residual", "mlp_in", "mlp_product"),
)
"""What passes can record."""
MLP_FIELDS = ("mlp_residual", "mlp_in", "mlp_product")
IN_CONTEXT_FIELDS = (
    *("scores_demo", "context_mass", "context_update", "part_mass", "part_update", "tuning_update"),
    *MLP_FIELDS,
)
"""Those that only the in-context pass records."""


@dataclass(frozen=True)
class Value:
    """A number of a seed: its value, NaN with a `reason` where it is undefined, and the examples that it rests on."""

    value: float
    examples: int
    reason: str | None = None


@dataclass(frozen=True)
class Measure:
    """A metric and the function that gives its values.

    `fields` are recorded for it in every condition; `file` is a user's, that the function is from.
    """

    metric: Metric
    of: Of
    function: Callable[..., Any]
    fields: tuple[str, ...] = ()
    file: str | None = None

    def __call__(self, *arguments: Any) -> Any:
        """The function itself."""
        return self.function(*arguments)

    @property
    def line(self) -> int:
        """The line of the function in its file."""
        return inspect.unwrap(self.function).__code__.co_firstlineno


Mark = Callable[[Callable[..., Any]], Measure]


def of_recordings(metric: Metric, fields: Sequence[str] = ()) -> Mark:
    """Mark `f(recordings)` as the function of a metric of what the passes over a chunk of n queries show.

    It gives `[seeds, n, layers]` (`[seeds, n]` if the metric is not `per_layer`, `[seeds, n, layers, heads]` if it is
    `per_head`), or one of these by condition where
    the metric has several; NaN where an example has no value. `random`: `f(recordings, noise)`.
    `fields` are recorded beside those that raydual's own metrics need.
    """
    return _mark(metric, "recordings", 1 + metric.random, fields)


def of_ranks(metric: Metric) -> Mark:
    """Mark `f(ranks)` as the function of a metric of how one seed's demonstration tokens are ranked.

    It gives `[n, layers]`. `random`: `f(ranks, noise)`, noise being ranked likewise.
    """
    return _mark(metric, "ranks", 1 + metric.random)


def of_predictions(metric: Metric) -> Mark:
    """Mark `f(predictions)` as the function of a metric of one seed's predictions on all examples.

    It gives a `Value` or a number, or one of these by condition where the metric has several.
    """
    return _mark(metric, "predictions", 1)


def of_orders(metric: Metric) -> Mark:
    """Mark `f(orders)` as the function of a metric of what one seed's demonstrations give in several orders.

    It gives a `Value` or a number, or one of these by condition where the metric has several.
    """
    return _mark(metric, "orders", 1)


def of_values(metric: Metric) -> Mark:
    """Mark `f(values, generator)` as the function of a null that is drawn from one seed's values of other metrics.

    It gives `[examples, layers]`.
    """
    return _mark(metric, "values", 2)


def of_patches(metric: Metric) -> Mark:
    """Mark `f(found)` as the function of a metric of one seed's patch. It gives `[rows, layers]`."""
    return _mark(metric, "patches", 1)


def of_influence(metric: Metric) -> Mark:
    """Mark `f(influences)` as the function of a metric of what one seed's demonstrations do and ask for.

    It gives `[n]`. `random`: `f(influences, noise)`, noise `[n, demonstrations]`.
    """
    return _mark(metric, "influence", 1 + metric.random)


def _mark(metric: Metric, of: Of, parameters: int, fields: Sequence[str] = ()) -> Mark:
    if not isinstance(metric, Metric):
        raise MetricError(f"a function is marked with a Metric, found {type(metric).__name__}")
    for wrong, words in (
        (isinstance(fields, str), "fields: must be a list of names"),
        (bool(set(fields) - set(FIELDS)), f"fields: must be some of {', '.join(FIELDS)}"),
        (
            of in (*_OF_SEEDS, "influence") and metric.per_layer,
            f"a metric of {of} has no layers: say per_layer=False",
        ),
        (of in ("ranks", "values", "patches") and not metric.per_layer, f"a metric of {of} has a value for each layer"),
        (of != "recordings" and metric.per_head, "per_head: only metrics of recordings have values of heads"),
        (of != "predictions" and metric.by_label, "by_label: only metrics of predictions are split by label"),
        (of in _OF_SEEDS and metric.random, f"random: metrics of {of} draw no noise"),
        (of == "values" and not metric.random, "a null that is drawn must say random=True"),
    ):
        if wrong:
            raise MetricError(f"metric {metric.name!r}: {words}")

    def mark(function: Callable[..., Any]) -> Measure:
        if not inspect.isfunction(function):
            raise MetricError(f"metric {metric.name!r}: what is marked must be a function")
        found = len(inspect.signature(function).parameters)
        if found != parameters:
            noise = " and noise" * (metric.random and of != "values") or " alone" * (not metric.random)
            raise MetricError(
                f"metric {metric.name!r}: its function has {found} parameters, but takes {of}{noise}; what draws noise "
                "says random=True, and nothing else does"
            )
        return Measure(metric, of, function, tuple(fields))

    return mark
