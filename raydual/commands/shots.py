"""`raydual shots`: the metrics of one seed after one, two, four, … of its demonstrations."""

import typer

from raydual.catalogue.metric import OVERALL
from raydual.commands.metrics import number
from raydual.commands.options import AsJson, ControlName, Overrides, Seed, Study
from raydual.commands.output import print_json
from raydual.commands.studies import one_seed, read_study
from raydual.console import say
from raydual.files import QUICKSTART

commands = typer.Typer()


@commands.command()
def shots(
    config: Study = str(QUICKSTART),
    overrides: Overrides = None,
    seed: Seed = 0,
    control: ControlName = "none",
    as_json: AsJson = False,
) -> None:
    """Headline metrics by number of demonstrations.

    Of a seed, after its first 1, 2, 4, … demonstrations, or the numbers of measures.shots, where the sweep names some.
    """
    changes = list(overrides or ())
    known = read_study(config, changes).config
    if not known.measures.shots:
        doubling = [2**power for power in range(known.demonstrations.bit_length()) if 2**power < known.demonstrations]
        changes.append(f"measures.shots={doubling}")
    study = one_seed(config, changes, seed, control)
    lab = study.laboratory
    if not as_json:
        say(study.title())
    catalogue = lab.study.config.catalogue
    shown = [(metric, condition) for metric in catalogue.values() if metric.headline for condition in metric.conditions]
    rows = study.measure(seed, control)
    if as_json:
        names = ("shots", "metric", "condition", "layer", "value")
        numbers = [{name: row[name] for name in names} for row in rows]  # type: ignore[literal-required]
        print_json({**study.about(), "seed": seed, "control": control, "rows": numbers})
        return
    found = {(r["metric"], r["condition"], r["shots"]): r["value"] for r in rows if r["layer"] == OVERALL}
    columns = [*lab.study.config.shots, lab.study.config.demonstrations]
    print(f"{'demonstrations':<52}" + "".join(f"{k:>9}" for k in columns))
    for metric, condition in shown:
        values = [found.get((metric.name, condition, k), float("nan")) for k in columns]
        print(f"{f'{metric.label}, {condition}':<52}" + "".join(map(number, values)))
