"""`raydual …`: one thing at a time, on one seed, without Ray."""

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from raydual.config import LARGEST, Finetune, SweepConfig
from raydual.controls import MEASUREMENT, control_named
from raydual.errors import UserError, exit_on_user_error
from raydual.loading import load_config, load_sweep
from raydual.metrics.catalogue import FAMILIES, OVERALL
from raydual.sweep import SWEEPS

METRICS = tuple(family.command for family in FAMILIES.values() if family.table)
"""The commands that print the metrics of a family."""

_HELP = {
    "select": "in-context accuracy of every seed on the selection examples, best first",
    **{family.command: family.help for family in FAMILIES.values()},
    "dual": "the dual form of attention, verified on the model's own weights and activations, in every layer",
    "record": "what the metrics of a seed are computed from: hidden states, queries and raw attention, as files",
}

_PLAN = "what a sweep will cost before anything is loaded: seeds, tokens, FLOPs, memory, time on measured hardware"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="raydual", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in _HELP.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "config", nargs="?", metavar="CONFIG", default=SWEEPS / "quickstart.yaml",
            help="a sweep file, or a run directory: then with the fine-tuning settings that its search chose "
            "(default: the quickstart)",
        )  # fmt: skip
        command.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="change one setting"
        )
        if name != "select":
            command.add_argument("--seed", type=int, default=0, help="which demonstrations (default: 0)")
        if name in (*METRICS, "finetune-eval"):
            command.add_argument(
                "--control", default="none", metavar="NAME",
                help="measure a control instead: layer_causal, random_step, other_seed, untrained, trained_embeddings, "
                "labels_random, labels_flipped, labels_abstract, permutation_1, …",
            )  # fmt: skip
    plan = commands.add_parser("plan", help=_PLAN, description=_PLAN)
    plan.add_argument(
        "config", nargs="?", type=Path, metavar="CONFIG", default=SWEEPS / "quickstart.yaml",
        help="a sweep file (default: the quickstart)",
    )  # fmt: skip
    plan.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    plan.add_argument("--hardware", metavar="NAME", help="as in the table of measured speeds (default: its latest row)")
    plan.add_argument("--replicas", "--gpus", type=int, default=1, metavar="N", help="how many (default: 1)")
    plan.add_argument("--memory", type=float, metavar="GIB", help="of a GPU (default: no GPU, this machine's memory)")
    commands.choices["dual"].add_argument(
        "--precision", choices=("float32", "float64"), default="float64", help="of the verification (default: float64)"
    )
    recording = commands.choices["record"]
    recording.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the recordings go")
    recording.add_argument(
        "--format", choices=("dai", "parquet"), default="dai",
        help="`dai`: zs, icl, ftzs, ft/record_info.jsonl, as Dai's published analysis code reads them (default)",
    )  # fmt: skip
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    args = parser().parse_args(arguments)
    commands: dict[str, Callable[[argparse.Namespace], None]] = {
        "select": _select,
        "finetune-eval": _finetune_eval,
        "dual": _dual,
        "record": _record,
        "plan": _plan,
    }
    return exit_on_user_error(lambda: commands.get(args.command, _metrics)(args))


def _laboratory(args: argparse.Namespace) -> Any:
    """The study at CONFIG, with its fine-tuning settings."""
    config, settings, seeds = read_study(args.config, args.overrides)
    if not 0 <= getattr(args, "seed", 0) < LARGEST:
        raise UserError(f"--seed {args.seed}: a seed is 0 or greater, and less than {LARGEST}")
    control_named(getattr(args, "control", MEASUREMENT.name))
    from raydual.measure.single import Laboratory

    print(
        f"model {config.model} ({config.dtype}), task {config.task.name}, {config.demonstrations} demonstrations; "
        f"fine-tuning: {settings.optimizer}, learning rate {settings.learning_rate:g}",
        flush=True,
    )
    return Laboratory(config, settings, seeds)


def read_study(where: Path | str, overrides: Sequence[str]) -> tuple[SweepConfig, Finetune, Sequence[int]]:
    """A sweep, its fine-tuning settings and its measured seeds, from a sweep file or a run directory."""
    if "://" not in str(where) and not Path(where).is_dir():
        config = load_config(Path(where), overrides)
        return config, config.finetune, config.seeds
    from raydual.results import RunDirectory

    run = RunDirectory(where)
    if not run.has_config():
        raise UserError(f"{where}: not a run directory, it holds no config.yaml")
    config = run.config(overrides)
    candidates, tried = run.seed_search(), run.finetune_search()
    seeds = [row["seed"] for row in candidates.to_pylist() if row["kept"]] if candidates else config.seeds
    if tried is None or any(override.startswith("finetune") for override in overrides):
        return config, config.finetune, seeds
    best = next((row for row in tried.to_pylist() if row["chosen"]), None)
    if best is None:
        raise UserError(f"{where}: its search has chosen no fine-tuning settings; go on with it: --resume")
    chosen = {name: best[name] for name in ("optimizer", "learning_rate", "epochs")}
    return config, config.finetune.model_copy(update=chosen), seeds


def _select(args: argparse.Namespace) -> None:
    laboratory = _laboratory(args)
    if not laboratory.study.dataset.selection.queries:
        raise UserError("split.selection is 0: there are no examples to select seeds on")
    scores = []
    for seed, accuracy in laboratory.select():
        scores.append((seed, accuracy))
        print(f"\r{len(scores)} of {len(laboratory.study.config.seeds)} seeds", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    for seed, accuracy in sorted(scores, key=lambda score: (-score[1], score[0])):
        print(f"seed {seed:>6}   in-context accuracy {accuracy:.3f}")


def _finetune_eval(args: argparse.Namespace) -> None:
    found = _laboratory(args).evaluate(args.seed, args.control)
    print(f"{'':12}{'label words':>12}{'greedy':>9}   ({found.examples} examples)")
    for name in ("zero_shot", "in_context", "finetuned"):
        print(f"{name:<12}{getattr(found, name):>12.4f}{getattr(found, name + '_greedy'):>9.4f}")


def _dual(args: argparse.Namespace) -> None:
    laboratory = _laboratory(args)
    import numpy as np
    import torch

    from raydual.measure.dual import dual_lines, verify_dual

    queries = laboratory.queries
    prefix = np.concatenate([laboratory.demonstrations(args.seed).prefix, queries.separator])
    dtype = getattr(torch, args.precision)
    report = verify_dual(laboratory.loaded.model, prefix, queries.in_context[0], dtype)
    for line in dual_lines(report):
        print(line)
    if not report.holds:
        raise UserError(
            f"seed {args.seed}: the dual form does not hold within {report.tolerance:g}; see the table above"
        )


def _plan(args: argparse.Namespace) -> None:
    from raydual.estimate import estimate, hardware_named, plan_lines
    from raydual.measure.study import prepare_study

    if args.replicas < 1 or (args.memory is not None and not 0 < args.memory < math.inf):
        raise UserError("--replicas and --memory: must be positive numbers")
    memory = args.memory or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    sweep, total = load_sweep(args.config, args.overrides), 0.0
    hardware = hardware_named(args.hardware, sweep.cells[0].config.dtype)
    for cell in sweep.cells:
        if sweep.axes:
            print(", ".join(f"{axis} {value}" for axis, value in cell.values.items()))
        found = estimate(prepare_study(cell.config, weights=False), on_gpu=args.memory is not None)
        for line in plan_lines(found, cell.config, hardware, args.replicas, round(memory, 1)):
            print(line)
        total += found.seconds(hardware, args.replicas)
    if sweep.axes:
        print(f"all {len(sweep.cells)} cells: about {total / 60:.0f} min")


def _record(args: argparse.Namespace) -> None:
    laboratory = _laboratory(args)
    from raydual.measure.interchange import record_seed, write_recording

    for path in write_recording(record_seed(laboratory, args.seed), args.out, args.format):
        print(path)


def _metrics(args: argparse.Namespace) -> None:
    laboratory = _laboratory(args)
    study = laboratory.study
    printed, labels = study.config.catalogue.of_command(args.command), len(study.config.task.label_words)
    if not printed:
        raise UserError(f"raydual {args.command}: the sweep names no file with metrics of its own; set measures.own")
    found = {(r["metric"], r["condition"], r["layer"]): r for r in laboratory.measure(args.seed, args.control)}
    layers = sorted({layer for name, _, layer in found if layer != OVERALL and any(m.name == name for m in printed)})
    for metric in printed:
        for condition in metric.conditions_with_labels(labels):
            rows = [found[key] for layer in (OVERALL, *layers) if (key := (metric.name, condition, layer)) in found]
            print(f"{f'{metric.label}, {condition}':<52}" + "".join(map(_number, rows)))
    if layers:
        print(f"{'':<52}{'overall':>9}" + "".join(f"{'layer ' + str(i):>9}" for i in layers))


def _number(row: dict[str, Any]) -> str:
    return f"{'-' if row['value'] != row['value'] else format(row['value'], '.4f'):>9}"


if __name__ == "__main__":
    sys.exit(main())
