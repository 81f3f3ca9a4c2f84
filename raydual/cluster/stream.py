"""Ray Data streams demonstration sets, tokenized off the replicas' path, in the order of the groups."""

import logging
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import ray
from ray.data import DataContext, TaskPoolStrategy
from ray.data.block import BlockAccessor

from raydual.cluster.replica import Broken, in_one_line
from raydual.controls import Control, control_named
from raydual.errors import UserError
from raydual.measure.study import Case, Study, Unit
from raydual.model.source import ModelSource

_TOKENIZERS = 2
_AHEAD_BYTES = 128 * 2**20


@dataclass(frozen=True)
class Group:
    """Units of one control that are measured together: those that could be tokenized, and those that could not."""

    control: Control
    cases: tuple[Case, ...]
    broken: tuple[Broken, ...]


@cache
def _tokenizer(source: ModelSource) -> Any:
    return source.tokenizer()


class Tokenize:
    """A row that names the units of a group becomes a row with their cases."""

    def __init__(self, study: Any) -> None:
        self.study = study

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """`control`, `seeds` and `tuned_on` in; `group` out."""
        study: Study = ray.get(self.study)
        control = control_named(row["control"])
        units = [Unit(seed, control, other) for seed, other in zip(row["seeds"], row["tuned_on"], strict=True)]
        cases = [_case(study, unit) for unit in units]
        return {
            "group": Group(
                control,
                tuple(case for case in cases if isinstance(case, Case)),
                tuple(case for case in cases if isinstance(case, Broken)),
            )
        }


def _case(study: Study, unit: Unit) -> Case | Broken:
    try:
        return study.case(_tokenizer(study.source), unit)
    except UserError as error:
        return Broken(unit.seed, unit.control.name, str(error))
    except Exception as error:
        return Broken(unit.seed, unit.control.name, in_one_line(error))


def tokenized(title: str, shared: Any, groups: Sequence[Sequence[Unit]]) -> Generator[Group]:
    """The groups, one by one, as they are asked for; `shared` refers to the study."""
    _quieten()
    # Items, and tasks that ask for no CPU: the replicas may hold every CPU that there is.
    rows = [
        {
            "control": group[0].control.name,
            "seeds": [unit.seed for unit in group],
            "tuned_on": [unit.tuned_on for unit in group],
        }
        for group in groups
    ]
    stream = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        Tokenize(shared), num_cpus=0, compute=TaskPoolStrategy(size=_TOKENIZERS)
    )
    stream.set_name(title)
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


def _quieten() -> None:
    """The run tells its own progress; demonstrations are made little ahead of the replicas."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = context.execution_options.resource_limits.copy(
        object_store_memory=_AHEAD_BYTES
    )
