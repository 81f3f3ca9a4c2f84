"""A CUDA device in name: the numbers are the CPU's, the errors those of a GPU.

    with pretend_cuda():
        loaded = load_model(name, device="cuda")   # tensors say that they are on cuda:0
        loaded.model(ids)                          # ids on the CPU: RuntimeError, as on a GPU

It finds tensors on mixed devices, generators of the wrong one, `.numpy()` of a GPU's tensor, and numbers that the way
of a GPU alone gets wrong. It says nothing of speed, of kernels, or of a GPU's own rounding.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode

CUDA = torch.device("cuda:0")
_MOVES = {"to", "cpu", "cuda"}
_MAY_MIX = {"copy_", "_has_compatible_shallow_copy_type"}
_INDEXING = {"__getitem__", "__setitem__", "index_put", "index_put_"}


class Pretended(torch.Tensor):
    """A CPU tensor that says it is on cuda:0."""

    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    def numpy(self, **_: Any) -> NoReturn:
        """What a GPU's tensor says."""
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _called(func, args, dict(kwargs or {}))


class _Device(TorchFunctionMode):
    """Sees every call of torch, also those that get no pretended tensor but are to make one."""

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _called(func, args, dict(kwargs or {}))


def _called(func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """The result of a call, on the device on which a GPU would have it, or the error that it would raise."""
    name = getattr(func, "__name__", "")
    tensors = [*_tensors(args), *_tensors(kwargs.values())]
    if name in _MOVES and tensors:
        return _moved(name, *args, **kwargs)
    _check_devices(name, tensors)
    pretended = any(isinstance(x, Pretended) for x in tensors)
    if kwargs.get("device") is not None:
        pretended = torch.device(kwargs["device"]).type == "cuda"
        if pretended:
            _check_generator(kwargs.get("generator"))
            kwargs["device"] = torch.device("cpu")
    with torch._C.DisableTorchFunctionSubclass():
        found = func(*args, **kwargs)
    if not pretended or any(found is x for x in tensors):
        return found
    return _pretended(found)


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)


def _pretended(found: Any) -> Any:
    """A result with its tensors, alone or in a tuple or list, on the GPU."""
    if isinstance(found, torch.Tensor):
        return found.as_subclass(Pretended)
    if isinstance(found, (tuple, list)):
        # Named tuples of torch and shapes are made from one sequence, like a tuple.
        return type(found)([_pretended(x) for x in found]) if any(True for _ in _tensors(found)) else found
    return found


def _moved(name: str, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """`x.to(...)`, `x.cpu()` or `x.cuda()`: a copy where the device is another one."""
    if name != "to":
        args, kwargs = (name,), {}
    if args and isinstance(args[0], torch.Tensor):
        args = (args[0].device, args[0].dtype, *args[1:])
    always = kwargs.pop("copy", False)
    device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
    with torch._C.DisableTorchFunctionSubclass():
        found = x if dtype is None else x.to(dtype)
        cuda = isinstance(x, Pretended) if device is None else device.type == "cuda"
        if cuda == isinstance(x, Pretended) and not always:
            return found if found is x or not cuda else found.as_subclass(Pretended)
        return found.clone().as_subclass(Pretended if cuda else torch.Tensor)


def _check_devices(name: str, tensors: Sequence[torch.Tensor]) -> None:
    """Tensors of one device, but for scalars, copies, and indices on the CPU into a tensor of the GPU."""
    pretended = [isinstance(x, Pretended) for x in tensors]
    if all(pretended) or not any(pretended) or name in _MAY_MIX:
        return
    strange = [tuple(x.shape) for x, cuda in zip(tensors, pretended, strict=True) if not cuda and x.dim()]
    if strange and not (name in _INDEXING and pretended[0]):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! ({name} "
            f"with {strange} on the CPU)"
        )


def _check_generator(generator: torch.Generator | None) -> None:
    if generator is not None:
        raise RuntimeError(f"Expected a 'cuda' device type for generator but found '{generator.device}'")


@contextmanager
def pretend_cuda(memory: int = 80 * 2**30) -> Iterator[None]:
    """Inside the block there is one CUDA device in name, with so many bytes of free memory."""
    replaced: dict[str, Callable] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "mem_get_info": lambda *_: (memory, memory),
        "empty_cache": lambda: None,
        "synchronize": lambda *_: None,
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda *_: None,
        "manual_seed_all": lambda *_: None,
        "_is_in_bad_fork": lambda: False,
    }
    # A parameter that moves to another device becomes another object; its data alone would keep its type.
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with ExitStack() as stack:
            for name, function in replaced.items():
                stack.enter_context(mock.patch.object(torch.cuda, name, function))
            stack.enter_context(_Device())
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
