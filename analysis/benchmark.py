"""How fast a replica measures seeds, against plain `transformers` in the same process.

    python analysis/benchmark.py
    python analysis/benchmark.py --model qwen3-0.6b-shape --data DIR --dtype bfloat16 --device cuda --record
    python analysis/benchmark.py --sweep --sweep-seeds 8 24 72

First the numbers are compared: all that are not random must agree with the baseline, or the exit code is 1 and no time
is printed. Then come seconds a seed of both, their ratio, the share of the machine's matmul rate that model FLOPs make
up (`FlopFormula` in `raydual/plan/cost.py` says what is counted), peak memory, and where the time goes. The seconds by
part are those of one more batch of seeds under torch's profiler, which takes time of its own.
"""

import argparse
import csv
import datetime
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from analysis import benchmark_baseline
from analysis.benchmark_baseline import Agreement, BaselineTime, compare, failed_seeds, measure_baseline, replica_rows
from analysis.benchmark_parts import (
    hardware,
    matmul_rate,
    peak_memory,
    seconds_by_part,
    seconds_of,
)
from analysis.benchmark_setup import SHAPE, SHAPES, Setup, make_setup
from analysis.benchmark_sweep import batches, measure_sweeps
from raydual.data.prompts import DemonstrationSet
from raydual.errors import UserError, exit_on_user_error
from raydual.measure.rows import Row
from raydual.measure.seeds import SeedMeasurer
from raydual.model.anatomy import Shape
from raydual.plan.cost import FlopFormula, Work
from raydual.plan.estimate import TABLE


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = _Parser(
        prog="python analysis/benchmark.py", description="Speed of raydual's replica against plain transformers."
    )
    add = parser.add_argument
    shapes = ", ".join(name + SHAPE for name in SHAPES)
    add("--model", default="embedded", help=f"embedded, a directory, or random weights in the shape of {shapes}")
    add("--layers", type=int, metavar="N", help="cut a shape to its first N layers")
    add("--data", default="embedded", help="embedded, or a directory with train.* and validation.*")
    add("--task", default="sst2")
    add("--demonstrations", type=int, default=32)
    add("--examples", type=int, default=200, help="measured examples")
    add("--seeds", type=int, default=8, help="of the replica")
    add("--baseline-seeds", type=int, default=1, metavar="N", help="of the baseline; 0: nothing is compared")
    add(
        "--baseline-examples", type=int, metavar="N",
        help="give the baseline, and the comparison, only so many examples; its time a seed is then extrapolated",
    )  # fmt: skip
    add("--seeds-per-batch", type=int, default=4)
    add("--batch-size", type=int, default=64)
    add("--dtype", choices=("float32", "bfloat16"), default="float32")
    add("--device", help="cpu or cuda; default: the GPU if there is one")
    add("--threads", type=int, default=1, help="of torch, on the CPU")
    add("--learning-rate", type=float)
    add("--sweep", action="store_true", help="then whole runs with Ray, against the replicas' time alone")
    add("--sweep-seeds", type=int, nargs="+", default=[8, 24, 72], metavar="N")
    add("--sweep-replicas", type=int, nargs="+", default=[1], metavar="N")
    add("--record", type=Path, nargs="?", const=TABLE, metavar="FILE", help=f"append a row to FILE ({TABLE.name})")
    return parser


def _check(args: argparse.Namespace) -> None:
    positive = ("layers", "examples", "seeds", "baseline_examples", "threads", "learning_rate")
    for name in positive:
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise UserError(f"--{name.replace('_', '-')}: must be positive, found {value}")
    if not 0 <= args.baseline_seeds <= args.seeds:
        raise UserError(f"--baseline-seeds: from 0 to --seeds ({args.seeds}), found {args.baseline_seeds}")
    if (args.baseline_examples or 0) > args.examples:
        raise UserError(f"--baseline-examples: at most --examples ({args.examples}), found {args.baseline_examples}")
    for name in ("sweep_seeds", "sweep_replicas"):
        if min(getattr(args, name)) < 1:
            raise UserError(f"--{name.replace('_', '-')}: must be positive")
    if args.device not in (None, "cpu") and not (args.device.startswith("cuda") and torch.cuda.is_available()):
        raise UserError(f"--device: {args.device} is not there; cpu{' or cuda' if torch.cuda.is_available() else ''}")


@dataclass(frozen=True)
class ReplicaTime:
    """Seconds of the replica: `once` for queries and the zero-shot pass, then a seed; by part, a seed, profiled.

    `tokenizing` is a seed's demonstrations, which a sweep tokenizes elsewhere; it is in neither.
    """

    seconds: float
    once: float
    tokenizing: float
    parts: dict[str, float]
    memory: float
    work: dict[str, Work]
    once_work: Work


def measure_replica(setup: Setup, seeds: int) -> tuple[list[Row], ReplicaTime]:
    """Rows and times of the seeds 0, 1, ..., after an untimed batch.

    Raises
    ------
    UserError
        A seed cannot be measured.
    """
    device, config = setup.loaded.device, setup.config
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    groups = batches(seeds, config.execution.seeds_per_batch)
    tokenizing, sets = seconds_of(lambda: [setup.demonstrations(group) for group in groups], device)
    warm, replica = (SeedMeasurer(setup.loaded, setup.queries, config) for _ in range(2))
    if failed := failed_seeds(warm.measure(sets[0])):
        raise UserError("\n".join(failed))
    once, _ = seconds_of(lambda: replica.zero_shot, device)
    seconds, rows = seconds_of(lambda: [row for batch in sets for row in replica.measure(batch)], device)
    if failed := failed_seeds(rows):
        raise UserError("\n".join(failed))
    memory = peak_memory(device)
    flops = FlopFormula(Shape.of(setup.loaded.model.config.to_dict()))
    work: dict[str, Work] = {}
    for found in (flops.seed(s, setup.queries, config.finetune) for batch in sets for s in batch):
        work = {part: work.get(part, Work()) + value for part, value in found.items()}
    return rows, ReplicaTime(
        seconds=seconds / seeds,
        once=once,
        tokenizing=tokenizing / seeds,
        parts=_parts(replica, sets[0]),
        memory=memory,
        work=work,
        once_work=flops.zero_shot(setup.queries),
    )


def _parts(replica: SeedMeasurer, sets: list[DemonstrationSet]) -> dict[str, float]:
    """Seconds a seed by part."""
    seconds = seconds_by_part(lambda: replica.measure(sets), replica.model.device)
    return {name: found / len(sets) for name, found in seconds.items()}


def check_numbers(setup: Setup, args: argparse.Namespace, rows: Sequence[Row]) -> tuple[Agreement, BaselineTime]:
    """Compare the replica with the baseline in float32, and time the baseline in the dtype asked for."""
    seeds = list(range(args.baseline_seeds))
    examples = args.baseline_examples or args.examples
    short = setup if examples == args.examples else setup.shortened(examples)
    expected, seconds = measure_baseline(short, seeds)
    if args.dtype == "float32":
        return compare(rows if short is setup else replica_rows(short, seeds), expected), seconds
    whole = make_setup(args, "float32").shortened(examples)
    return compare(replica_rows(whole, seeds), measure_baseline(whole, seeds)[0]), seconds


@dataclass(frozen=True)
class Result:
    """What one benchmark found."""

    replica: ReplicaTime
    baseline: BaselineTime | None
    rate: float
    seeds: int

    def share(self, work: Work, seconds: float) -> float:
        """Which part of the machine's matmul rate the work of all seeds is, done in so many seconds a seed."""
        return work.flops / (seconds * self.seeds * self.rate)

    @property
    def total(self) -> Work:
        """The work of all seeds, without the zero-shot pass."""
        return sum(self.replica.work.values(), Work())

    @property
    def whole(self) -> float:
        """Seconds a seed with its share of what is done once, and with tokenizing."""
        return self.replica.seconds + self.replica.tokenizing + self.replica.once / self.seeds

    @property
    def icl_seconds(self) -> float:
        """Seconds a seed of the in-context pass with what it records."""
        return self.replica.parts["icl"] + self.replica.parts["simdual"]

    def lines(self) -> list[str]:
        """What is printed."""
        replica, baseline, work = self.replica, self.baseline, self.total
        lines = []
        if baseline:
            lines.append(baseline.line())
        lines.append(
            f"replica: {replica.seconds:.4g} s a seed, {1 / replica.seconds:.4g} seeds/s, "
            f"{work.tokens / self.seeds / replica.seconds:,.0f} tokens/s"
        )
        lines.append(
            f"  once: {replica.once:.4g} s (zero-shot pass, {replica.once_work.flops / 1e9:.4g} GFLOP); "
            f"tokenizing: {replica.tokenizing:.4g} s a seed; whole: {self.whole:.4g} s a seed over {self.seeds} seeds"
        )
        if baseline:
            lines.append(
                f"ratio: {baseline.seconds / replica.seconds:.4g} (whole: {baseline.seconds / self.whole:.4g}; to the "
                f"baseline's passes and fine-tuning alone, without metrics: {baseline.least / replica.seconds:.4g})"
            )
        icl = replica.work["icl"]
        lines += [
            f"model FLOPs: {work.flops / self.seeds / 1e9:.4g} GFLOP a seed; matmul: {self.rate / 1e12:.4g} TFLOP/s",
            f"share of the matmul rate: {self.share(work, replica.seconds):.1%}; in-context pass "
            f"{self.share(icl, self.icl_seconds):.1%}, without SimDual {self.share(icl, replica.parts['icl']):.1%}",
            f"peak memory: {replica.memory:.3g} GiB",
            "seconds a seed by part (profiled):",
        ]
        total = sum(replica.parts.values())
        for name, seconds in replica.parts.items():
            share = f", {self.share(replica.work[name], seconds):.1%} of the rate" if name in replica.work else ""
            lines.append(f"  {name:12} {seconds:8.4f} s {seconds / total:6.1%}{share}")
        return lines


def table_row(args: argparse.Namespace, setup: Setup, result: Result) -> dict[str, str | float | int]:
    """One line of the table: every column that it has, seconds a seed, empty where nothing was measured."""
    replica, baseline = result.replica, result.baseline
    layers = f" ({args.layers} layers)" if args.layers else ""
    row: dict[str, str | float | int] = {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "hardware": hardware(setup.loaded.device),
        "torch": torch.__version__,
        "model": Path(args.model).name + layers,
        "data": Path(args.data).name,
        "dtype": args.dtype,
        "demonstrations": args.demonstrations,
        "examples": args.examples,
        "seeds": args.seeds,
        "seeds_per_batch": args.seeds_per_batch,
        "batch_size": args.batch_size,
        "baseline_seconds": baseline.seconds if baseline else "",
        "replica_seconds": replica.seconds,
        "ratio": baseline.seconds / replica.seconds if baseline else "",
        "ratio_to_passes": baseline.least / replica.seconds if baseline else "",
        "tokens_per_second": result.total.tokens / args.seeds / replica.seconds,
        "matmul_tflops": result.rate / 1e12,
        "share_of_matmul": result.share(result.total, replica.seconds),
        "icl_share_of_matmul": result.share(replica.work["icl"], result.icl_seconds),
        "memory_gib": replica.memory,
        "zsl_seconds_once": replica.once,
        **{f"{name.replace('-', '_')}_seconds": seconds for name, seconds in replica.parts.items()},
    }
    return {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in row.items()}


def record(row: dict[str, str | float | int], file: Path) -> None:
    """Append a row to the table, which gets its header with the first one.

    Raises
    ------
    UserError
        The file has other columns, or cannot be written.
    """
    try:
        known = file.read_text(encoding="utf-8").splitlines()[:1] if file.is_file() else []
        if known and known[0].split(",") != list(row):
            raise UserError(f"--record: {file} has other columns")
        with file.open("a", newline="", encoding="utf-8") as target:
            writer = csv.DictWriter(target, list(row), lineterminator="\n")
            if not known:
                writer.writeheader()
            writer.writerow(row)
    except OSError as error:
        raise UserError(f"--record: {file} cannot be written: {error.strerror}") from None


def _say(text: str) -> None:
    print(text, flush=True)


def _run(arguments: Sequence[str] | None) -> int:
    args = parser().parse_args(arguments)
    _check(args)
    torch.set_num_threads(args.threads)
    setup = make_setup(args)
    lengths = [len(ids) for ids in setup.queries.alone]
    _say(f"{args.model}, {args.dtype}, on {hardware(setup.loaded.device)}; torch {torch.__version__}")
    _say(
        f"{setup.study.dataset.source}: {args.demonstrations} demonstrations, {args.examples} examples of "
        f"{sum(lengths) / len(lengths):.1f} tokens, {args.seeds} seeds, {args.seeds_per_batch} at once, "
        f"batch size {args.batch_size}"
    )
    rows, replica = measure_replica(setup, args.seeds)
    baseline = None
    if args.baseline_seeds:
        agreement, baseline = check_numbers(setup, args, rows)
        if agreement.problems:
            print(f"error: {len(agreement.problems)} numbers differ from the baseline's", file=sys.stderr)
            print("\n".join(agreement.problems), file=sys.stderr)
            return 1
        _say(
            f"numbers: {agreement.compared} agree with the baseline's within {benchmark_baseline.TOLERANCE:g}, in "
            f"float32; largest difference {agreement.largest:.2g} ({agreement.where})"
        )
        if args.baseline_examples and args.baseline_examples < args.examples:
            baseline = baseline.extrapolated(args.examples / args.baseline_examples)
            _say(f"NOTE: the baseline saw {args.baseline_examples} examples; its time is extrapolated to all")
    else:
        _say("NOTE: no baseline was run: no number was checked, and there is no ratio")
    rate = matmul_rate(setup.loaded.model.dtype, setup.loaded.device)
    result = Result(replica, baseline, rate, args.seeds)
    for line in result.lines():
        _say(line)
    if args.record:
        record(table_row(args, setup, result), args.record)
    if args.sweep:
        found = measure_sweeps(setup, args)
        _say("whole runs with Ray; no run stores its replicas' own time: it is that of the same seeds in this process")
        for time in found:
            _say(time.line())
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 1 if numbers differ, 2 for a mistake in the arguments."""
    return exit_on_user_error(lambda: _run(arguments))


if __name__ == "__main__":
    sys.exit(main())
