"""What the numbers say, in words; every claim is computed."""

import math
from collections.abc import Iterator

from raydual.metrics.catalogue import CATALOGUE, Metric
from raydual.report.data import Row, RunData

DASH = "-"
SIGNIFICANT = 0.05


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
    """Mean and interval."""
    return f"{number(row['mean'], digits)} {interval(row, digits)}"


def with_difference(compared: Row, digits: int = 3) -> str:
    """A paired difference, its interval and its p-value."""
    return f"{number(compared['difference'], digits)} {interval(compared, digits)} {p_value(compared['p'])}"


def findings(data: RunData) -> Iterator[str]:
    """The run's main numbers as sentences."""
    zsl, icl, ft = (data.overall("accuracy", condition) for condition in ("zsl", "icl", "ft"))
    if not (zsl and icl and ft) or not icl["n"]:
        yield "No seed was measured; the reasons are listed below."
        return
    yield (
        f"{data.config.demonstrations} demonstrations in the context bring accuracy from "
        f"{number(zsl['mean'])} to {with_interval(icl)}; key/value fine-tuning on the same demonstrations brings it "
        f"to {with_interval(ft)} (means over {icl['n']} seeds, 95 % intervals)."
    )
    recall = data.overall("rec2ftp", "icl-ft")
    if recall and recall["n"]:
        count = data.overall("rec2ftp_ft", "icl-ft")
        yield (
            f"Of the examples that fine-tuning corrects ({number(count['mean'], 1) if count else DASH} a seed), "
            f"the context corrects {with_interval(recall, 1)} %."
        )
    for metric in (metric for metric in CATALOGUE.values() if metric.headline):
        for name, condition in metric.baselines:
            own, base = data.overall(metric.name, metric.conditions[0]), data.overall(name, condition)
            compared = data.against(metric.name, name, condition)
            if own and base and compared and compared["n"] > 1:
                label = CATALOGUE[name].label if name != metric.name else f"{metric.label} against zero-shot"
                yield f"{metric.label} is {with_interval(own)}, {_against(compared)} {label}, {with_interval(base)}."


def _against(compared: Row) -> str:
    """How a metric lies to its baseline, by the interval of the paired difference and the signed-rank test."""
    difference = f"by {number(abs(compared['difference']))} {p_value(compared['p'])}"
    if compared["ci_low"] > 0 and compared["p"] < SIGNIFICANT:
        return f"{difference} above"
    if compared["ci_high"] < 0 and compared["p"] < SIGNIFICANT:
        return f"{difference} below"
    return f"not distinguishable {p_value(compared['p'])} from"


def p_value(p: float) -> str:
    """A p-value in brackets."""
    return "(p < 0.001)" if p < 0.001 else f"(p = {number(p)})"
