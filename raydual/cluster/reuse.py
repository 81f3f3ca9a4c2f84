"""Tune keeps the processes of its trials for the next ones."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from ray.tune.execution import tune_controller
from ray.tune.utils.object_cache import _ObjectCache


class _KeepingCache(_ObjectCache):
    """Keeps every actor that is free.

    Tune's own keeps as many as there are trials that wait for a place, and one. A searcher that hands out no more
    trials than can run leaves none waiting, so with several at once nearly every trial would start a process.
    """

    def cache_object(self, key: Any, obj: Any) -> bool:
        """Keep an actor."""
        self._cached_objects[key].append(obj)
        self._num_cached_objects += 1
        return True

    def flush_cached_objects(self, force_all: bool = False) -> Generator[Any]:
        """The actors to be ended: none before the last trial is over."""
        if force_all:
            yield from super().flush_cached_objects(force_all=True)


@contextmanager
def kept_trial_processes() -> Iterator[None]:
    """Searches begun inside the block keep the processes of their trials; `reuse_actors` alone does not."""
    with patch.object(tune_controller, "_ObjectCache", _KeepingCache):
        yield
