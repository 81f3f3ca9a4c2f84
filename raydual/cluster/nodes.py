"""What a cluster has, and what its autoscaler may add."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import ray
import yaml

from raydual.plan.layout import Node

_MONITOR = "--autoscaling-config="
_TYPE_LABEL = "ray.io/node-group"


def nodes_there() -> list[Node]:
    """The nodes that are alive."""
    return [_node(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def nodes_coming() -> list[Node]:
    """How many more nodes of each kind the cluster's autoscaler may start; none where there is no autoscaler.

    The kinds are read from the file that the autoscaler on this machine was started with, or else from what it
    reported to the cluster.
    """
    types, most = _types_of_file() or _types_reported()
    running = Counter(node.get("Labels", {}).get(_TYPE_LABEL, "") for node in ray.nodes() if node["Alive"])
    left = max(0, most - sum(running[name] for name, *_ in types)) if most is not None else None
    found = []
    # All kinds share one limit: those with GPUs come first, as a sweep wants them.
    for name, resources, count in sorted(types, key=lambda kind: -kind[1].get("GPU", 0)):
        count = max(0, count - running[name])
        if left is not None:
            count = min(count, left)
            left -= count
        if count:
            found.append(_node(resources, count))
    return found


def gpus_coming() -> float:
    """How many GPUs the autoscaler may add."""
    return sum(node.gpus * node.count for node in nodes_coming())


def machine() -> Node:
    """This machine as a local Ray would see it."""
    from ray._common.utils import get_system_memory
    from ray._private.accelerators import get_accelerator_manager_for_resource
    from ray._private.utils import get_num_cpus

    manager: Any = get_accelerator_manager_for_resource("GPU")
    visible = manager.get_current_process_visible_accelerator_ids()
    gpus = len(visible) if visible is not None else manager.get_current_node_num_accelerators()
    return Node(float(get_num_cpus()), float(gpus), float(get_system_memory()))


def _node(resources: dict[str, float], count: int = 1) -> Node:
    return Node(resources.get("CPU", 0.0), resources.get("GPU", 0.0), resources.get("memory", 0.0), count)


Types = tuple[list[tuple[str, dict[str, float], int]], int | None]


def _types_of_file() -> Types | None:
    """(name, resources, most) of every kind of worker, and the most of all, from the autoscaler's own file."""
    path = _autoscaler_file()
    if path is None:
        return None
    try:
        config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        kinds = config["available_node_types"]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return None
    most = config.get("max_workers")
    types = [
        (name, dict(kind.get("resources") or {}), int(kind.get("max_workers", most or 0)))
        for name, kind in kinds.items()
        if name != config.get("head_node_type")
    ]
    return types, most


def _autoscaler_file() -> Path | None:
    """The file of the autoscaler that serves this cluster, if it runs on this machine."""
    own = ray.get_runtime_context().gcs_address
    for process in psutil.process_iter(["cmdline"]):
        arguments = process.info["cmdline"] or []
        if any(own in argument for argument in arguments):
            for argument in arguments:
                if argument.startswith(_MONITOR):
                    return Path(os.path.expanduser(argument.removeprefix(_MONITOR)))  # noqa: PTH111
    return None


def _types_reported() -> Types:
    from ray._private.state import state

    config = state.get_cluster_config()
    if config is None:
        return [], None
    groups = [(g.name, dict(g.resources), int(g.max_count)) for g in config.node_group_configs]
    return [(name, resources, count if count >= 0 else 1000) for name, resources, count in groups], None
