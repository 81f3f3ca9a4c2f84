"""The headline numbers as lines of text, for the end of a run."""

from collections.abc import Iterator

from raydual.catalogue.entries import CONDITIONS, OVERALL
from raydual.report.words import OVER_BOTH, OVER_SEEDS, digits_of, interval, interval_both, number
from raydual.run_directory.directory import NO_CONTROL, RunDirectory


def headline_lines(run: RunDirectory) -> Iterator[str]:
    """A short table: metric, condition, mean over seeds, its 95 % intervals, and of what they speak."""
    config = run.config()
    catalogue = config.catalogue
    rows = [
        row
        for row in run.summary().to_pylist()
        if row["layer"] == OVERALL
        and row["control"] == NO_CONTROL
        and catalogue[row["metric"]].headline
        and row["shots"] == config.demonstrations
    ]
    yield f"{'means over seeds, 95 % intervals for':<50}{'mean':>8}   {OVER_SEEDS:<29}{OVER_BOTH:<26}{'seeds':>5}"
    for row in rows:
        metric = catalogue[row["metric"]]
        name, digits = f"{metric.label}, {CONDITIONS[row['condition']]}", digits_of(metric)
        yield (
            f"{name:<50}{number(row['mean'], digits):>8}   {interval(row, digits):<29}"
            f"{interval_both(row, digits):<26}{row['n']:>5}"
        )
