"""Calling the function of a metric: what it gives is checked, and what goes wrong in a user's own is one line."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from raydual.catalogue.entries import Key, MetricError
from raydual.catalogue.marks import Measure
from raydual.catalogue.own import where_raised
from raydual.errors import UserError, is_of_the_machine

Result = TypeVar("Result")

_ROUNDING = 1e-3


def call(one: Measure, arguments: Sequence[Any], checked: Callable[[Measure, Any], Result]) -> Result:
    """What a function gives, as `checked` makes it.

    Raises
    ------
    UserError
        An error in a user's own function, or it gives what it must not: with file and line.
    """
    if one.file is None:
        return checked(one, one(*arguments))
    try:
        return checked(one, one(*arguments))
    except MetricError as error:
        raise UserError(f"{one.file}, line {one.line}: {error}") from None
    except Exception as error:
        if isinstance(error, UserError) or is_of_the_machine(error):
            raise
        raise UserError(f"{where_raised(error, one.file)} (metric {one.metric.name!r})") from None


def by_condition(one: Measure, result: Any, conditions: Sequence[str]) -> dict[str, Any]:
    """A result by condition, checked to have all of them; of a single one it may be given alone."""
    found = dict(result) if isinstance(result, Mapping) else {conditions[0]: result} if len(conditions) == 1 else {}
    if set(found) != set(conditions):
        kind = f"those of {', '.join(map(str, found))}" if found else type(result).__name__
        raise MetricError(
            f"metric {one.metric.name!r}: must give a mapping with a result for each of {', '.join(conditions)}, "
            f"gave {kind}"
        )
    return found


def arrays(
    one: Measure, arguments: Sequence[Any], shape: Sequence[int], axes: str, sound: Tensor | None = None
) -> dict[Key, Tensor]:
    """What a function of arrays gives, by metric and condition, checked to have a shape, whose axes messages name.

    Of a user's own, values must be within the metric's bounds; of the first axis only where it is `sound`.

    Raises
    ------
    UserError
        As `call`.
    """

    def checked(one: Measure, result: Any) -> dict[Key, Tensor]:
        found = by_condition(one, result, one.metric.conditions)
        return {(one.metric.name, name): _array(one, x, tuple(shape), axes, sound) for name, x in found.items()}

    return call(one, arguments, checked)


def _array(one: Measure, result: Any, shape: tuple[int, ...], axes: str, sound: Tensor | None) -> Tensor:
    name = one.metric.name
    try:
        found = torch.as_tensor(result)
    except (TypeError, ValueError, RuntimeError):
        raise MetricError(f"metric {name!r}: must give an array, gave {type(result).__name__}") from None
    if tuple(found.shape) != shape:
        raise MetricError(f"metric {name!r}: must give [{axes}], here {list(shape)}, gave {list(found.shape)}")
    if not found.is_floating_point():
        raise MetricError(f"metric {name!r}: must give floating-point numbers, gave {found.dtype}")
    if one.file is not None:
        _check_bounds(one, found if sound is None else found[sound.to(found.device)])
    return found


def _check_bounds(one: Measure, found: Tensor) -> None:
    """Refuse what a user's own metric says that it never gives; NaN is undefined, and may be."""
    low, high = one.metric.bounds
    wrong = found.isinf()
    if low is not None:
        wrong |= found < low - _ROUNDING * max(1.0, abs(low))
    if high is not None:
        wrong |= found > high + _ROUNDING * max(1.0, abs(high))
    if wrong.any():
        raise MetricError(
            f"metric {one.metric.name!r}: gave {float(found[wrong][0]):g}, but its bounds are {low} and {high}; "
            "what is undefined is NaN"
        )
