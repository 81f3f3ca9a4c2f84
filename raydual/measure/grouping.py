"""How many seeds are measured at once: what memory holds, and half of that where it does not."""

import gc
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from raydual.data.prompts import DemonstrationSet, Queries
from raydual.errors import OUT_OF_MEMORY, UserError
from raydual.model.anatomy import Shape
from raydual.model.loading import LoadedModel
from raydual.plan.cost import MemoryFormula
from raydual.settings.schema import Execution, Finetune

Item = TypeVar("Item")
Result = TypeVar("Result")

_USED_SHARE = 0.8


class Groups:
    """Cuts work into groups of at most `size` items; a group that memory does not hold is tried again by halves."""

    def __init__(self, size: int) -> None:
        self.size = size

    def each(self, items: Sequence[Item], function: Callable[[Sequence[Item]], Result]) -> list[Result]:
        """`function` of every group, in order. A size that was too large is not tried again.

        Raises
        ------
        UserError
            Memory does not hold a single item.
        """
        results: list[Result] = []
        done = 0
        while done < len(items):
            group = items[done : done + self.size]
            result = _unless_out_of_memory(function, group)
            if result is None:
                if len(group) == 1:
                    raise UserError(
                        "execution.batch_size: memory does not hold one seed at a time; take fewer examples at once, "
                        "fewer demonstrations, or bfloat16"
                    )
                self.size = len(group) // 2
                continue
            results.append(result[0])
            done += len(group)
        return results


def _unless_out_of_memory(function: Callable[[Sequence[Item]], Result], group: Sequence[Item]) -> tuple[Result] | None:
    """The result, in a tuple, or None if memory ran out; then everything that the attempt held is free again."""
    try:
        return (function(group),)
    except RuntimeError as error:  # also torch.OutOfMemoryError
        if not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def group_size(
    loaded: LoadedModel,
    queries: Queries,
    typical: DemonstrationSet,
    settings: Finetune,
    execution: Execution,
    memory_share: float = 1.0,
) -> int:
    """How many seeds are measured at once: as the sweep says, or what a share of free memory holds of `typical`."""
    if execution.seeds_per_batch != "auto":
        return execution.seeds_per_batch
    formula = MemoryFormula(Shape.of(loaded.model.config.to_dict()), loaded.model.dtype.itemsize, execution.batch_size)
    a_seed = formula.seed(len(typical.prefix), queries.longest, settings, len(typical.shorter))
    most = execution.most_seeds_per_batch(loaded.device.type == "cuda")
    return max(1, min(most, int(_USED_SHARE * memory_share * free_bytes(loaded.device)) // a_seed))


def free_bytes(device: torch.device) -> int:
    """Memory that nothing uses now, of the GPU or of this machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
