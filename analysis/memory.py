"""Memory against the number of seeds: of the driver while it reduces, and of a replica while it measures.

    python analysis/memory.py
    python analysis/memory.py --seeds 1000 10000 --layers 28 --replica-seeds 8 32

Rows of every metric, layer and seed are made up and written as a run writes them; then the run's own reduce and report
read them, in a process of their own. Peaks are the largest resident sets.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from raydual.catalogue.entries import CATALOGUE, OVERALL
from raydual.report import write_report
from raydual.run_directory.directory import MEASUREMENTS, NO_CONTROL, RunDirectory
from raydual.settings.measures import Measures
from raydual.settings.reading import validate_config
from raydual.statistics.reduce import reduce_run

_BATCH = 8


def made_up_run(path: Path, seeds: int, layers: int) -> RunDirectory:
    """A run directory with a value of every metric, layer and seed, a file for every eight seeds."""
    run = RunDirectory(path)
    settings = {"name": "memory", "task": "sst2", "data": "embedded", "seeds": seeds}
    run.start(validate_config(settings, "memory"))
    for table in made_up_batches(seeds, layers):
        run.write_measurements(table)
    return run


def made_up_batches(seeds: int, layers: int, batch: int = _BATCH) -> Iterator[pa.Table]:
    """The measured rows of so many seeds, a table for every `batch` of them."""
    keys = [
        (metric.name, condition, layer)
        for metric in map(Measures().switched, CATALOGUE.values())
        if metric
        for condition in metric.conditions_with_labels(2)
        for layer in ([*range(layers), OVERALL] if metric.per_layer else [OVERALL])
    ]
    draw = np.random.default_rng(0)
    for start in range(0, seeds, batch):
        of = list(range(start, min(start + batch, seeds)))
        count = len(keys) * len(of)
        columns = {
            "seed": np.repeat(of, len(keys)),
            "control": [NO_CONTROL] * count,
            "shots": np.full(count, 32),
            "metric": [metric for metric, _, _ in keys] * len(of),
            "condition": [condition for _, condition, _ in keys] * len(of),
            "layer": np.tile([layer for _, _, layer in keys], len(of)),
            "value": draw.normal(0.1, 0.05, count),
            "examples": np.full(count, 872),
            "undefined": np.zeros(count),
            "reason": pa.nulls(count, pa.string()),
        }
        yield pa.table({name: columns[name] for name in MEASUREMENTS.names}).cast(MEASUREMENTS)


def peak_mib() -> float:
    """The largest resident set of this process so far, in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():  # unlike `ru_maxrss` it leaves out what the process that started this one took
        (line,) = (line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def reduce_and_tell(path: Path) -> None:
    """Reduce a run and write its report, and print what that took."""
    before, started = peak_mib(), time.perf_counter()
    reduce_run(RunDirectory(path))
    reduced = time.perf_counter() - started
    write_report(RunDirectory(path))
    print(f"reduce {reduced:.1f} s, peak {peak_mib():.0f} MiB ({before:.0f} MiB before it)", flush=True)


def measure_and_tell(seeds: int, at_once: int = _BATCH) -> None:
    """Measure so many seeds on the embedded model, `at_once` together, and print the peak."""
    from raydual.one_seed.laboratory import Laboratory  # only here: a driver that reduces loads no torch

    laboratory = Laboratory(
        {"task": "sst2", "split": {"measured": 100}, "finetune": {"learning_rate": 1.0}, "seeds": seeds}
    )
    for start in range(0, seeds, at_once):
        laboratory.seed_measurer.measure(
            [laboratory.demonstrations(s) for s in range(start, min(start + at_once, seeds))]
        )
    print(f"replica after {seeds} seeds: peak {peak_mib():.0f} MiB", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python analysis/memory.py", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1000, 10000], metavar="N", help="that are reduced")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--replica-seeds", type=int, nargs="*", default=[8, 32], metavar="N", help="that are measured")
    parser.add_argument("--reduce", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.reduce:
        reduce_and_tell(args.reduce)
        return 0
    if args.measure:
        measure_and_tell(args.measure)
        return 0
    own = [sys.executable, __file__]
    for seeds in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            path = made_up_run(Path(folder) / "run", seeds, args.layers).path
            print(f"{seeds} seeds, {args.layers} layers: ", end="", flush=True)
            subprocess.run([*own, "--reduce", str(path)], check=True)
    for seeds in args.replica_seeds:
        subprocess.run([*own, "--measure", str(seeds)], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
