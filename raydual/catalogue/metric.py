"""What is known of a metric, and a catalogue of metrics; the built-in ones are in `raydual.catalogue.entries`."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, replace
from typing import Literal, no_type_check

OVERALL = -1
"""The `layer` of a number that belongs to no single layer or is the mean over layers."""

FAILED = "failed"
"""Stands in place of a metric in the one row of a seed that could not be measured."""

ZERO = "zero"
"""Stands for a baseline where a metric is compared with 0."""

CONDITIONS = {
    "zsl": "zero-shot",
    "icl": "in-context",
    "ft": "fine-tuned",
    "ft_all": "fine-tuned in one step",
    "icl-ft": "in-context against fine-tuned",
    "icl-zsl": "in-context against zero-shot",
    "patch": "patched",
    "icl-patch": "in-context against patched",
    "patch-ft": "patched against fine-tuned",
}
OF_ZERO_SHOT = ("zsl", "icl-zsl")
"""Those that are or hold the zero-shot condition: what others stand beside, not what is studied."""

OF_PATCH = ("patch", "icl-patch", "patch-ft")
"""Those of the arm that the setting `measures.patch` switches on, for all metrics that have them."""
PATCH = "patch"

Key = tuple[str, str]
"""A metric and its condition."""


class MetricError(ValueError):
    """What is said of a metric does not fit together."""


@dataclass(frozen=True)
class Family:
    """Metrics that the command `raydual COMMAND` prints: as a `table` by layer, or in a form of its own.

    They are measured where the setting `measures.SWITCH` is on, always without one; the command turns it on, by the
    value `on`, where a sweep does not.
    """

    command: str
    help: str
    table: bool = True
    switch: str = ""
    on: str = "true"


FAMILIES = {
    "accuracy": Family("finetune-eval", "zero-shot, in-context and fine-tuned accuracy of a seed", table=False),
    "rec2ftp": Family("rec2ftp", "recall to fine-tuning predictions of a seed, with its counts, and what goes with it"),
    "simaou": Family("simaou", "similarity of attention output updates of a seed, by layer, with its nulls"),
    "simam": Family("simam", "similarity of attention maps of a seed, by layer, with the zero-shot baseline"),
    "kendall": Family(
        "kendall", "rank correlations of attention to demonstrations of a seed, by layer, with their baselines"
    ),
    "context_weights": Family(
        "context-weights", "the context as weights of a seed's queries, verified", table=False, switch="context_weights"
    ),
    "patch": Family(
        "patch",
        "one patch of the weights for all queries of a seed, and what it does",
        table=False,
        switch="patch",
        on="{ridge: 0.001}",
    ),
    "parts": Family(
        "parts",
        "who is attended by kind of token of a seed, by layer: label words, texts, template, separators",
        switch="parts",
    ),
    "outputs": Family(
        "outputs",
        "output distributions of context and fine-tuning of a seed, calibration of every arm, and who flips",
        switch="outputs",
    ),
    "influence": Family(
        "influence",
        "influence of each demonstration of a seed, done in context and asked for by fine-tuning, with its null",
        switch="influence",
        on="8",
    ),
    "order": Family(
        "order", "spread of label scores and accuracy over orders of a seed's demonstrations", switch="order", on="8"
    ),
    "own": Family("own", "metrics of the sweep's own file (measures.own) of a seed, by layer"),
}


@dataclass(frozen=True)
class Panel:
    """A panel of the report's figures: all have one through the layers, those `over_seeds` one of all seeds too."""

    title: str
    over_seeds: bool = True


PANELS = {
    "accuracy": Panel("Accuracy"),
    "updates": Panel("SimAOU"),
    "maps": Panel("SimAM"),
    "recall": Panel("Recall, %"),
    "ranks": Panel("Kendall's τ"),
    "exact": Panel("The updates themselves"),
    "patch_recall": Panel("Recall of the patch, %"),
    "patch_updates": Panel("SimAOU of the patch"),
    "patch_maps": Panel("SimAM of the patch"),
    "patch_fit": Panel("How much of the context one patch is"),
    "patch_weights": Panel("The patch against fine-tuning's changes", over_seeds=False),
    "patch_size": Panel("Size of the patch, relative to the weights", over_seeds=False),
    "weights": Panel("The context as weights against fine-tuning", over_seeds=False),
    "weight_size": Panel("Size of the context as weights, relative to the weights", over_seeds=False),
    "order_scores": Panel("Spread of label scores over orders"),
    "order_accuracy": Panel("Spread of accuracy over orders"),
    "own": Panel("Own metrics"),
    "size": Panel("Size of the updates, relative to the attention output", over_seeds=False),
    "mass": Panel("λ, attention mass on the demonstrations", over_seeds=False),
    "part_mass": Panel("λ by kind of token", over_seeds=False),
    "part_share": Panel("Shares of the exact update by kind of token", over_seeds=False),
    "part_simdual": Panel("SimDual by kind of token"),
    "influence": Panel("Influence, Kendall's τ"),
    "divergence": Panel("Output divergence, nats"),
    "overlap": Panel("Output overlap"),
    "calibration": Panel("Calibration error"),
    "flips": Panel("Flips zsl, icl, ft: right, wrong"),
}
"""In the order of the report."""


_PANELS_OF_PATCH = {"recall": "patch_recall", "updates": "patch_updates", "maps": "patch_maps"}


def of_label(condition: str, label: int) -> str:
    """The condition of a metric that is taken over the examples of one gold label alone."""
    return f"{condition}, gold {label}"


@no_type_check  # at run time: `_problems` says what is wrong with a user's entry, in words of its own
@dataclass(frozen=True)
class Metric:
    """One metric: all that commands, reduction, report and tests need to know of it; its function is elsewhere.

    Parameters
    ----------
    name : the key in every table: lower-case letters, digits and `_`.
    label, description : what it is called, and what it is, in a sentence.
    conditions : what it is measured on (`CONDITIONS`).
    family : which of `FAMILIES`, and so which command prints it.
    panel : which of `PANELS` draws it; None: no figure does.
    short : its name in a panel; default: the label.
    shown : the most prominent place that it has: the `figures` of controls and axes (and the tables), the headline
        `tables`, or the `summary` alone.
    bounds : its range; None: unbounded.
    baselines : the (metric, condition) pairs that it must stand beside.
    share : whether a seed's overall value is the share (in percent if `bounds` end at 100) of the examples in it that
        are so, whose interval must not have zero width because all seeds agree.
    similarity : whether it must stand above its baselines (0 if it has none) and the null controls.
    zero : whether 0 is what a similarity without baselines must stand above; false: the null controls alone tell.
    arms : the conditions that it depends on, where these are not its own: `icl` for noise beside the context.
    random : whether noise is drawn for it.
    per_layer : whether it has a value for each layer beside the overall one.
    per_head : whether its function gives a value for each head, whose mean is that of the layer.
    by_label : whether it is also split by gold label.

    Raises
    ------
    MetricError
        Something of it is missing, unknown or contradicts the rest.
    """

    name: str
    label: str
    description: str
    conditions: tuple[str, ...] = ("icl-ft",)
    _: KW_ONLY
    family: str = "own"
    panel: str | None = "own"
    short: str = ""
    shown: Literal["figures", "tables", "summary"] = "figures"
    bounds: tuple[float | None, float | None] = (-1.0, 1.0)
    baselines: tuple[Key, ...] = ()
    share: bool = False
    similarity: bool = False
    zero: bool = True
    arms: str = ""
    random: bool = False
    per_layer: bool = True
    per_head: bool = False
    by_label: bool = False

    def __post_init__(self) -> None:
        for wrong, words in self._problems():
            if wrong:
                raise MetricError(f"metric {self.name!r}: {words}")

    def _problems(self) -> Iterator[tuple[bool, str]]:
        yield (
            not re.fullmatch(r"[a-z][a-z0-9_]*", str(self.name)) or self.name in (FAILED, ZERO),
            ("a name is of lower-case letters, digits and '_', a letter first, and not 'failed' or 'zero'"),
        )
        for field in ("label", "description"):
            text = getattr(self, field)
            yield not isinstance(text, str) or not text.strip() or "\n" in text, f"{field}: must be a line of text"
        for field in ("conditions", "baselines", "bounds"):
            yield not isinstance(getattr(self, field), tuple), f"{field}: must be a tuple, with a comma after each item"
        strange = [condition for condition in self.conditions if condition not in CONDITIONS]
        yield not self.conditions or bool(strange), f"conditions: must be some of {', '.join(CONDITIONS)}"
        yield self.family not in FAMILIES, f"family {self.family!r}: is not one of {', '.join(FAMILIES)}"
        yield self.panel not in (None, *PANELS), f"panel {self.panel!r}: is not one of {', '.join(PANELS)}, None"
        yield (
            self.shown not in ("figures", "tables", "summary"),
            (f"shown {self.shown!r}: is not one of figures, tables, summary"),
        )
        yield len(self.bounds) != 2, "bounds: must be the least and the greatest value, None for no bound"
        yield self.similarity and "icl-ft" not in self.conditions, "similarity: is one of icl-ft alone"
        yield self.similarity and self.shown == "summary", "similarity: must be shown in tables or figures"
        yield (
            self.share and self.bounds not in ((0.0, 1.0), (0.0, 100.0)),
            "share: its bounds are 0 and 1, or 0 and 100",
        )
        yield (
            bool(self.arms) and self.arms not in CONDITIONS,
            f"arms {self.arms!r}: is not one of {', '.join(CONDITIONS)}",
        )
        yield self.per_head and not self.per_layer, "per_head: a metric of heads has a value for each layer"
        yield self.similarity and self.random, "similarity: what is drawn at random is none"

    @property
    def switch(self) -> str:
        """The setting of `measures` that turns it on; empty: it is always measured."""
        return FAMILIES[self.family].switch

    @property
    def above_zero(self) -> bool:
        """Whether it is compared with 0, what it would be without a link."""
        return self.similarity and self.zero and not self.baselines

    @property
    def headline(self) -> bool:
        """Whether the headline tables show it."""
        return self.shown != "summary"

    def panel_of(self, condition: str) -> str | None:
        """Which of `PANELS` draws it under a condition: comparisons with the patch have panels of their own."""
        if condition not in OF_PATCH or self.panel not in _PANELS_OF_PATCH:
            return self.panel
        return None if self.random else _PANELS_OF_PATCH[self.panel]

    def switched(self, on: Callable[[str], bool]) -> "Metric | None":
        """The metric with the conditions that are measured where `on` says which switches are; None if none is."""
        if self.switch and not on(self.switch):
            return None
        conditions = tuple(name for name in self.conditions if name not in OF_PATCH or on(PATCH))
        return replace(self, conditions=conditions) if conditions else None

    def of_patch(self) -> "Metric | None":
        """The metric under the conditions of the patch alone; None if it has none."""
        conditions = tuple(name for name in self.conditions if name in OF_PATCH)
        return replace(self, conditions=conditions, similarity=False) if conditions else None

    def conditions_with_labels(self, labels: int) -> list[str]:
        """`conditions`, and if the metric is split by gold label, each label's part of a task with so many labels."""
        split = [of_label(condition, label) for condition in self.conditions for label in range(labels)]
        return [*self.conditions, *(split if self.by_label else [])]


class Catalogue(Mapping[str, Metric]):
    """Metrics by name, in the order of tables and reports.

    Raises
    ------
    MetricError
        A name is taken twice, or a baseline is not in the catalogue.
    """

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics: dict[str, Metric] = {}
        for metric in metrics:
            if metric.name in self._metrics:
                raise MetricError(f"metric {metric.name!r}: the name is taken already")
            self._metrics[metric.name] = metric
        for metric in self._metrics.values():
            for name, condition in metric.baselines:
                if name not in self._metrics or condition not in self._metrics[name].conditions:
                    raise MetricError(f"metric {metric.name!r}: its baseline {name!r}, {condition!r} is not measured")

    def __getitem__(self, name: str) -> Metric:
        return self._metrics[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._metrics)

    def __len__(self) -> int:
        return len(self._metrics)

    def with_own(self, own: Iterable[Metric]) -> "Catalogue":
        """These metrics and a user's own ones after them."""
        return Catalogue([*self.values(), *own])

    def of_family(self, family: str) -> list[Metric]:
        """The metrics of a family."""
        return [metric for metric in self.values() if metric.family == family]

    def of_command(self, command: str) -> list[Metric]:
        """The metrics that a command prints."""
        return [metric for metric in self.values() if FAMILIES[metric.family].command == command]

    def in_figures(self) -> list[Key]:
        """What the figures of controls and axes show: those of `shown: figures`, but for zero-shot."""
        return [
            (metric.name, condition)
            for metric in self.values()
            if metric.shown == "figures"
            for condition in metric.conditions
            if condition not in OF_ZERO_SHOT
        ]

    def baselines_of(self, metric: Metric, condition: str) -> Iterator[Key]:
        """What a metric must stand beside under one of its conditions.

        Under those of the patch it is the baseline under the same one, where it has that, or one that shares an arm.
        """
        arms = set(condition.split("-"))
        for name, at in metric.baselines:
            if condition in OF_PATCH and condition in self[name].conditions and name != metric.name:
                yield name, condition
            elif (name, at) != (metric.name, condition) and (condition not in OF_PATCH or arms & set(at.split("-"))):
                yield name, at

    def baselines(self) -> set[Key]:
        """Everything that a metric must stand beside."""
        return {baseline for metric in self.values() for baseline in metric.baselines}
