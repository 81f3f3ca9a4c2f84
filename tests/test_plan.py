"""How replicas are laid on nodes: never more than a node holds, whatever the nodes and the settings."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydual.cluster.measuring import in_time
from raydual.errors import UserError
from raydual.plan.layout import Node, lay_out
from raydual.settings.schema import Execution

GIB = 2**30
nodes = st.lists(
    st.builds(Node, cpus=st.sampled_from([0, 0.5, 1, 2, 3, 4, 8, 64]), gpus=st.sampled_from([0, 0, 1, 2, 8])),
    max_size=6,
)
counts = st.one_of(st.just("auto"), st.integers(1, 40))
fractions = st.one_of(st.just("auto"), st.sampled_from([0, 0.1, 0.25, 0.3, 0.5, 0.6, 1, 2]))


def placed(there, layout):
    """How many replicas Ray can place on nodes, one by one: whole CPUs and GPUs, or parts of one."""
    number = 0
    for node in there:
        cpus, gpus = node.cpus, [1.0] * int(node.gpus)
        while number < layout.replicas and layout.cpus <= cpus + 1e-6:
            if layout.gpus >= 1:
                if len([g for g in gpus if g == 1]) < layout.gpus:
                    break
                gpus = sorted(gpus)[: len(gpus) - int(layout.gpus)]
            elif layout.gpus:
                free = next((i for i, g in enumerate(gpus) if g >= layout.gpus - 1e-6), None)
                if free is None:
                    break
                gpus[free] -= layout.gpus
            cpus -= layout.cpus
            number += 1
            if not layout.cpus and not layout.gpus:
                break
    return number


@settings(max_examples=500, deadline=None)
@given(nodes, counts, fractions)
def test_every_replica_that_is_planned_has_a_place_on_a_node(there, replicas, per_replica):
    execution = Execution(replicas=replicas, gpus_per_replica=per_replica)
    try:
        layout = lay_out(there, [], execution, useful=1000)
    except UserError:
        return
    assert layout.now == layout.replicas > 0
    assert placed(there, layout) == layout.replicas
    assert layout.cpus < 1 or layout.cpus == int(layout.cpus)
    if replicas != "auto":
        assert layout.replicas == replicas
    if per_replica != "auto":
        assert layout.gpus == per_replica


@settings(max_examples=200, deadline=None)
@given(nodes, nodes, counts)
def test_what_may_come_counts_but_is_not_there(there, coming, replicas):
    execution = Execution(replicas=replicas)
    try:
        layout = lay_out(there, coming, execution, useful=1000)
    except UserError:
        return
    assert layout.now <= layout.replicas
    assert placed([*there, *coming], layout) == layout.replicas
    assert layout.now <= placed(there, layout)


@pytest.mark.parametrize(
    ("there", "execution", "replicas", "cpus", "gpus"),
    [
        ([Node(1, 1)] * 3, {}, 3, 1.0, 1.0),
        ([Node(4, 1)] * 2, {}, 2, 1.0, 1.0),
        ([Node(0, 0), Node(1, 0), Node(1, 0)], {}, 2, 1.0, 0.0),
        ([Node(1, 0)] * 3 + [Node(4, 0)], {}, 7, 1.0, 0.0),
        ([Node(16, 1)], {"gpus_per_replica": 0.25}, 4, 1.0, 0.25),
        ([Node(1, 1)], {"gpus_per_replica": 0.25}, 4, 0.25, 0.25),
        ([Node(0, 1), Node(8, 0)], {}, 1, 0.0, 1.0),
        ([Node(2, 0)], {}, 2, 1.0, 0.0),
        ([Node(64, 0)], {}, 31, 2.0, 0.0),
        ([Node(9, 0)], {"replicas": 3}, 3, 2.0, 0.0),
        ([Node(2, 0)], {"replicas": 1}, 1, 1.0, 0.0),
        ([Node(4, 0)] * 8, {"replicas": 32}, 32, 1.0, 0.0),
        ([Node(9, 2)], {"gpus_per_replica": 0}, 4, 2.0, 0.0),
    ],
)
def test_layouts_of_clusters_of_many_kinds(there, execution, replicas, cpus, gpus):
    layout = lay_out(there, [], Execution(**execution), useful=1000)
    assert (layout.replicas, layout.cpus, layout.gpus) == (replicas, cpus, gpus)


def test_there_are_no_more_replicas_than_are_useful_and_copies_of_the_model_fit_into_memory():
    assert lay_out([Node(64, 0)], [], Execution(), useful=3).replicas == 3
    assert lay_out([Node(64, 0, 40 * GIB)], [], Execution(), useful=99, model_bytes=10 * GIB).replicas == 3
    assert lay_out([Node(2, 0, 8 * GIB)], [], Execution(), useful=99, model_bytes=10 * GIB).replicas == 1


def test_replicas_of_a_node_share_its_threads_and_memory():
    shared = lay_out([Node(8, 1)], [], Execution(gpus_per_replica=0.25), useful=99)
    assert (shared.threads, shared.memory_share) == (2, 0.25)
    halves = lay_out([Node(2, 0)], [], Execution(), useful=99)
    assert (halves.threads, halves.memory_share) == (1, 0.5)


@pytest.mark.parametrize(
    ("there", "execution", "said"),
    [
        ([], {}, "cluster: no node holds a replica of 0.1 CPU; there is no node"),
        ([Node(0, 0)], {}, "cluster: no node holds a replica of 0.1 CPU; there are 1 × (0 CPU, 0 GPU)"),
        (
            [Node(4, 0)] * 2, {"gpus_per_replica": 1},
            "execution.gpus_per_replica: 1 is asked for, but no node has more than 0 GPUs",
        ),
        ([Node(9, 1)] * 2, {"gpus_per_replica": 2}, "execution.gpus_per_replica: 2 is asked for, but no node has more"),
        ([Node(9, 4)], {"gpus_per_replica": 1.5}, "execution.gpus_per_replica: 1.5 is neither a whole number nor"),
        ([Node(9, 2)], {"replicas": 3}, "execution.replicas: 3 of 1 CPU and 1 GPU are asked for, but the nodes hold 2"),
        ([Node(1, 0)] * 3, {"replicas": 31}, "execution.replicas: 31 of 0.1 CPU are asked for, but the nodes hold 30"),
    ],
)  # fmt: skip
def test_what_no_node_holds_is_told_with_the_setting_to_change(there, execution, said):
    with pytest.raises(UserError) as error:
        lay_out(there, [], Execution(**execution), useful=1000)
    assert str(error.value).startswith(said)


@given(count=st.integers(0, 100), seconds=st.floats(0, 1000))
def test_a_batch_of_more_than_ten_minutes_is_cut_into_parts_of_five(count, seconds):
    cases = list(range(count))
    parts = list(in_time(cases, seconds))
    assert [case for part in parts for case in part] == cases
    if count * seconds <= 600:
        assert len(parts) == min(1, count)
    else:
        assert all(len(part) == 1 or len(part) * seconds <= 300 for part in parts)
        assert all((len(part) + 1) * seconds > 300 for part in parts[:-1]), "no smaller than needed"
