"""How a stage is laid on a cluster's resources: a pure function, so that no stage can starve itself."""

from dataclasses import dataclass

from raydual.config import Execution
from raydual.errors import UserError


@dataclass(frozen=True)
class ReplicaPlan:
    """`replicas` actors with `cpus` and `gpus` each, that get `batch` seeds at a time; one CPU is left for Ray Data."""

    replicas: int
    cpus: float
    gpus: float
    batch: int

    @property
    def threads(self) -> int:
        """Torch threads of a replica."""
        return max(1, int(self.cpus))


def plan_replicas(cpus: float, gpus: float, execution: Execution) -> ReplicaPlan:
    """Lay out replicas on `cpus` and `gpus` in all.

    With GPUs, one replica each by default; without, half the CPUs are replicas. One CPU always stays free for
    the tasks that feed them.

    Raises
    ------
    UserError
        The resources do not hold what is asked for.
    """
    spare = cpus - 1
    if spare <= 0:
        raise UserError(f"cluster: it has {cpus:g} CPU, but a replica and Ray Data's tasks need at least 2")
    per_replica = execution.gpus_per_replica
    each = (1.0 if gpus else 0.0) if per_replica == "auto" else per_replica
    if each > gpus:
        raise UserError(f"execution.gpus_per_replica: {each:g} is asked for, but the cluster has {gpus:g} GPUs")
    if execution.replicas != "auto":
        replicas = execution.replicas
    else:
        replicas = int(gpus / each) if each else max(1, int(spare / 2))
    if replicas * each > gpus:
        raise UserError(
            f"execution.replicas: {replicas} with {each:g} GPUs each need {replicas * each:g}, "
            f"but the cluster has {gpus:g}"
        )
    share = min(1.0, spare / replicas) if each else spare / replicas
    if share < 0.1:
        raise UserError(
            f"execution.replicas: {replicas} replicas share {spare:g} CPUs, which is too little; take fewer"
        )
    # Ray takes whole CPUs, or a fraction of one.
    batch = execution.most_seeds_per_batch(each > 0)
    return ReplicaPlan(replicas, float(int(share)) if share >= 1 else round(share, 3), each, batch)
