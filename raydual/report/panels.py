"""Which metrics the figures' panels draw, and how: all of it follows from the catalogue."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from raydual.catalogue.entries import CONDITIONS, PANELS, Catalogue, Metric, Panel
from raydual.report import theme


@dataclass(frozen=True)
class Drawn:
    """A metric under a condition in a panel: its short name, its colour, and whether others must stand beside it."""

    metric: Metric
    condition: str
    name: str
    colour: str
    baseline: bool


def panels_over_seeds(catalogue: Catalogue) -> list[tuple[Panel, list[Drawn]]]:
    """The panels of values over seeds, with what each draws."""
    drawn = [(panel, _drawn(catalogue, name)) for name, panel in PANELS.items() if panel.over_seeds]
    return [(panel, found) for panel, found in drawn if found]


def panels_through_layers(catalogue: Catalogue) -> Iterator[tuple[str, list[Drawn]]]:
    """(title, what is drawn) of each panel through the layers: metrics with other baselines have one of their own."""
    for name, panel in PANELS.items():
        drawn = [one for one in _drawn(catalogue, name) if one.metric.per_layer]
        own = [one for one in drawn if not one.baseline]
        by_baselines: dict[tuple, list[Drawn]] = {}
        for one in own:
            by_baselines.setdefault(one.metric.baselines, []).append(one)
        for baselines, found in by_baselines.items():
            beside = [one for one in drawn if one.baseline and (one.metric.name, one.condition) in baselines]
            yield (panel.title if len(by_baselines) == 1 else found[0].metric.label), [*found, *beside]


def has_negative(drawn: Sequence[Drawn]) -> bool:
    """Whether any may be below 0, so that a line there tells something."""
    return any(one.metric.bounds[0] is None or one.metric.bounds[0] < 0 for one in drawn)


def _drawn(catalogue: Catalogue, panel: str) -> list[Drawn]:
    baselines = catalogue.baselines()
    found = [
        (metric, condition, (metric.name, condition) in baselines)
        for metric in catalogue.values()
        if metric.panel == panel
        for condition in metric.conditions
    ]
    # Each kind has colours of its own, in order; what is of one condition alone has that condition's.
    colours = {True: iter(theme.nulls()), False: iter(theme.comparisons())}
    return [
        Drawn(
            metric, condition, _name(metric, condition), theme.OF_CONDITION.get(condition) or next(colours[base]), base
        )
        for metric, condition, base in found
    ]


def _name(metric: Metric, condition: str) -> str:
    if len(metric.conditions) == 1 and (metric.short or "-" in condition):
        return metric.short or metric.label
    return CONDITIONS[condition] if "-" not in condition else condition.replace("-", ", ")
