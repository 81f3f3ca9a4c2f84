"""Ray Data streams demonstration sets, tokenized off the replicas' path, in the order of the groups."""

import logging
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import ray
import tokenizers
from ray.data import DataContext, TaskPoolStrategy
from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES,
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    BackpressurePolicy,
)
from ray.data._internal.execution.operators.task_pool_map_operator import TaskPoolMapOperator
from ray.data.block import BlockAccessor

from raydual.cluster.replica import Broken, in_one_line
from raydual.errors import UserError
from raydual.settings.controls import Control, control_named
from raydual.study import Case, Study, Unit

_TOKENIZERS = 2
_FEWEST_AHEAD = 2
_ASK_SECONDS = 0.05
_AHEAD_BYTES = 128 * 2**20


@dataclass(frozen=True)
class Group:
    """Units of one control that are measured together: those that could be tokenized, and those that could not."""

    control: Control
    cases: tuple[Case, ...]
    broken: tuple[Broken, ...]


@cache
def _tokenizer(text: Any) -> tokenizers.Tokenizer:
    """The tokenizer whose text a reference refers to, read once by each process."""
    return tokenizers.Tokenizer.from_str(ray.get(text))


class Tokenize:
    """A row that names the units of a group becomes a row with their cases.

    `study` and `tokenizer` refer to the study and its model's tokenizer, as text: a node that tokenizes need not have
    the model.
    """

    def __init__(self, study: Any, tokenizer: Any) -> None:
        self.study, self.tokenizer = study, tokenizer

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """`control`, `seeds` and `tuned_on` in; `group` out."""
        study: Study = ray.get(self.study)
        control = control_named(row["control"])
        units = [Unit(seed, control, other) for seed, other in zip(row["seeds"], row["tuned_on"], strict=True)]
        tokenizer = _tokenizer(self.tokenizer)
        cases = [_case(study, tokenizer, unit) for unit in units]
        return {
            "group": Group(
                control,
                tuple(case for case in cases if isinstance(case, Case)),
                tuple(case for case in cases if isinstance(case, Broken)),
            )
        }


def _case(study: Study, tokenizer: tokenizers.Tokenizer, unit: Unit) -> Case | Broken:
    try:
        return study.case(tokenizer, unit)
    except UserError as error:
        return Broken(unit.seed, unit.control.name, str(error))
    except Exception as error:
        return Broken(unit.seed, unit.control.name, in_one_line(error))


class _Ahead(BackpressurePolicy):
    """Keeps Ray Data from making more than so many blocks before they are asked for.

    Its own bounds are bytes, which the blocks of a whole run may not reach; then what the dashboard shows of the stream
    would be over in a moment, instead of advancing as the run does.
    """

    name = "Ahead"

    def __init__(self, most: int, context: DataContext, topology: Any, manager: Any) -> None:
        super().__init__(context, topology, manager)
        self.most = most

    def can_add_input(self, op: Any) -> bool:
        """Whether an operator that runs tasks may start another one."""
        if not isinstance(op, TaskPoolMapOperator):
            return True
        state = self._topology[op]
        if op.metrics.num_tasks_running + state.total_enqueued_output_blocks() < self.most:
            return True
        # Ray's loop asks again at once, and would keep a core busy with asking.
        time.sleep(_ASK_SECONDS)
        return False


def tokenized(study: Study, shared: Any, groups: Sequence[Sequence[Unit]], replicas: int) -> Generator[Group]:
    """The groups, one by one, as they are asked for; `shared` refers to the study.

    They are made a little ahead of that, the more so the more `replicas` there may be.
    """
    _quieten(max(_FEWEST_AHEAD, replicas // 2))
    # Items, and tasks that ask for no CPU: the replicas may hold every CPU that there is.
    rows = [
        {
            "control": group[0].control.name,
            "seeds": [unit.seed for unit in group],
            "tuned_on": [unit.tuned_on for unit in group],
        }
        for group in groups
    ]
    tokenizer = ray.put(study.source.tokenizer().to_str())
    stream = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        Tokenize(shared, tokenizer),
        num_cpus=0,
        compute=TaskPoolStrategy(size=min(_TOKENIZERS, len(rows))),
    )
    stream.set_name(f"demonstrations of {study.config.name}")
    # Bundle by bundle, without the threads that prefetch batches: they would outlive a run that is stopped.
    bundles = stream.iter_internal_ref_bundles()
    try:
        for bundle in bundles:
            for block in bundle.block_refs:
                row: dict[str, Any]
                for row in BlockAccessor.for_block(ray.get(block)).iter_rows(public_row_format=True):
                    yield row["group"]
    finally:
        # Its executor ends with the last reference to it.
        del bundles


def _quieten(ahead: int) -> None:
    """The run tells its own progress; demonstrations are made little ahead of the replicas."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = context.execution_options.resource_limits.copy(
        object_store_memory=_AHEAD_BYTES
    )
    # What is made waits until the replicas ask for more, however long they take.
    context.execution_no_progress_timeout_s = -1
    policies = [*ENABLED_BACKPRESSURE_POLICIES, partial(_Ahead, ahead)]
    context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, policies)
