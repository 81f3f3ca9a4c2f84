"""Ray Data streams demonstration sets to a pool of replicas; finished batches come back one by one."""

import logging
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby, islice
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext

from raydual.cluster.plan import ReplicaPlan
from raydual.config import Finetune
from raydual.controls import control_named
from raydual.measure.study import Study, Unit
from raydual.model.source import ModelSource
from raydual.results import measurement_table

_STALLED_SECONDS = 600
# Another amount than a replica's, or Ray Data would fuse tokenising into the replicas' own time.
_TOKENIZE_CPUS = 0.5


@cache
def _tokenizer(source: ModelSource) -> Any:
    return source.tokenizer()


class Tokenize:
    """A batch of units becomes a batch of cases, tokenized off the replicas' path."""

    def __init__(self, study: Any) -> None:
        self.study = study

    def __call__(self, batch: pa.Table) -> dict[str, list[Any]]:
        """`seed`, `control` and `tuned_on` in; `control` and `case` (one object a unit) out."""
        study: Study = ray.get(self.study)
        tokenizer = _tokenizer(study.source)
        units = [Unit(row["seed"], control_named(row["control"]), row["tuned_on"]) for row in batch.to_pylist()]
        return {"control": [u.control.name for u in units], "case": [study.case(tokenizer, unit) for unit in units]}


class MeasuringActor:
    """A replica as Ray Data's pool holds it: loads once, then measures batch after batch."""

    def __init__(self, study: Any, zero_shot: Any, settings: Finetune, threads: int) -> None:
        self.bench = _bench(ray.get(study), threads, settings, ray.get(zero_shot))

    def __call__(self, batch: dict[str, Any]) -> pa.Table:
        """Cases of one control in, the rows of the measurements' schema out."""
        return measurement_table(self.bench.measure(control_named(batch["control"][0]), list(batch["case"])))


def _bench(study: Study, threads: int, settings: Finetune, zero_shot: Any = None) -> Any:
    import torch

    from raydual.measure.bench import Bench
    from raydual.model.loading import load_model

    torch.set_num_threads(threads)
    config = study.config
    return Bench(load_model(config.model, revision=config.revision, dtype=config.dtype), study, settings, zero_shot)


def _zero_shot(study: Study, threads: int, settings: Finetune) -> Any:
    return _bench(study, threads, settings).shares()


def _batches(units: Sequence[Unit], plan: ReplicaPlan) -> Iterator[list[Unit]]:
    """Units of one control, as many at a time as the plan says, or fewer if then every replica gets some."""
    size = min(plan.batch, -(-len(units) // plan.replicas))
    for _, of_control in groupby(units, key=lambda unit: unit.control.name):
        while batch := list(islice(of_control, size)):
            yield batch


def measure(study: Study, units: Sequence[Unit], settings: Finetune, plan: ReplicaPlan) -> Iterator[pa.Table]:
    """The measured rows of `units`, a table for each batch of them as soon as it is finished, in any order."""
    _quieten()
    resources: dict[str, Any] = {"num_cpus": plan.cpus, "num_gpus": plan.gpus}
    shared = ray.put(study)
    zero_shot = ray.remote(_zero_shot).options(**resources).remote(shared, plan.threads, settings)
    ray.wait([zero_shot])
    blocks = [
        pa.table(
            {
                "seed": [unit.seed for unit in batch],
                "control": [unit.control.name for unit in batch],
                "tuned_on": [unit.tuned_on for unit in batch],
            }
        )
        for batch in _batches(units, plan)
    ]
    results = (
        ray.data.from_arrow(blocks)
        .map_batches(Tokenize(shared), batch_size=None, batch_format="pyarrow", num_cpus=_TOKENIZE_CPUS)
        .map_batches(
            MeasuringActor,
            fn_constructor_args=(shared, zero_shot, settings, plan.threads),
            batch_size=None,
            batch_format="numpy",
            compute=ActorPoolStrategy(size=min(plan.replicas, len(blocks))),
            **resources,
        )
    )
    yield from results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


def _quieten() -> None:
    """The run tells its own progress; a stage that stands still becomes an error that names the operator."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = _STALLED_SECONDS
