"""A cluster of nodes in a process of its own: orders come as lines of JSON, and an answer goes out for each.

Ray reads its token once in a process, so that those that start clusters must not be those that run tests.
"""

import json
import os
import sys
from typing import Any, TextIO

from ray.cluster_utils import Cluster


def serve(orders: TextIO, answers: TextIO) -> None:
    """Do what is ordered until there are no more orders: start the head, add a node, kill a node."""
    nodes: list[Any] = []
    cluster: Cluster | None = None
    for line in orders:
        order, arguments = json.loads(line)
        answer: Any = None
        if order == "start":
            cluster = Cluster(initialize_head=True, head_node_args=arguments)
            answer = cluster.address
        elif order == "add":
            nodes.append(cluster.add_node(**arguments))
            answer = len(nodes) - 1
        elif order == "kill":
            cluster.remove_node(nodes[arguments["node"]], allow_graceful=False)
        print(json.dumps(answer), file=answers, flush=True)
    if cluster:
        cluster.shutdown()


if __name__ == "__main__":
    own = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Ray prints is no answer
    serve(sys.stdin, own)
