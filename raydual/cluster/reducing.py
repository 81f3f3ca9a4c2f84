"""Metrics of a large run are reduced as Ray tasks, on whatever CPUs the cluster has free."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ray

from raydual.statistics.reduce import Job, Reduced

_SHARE_OF_STORE = 0.25


def map_on_ray(function: Callable[[Job], Reduced], jobs: Iterable[Job]) -> Iterator[Reduced]:
    """`map` as Ray tasks, in order: `reduce_run(run, map_large=map_on_ray)`.

    As many jobs are under way as the cluster has CPUs, if a quarter of a node's object store holds them. They ask for
    no CPU, since replicas may hold every one while they wait for the next run of the sweep.
    """
    task = ray.remote(_reduce)
    shared = ray.put(function)
    most, most_bytes = _room()
    running: deque[tuple[Any, int]] = deque()
    for job in jobs:
        while running and (len(running) >= most or sum(size for _, size in running) + job.bytes > most_bytes):
            yield ray.get(running.popleft()[0])
        running.append(
            (
                task.options(name=f"reduce {job.name}", num_cpus=0, scheduling_strategy="SPREAD").remote(shared, job),
                job.bytes,
            )
        )
    while running:
        yield ray.get(running.popleft()[0])


def _reduce(function: Callable[[Job], Reduced], job: Job) -> Reduced:
    return function(job)


def _room() -> tuple[int, float]:
    """How many jobs may be under way at once, and how many bytes of values in them."""
    resources = ray.cluster_resources()
    nodes = max(1, sum(1 for node in ray.nodes() if node["Alive"]))
    store = resources.get("object_store_memory", 0) / nodes
    return max(2, int(resources.get("CPU", 0))), _SHARE_OF_STORE * store
