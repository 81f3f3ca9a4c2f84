"""Which type of worker the autoscaler launches next: the first in order that the cloud has not just refused.

Ray 2.60 records which type could not be launched, but its own choice does not look at the record: without this, a spot
type that has no capacity would be asked for again and again. The head's `RAY_AUTOSCALER_UTILIZATION_SCORER` names it.
"""

import re
from typing import Any

_ORDER = re.compile(r"\d+")
_LAST = 10**6


def score(
    node_resources: dict[str, Any],
    resources: list[dict[str, Any]],
    node_type: str,
    *,
    node_availability_summary: Any,
) -> tuple[Any, ...] | None:
    """How good a node type is for the demand, larger is better; None: nothing of it fits there.

    A type whose last launch failed comes after all others until Ray forgets the failure, by default after half an hour.
    Equal types are taken in the order of the first number in their names: `gpu-1-spot`, `gpu-2-on-demand`.
    """
    # Loaded only now: this module's tests and documentation need no Ray.
    from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer

    usual = _default_utilization_scorer(
        node_resources, resources, node_type, node_availability_summary=node_availability_summary
    )
    if usual is None:
        return None
    conserves_gpus, matching, *utilization = usual
    record = node_availability_summary.node_availabilities.get(node_type)
    available = record is None or record.is_available
    number = _ORDER.search(node_type)
    return (conserves_gpus, matching, available, -int(number[0]) if number else -_LAST, *utilization)
