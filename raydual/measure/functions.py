"""Every metric's function: the built-in ones, matched with the catalogue when this is imported, and a user's own."""

from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType

from raydual.catalogue.entries import CATALOGUE, Catalogue, MetricError
from raydual.catalogue.marks import Measure
from raydual.catalogue.own import measures_in
from raydual.measure import (
    chunk_metrics,
    influence,
    nulls,
    order,
    output_metrics,
    part_metrics,
    patch_arm,
    prediction_metrics,
    rank_metrics,
    weight_patches,
)
from raydual.settings.measures import Measures

_MODULES = (
    *(prediction_metrics, chunk_metrics, rank_metrics, nulls),
    *(weight_patches, patch_arm, part_metrics, output_metrics, influence, order),
)


def matched(catalogue: Catalogue, modules: Sequence[ModuleType]) -> tuple[Measure, ...]:
    """The marked functions in modules, in the order of the catalogue.

    Raises
    ------
    MetricError
        A metric has no function, or two; or a function's metric is not in the catalogue.
    """
    functions: dict[str, Measure] = {}
    for module in modules:
        for one in vars(module).values():
            if not isinstance(one, Measure) or one.function.__module__ != module.__name__:
                continue
            name = one.metric.name
            if name not in catalogue or catalogue[name] != one.metric:
                raise MetricError(f"metric {name!r}: has a function, but is not in the catalogue")
            if functions.setdefault(name, one) is not one:
                raise MetricError(f"metric {name!r}: has two functions")
    if missing := [name for name in catalogue if name not in functions]:
        raise MetricError(f"metric {missing[0]!r}: is in the catalogue, but has no function")
    return tuple(functions[name] for name in catalogue)


BUILTIN = matched(CATALOGUE, _MODULES)


def functions_of(measures: Measures) -> tuple[Measure, ...]:
    """The functions of all metrics that a sweep measures, which are switched on; its own come last.

    Raises
    ------
    UserError
        The user's file does not run here.
    """
    own = measures.own
    builtin = (replace(one, metric=metric) for one in BUILTIN if (metric := measures.switched(one.metric)))
    return (*builtin, *(measures_in(own.source, own.file) if own else ()))
