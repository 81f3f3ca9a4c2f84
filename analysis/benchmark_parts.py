"""Clocks of the benchmark: the machine's matmul rate, seconds by part, memory."""

import functools
import platform
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import raydual.measure.seeds as replica_module
from raydual.measure import chunk_metrics

PARTS = ("prefix", "icl", "simdual", "fine-tuning", "ft", "simdw", "metrics", "rest")
"""Where a replica's time goes.

`icl` is the in-context pass without `simdual`, which is what its recorder does at every layer (SimDual, and keeping the
last token's attention); `simdw` with the zero-shot inputs it needs; `metrics` everything computed from the recordings.
"""


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """(wall-clock seconds, result) of a call, the device's work included."""
    synchronize(device)
    started = time.perf_counter()
    result = call()
    synchronize(device)
    return time.perf_counter() - started, result


def matmul_rate(dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of a large square matrix product in `dtype`: the best of several."""
    size, repeats = (8192, 20) if device.type == "cuda" else (1536, 5)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    for _ in range(2):
        a @ b
    return 2 * size**3 / min(seconds_of(lambda: a @ b, device)[0] for _ in range(repeats))


class Clock:
    """Seconds by part; time inside an inner part is not the outer one's."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self._stack: list[str] = []
        self._since = 0.0

    def _charge(self) -> None:
        synchronize(self.device)
        now = time.perf_counter()
        if self._stack:
            self.seconds[self._stack[-1]] += now - self._since
        self._since = now

    def inside(self, name: str) -> bool:
        """Whether a part is being timed, or one within it."""
        return name in self._stack

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Charge the block to `name`."""
        self._charge()
        self._stack.append(name)
        try:
            yield
        finally:
            self._charge()
            self._stack.pop()

    def timed(self, function: Callable, name: str | Callable[..., str]) -> Callable:
        """`function`, charged to `name`, or to what `name` makes of the call's keyword arguments."""

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self.part(name if isinstance(name, str) else name(**kwargs)):
                return function(*args, **kwargs)

        return wrapped


def _condition(prefix: Any = None, **_: Any) -> str:
    return "ft" if prefix is None else "icl"


WATCHED: dict[tuple[Any, str], str | Callable[..., str]] = {
    (replica_module, "finetune"): "fine-tuning",
    (replica_module, "encode_prefix"): "prefix",
    (replica_module, "run_condition"): _condition,
    (chunk_metrics, "simdw"): "simdw",
    (replica_module, "context_updates"): "simdw",
    (replica_module, "recorded_values"): "metrics",
    (replica_module, "rank_metrics"): "metrics",
    (replica_module.DualRecorder, "before_attention"): "simdual",
    (replica_module.DualRecorder, "attention"): "simdual",
}
"""(place, name) of each function of the replica that is timed, and its part."""


@contextmanager
def watched(clock: Clock) -> Iterator[None]:
    """Charge a replica's work inside the block to its parts, and what is none of them to `rest`."""
    with ExitStack() as stack:
        for (place, name), part in WATCHED.items():
            stack.enter_context(mock.patch.object(place, name, clock.timed(getattr(place, name), part)))
        stack.enter_context(clock.part("rest"))
        yield


def peak_memory(device: torch.device) -> float:
    """GiB: on CUDA the most that tensors held since the last reset, else the process's largest resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def hardware(device: torch.device) -> str:
    """The GPU's name, or the processor's and the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.is_file() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    threads = torch.get_num_threads()
    return f"{named[0] if named else platform.processor() or platform.machine()}, {threads} thread{'s'[: threads > 1]}"
