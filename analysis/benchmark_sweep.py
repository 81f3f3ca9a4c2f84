"""A whole run with Ray beside the same seeds measured without it: what the orchestration costs."""

import argparse
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from analysis.benchmark_parts import seconds_of
from analysis.benchmark_setup import Setup, is_shape, settings
from raydual.errors import UserError
from raydual.measure.seeds import SeedMeasurer
from raydual.pipeline import execute
from raydual.run_directory.directory import RunDirectory
from raydual.settings.reading import validate_config


@dataclass(frozen=True)
class SweepTime:
    """Seconds of one whole run, its stages as its manifest has them, and of its replicas' work without Ray."""

    seeds: int
    replicas: int
    total: float
    stages: dict[str, float]
    replica: float

    @property
    def overhead(self) -> float:
        """Seconds of the run in which its replicas did not measure, were their work spread evenly."""
        return self.total - self.replica / self.replicas

    def line(self) -> str:
        """One line for a person."""
        stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.stages.items())
        return (
            f"{self.seeds:4d} seeds, {self.replicas} replica(s): {self.total:.1f} s in all, "
            f"{self.seeds / self.total:.3g} seeds/s; inside replicas {self.replica / self.replicas:.1f} s, "
            f"overhead {self.overhead:.1f} s ({self.overhead / self.total:.0%}); stages: {stages}"
        )


def batches(seeds: int, size: int) -> list[list[int]]:
    """The seeds 0, 1, ... as they are measured at once."""
    return [list(range(start, min(start + size, seeds))) for start in range(0, seeds, size)]


def replica_seconds(setup: Setup, seeds: int) -> float:
    """Seconds that a replica of this process takes for the zero-shot pass and the seeds, batch after batch."""
    device, execution = setup.loaded.device, setup.config.execution
    replica = SeedMeasurer(setup.loaded, setup.queries, setup.config)
    zero_shot, _ = seconds_of(lambda: replica.zero_shot, device)
    seconds = 0.0
    for batch in batches(seeds, execution.seeds_per_batch):
        sets = setup.demonstrations(batch)
        seconds += seconds_of(lambda sets=sets: replica.measure(sets), device)[0]
    return zero_shot + seconds


def measure_sweeps(setup: Setup, args: argparse.Namespace) -> list[SweepTime]:
    """Whole runs with every number of seeds and of replicas that is asked for."""
    # Loading Ray is no part of the first run's time.
    import_module("raydual.cluster.run")
    with _ray_token():
        return [measure_sweep(setup, args, seeds, n) for n in args.sweep_replicas for seeds in args.sweep_seeds]


def measure_sweep(setup: Setup, args: argparse.Namespace, seeds: int, replicas: int) -> SweepTime:
    """Carry out a whole run of `seeds` on a Ray of its own.

    Raises
    ------
    UserError
        The machine does not hold that many replicas.
    """
    alone = replica_seconds(setup, seeds)
    with tempfile.TemporaryDirectory() as folder:
        model = _saved(setup, Path(folder) / "model") if is_shape(args.model) else args.model
        raw: dict[str, Any] = settings(args, seeds) | {"model": model}
        raw["execution"] |= {"replicas": replicas}
        if setup.loaded.device.type == "cuda":
            raw["execution"] |= {"gpus_per_replica": round(1 / replicas, 3)}
        config = validate_config(raw, "arguments")
        started = time.perf_counter()
        run = execute(config, RunDirectory(Path(folder) / "run"), where="benchmark", address="local")
        total = time.perf_counter() - started
        manifest = run.manifest()
    if manifest["seeds"]["failed"]:
        raise UserError(f"--sweep: seeds failed: {manifest['seeds']['failed']}")
    return SweepTime(seeds, replicas, total, manifest["seconds"], alone)


def _saved(setup: Setup, directory: Path) -> str:
    """The directory of a model that so far is in memory only."""
    setup.loaded.model.save_pretrained(directory)
    setup.loaded.tokenizer.save(str(directory / "tokenizer.json"))
    return str(directory)


@contextmanager
def _ray_token() -> Iterator[None]:
    """A token file for Ray inside the block, unless the environment names one; a process can have only one."""
    if any(name in os.environ for name in ("RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN")):
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        token = Path(folder) / "token"
        token.write_text(secrets.token_hex(32), encoding="utf-8")
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
        try:
            yield
        finally:
            del os.environ["RAY_AUTH_TOKEN_PATH"]
