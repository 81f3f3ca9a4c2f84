"""`raydual select`, `finetune-eval`, `dual`, `record`: one thing at a time, without Ray."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from raydual.catalogue.metric import FAMILIES
from raydual.commands.metrics import print_table
from raydual.commands.options import AsJson, ControlName, Overrides, Seed, Study
from raydual.commands.output import print_json
from raydual.commands.studies import one_seed, read_study
from raydual.console import Done, following, say
from raydual.errors import UserError
from raydual.files import QUICKSTART

commands = typer.Typer()


@commands.command()
def select(config: Study = str(QUICKSTART), overrides: Overrides = None, as_json: AsJson = False) -> None:
    """In-context accuracy of every seed, best first.

    It is taken on the selection examples.
    """
    study = one_seed(config, overrides)
    if not as_json:
        say(study.title())
    if not study.laboratory.study.dataset.selection.queries:
        raise UserError("split.selection is 0: there are no examples to select seeds on")
    scores: list[tuple[int, float]] = []
    seeds = len(study.laboratory.study.config.seeds)
    with following("select", lambda: Done(len(scores), seeds, "seeds")):
        scores.extend(study.laboratory.select())
    scores.sort(key=lambda score: (-score[1], score[0]))
    if as_json:
        print_json({**study.about(), "seeds": [{"seed": seed, "accuracy": accuracy} for seed, accuracy in scores]})
        return
    for seed, accuracy in scores:
        print(f"seed {seed:>6}   in-context accuracy {accuracy:.3f}")


@commands.command()
def finetune_eval(
    config: Study = str(QUICKSTART),
    overrides: Overrides = None,
    seed: Seed = 0,
    control: ControlName = "none",
    as_json: AsJson = False,
) -> None:
    """Zero-shot, in-context and fine-tuned accuracy of a seed.

    Once by label words, and once by the greedy token.
    """
    study = one_seed(config, overrides, seed, control)
    if not as_json:
        say(study.title())
    found = study.laboratory.evaluation(study.measure(seed, control))
    if as_json:
        print_json({**study.about(), "seed": seed, "control": control, **vars(found)})
        return
    print(f"{'':12}{'label words':>12}{'greedy':>9}   ({found.examples} examples)")
    for name in ("zero_shot", "in_context", "finetuned"):
        print(f"{name:<12}{getattr(found, name):>12.4f}{getattr(found, name + '_greedy'):>9.4f}")


@commands.command()
def dual(
    config: Study = str(QUICKSTART),
    overrides: Overrides = None,
    seed: Seed = 0,
    precision: Annotated[
        Literal["float32", "float64"], typer.Option(show_default=True, help="Of the verification.")
    ] = "float64",
    as_json: AsJson = False,
) -> None:
    """Verify the dual form of attention, in every layer.

    On the model's own weights and activations, with a control that must fail.
    """
    study = one_seed(config, overrides, seed)
    if not as_json:
        say(study.title())
    import torch

    from raydual.one_seed.dual import dual_lines, verify_dual

    queries = study.laboratory.queries
    prefix = study.laboratory.demonstrations(seed).before_query(queries.separator)
    with following("dual form"):
        report = verify_dual(study.laboratory.loaded.model, prefix, queries.in_context[0], getattr(torch, precision))
    if as_json:
        print_json({**study.about(), "seed": seed, **report.as_json()})
    else:
        for line in dual_lines(report):
            print(line)
    if not report.holds:
        raise UserError(f"seed {seed}: the dual form does not hold within {report.tolerance:g}; see the table above")


@commands.command()
def context_weights(
    config: Study = str(QUICKSTART),
    overrides: Overrides = None,
    seed: Seed = 0,
    control: ControlName = "none",
    precision: Annotated[
        Literal["float32", "float64"], typer.Option(show_default=True, help="Of the verification.")
    ] = "float64",
    queries: Annotated[
        int, typer.Option("--queries", min=2, show_default=True, help="How many queries are verified.")
    ] = 3,
    as_json: AsJson = False,
) -> None:
    """The context as a change of weights, verified.

    The model with changed MLP weights gives, without the context, the logits with it; two controls must fail. Then how
    large the changes are, by layer, and their cosines with what fine-tuning changes (finetune.projections).
    """
    family = FAMILIES["context_weights"]
    study = one_seed(config, [f"measures.{family.switch}={family.on}", *(overrides or ())], seed, control)
    lab = study.laboratory
    if not as_json:
        say(study.title())
    import torch

    from raydual.one_seed.context_weights import context_weights_lines, verify_context_weights

    case, loaded = lab.case(seed, control)
    own, alone = lab.queries.in_context[:queries], lab.queries.alone[:queries]
    if len(own) < 2:
        raise UserError("split.measured: at least 2 measured examples are needed, the second for the shuffled control")
    prefix = case.context.before_query(lab.queries.separator)
    with following("context as weights"):
        report = verify_context_weights(loaded.model, prefix, own, getattr(torch, precision), alone)
    metrics = lab.study.config.catalogue.of_command(family.command)
    names = {metric.name for metric in metrics}
    rows = [row for row in lab.after_all(study.measure(seed, control)) if row["metric"] in names]
    if as_json:
        numbers = [{key: row[key] for key in ("metric", "condition", "layer", "value")} for row in rows]
        print_json({**study.about(), "seed": seed, "control": control, **report.as_json(), "rows": numbers})
    else:
        for line in context_weights_lines(report):
            print(line)
        print_table(metrics, rows, labels=len(lab.study.config.task.label_words))
    if not report.holds:
        raise UserError(
            f"seed {seed}: the context as weights does not hold within {report.tolerance:g}; see the table above"
        )


@commands.command()
def patch(
    config: Study = str(QUICKSTART),
    overrides: Overrides = None,
    seed: Seed = 0,
    control: ControlName = "none",
    as_json: AsJson = False,
) -> None:
    """One patch of the weights for all queries.

    It is fitted on the selection examples; then everything that is measured of it, without the context.
    """
    family = FAMILIES["patch"]
    asked = read_study(config, overrides or ()).config
    switch = [] if asked.measures.patch else [f"measures.{family.switch}={family.on}"]
    study = one_seed(config, [*switch, *(overrides or ())], seed, control)
    lab = study.laboratory
    if not as_json:
        say(study.title())
    of_patch = [one for metric in lab.study.config.catalogue.values() if (one := metric.of_patch())]
    labels = len(lab.study.config.task.label_words)
    keys = {(one.name, condition) for one in of_patch for condition in one.conditions_with_labels(labels)}
    measured = lab.after_all(study.measure(seed, control))
    rows = [row for row in measured if (row["metric"], row["condition"]) in keys]
    if as_json:
        numbers = [{key: row[key] for key in ("metric", "condition", "layer", "value")} for row in rows]
        print_json({**study.about(), "seed": seed, "control": control, "rows": numbers})
    else:
        print_table(of_patch, rows, labels)


@commands.command()
def record(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the recordings go.")],
    config: Study = str(QUICKSTART),
    overrides: Overrides = None,
    seed: Seed = 0,
    form: Annotated[
        Literal["dai", "parquet"],
        typer.Option(
            "--format",
            show_default=True,
            help="dai: zs, icl, ftzs, ft/record_info.jsonl, as Dai's published analysis code reads them.",
        ),
    ] = "dai",
) -> None:
    """Write what a seed's metrics are computed from.

    Hidden states, queries and raw attention, as files; their paths are printed, one on a line.
    """
    study = one_seed(config, overrides, seed)
    say(study.title())
    from raydual.one_seed.recordings import record_seed, write_recording

    with following(f"recording seed {seed}"):
        paths = write_recording(record_seed(study.laboratory, seed), out, form)
    for path in paths:
        print(path)
