"""Spot short of capacity: Ray's own choice among cluster.yaml's types of workers, with a record of failed launches."""

from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import yaml

from raydual.cluster import fallback

CLUSTER = yaml.safe_load((Path(__file__).parents[1] / "cluster.yaml").read_text(encoding="utf-8"))
FIRST, SECOND, THIRD = "gpu-1-spot-g6", "gpu-2-spot-g5", "gpu-3-on-demand-g6"


@pytest.fixture(scope="module")
def scheduler():
    """Imported late: Ray takes seconds."""
    from ray.autoscaler._private import resource_demand_scheduler

    return resource_demand_scheduler


class Launches:
    """Ray's tracker of launches, with a clock of its own."""

    def __init__(self):
        from ray.autoscaler._private.node_provider_availability_tracker import NodeProviderAvailabilityTracker

        self.now = 1000.0
        self.tracker = NodeProviderAvailabilityTracker(timer=lambda: self.now)

    def refused(self, node_type):
        from ray.autoscaler.node_launch_exception import NodeLaunchException

        failure = NodeLaunchException("InsufficientInstanceCapacity", "no capacity", None)
        self.tracker.update_node_availability(node_type, int(self.now), failure)

    def granted(self, node_type):
        self.tracker.update_node_availability(node_type, int(self.now), None)


def chosen(scheduler, launches, wanted=8, score=fallback.score, existing=None, bundle=None):
    """Which workers Ray launches for so many GPUs."""
    scorer = partial(score, node_availability_summary=launches.tracker.summary())
    bundles = [bundle or {"GPU": 1}] * wanted
    types, head = CLUSTER["available_node_types"], CLUSTER["head_node_type"]
    added, left = scheduler.get_nodes_for(types, existing or {head: 1}, head, CLUSTER["max_workers"], bundles, scorer)
    return Counter(added), len(left)


def test_rays_own_choice_ignores_that_a_type_was_refused(scheduler):
    """Why there is a scorer at all: as soon as this fails, fallback.py can go."""
    launches = Launches()
    (usual,) = chosen(scheduler, launches, score=scheduler._default_utilization_scorer)[0]
    launches.refused(usual)
    assert set(chosen(scheduler, launches, score=scheduler._default_utilization_scorer)[0]) == {usual}


def test_rays_second_autoscaler_takes_no_note_of_a_refusal():
    """Why cluster.yaml turns it off: what the cloud refuses becomes ALLOCATION_FAILED there, and nothing is learnt."""
    from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import CloudResourceMonitor
    from ray.core.generated.instance_manager_pb2 import Instance, InstanceUpdateEvent

    monitor = CloudResourceMonitor()
    monitor.notify([InstanceUpdateEvent(instance_type=FIRST, new_instance_status=Instance.ALLOCATION_FAILED)])
    assert monitor.get_recoverable_resource_availabilities() == {}
    monitor.notify([InstanceUpdateEvent(instance_type=FIRST, new_instance_status=Instance.ALLOCATION_TIMEOUT)])
    assert set(monitor.get_recoverable_resource_availabilities()) == {FIRST}


def test_the_first_type_is_taken_while_the_cloud_has_it(scheduler):
    launches = Launches()
    assert chosen(scheduler, launches) == (Counter({FIRST: 8}), 0)
    launches.granted(FIRST)
    assert chosen(scheduler, launches) == (Counter({FIRST: 8}), 0)


def test_a_refused_type_gives_way_to_the_next_and_comes_back(scheduler):
    launches = Launches()
    launches.refused(FIRST)
    assert chosen(scheduler, launches) == (Counter({SECOND: 8}), 0)
    launches.now += 60
    launches.refused(SECOND)
    assert chosen(scheduler, launches) == (Counter({THIRD: 8}), 0)
    launches.now += 60
    launches.refused(THIRD)
    assert chosen(scheduler, launches) == (Counter({FIRST: 8}), 0), "nothing is left: from the beginning"
    launches.granted(SECOND)
    assert chosen(scheduler, launches) == (Counter({SECOND: 8}), 0)
    launches.now += 31 * 60
    assert chosen(scheduler, launches) == (Counter({FIRST: 8}), 0), "forgotten after half an hour"


def test_workers_that_are_there_count(scheduler):
    launches = Launches()
    launches.refused(FIRST)
    added, left = chosen(scheduler, launches, existing={"head": 1, SECOND: 6}, wanted=8)
    assert added == {SECOND: 2, THIRD: 6}
    assert left == 0


def test_what_fits_nowhere_is_not_launched(scheduler):
    assert chosen(scheduler, Launches(), wanted=1, bundle={"GPU": 2}) == (Counter(), 1)


def test_the_head_uses_it():
    (option,) = [o for o in CLUSTER["docker"]["head_run_options"] if "UTILIZATION_SCORER" in o]
    from ray.autoscaler._private.constants import AUTOSCALER_UTILIZATION_SCORER_KEY
    from ray.autoscaler._private.loader import load_function_or_class

    name, _, path = option.removeprefix("--env ").partition("=")
    assert name == AUTOSCALER_UTILIZATION_SCORER_KEY
    assert load_function_or_class(path) is fallback.score
    start = CLUSTER["head_start_ray_commands"][-1]
    assert "export RAY_enable_autoscaler_v2=0;" in start.partition("ray start")[0]
