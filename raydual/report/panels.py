"""Which metrics the figures' panels draw, and how: all of it follows from the catalogue."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from raydual.catalogue.entries import CONDITIONS, OF_PATCH, PANELS, PATCH, Catalogue, Key, Metric, Panel
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


def all_panels(catalogue: Catalogue) -> list[tuple[Panel, list[Drawn]]]:
    """Every panel that draws something, with what it draws."""
    drawn = [(panel, _drawn(catalogue, name)) for name, panel in PANELS.items()]
    return [(panel, found) for panel, found in drawn if found]


def panels_over_seeds(catalogue: Catalogue) -> list[tuple[Panel, list[Drawn]]]:
    """The panels of values over seeds, with what each draws."""
    return [(panel, found) for panel, found in all_panels(catalogue) if panel.over_seeds]


def panels_through_layers(catalogue: Catalogue) -> Iterator[tuple[str, list[Drawn]]]:
    """(title, what is drawn) of each panel through the layers: metrics with other baselines have one of their own."""
    for name, panel in PANELS.items():
        groups = _by_baselines([one for one in _drawn(catalogue, name) if one.metric.per_layer])
        for found in groups:
            yield (panel.title if len(groups) == 1 else found[0].metric.label), found


def _by_baselines(drawn: Sequence[Drawn]) -> list[list[Drawn]]:
    """Those that stand beside the same baselines, followed by these."""
    if all(one.condition in OF_PATCH for one in drawn):
        return [list(drawn)] if drawn else []
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
        for condition in metric.conditions
        if metric.panel_of(condition) == panel
    ]
    # Each kind has looks of its own, in order; what alone is of one condition has that condition's.
    times = Counter(condition for _, condition, _ in found)
    looks = {True: theme.nulls(), False: theme.comparisons()}

    def look(condition: str, base: bool) -> theme.Look:
        alone = theme.OF_CONDITION.get(condition) if times[condition] == 1 else None
        return alone or next(looks[base])

    return [
        Drawn(metric, condition, _name(metric, condition), look(condition, base), base)
        for metric, condition, base in found
    ]


def _name(metric: Metric, condition: str) -> str:
    if condition in OF_PATCH and len(metric.conditions) > 1 and "-" in condition:
        return f"{metric.short or metric.label}, {condition.replace('-', ', ')}"
    metric = metric.switched(lambda switch: switch != PATCH) or metric
    if len(metric.conditions) == 1 and (metric.short or "-" in condition):
        return metric.short or metric.label
    return CONDITIONS[condition].replace("in-context against", "context,")
