"""What the numbers say, in words; every claim is computed."""

import math
from collections.abc import Iterator

from raydual.catalogue.entries import Metric
from raydual.report.data import Row, RunData
from raydual.report.standing import ABOVE, BELOW, EQUIVALENT, UNDECIDED, UNTELLABLE, Standing, standings

DASH = "-"


def number(value: float | None, digits: int = 3) -> str:
    """A number for a person; a dash where it is undefined."""
    if value is None or math.isnan(value):
        return DASH
    return f"{value:.{digits}f}".replace("-", "−")


def interval(row: Row, digits: int = 3) -> str:
    """[low, high], the 95 % interval of the mean."""
    if math.isnan(row["ci_low"]):
        return DASH
    return f"[{number(row['ci_low'], digits)}, {number(row['ci_high'], digits)}]"


def digits_of(metric: Metric) -> int:
    """Decimals that make sense for a metric."""
    return 1 if metric.bounds[1] == 100.0 else 3


def with_interval(row: Row, digits: int = 3) -> str:
    """Mean and interval; the mean alone where there is none."""
    return number(row["mean"], digits) + ("" if math.isnan(row["ci_low"]) else f" {interval(row, digits)}")


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
    yield from standing_lines(data)


def _over(seeds: int) -> str:
    if seeds == 1:
        return "one seed: no number here has an interval, and no difference can be told from chance"
    return f"means over {seeds} seeds, 95 % intervals"


def standing_lines(data: RunData) -> Iterator[str]:
    """Which similarities are above everything that they were compared with, and what is known of the others."""
    found = standings(data)
    if not found:
        return
    passed, failed = [s for s in found if s.above_all], [s for s in found if not s.above_all]
    if passed:
        yield f"Above every null and control that it was compared with: {'; '.join(map(_named, passed))}."
    elif all(s.is_refuted for s in failed):
        yield (
            "No similarity is above all of its nulls and controls: nothing here tells the effect from what the same "
            "pipeline gives without a learnt link between context and fine-tuning."
        )
    else:
        yield (
            "No similarity is shown to be above all of its nulls and controls, and of some it is not known whether "
            "they are (see the table): that is no evidence that they are not."
        )
    for standing in failed:
        yield f"{_named(standing)}: {_in_words(data, standing)}."
    if not any(control.is_null for control in data.controls):
        yield (
            "No control that breaks the link was run (untrained models, random steps, fine-tuning on another seed's "
            "demonstrations): switch them on under `controls` before much is made of these numbers."
        )


def _named(standing: Standing) -> str:
    return f"{standing.metric.label} {with_interval(standing.row)}"


def _in_words(data: RunData, standing: Standing) -> str:
    """What a similarity is above, below and so on."""
    margin = number(data.config.measures.margin_of(standing.metric), 2)
    words = {
        ABOVE: "above",
        BELOW: "below",
        EQUIVALENT: f"equivalent (within ±{margin}) to",
        UNDECIDED: "undecided against",
    }
    parts = [f"{said} {', '.join(names)}" for answer, said in words.items() if (names := standing.having(answer))]
    few: dict[int, list[str]] = {}
    for name in standing.having(UNTELLABLE):
        few.setdefault(standing.verdicts[name].n, []).append(name)
    parts += [f"cannot be told with {_seeds(n)} against {', '.join(names)}" for n, names in few.items()]
    return "; ".join(parts)


def _seeds(n: int) -> str:
    return "1 seed" if n == 1 else f"{n} seeds"


def p_value(p: float) -> str:
    """A p-value in brackets."""
    return "(p < 0.001)" if p < 0.001 else f"(p = {number(p)})"
