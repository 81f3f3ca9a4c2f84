"""`raydual simaou` and its like: the metrics of one seed, a command for each family of the catalogue."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import typer

from raydual.catalogue.metric import FAMILIES, OVERALL, Family, Metric
from raydual.commands.options import AsJson, ControlName, Overrides, Seed, Study
from raydual.commands.output import print_json
from raydual.commands.studies import one_seed
from raydual.console import say
from raydual.errors import UserError
from raydual.files import QUICKSTART

commands = typer.Typer()


def _command(family: Family) -> Callable[..., None]:
    name = family.command

    def command(
        config: Study = str(QUICKSTART),
        overrides: Overrides = None,
        seed: Seed = 0,
        control: ControlName = "none",
        as_json: AsJson = False,
    ) -> None:
        switch = [f"measures.{family.switch}={family.on}"] if family.switch else []
        study = one_seed(config, [*switch, *(overrides or ())], seed, control)
        metrics = study.laboratory.study.config.catalogue.of_command(name)
        if not metrics:
            raise UserError(f"raydual {name}: the sweep names no file with metrics of its own; set measures.own")
        if not as_json:
            say(study.title())
        names = {metric.name for metric in metrics}
        rows = [row for row in study.laboratory.after_all(study.measure(seed, control)) if row["metric"] in names]
        if as_json:
            shares = {metric.name: metric for metric in metrics if metric.share}
            numbers = [
                {key: row[key] for key in ("metric", "condition", "layer", "value")}
                | ({"interval": _exact(shares[row["metric"]], row)} if row["metric"] in shares else {})
                for row in rows
            ]
            print_json({**study.about(), "seed": seed, "control": control, "rows": numbers})
        else:
            print_table(metrics, rows, labels=len(study.laboratory.study.config.task.label_words))

    return command


for family in FAMILIES.values():
    if family.table:
        text = family.help[0].upper() + family.help[1:] + "."
        commands.command(family.command, help=text, short_help=text.partition(",")[0].rstrip(".") + ".")(
            _command(family)
        )


def print_table(metrics: Sequence[Metric], rows: Sequence[Mapping[str, Any]], labels: int) -> None:
    """A line for each metric and condition: its overall number, then every layer's."""
    found = {(row["metric"], row["condition"], row["layer"]): row["value"] for row in rows}
    overall = {(row["metric"], row["condition"]): row for row in rows if row["layer"] == OVERALL}
    layers = sorted({row["layer"] for row in rows if row["layer"] != OVERALL})
    if layers:
        print(f"{'':<52}{'overall':>9}" + "".join(f"{'layer ' + str(i):>9}" for i in layers))
    for metric in metrics:
        for condition in metric.conditions_with_labels(labels):
            keys = [(metric.name, condition, layer) for layer in (OVERALL, *layers)]
            numbers = "".join(number(found[key]) for key in keys if key in found)
            row = overall.get((metric.name, condition))
            exact = _exact(metric, row) if metric.share and row else None
            of = f"   [{exact[0]:.4f}, {exact[1]:.4f}] of {row['examples']}" if exact and row else ""
            print(f"{f'{metric.label}, {condition}':<52}{numbers}{of}")


def _exact(metric: Metric, row: Mapping[str, Any]) -> tuple[float, float] | None:
    """The exact 95 % interval of one seed's share (Clopper and Pearson); None where it is undefined."""
    from raydual.statistics.proportions import exact

    if math.isnan(row["value"]) or not row["examples"]:
        return None
    whole = float(metric.bounds[1] or 1)
    low, high = exact(round(row["value"] / whole * row["examples"]), row["examples"])
    return low * whole, high * whole


def number(value: float) -> str:
    """A value in a column of nine characters."""
    return f"{'-' if math.isnan(value) else format(value, '.4f'):>9}"
