"""The headline numbers as lines of text, for the end of a run."""

from collections.abc import Iterator

from raydual.metrics.catalogue import CATALOGUE, CONDITIONS, OVERALL
from raydual.results import NO_CONTROL, RunDirectory


def headline_lines(run: RunDirectory) -> Iterator[str]:
    """A short table: metric, condition, mean over seeds and its 95 % interval."""
    rows = [
        row
        for row in run.summary().to_pylist()
        if row["layer"] == OVERALL and row["control"] == NO_CONTROL and CATALOGUE[row["metric"]].headline
    ]
    yield f"{'':44}{'mean':>8}   {'95 % interval':<18}{'seeds':>5}"
    for row in rows:
        name = f"{CATALOGUE[row['metric']].label}, {CONDITIONS[row['condition']]}"
        interval = f"[{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
        yield f"{name:<44}{row['mean']:>8.3f}   {interval:<18}{row['n']:>5}"
