"""`raydual init`, `tasks`, `models`, `schema`: what a sweep can name, and a first one."""

from pathlib import Path
from typing import Annotated, Any

import typer

from raydual.commands.options import AsJson, Overrides, SweepFile
from raydual.commands.output import print_json
from raydual.console import say
from raydual.files import QUICKSTART

commands = typer.Typer()


def _tasks(incomplete: str) -> list[str]:
    from raydual.settings.task import builtin_tasks

    return [name for name in builtin_tasks() if name.startswith(incomplete)]


@commands.command()
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the sweep is written.")] = Path("sweep.yaml"),
    model: Annotated[
        str, typer.Option(metavar="MODEL", show_default=True, help="`embedded`, a hub id or a local directory.")
    ] = "embedded",
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            show_default="the embedded reviews, or the hub's",
            help="A CSV, TSV, JSONL or Parquet file, a directory with train.* and validation.*, `embedded` or `hub`.",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="TASK",
            autocompletion=_tasks,
            show_default="sst2; of your own data, one that is made of their columns",
            help="A built-in task: raydual tasks lists them.",
        ),
    ] = None,
    text: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The column of your data that holds texts.")
    ] = None,
    label: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The column of your data that holds labels.")
    ] = None,
    words: Annotated[
        str | None,
        typer.Option(
            metavar="WORD,WORD",
            show_default="the labels themselves",
            help="The words that stand for the labels, in their order.",
        ),
    ] = None,
) -> None:
    """Write a first sweep for your own model and data.

    It has comments. What it writes is checked, and ready for `raydual plan` and `raydual sweep`. A file that is there
    is left alone.
    """
    from raydual.first_sweep import Asked, sweep_text, write_sweep

    chosen = tuple(word.strip() for word in words.split(",")) if words else ()
    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in file.stem).strip("._-") or "first"
    write_sweep(file, sweep_text(Asked(model, data, task, name, text, label, chosen), file.parent))
    say(f"wrote {file}; next: raydual plan {file}, then raydual sweep {file}")


@commands.command()
def tasks(as_json: AsJson = False) -> None:
    """List the built-in tasks."""
    from raydual.embedded import TASKS
    from raydual.settings.task import builtin_tasks

    found: list[dict[str, Any]] = [
        {
            "task": name,
            "label_words": task["label_words"],
            "demonstrations": task["demonstrations"],
            "data": ["embedded"] * (name in TASKS) + [task["hub"]["id"]],
            "template": task["template"],
        }
        for name, task in builtin_tasks().items()
    ]
    if as_json:
        print_json(found)
        return
    print(f"{'task':<8}{'demonstrations':<16}{'data':<46}label words")
    for one in found:
        words, data = ", ".join(one["label_words"]), ", ".join(one["data"])
        print(f"{one['task']:<8}{one['demonstrations']:<16}{data:<46}{words}")
    print("\nA task of your own is a mapping in the sweep: raydual init --data FILE writes one.")


@commands.command()
def models(
    config: SweepFile = str(QUICKSTART),
    overrides: Overrides = None,
    hardware: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="As in the table of measured speeds.", show_default="its latest row"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List models that can be named, with sizes and costs.

    The costs are those of `raydual plan` for CONFIG. Texts are tokenized by CONFIG's own model: another model's
    tokenizer, most often a larger one, makes fewer tokens of them.
    """
    from raydual.model.known import known_models
    from raydual.plan.estimate import estimate, hardware_named
    from raydual.settings.reading import load_config
    from raydual.study import prepare_study

    study = prepare_study(load_config(Path(config), overrides or ()), weights=False)
    device = hardware_named(hardware, study.config.dtype)
    rows: list[dict[str, Any]] = []
    for model in known_models():
        found = estimate(study, shape=model.shape)
        rows.append(
            {
                "model": model.name,
                "family": model.family,
                "parameters": model.shape.parameters,
                "bytes_of_weights": found.weights,
                "bytes_for_a_seed": found.a_seed,
                "flops": found.total.flops,
                "seconds": found.seconds(device, 1),
            }
        )
    if as_json:
        print_json({"sweep": study.config.name, "dtype": study.config.dtype, "hardware": device.name, "models": rows})
        return
    print(f"{'model':<38}{'family':<8}{'parameters':>10}{'weights':>12}{'a seed':>11}{'work':>15}{'time':>9}")
    for row in rows:
        print(
            f"{row['model']:<38}{row['family']:<8}{_millions(row['parameters']):>10}"
            f"{_gib(row['bytes_of_weights']):>12}{_gib(row['bytes_for_a_seed']):>11}"
            f"{row['flops'] / 1e12:>9,.0f} TFLOP{_hours(row['seconds']):>9}"
        )
    print(
        f"\nMemory, work and time of the sweep {study.config.name} ({study.config.dtype}), tokenized as for "
        f"{study.config.model}, on 1 x {device.name};\nfor your sweep: raydual models SWEEP.yaml, and exactly: raydual "
        "plan SWEEP.yaml --set model=MODEL. Any other dense Qwen3, Llama or Qwen2 may be named too."
    )


def _millions(number: int) -> str:
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.1f} M"


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


def _hours(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.0f} h"


@commands.command()
def schema() -> None:
    """Print the JSON schema of a sweep, for editors."""
    from raydual.settings.editor import schema_text

    print(schema_text(), end="")
