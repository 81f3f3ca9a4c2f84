"""`raydual select`, `finetune-eval`, `dual`, `record`: one thing at a time, without Ray."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from raydual.commands.options import AsJson, ControlName, Overrides, Seed, Study
from raydual.commands.output import print_json
from raydual.commands.studies import one_seed
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
    import numpy as np
    import torch

    from raydual.one_seed.dual import dual_lines, verify_dual

    queries = study.laboratory.queries
    prefix = np.concatenate([study.laboratory.demonstrations(seed).prefix, queries.separator])
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
