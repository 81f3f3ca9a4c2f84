"""How replicas are laid on the nodes of a cluster: a pure function of the nodes, not of totals."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from raydual.errors import UserError
from raydual.settings.schema import Execution

# Below so many CPUs a node's replicas have one each; above, two: more replicas would hold more copies of the model.
_LARGE_NODE = 8
_LEAST_CPUS = 0.1
_ROUNDING = 1e-6
_MEMORY_SHARE = 0.8


@dataclass(frozen=True)
class Node:
    """A node, or `count` alike that an autoscaler may still start; `memory` in bytes, 0: unknown."""

    cpus: float
    gpus: float
    memory: float = 0.0
    count: int = 1


@dataclass(frozen=True)
class Layout:
    """At most `replicas` actors of `cpus` and `gpus` each, of which `now` fit on the nodes that are there.

    A replica has `threads` torch threads, shares its node with `neighbours` others, and gets `batch` seeds at a time.
    What feeds replicas asks for no CPU, so none is kept free for it.
    """

    replicas: int
    now: int
    cpus: float
    gpus: float
    threads: int
    neighbours: int
    batch: int

    def describe(self) -> str:
        """The shape of a replica in words."""
        return f"{self.cpus:g} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")

    @property
    def memory_share(self) -> float:
        """The part of its device's free memory that a replica may count on."""
        return min(1.0, self.gpus) if self.gpus else 1 / (1 + self.neighbours)


@dataclass(frozen=True)
class Shape:
    """What one replica asks for; `memory` in bytes counts only where it computes on the CPU."""

    cpus: float
    gpus: float
    memory: float = 0.0

    def fitting(self, node: Node) -> int:
        """How many fit on one such node: Ray never cuts a replica in parts, nor a share of a GPU over two."""
        if self.gpus:
            by_gpu = int(node.gpus) * _whole(1 / self.gpus) if self.gpus < 1 else _whole(node.gpus / self.gpus)
            return min(by_gpu, _whole(node.cpus / self.cpus)) if self.cpus else by_gpu
        # Replicas with several threads suffer from what else runs on their cores, so they leave one.
        cpus = node.cpus - 1 if self.cpus > 1 else node.cpus
        fitting = _whole(max(cpus, 0) / self.cpus)
        if fitting and self.memory and node.memory:
            return max(1, min(fitting, _whole(_MEMORY_SHARE * node.memory / self.memory)))
        return fitting

    def fitting_all(self, nodes: Iterable[Node]) -> int:
        """How many fit on all of `nodes`."""
        return sum(self.fitting(node) * node.count for node in nodes)


def lay_out(
    nodes: Sequence[Node],
    coming: Sequence[Node],
    execution: Execution,
    *,
    useful: int,
    model_bytes: float = 0.0,
) -> Layout:
    """Lay replicas on the `nodes` that are there and those that are `coming` if they are asked for.

    By default a GPU holds one replica; without GPUs every CPU does, or every two CPUs of a large node, as far as
    copies of a model of `model_bytes` fit into memory. There are never more than are `useful`.

    Raises
    ------
    UserError
        No node, there or coming, holds a replica as it is asked for, or all together not as many.
    """
    everywhere = [*nodes, *coming]
    gpus = _gpus_each(everywhere, execution)
    shape = _gpu_shape(everywhere, gpus) if gpus else _cpu_shape(everywhere, execution, model_bytes)
    most = shape.fitting_all(everywhere)
    if not most:
        raise UserError(f"cluster: no node holds a replica of {_words(shape)}; {_listed(nodes, coming)}")
    wanted = execution.replicas
    if wanted != "auto" and wanted > most:
        raise UserError(
            f"execution.replicas: {wanted} of {_words(shape)} are asked for, but the nodes hold {most}; "
            f"{_listed(nodes, coming)}"
        )
    replicas = max(1, min(most if wanted == "auto" else wanted, useful))
    fullest = max((node for node in everywhere), key=shape.fitting)
    on_fullest = min(shape.fitting(fullest), replicas)
    return Layout(
        replicas=replicas,
        now=min(replicas, shape.fitting_all(nodes)),
        cpus=shape.cpus,
        gpus=shape.gpus,
        threads=max(1, int(fullest.cpus / on_fullest) if shape.gpus else int(shape.cpus)),
        neighbours=on_fullest - 1,
        batch=execution.most_seeds_per_batch(shape.gpus > 0),
    )


def _gpus_each(nodes: Sequence[Node], execution: Execution) -> float:
    asked = execution.gpus_per_replica
    most = max((node.gpus for node in nodes), default=0)
    if asked == "auto":
        return 1.0 if most else 0.0
    if asked > 1 and asked != int(asked):
        raise UserError(f"execution.gpus_per_replica: {asked:g} is neither a whole number nor below 1")
    if asked > most:
        raise UserError(f"execution.gpus_per_replica: {asked:g} is asked for, but no node has more than {most:g} GPUs")
    return float(asked)


def _gpu_shape(nodes: Sequence[Node], gpus: float) -> Shape:
    """Of CPUs a replica asks for as little as lets every GPU be used, at most one."""
    alone = Shape(0.0, gpus)
    shares = [node.cpus / alone.fitting(node) for node in nodes if alone.fitting(node)]
    return Shape(math.floor(min(1.0, *shares) * 1000) / 1000 if shares else 0.0, gpus)


def _cpu_shape(nodes: Sequence[Node], execution: Execution, memory: float) -> Shape:
    largest = max((node.cpus for node in nodes), default=0)
    usual = 2.0 if all(node.cpus >= _LARGE_NODE for node in nodes if node.cpus) else 1.0
    if execution.replicas == "auto":
        return Shape(min(usual, max(largest, _LEAST_CPUS)), 0.0, memory)
    whole = [float(cpus) for cpus in range(int(largest), 0, -1)]
    for cpus in (*whole, 0.75, 0.5, 0.25, _LEAST_CPUS):
        shape = Shape(cpus, 0.0)
        if shape.fitting_all(nodes) >= execution.replicas:
            return shape
    return Shape(_LEAST_CPUS, 0.0)


def _whole(number: float) -> int:
    return math.floor(number + _ROUNDING)


def _words(shape: Shape) -> str:
    return f"{shape.cpus:g} CPU" + (f" and {shape.gpus:g} GPU" if shape.gpus else "")


def _listed(nodes: Sequence[Node], coming: Sequence[Node]) -> str:
    """The nodes in words, for a message."""

    def alike(nodes: Sequence[Node]) -> str:
        counts: dict[str, int] = {}
        for node in nodes:
            words = f"{node.cpus:g} CPU, {node.gpus:g} GPU"
            counts[words] = counts.get(words, 0) + node.count
        return "; ".join(f"{count} × ({words})" for words, count in counts.items())

    there = f"there are {alike(nodes)}" if nodes else "there is no node"
    return there + (f", the autoscaler may add {alike(coming)}" if coming else "")
