"""A user's own metrics: the text of a Python file becomes functions with their entries, every mistake one line."""

import hashlib
import sys
import traceback
import types
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from raydual.catalogue.entries import CATALOGUE, Metric
from raydual.catalogue.marks import Measure
from raydual.catalogue.metric import MetricError
from raydual.errors import UserError


@lru_cache(maxsize=16)
def measures_in(source: str, file: str) -> tuple[Measure, ...]:
    """Run the text of a file, which messages call `file`; the functions in it that are marked as metrics, in order.

    Raises
    ------
    UserError
        It is no Python, raises an error, or holds no metric or one that does not fit: with file and line.
    """
    name = f"raydual_own_{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    module = types.ModuleType(name)
    module.__file__ = file
    sys.modules[name] = module
    try:
        exec(compile(source, file, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - the user's own code
    except (Exception, SystemExit) as error:
        raise UserError(where_raised(error, file)) from None
    marked = (x for x in vars(module).values() if isinstance(x, Measure) and x.function.__module__ == name)
    found = tuple(dict.fromkeys(marked))
    if not found:
        raise UserError(f"{file}: holds no metric; mark a function with @raydual.of_recordings(raydual.Metric(...))")
    _check(found, file)
    return tuple(replace(one, file=file) for one in found)


def _check(found: Sequence[Measure], file: str) -> None:
    names: dict[str, Measure] = {}
    for one in found:
        if one.metric.name in CATALOGUE:
            raise UserError(f"{file}, line {one.line}: metric {one.metric.name!r}: raydual has one of that name")
        if one.metric.name in names:
            line = names[one.metric.name].line
            raise UserError(
                f"{file}, line {one.line}: metric {one.metric.name!r}: the one of line {line} has that name"
            )
        names[one.metric.name] = one
    try:
        CATALOGUE.with_own(one.metric for one in found)
    except MetricError as error:
        raise UserError(f"{file}: {error}") from None


def check_own(source: str, file: str, metrics: Sequence[Metric]) -> None:
    """Check that a text still gives the metrics that were stored beside it.

    Raises
    ------
    UserError
        It does not, or is broken.
    """
    if tuple(one.metric for one in measures_in(source, file)) != tuple(metrics):
        raise UserError(
            f"measures.own: the metrics that are stored are not those of the source of {file}; name the file"
        )


def where_raised(error: BaseException, file: str) -> str:
    """An error of a user's code in one line, with the last line of the file that led to it."""
    if isinstance(error, SyntaxError) and error.filename == file and error.lineno:
        return f"{file}, line {error.lineno}: not valid Python: {error.msg}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    place = f"{file}, line {lines[-1]}" if lines else file
    words = " ".join(str(error).split())[:300]
    if isinstance(error, MetricError):
        return f"{place}: {words}"
    return f"{place}: {type(error).__name__}{f': {words}' if words else ''}"
