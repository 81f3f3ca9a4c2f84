"""What the driver does for each seed, from a thousand seeds to a hundred thousand, with a stand-in for the model.

    python analysis/scale.py
    python analysis/scale.py --seeds 1000 10000 --layers 28 --batch 32

The stand-in makes up a row of every metric, layer and seed, so that what is left is the driver's own work: planning the
units with their other seeds, the search's decisions at three slices, writing a file for each batch, finding out what is
finished (as `--resume` does), reducing, and the report. Each number of seeds is a process of its own. Times are the
processor's (of all threads), in milliseconds a seed, so that other programs on the machine hardly disturb them; then
comes the wall-clock time of reducing. Peaks are the largest resident sets, up to the summary and with the report.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from analysis.memory import made_up_batches, peak_mib
from raydual.cluster.halving import Halving
from raydual.loading import validate_config
from raydual.measure.study import Study
from raydual.reduce import reduce_run
from raydual.report import write_report
from raydual.results import RunDirectory
from raydual.tasks.examples import Dataset, Examples

_SLICES = (25, 50, 100)
_PARTS = ("plan", "search", "write", "finished", "reduce", "report")


@dataclass
class Times:
    """Seconds of the processor and of the clock that each part took."""

    processor: dict[str, float] = field(default_factory=dict)
    clock: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Add what the block takes to a part."""
        processor, clock = time.process_time(), time.perf_counter()
        yield
        self.processor[part] = self.processor.get(part, 0.0) + time.process_time() - processor
        self.clock[part] = self.clock.get(part, 0.0) + time.perf_counter() - clock


def search(seeds: Sequence[int]) -> None:
    """Decide about every seed at every slice, a tenth of them to be kept; the accuracies are made up."""
    halving = Halving(seeds, _SLICES, max(1, len(seeds) // 10))
    accuracies = iter(np.random.default_rng(0).binomial(100, 0.8, len(seeds) * len(_SLICES)).tolist())
    for generation in halving.generations():
        for seed in generation:
            for examples in _SLICES:
                if not halving.goes_on(seed, examples, next(accuracies) / 100):
                    break


def run_and_tell(path: Path, seeds: int, layers: int, batch: int) -> None:
    """Drive a run of so many seeds from plan to report, and print a line of the table."""
    settings = {"name": "scale", "task": "sst2", "data": "embedded", "seeds": seeds, "controls": {"other_seed": True}}
    config, nothing = validate_config(settings, "scale"), Examples((), ())
    study, run, times = Study(config, Dataset(nothing, nothing, nothing, "made up")), RunDirectory(path), Times()
    with times.of("search"):
        search(config.seeds)
    with times.of("plan"):
        units = study.units(config.seeds)
    assert len(units) == 2 * seeds
    run.start(config)
    # A pool of replicas would hand over its batches here; the stand-in's own time is not counted.
    for table in made_up_batches(seeds, layers, batch):
        with times.of("write"):
            run.write_measurements(table)
    with times.of("finished"):
        assert len(run.finished()) == seeds
    with times.of("reduce"):
        reduce_run(run)
    peak = peak_mib()
    with times.of("report"):
        write_report(run)
    size = sum(file.stat().st_size for file in run.measurements.iterdir())
    parts = " | ".join(f"{1000 * times.processor[part] / seeds:.3f}" for part in _PARTS)
    print(
        f"| {seeds:,} | {parts} | {times.clock['reduce']:.0f} s | {peak / 1024:.2f}, {peak_mib() / 1024:.2f} GiB "
        f"| {size / 2**20:.0f} MiB in {-(-seeds // batch):,} |",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python analysis/scale.py", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1000, 10_000, 100_000], metavar="N")
    parser.add_argument("--layers", type=int, default=4, help="as many as the quickstart's model has")
    parser.add_argument("--batch", type=int, default=8, help="seeds in a file: 8 on a CPU, 32 on a GPU")
    parser.add_argument("--folder", type=Path, help="where the runs lie while they are looked at; default: TMPDIR")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.one:
        run_and_tell(args.one, *args.seeds, args.layers, args.batch)
        return 0
    print(f"| seeds | {' | '.join(_PARTS)} | reduce takes | peak | files |")
    print("|" + " --- |" * (len(_PARTS) + 4), flush=True)
    for seeds in args.seeds:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            own = [sys.executable, __file__, "--one", f"{folder}/run", "--seeds", str(seeds)]
            subprocess.run([*own, "--layers", str(args.layers), "--batch", str(args.batch)], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
