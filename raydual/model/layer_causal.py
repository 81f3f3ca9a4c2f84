"""Layer-causal gradients: a layer learns from what it and those below it compute (docs/science.md, section 2)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def layer_by_layer(layers: nn.ModuleList) -> Iterator[list[Tensor]]:
    """Cut the gradient between the decoder `layers` inside the block; the list takes each layer's output in turn."""
    outputs: list[Tensor] = []

    def cut(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0].detach(), *args[1:])

    def keep(_module: nn.Module, _args: tuple[Any, ...], output: Tensor | tuple) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    handles = [layer.register_forward_pre_hook(cut) for layer in layers]
    handles += [layer.register_forward_hook(keep) for layer in layers]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
