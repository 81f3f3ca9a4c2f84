"""Gradients of many objectives in linear layers as factors: inner products without ever forming a gradient.

The gradient of an objective in a linear layer's weight is Σ_t e_t ⊗ x_t, of its inputs x_t and of the errors e_t, the
objective's gradient in its outputs; in its bias it is Σ_t e_t. So the inner product of two gradients is
Σ_{t,s} (e_t · e'_s)(x_t · x'_s).
"""

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

Layers = Mapping[Hashable, nn.Linear]


@dataclass(frozen=True)
class Factors:
    """Of rows with an objective each, by layer: `inputs` `[rows, tokens, in]`, and `errors` `[rows, tokens, out]`."""

    inputs: Mapping[Hashable, Float[Tensor, "rows tokens d_in"]]
    errors: Mapping[Hashable, Float[Tensor, "rows tokens d_out"]]

    def products(self, other: "Factors", layers: Layers) -> Float[Tensor, "rows others"]:
        """Inner products of every row's gradient with every other one's, over weights and biases of all layers."""
        total: Tensor | float = 0.0
        for key, linear in layers.items():
            errors, other_errors = self.errors[key], other.errors[key]
            shared = torch.einsum("rto,qso->rqts", errors, other_errors)
            total = total + (shared * torch.einsum("rti,qsi->rqts", self.inputs[key], other.inputs[key])).sum((2, 3))
            if linear.bias is not None:
                total = total + errors.sum(1) @ other_errors.sum(1).T
        assert isinstance(total, Tensor), "there are layers"
        return total

    def along(
        self, key: Hashable, weight: Float[Tensor, "d_out d_in"], bias: Float[Tensor, "d_out"] | None
    ) -> Float[Tensor, "rows"]:
        """Inner products of every row's gradient in one layer with a direction of its weight and bias."""
        errors = self.errors[key]
        found = (errors * (self.inputs[key] @ weight.T)).sum((1, 2))
        return found if bias is None else found + errors.sum(1) @ bias

    def norms(self, key: Hashable) -> tuple[Float[Tensor, "rows"], Float[Tensor, "rows"]]:
        """Norms of every row's gradients in the weight and in the bias of one layer."""
        errors, inputs = self.errors[key], self.inputs[key]
        squares = ((errors @ errors.mT) * (inputs @ inputs.mT)).sum((1, 2))
        return squares.clamp(min=0).sqrt(), errors.sum(1).norm(dim=-1)


@dataclass
class Watch:
    """What linear layers are given and give in passes inside `watching`, call by call."""

    inputs: dict[Hashable, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    outputs: dict[Hashable, list[Tensor]] = field(default_factory=lambda: defaultdict(list))

    def factors(self, objectives: Float[Tensor, ""]) -> Factors:
        """The factors of all rows' gradients, of the sum of their objectives; no row's depends on another row."""
        calls = [(key, output) for key, outputs in self.outputs.items() for output in outputs]
        found = torch.autograd.grad(objectives, [output for _, output in calls])
        errors: dict[Hashable, list[Tensor]] = defaultdict(list)
        for (key, _), error in zip(calls, found, strict=True):
            errors[key].append(error)
        return Factors(*({key: torch.cat(x, dim=1).float() for key, x in of.items()} for of in (self.inputs, errors)))


@contextmanager
def watching(layers: Layers) -> Iterator[Watch]:
    """Watch `layers` inside the block, in which gradients are taken although no weight asks for one."""
    watch = Watch()

    def hook_of(key: Hashable) -> object:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            watch.inputs[key].append(inputs[0].detach())
            if not output.requires_grad:
                output.requires_grad_()
            watch.outputs[key].append(output)

        return hook

    handles = [linear.register_forward_hook(hook_of(key)) for key, linear in layers.items()]  # type: ignore[arg-type]
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield watch
    finally:
        for handle in handles:
            handle.remove()
