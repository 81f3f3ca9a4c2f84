"""What an autoscaler may add is read from its own file: never more of all kinds together than it may start."""

import pytest
import yaml

from raydual.cluster import nodes
from raydual.plan.layout import Node

CONFIG = {
    "max_workers": 5,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 0}, "max_workers": 0},
        "spot": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 3},
        "on-demand": {"resources": {"CPU": 8, "GPU": 2}, "max_workers": 4},
        "large": {"resources": {"CPU": 64}},
    },
}


def alive(*kinds):
    return [{"Alive": True, "Labels": {"ray.io/node-group": kind}, "Resources": {}} for kind in kinds]


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A cluster with running nodes of some kinds, and the autoscaler's file."""

    def make(*running, config=CONFIG):
        file = tmp_path / "autoscaler.yaml"
        file.write_text(yaml.safe_dump(config))
        monkeypatch.setattr(nodes, "_autoscaler_file", lambda: file)
        monkeypatch.setattr(nodes.ray, "nodes", lambda: alive("head", *running))
        return nodes.nodes_coming()

    return make


def test_nodes_of_all_kinds_together_are_no_more_than_the_autoscaler_may_start(cluster):
    assert cluster() == [Node(8, 2, count=4), Node(4, 1, count=1)]
    assert cluster("spot", "spot") == [Node(8, 2, count=3)]
    assert cluster(*["spot"] * 3, *["on-demand"] * 2) == []


def test_without_a_most_of_its_own_a_kind_may_be_all_workers(cluster):
    only = {**CONFIG, "available_node_types": {"large": {"resources": {"CPU": 64}}}}
    assert cluster(config=only) == [Node(64, 0, count=5)]


def test_a_cluster_without_an_autoscaler_gets_no_more_nodes(monkeypatch):
    monkeypatch.setattr(nodes, "_autoscaler_file", lambda: None)
    monkeypatch.setattr(nodes, "_types_reported", lambda: ([], None))
    monkeypatch.setattr(nodes.ray, "nodes", lambda: alive("head"))
    assert nodes.nodes_coming() == []
    assert nodes.gpus_coming() == 0
