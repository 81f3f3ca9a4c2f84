"""Ray Data streams demonstration sets to a pool of replicas; finished batches come back one by one."""

import logging
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext

from raydual.cluster.plan import ReplicaPlan
from raydual.config import Finetune
from raydual.measure.study import Study
from raydual.model.source import ModelSource
from raydual.results import measurement_table

_STALLED_SECONDS = 600
# Another amount than a replica's, or Ray Data would fuse tokenising into the replicas' own time.
_TOKENIZE_CPUS = 0.5


@cache
def _tokenizer(source: ModelSource) -> Any:
    return source.tokenizer()


class Tokenize:
    """A batch of seeds becomes a batch of tokenized demonstration sets, off the replicas' path."""

    def __init__(self, study: Any) -> None:
        self.study = study

    def __call__(self, batch: pa.Table) -> dict[str, list[Any]]:
        """`seed` in, `demonstrations` (one object a seed) out."""
        study: Study = ray.get(self.study)
        tokenizer = _tokenizer(study.source)
        return {"demonstrations": [study.demonstrations(tokenizer, seed) for seed in batch["seed"].to_pylist()]}


class MeasuringActor:
    """A replica as Ray Data's pool holds it: loads once, then measures batch after batch."""

    def __init__(self, study: Any, zero_shot: Any, settings: Finetune, threads: int) -> None:
        from raydual.measure.replica import Replica

        loaded, queries, config = _load(ray.get(study), threads)
        self.settings = settings
        self.replica = Replica(loaded, queries, config, ray.get(zero_shot))

    def __call__(self, batch: dict[str, Any]) -> pa.Table:
        """Tokenized demonstration sets in, the rows of the measurements' schema out."""
        return measurement_table(self.replica.measure(list(batch["demonstrations"]), self.settings))


def _load(study: Study, threads: int) -> tuple:
    import torch

    from raydual.model.loading import load_model

    torch.set_num_threads(threads)
    config = study.config
    loaded = load_model(config.model, revision=config.revision, dtype=config.dtype)
    return loaded, study.queries(loaded.tokenizer, "measured"), config


def _zero_shot(study: Study, threads: int) -> Any:
    from raydual.measure.replica import Replica

    return Replica(*_load(study, threads)).measure_zero_shot()


def measure(study: Study, seeds: Sequence[int], settings: Finetune, plan: ReplicaPlan) -> Iterator[pa.Table]:
    """The measured rows of `seeds`, a table for each batch of seeds as soon as it is finished, in any order."""
    _quieten()
    resources: dict[str, Any] = {"num_cpus": plan.cpus, "num_gpus": plan.gpus}
    shared = ray.put(study)
    zero_shot = ray.remote(_zero_shot).options(**resources).remote(shared, plan.threads)
    ray.wait([zero_shot])
    size = study.config.execution.seeds_per_batch
    blocks = [pa.table({"seed": seeds[i : i + size]}) for i in range(0, len(seeds), size)]
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
