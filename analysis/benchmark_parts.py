"""Clocks of the benchmark: the machine's matmul rate, seconds by part, memory."""

import platform
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

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


def seconds_by_part(call: Callable[[], Any], device: torch.device) -> dict[str, float]:
    """Seconds of a call in each of `PARTS`, from the ranges that it records (`torch.profiler.record_function`).

    On CUDA a part has the seconds of its kernels, and `rest` is what the device was idle or did for none of them.
    """
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities, acc_events=True) as profiler:
        total, _ = seconds_of(call, device)
    seconds = dict.fromkeys(PARTS, 0.0)
    ranges = [
        event
        for event in profiler.events() or ()
        if event.is_user_annotation and event.name in seconds and event.device_type == DeviceType.CPU
    ]
    around: list[Any] = []
    for event in sorted(ranges, key=lambda event: (event.time_range.start, -event.time_range.end)):
        took = (event.device_time_total if device.type == "cuda" else event.cpu_time_total) / 1e6
        seconds[event.name] += took
        while around and around[-1].time_range.end <= event.time_range.start:
            around.pop()
        # What is within another part is not that one's own.
        if around:
            seconds[around[-1].name] -= took
        around.append(event)
    seconds["rest"] = total - sum(seconds.values())
    return seconds


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
