"""A small sweep in processes of its own, as a user starts it: on this machine, on several nodes, with faults."""

import contextlib
import csv
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from raydual.run_directory.directory import RunDirectory

from .tiny import LABELS, TEMPLATE, save_tiny, tiny_examples

ROOT = Path(__file__).parent.parent
FAULTS = Path(__file__).parent / "faults"
_RAY_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent", "dashboard/agent.py", "runtime_env/agent/main.py")
SEEDS = [3, 1, 4, 5, 9, 2, 6, 8]
SCORE = "raydual.measure.scoring:Scorer.score_slice"
MEASURE = "raydual.measure.measurer:Measurer.measure_all"
"""What replicas call, where faults are put: to score a seed in the search, to measure a batch."""


def make_inputs(folder: Path) -> tuple[Path, Path]:
    """A model directory and a review file."""
    with (folder / "reviews.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(tiny_examples(150))
    return save_tiny(folder / "model"), folder / "reviews.csv"


def tiny_settings(inputs: tuple[Path, Path], **changes: Any) -> dict[str, Any]:
    """The settings of a sweep with a search, and controls of every kind of work."""
    model, data = inputs
    return {
        "name": "tiny",
        "model": str(model),
        "task": {"name": "tiny", "template": TEMPLATE, "label_words": list(LABELS)},
        "data": str(data),
        "demonstrations": 5,
        "seeds": SEEDS,
        "split": {"selection": 12, "measured": 13},
        "search": {
            "seeds": {"keep": 6, "slices": [4, 8, 12]},
            "finetune": {"learning_rate": [0.02, 0.2], "seeds": 3},
        },
        "measures": {"resamples": 200},
        "controls": {"random_step": True, "other_seed": True, "untrained": True, "permutations": 1, "seeds": 4},
        "execution": {"seeds_per_batch": 2, "batch_size": 64},
        **changes,
    }


@dataclass
class Sweeping:
    """A sweep to be started in a folder of its own.

    `faults` are those of `faults/sitecustomize.py`; `temporary` is where Ray keeps its sessions.
    """

    folder: Path
    settings: Mapping[str, Any]
    address: str | None = "local"
    faults: Sequence[Mapping[str, Any]] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    arguments: Sequence[str] = ()
    prefix: Sequence[str] = ()

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = self.folder / "sweep.yaml"
        self.file.write_text(yaml.safe_dump(dict(self.settings)), encoding="utf-8")

    @property
    def run(self) -> RunDirectory:
        """Its run directory."""
        return RunDirectory(self.folder / "run")

    def command(self, *more: str) -> list[str]:
        """The command as a user types it."""
        address = ["--address", self.address] if self.address is not None else []
        own = [str(self.file), "--output", str(self.folder / "run"), *address, *self.arguments, *more]
        return [*self.prefix, sys.executable, "-m", "raydual.sweep", *own]

    def variables(self) -> dict[str, str]:
        """The environment of its processes."""
        token = self.folder / "token"
        if not token.exists():
            token.write_text(secrets.token_hex(32))
        # A cluster has a token of its own, which the environment names.
        own = {"RAY_AUTH_TOKEN_PATH": str(token)} if self.address in (None, "", "local") else {}
        path = [str(FAULTS)] * bool(self.faults) + [str(ROOT)]
        return {
            **os.environ,
            **own,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(path),
            **({"RAYDUAL_TEST_FAULTS": json.dumps(list(self.faults))} if self.faults else {}),
            **self.environment,
        }

    def finish(self, *more: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        with self.started(*more) as process:
            out, error = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(process.args, process.returncode, out, error)

    @contextlib.contextmanager
    def started(self, *more: str) -> Iterator[subprocess.Popen[str]]:
        """Run it in the background; whatever is left of it is killed in the end."""
        process = subprocess.Popen(
            self.command(*more), cwd=self.folder, env=self.variables(), text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=_heed_signals,
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
                for member in family:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        member.kill()
                process.wait()


def _heed_signals() -> None:
    """Tests that run in the background, or under nohup, hand down that signals are ignored."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def own_temporary() -> Iterator[dict[str, str]]:
    """A folder for temporary files, as an environment; its path is short, as the sockets that Ray puts there must be.

    Whatever a sweep leaves in it is an error.
    """
    folder = Path("/tmp", f"r{secrets.token_hex(2)}")
    folder.mkdir()
    try:
        yield {"TMPDIR": str(folder), "RAY_TMPDIR": str(folder)}
        left = left_in(folder)
        assert not left, f"left behind: {left}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def left_in(folder: str | Path) -> list[str]:
    """What sweeps have left in a folder for temporary files."""
    return sorted(path.name for path in Path(folder).glob("raydual-*"))


def undisturbed(folder: Path, settings: Mapping[str, Any], environment: Mapping[str, str]) -> RunDirectory:
    """The run of a sweep that nothing disturbed."""
    sweep = Sweeping(folder, settings, environment=environment)
    done = sweep.finish()
    assert done.returncode == 0, done.stderr
    assert "lost" not in done.stdout
    return sweep.run


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str] | None = None, seconds: float = 240) -> Any:
    """The first true value of a condition; fails if the process ends before."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert process is None or process.poll() is None, f"the run ended early: {process.communicate()}"
        assert time.monotonic() < deadline, "nothing came of it in time"
        time.sleep(0.05)
    return found


def replica_processes(root: int | None = None) -> list[psutil.Process]:
    """The processes of replicas, all or those below a process."""
    found = []
    everywhere = psutil.Process(root).children(recursive=True) if root else psutil.process_iter()
    for process in everywhere:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            if "ray::ReplicaActor" in process.name() or "ray::ReplicaActor" in " ".join(process.cmdline()):
                found.append(process)
    return found


def named_processes(root: int, name: str) -> list[psutil.Process]:
    """The processes below one whose title holds a name."""
    found = []
    for process in family(root)[1:]:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            if name in " ".join(process.cmdline()):
                found.append(process)
    return found


def ray_agents(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those that look for their Ray for a minute when it was killed with its driver, and then end by themselves."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            title = " ".join(process.cmdline())
            if any(name in title for name in _RAY_AGENTS):
                found.append(process)
    return found


def running(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def tracebacks(text: str) -> list[str]:
    """The tracebacks that a run printed, but for those of Ray's dashboard, which does not start on a busy machine."""
    return [part for part in text.split("Traceback (most recent call last)")[1:] if "ray/dashboard/" not in part[:500]]


def journal_lines(run: RunDirectory) -> list[str]:
    """The search's reports so far."""
    path = Path(run.path, "search", "journal.jsonl")
    return [line for line in path.read_text().split("\n") if line] if path.exists() else []


def measured_files(run: RunDirectory) -> list[Path]:
    """The files of finished batches."""
    return list(Path(run.path, "measurements").glob("[!.]*.parquet"))


def family(pid: int) -> list[psutil.Process]:
    """A process and all that it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def kill(process: psutil.Process) -> None:
    """End a process as the system's out-of-memory killer does."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGKILL)
