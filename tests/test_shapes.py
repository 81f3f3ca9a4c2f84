"""Every function that declares a shape refuses what does not have it, while tests run (`--jaxtyping-packages`)."""

import inspect
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest
from jaxtyping import AbstractArray, TypeCheckError

import raydual

ROOT = Path(raydual.__file__).parent
DECLARING = [
    ".".join(("raydual", *path.relative_to(ROOT).with_suffix("").parts))
    for path in sorted(ROOT.rglob("*.py"))
    if "from jaxtyping import" in path.read_text(encoding="utf-8")
]


def declares_shapes(function: Callable) -> bool:
    """Whether a parameter is an array of a written shape, and nothing else."""
    hints = [parameter.annotation for parameter in inspect.signature(function).parameters.values()]
    return any(isinstance(hint, type) and issubclass(hint, AbstractArray) for hint in hints)


def functions_of(name: str) -> Iterator[Callable]:
    """The functions and methods that a module defines."""
    for thing in vars(import_module(name)).values():
        if getattr(thing, "__module__", None) != name:
            continue
        members = vars(thing).values() if inspect.isclass(thing) else [thing]
        yield from (member for member in members if inspect.isfunction(member))


@pytest.mark.parametrize("module", DECLARING)
def test_a_wrong_shape_is_refused_wherever_shapes_are_declared(module):
    for function in filter(declares_shapes, functions_of(module)):
        parameters = inspect.signature(function).parameters.values()
        named = {p.name: object() for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty}
        others = [object() for p in parameters if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)]
        with pytest.raises(TypeCheckError):
            function(*others, **named)


def test_there_are_shapes_to_check():
    assert {"raydual.statistics.over_seeds", "raydual.statistics.reduce", "raydual.statistics.bootstrap"} <= set(
        DECLARING
    )
    assert all(
        any(map(declares_shapes, functions_of(name)))
        for name in ("raydual.statistics.reduce", "raydual.model.attention")
    )
