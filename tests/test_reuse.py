"""Trials that end together leave their processes to the next ones, where Tune's own cache would end all but one."""

from ray.tune.execution import tune_controller

from raydual.cluster.reuse import kept_trial_processes


def kept_of(processes):
    """Which of the processes of trials that end together are there for the next ones, and which after the last."""
    cache = tune_controller._ObjectCache(may_keep_one=True)
    ended = [process for process in processes if not cache.cache_object("trials", process)]
    ended += cache.flush_cached_objects(force_all=False)
    return [p for p in processes if p not in ended], sorted(cache.flush_cached_objects(force_all=True))


def test_all_are_kept_until_the_search_is_over():
    with kept_trial_processes():
        assert kept_of([1, 2, 3]) == ([1, 2, 3], [1, 2, 3])


def test_tune_itself_keeps_one():
    assert kept_of([1, 2, 3]) == ([1], [1])
