"""`raydual rec2ftp`, `simaou`, `simam`, `kendall`: the metrics of one seed, a command for each family."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import typer

from raydual.commands.options import AsJson, ControlName, Overrides, Seed, Study
from raydual.commands.output import print_json
from raydual.commands.studies import about, laboratory, title
from raydual.console import say
from raydual.files import QUICKSTART

commands = typer.Typer()


@dataclass(frozen=True)
class Family:
    """A command's help, and the metrics that it prints."""

    help: str
    metrics: tuple[str, ...]


FAMILIES = {
    "rec2ftp": Family(
        "Recall to fine-tuning predictions of a seed, and its like.",
        ("rec2ftp", "rec2ftp_both", "rec2ftp_ft", "reverse_recall", "jaccard", "agreement", "kappa"),
    ),
    "simaou": Family(
        "Similarity of attention output updates of a seed, by layer.",
        ("simaou", "simaou_norm_matched", "simaou_random", "simaou_raw", "simdual", "simdw"),
    ),
    "simam": Family(
        "Similarity of attention maps of a seed, by layer.",
        ("simam", "delta_simam", "simam_softmax", "delta_simam_softmax"),
    ),
    "kendall": Family(
        "Rank correlations of attention of a seed, by layer.",
        (
            "kendall", "kendall_random", "kendall_input", "kendall_example", "kendall_example_random", "topk_token",
            "topk_token_random", "topk_example", "topk_example_random",
        ),
    ),
}  # fmt: skip
"""By the command's name."""


def _command(family: Family) -> Callable[..., None]:
    def command(
        config: Study = str(QUICKSTART),
        overrides: Overrides = None,
        seed: Seed = 0,
        control: ControlName = "none",
        as_json: AsJson = False,
    ) -> None:
        lab = laboratory(config, overrides, seed, control)
        if not as_json:
            say(title(lab))
        rows = [row for row in lab.measure(seed, control) if row["metric"] in family.metrics]
        if as_json:
            numbers = [{name: row[name] for name in ("metric", "condition", "layer", "value")} for row in rows]
            print_json({**about(lab), "seed": seed, "control": control, "rows": numbers})
        else:
            _print_table(family.metrics, rows, labels=len(lab.study.config.task.label_words))

    return command


for name, family in FAMILIES.items():
    commands.command(name, help=family.help)(_command(family))


def _print_table(metrics: tuple[str, ...], rows: list[Any], labels: int) -> None:
    """A line for each metric and condition: its overall number, then every layer's."""
    from raydual.metrics.catalogue import CATALOGUE, OVERALL

    layers = sorted({row["layer"] for row in rows if row["layer"] != OVERALL})
    for name in metrics:
        for condition in CATALOGUE[name].conditions_with_labels(labels):
            found = {
                row["layer"]: row["value"] for row in rows if (row["metric"], row["condition"]) == (name, condition)
            }
            label = f"{CATALOGUE[name].label}, {condition}"
            print(f"{label:<52}{_number(found[OVERALL])}" + "".join(_number(found[i]) for i in layers if i in found))
    if layers:
        print(f"{'':<52}{'overall':>9}" + "".join(f"{'layer ' + str(i):>9}" for i in layers))


def _number(value: float) -> str:
    return f"{'-' if math.isnan(value) else format(value, '.4f'):>9}"
