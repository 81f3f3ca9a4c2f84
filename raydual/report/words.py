"""What the numbers say, in words; every claim is computed."""

import math
from collections.abc import Iterable, Iterator, Sequence

from raydual.catalogue.entries import Metric
from raydual.report.data import Row, RunData
from raydual.report.standing import ABOVE, BELOW, EQUIVALENT, UNDECIDED, UNTELLABLE, Judged, Standing, standings

DASH = "-"
ALIKE = "all seeds alike"
"""Stands for an interval over seeds that agree, which would have no width."""
OVER_SEEDS = "other seeds, these examples"
OVER_BOTH = "other seeds and examples"
_MOST_DIGITS = 9


def number(value: float | None, digits: int = 3) -> str:
    """A number for a person; a dash where it is undefined."""
    if value is None or math.isnan(value):
        return DASH
    return f"{value:.{digits}f}".replace("-", "−")


def interval(row: Row, digits: int = 3) -> str:
    """[low, high], the 95 % interval of the mean over other seeds with these examples; in words where all agree."""
    if row["ci_low"] == row["ci_high"]:
        return ALIKE
    return _bracketed(row["ci_low"], row["ci_high"], digits)


def interval_both(row: Row, digits: int = 3) -> str:
    """[low, high], the 95 % interval of the mean over other seeds and other examples; a dash where it is not known."""
    low, high = row["ci_low_both"], row["ci_high_both"]
    return DASH if low is None or high is None else _bracketed(low, high, digits)


def _bracketed(low: float, high: float, digits: int) -> str:
    """With more digits where so few would show no width."""
    if math.isnan(low) or math.isnan(high):
        return DASH
    while number(low, digits) == number(high, digits) and digits < _MOST_DIGITS:
        digits += 1
    return f"[{number(low, digits)}, {number(high, digits)}]"


def digits_of(metric: Metric) -> int:
    """Decimals that make sense for a metric."""
    return 1 if metric.bounds[1] == 100.0 else 3


def with_interval(row: Row, digits: int = 3) -> str:
    """Mean and interval; the mean alone where there is none."""
    return number(row["mean"], digits) + ("" if math.isnan(row["ci_low"]) else f" {_beside(row, digits)}")


def _beside(row: Row, digits: int) -> str:
    return f"({ALIKE})" if row["ci_low"] == row["ci_high"] else interval(row, digits)


def with_difference(compared: Row, digits: int = 3) -> str:
    """A paired difference, its interval, its p-value and the number of pairs."""
    difference = f"{number(compared['difference'], digits)} {interval(compared, digits)}"
    return f"{difference} {p_value(compared['p'])}, n = {compared['n']}"


def about_model(data: RunData) -> str | None:
    """What to keep in mind where the embedded model was measured; None for any other."""
    if data.config.model != "embedded":
        return None
    return (
        "This is the embedded model: a toy of four layers, trained by this project on reviews that a grammar made, so "
        "that a first run needs no download. It shows what a report looks like and how in-context learning and "
        "fine-tuning may differ; its numbers say nothing about language models. Name another with --set model=…"
    )


def findings(data: RunData) -> Iterator[str]:
    """The run's main numbers as sentences."""
    zsl, icl, ft = (data.overall("accuracy", condition) for condition in ("zsl", "icl", "ft"))
    if not (zsl and icl and ft) or not icl["n"]:
        yield "No seed was measured; the reasons are listed below."
        return
    yield (
        f"{data.config.demonstrations} demonstrations in the context bring accuracy from "
        f"{number(zsl['mean'])} to {with_interval(icl)}; key/value fine-tuning on the same demonstrations brings it "
        f"to {with_interval(ft)} ({_over(icl['n'])})."
    )
    recall = data.overall("rec2ftp", "icl-ft")
    if recall and recall["n"]:
        count = data.overall("rec2ftp_ft", "icl-ft")
        yield (
            f"Of the examples that fine-tuning corrects ({number(count['mean'], 1) if count else DASH} a seed), "
            f"the context corrects {with_interval(recall, 1)} %."
        )
    yield from data.warnings
    yield from standing_lines(data)


def _over(seeds: int) -> str:
    if seeds == 1:
        return "one seed: no number here has an interval, and no difference can be told from chance"
    return f"means over {seeds} seeds; 95 % intervals are for other seeds with these examples"


def standing_lines(data: RunData) -> Iterator[str]:
    """What the similarities are above, control by control, in which layers, and which are above all of it."""
    found = standings(data)
    if not found:
        return
    yield from _sentences(data, found, "In-context learning and fine-tuning are", of_controls=True)
    yield from _sentences(data, found, "Beside what no link would give, they are", of_controls=False)
    yield _in_all(found)
    if layers := [f"{s.metric.label} in {layers_in_words(s.layers)}" for s in found if s.layers]:
        yield f"Layer by layer, above every null and control that was compared: {'; '.join(layers)}."
    if not any(control.is_null for control in data.controls):
        yield (
            "No control that breaks the link was run (untrained models, random steps, fine-tuning on another seed's "
            "demonstrations): switch them on under `controls` before much is made of these numbers."
        )


def _in_all(found: Sequence[Standing]) -> str:
    """Which similarities are above everything that they were compared with, or what is known if none is."""
    if passed := [s for s in found if s.above_all]:
        return f"Above every null and control that it was compared with: {'; '.join(map(_named, passed))}."
    if all(s.is_refuted for s in found):
        return (
            "No similarity is above all of its nulls and controls: nothing here tells the effect from what the same "
            "pipeline gives without a learnt link between context and fine-tuning."
        )
    return (
        "No similarity is shown to be above all of its nulls and controls, and of some it is not known whether "
        "they are (see the table): that is no evidence that they are not."
    )


def _named(standing: Standing) -> str:
    return f"{standing.metric.label} {with_interval(standing.row, digits_of(standing.metric))}"


def _sentences(data: RunData, found: Sequence[Standing], start: str, of_controls: bool) -> Iterator[str]:
    """Of each control, or each null and baseline, what all similarities say, and of which they can say nothing."""
    judged: dict[str, list[tuple[str, Judged]]] = {}
    for standing in found:
        for one in standing.verdicts.values():
            if one.is_control == of_controls:
                judged.setdefault(one.than, []).append((standing.metric.label, one))
    margin, clauses, untold, seeds = number(data.config.measures.margin, 2), list[str](), list[str](), set[int]()
    for than, by_metric in judged.items():
        if all(one.verdict == UNTELLABLE for _, one in by_metric):
            untold.append(than)
            seeds |= {one.n for _, one in by_metric}
        else:
            clauses.append(_clause(than, by_metric, margin))
    if clauses:
        yield f"{start} {'; '.join(clauses)}."
    if untold:
        few = _seeds(max(seeds)) if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)} seeds"
        yield f"With {few} it cannot be told whether they are more alike than {' or '.join(untold)}."


def _clause(than: str, by_metric: Sequence[tuple[str, Judged]], margin: str) -> str:
    """Whether more alike than something, by which similarities."""

    def by(answer: str, words: str, after: str = "") -> list[str]:
        labels = [label for label, one in by_metric if one.verdict == answer]
        return [f"{words} {_listed(labels, len(by_metric))}{after}"] if labels else []

    answers = {one.verdict for _, one in by_metric}
    if ABOVE in answers:
        parts = by(ABOVE, f"more alike than {than} by")
    else:
        known = "no more" if answers <= {EQUIVALENT, BELOW} else "not shown to be more"
        parts = [f"{known} alike than {than}"]
    parts += by(EQUIVALENT, "as alike by", f" (within {margin} of the largest value)")
    parts += by(BELOW, "less alike by") + by(UNDECIDED, "undecided by")
    return ", ".join([*parts, *by(UNTELLABLE, "too few seeds to tell by")])


def _listed(labels: Sequence[str], of: int) -> str:
    """a; a and b; a, b and c; or all of so many. A label's own comma is no separator."""
    if len(labels) == of > 1:
        return f"all {of} similarities"
    labels = [f"“{label}”" if ", " in label else label for label in labels]
    return " and ".join([*([", ".join(labels[:-1])] if labels[1:] else []), labels[-1]])


def layers_in_words(layers: Iterable[int]) -> str:
    """layer 2; layers 2, 5 to 7."""
    layers, runs = list(layers), list[list[int]]()
    for layer in layers:
        if runs and runs[-1][-1] == layer - 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    parts = [f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return f"{'layer' if len(layers) == 1 else 'layers'} {', '.join(parts)}"


def _seeds(n: int) -> str:
    return "1 seed" if n == 1 else f"{n} seeds"


def p_value(p: float) -> str:
    """A p-value in brackets."""
    return "(p < 0.001)" if p < 0.001 else f"(p = {number(p)})"
