"""Which metrics the figures' panels draw, and how: all of it follows from the catalogue."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from raydual.catalogue.entries import CONDITIONS, PANELS, Catalogue, Key, Metric, Panel
from raydual.report import theme


@dataclass(frozen=True)
class Drawn:
    """A metric under a condition in a panel: its short name, its look, and whether it is there for others alone."""

    metric: Metric
    condition: str
    name: str
    look: theme.Look
    baseline: bool

    @property
    def key(self) -> Key:
        """The metric's name and the condition."""
        return self.metric.name, self.condition


def panels_over_seeds(catalogue: Catalogue) -> list[tuple[Panel, list[Drawn]]]:
    """The panels of values over seeds, with what each draws."""
    drawn = [(panel, _drawn(catalogue, name)) for name, panel in PANELS.items() if panel.over_seeds]
    return [(panel, found) for panel, found in drawn if found]


def panels_through_layers(catalogue: Catalogue) -> Iterator[tuple[str, list[Drawn]]]:
    """(title, what is drawn) of each panel through the layers: metrics with other baselines have one of their own."""
    for name, panel in PANELS.items():
        groups = _by_baselines([one for one in _drawn(catalogue, name) if one.metric.per_layer])
        for found in groups:
            yield (panel.title if len(groups) == 1 else found[0].metric.label), found


def _by_baselines(drawn: Sequence[Drawn]) -> list[list[Drawn]]:
    """Those that stand beside the same baselines, followed by these."""
    named = {baseline for one in drawn if not one.baseline for baseline in one.metric.baselines}
    groups: dict[tuple[Key, ...], list[Drawn]] = {}
    for one in drawn:
        # A baseline that none of them names is drawn for itself.
        if not one.baseline or one.key not in named:
            groups.setdefault(one.metric.baselines, []).append(one)
    return [[*found, *(one for one in drawn if one.key in keys and one not in found)] for keys, found in groups.items()]


def has_negative(drawn: Sequence[Drawn]) -> bool:
    """Whether any may be below 0, so that a line there tells something."""
    return any(one.metric.bounds[0] is None or one.metric.bounds[0] < 0 for one in drawn)


def _drawn(catalogue: Catalogue, panel: str) -> list[Drawn]:
    baselines = catalogue.baselines()
    found = [
        (metric, condition, (metric.name, condition) in baselines and not (metric.similarity and condition == "icl-ft"))
        for metric in catalogue.values()
        if metric.panel == panel
        for condition in metric.conditions
    ]
    # Each kind has looks of its own, in order; what is of one condition alone has that condition's.
    looks = {True: theme.nulls(), False: theme.comparisons()}
    return [
        Drawn(metric, condition, _name(metric, condition), theme.OF_CONDITION.get(condition) or next(looks[base]), base)
        for metric, condition, base in found
    ]


def _name(metric: Metric, condition: str) -> str:
    if len(metric.conditions) == 1 and (metric.short or "-" in condition):
        return metric.short or metric.label
    return CONDITIONS[condition].replace("in-context against", "context,")
