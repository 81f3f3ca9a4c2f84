"""Rows without their padding, one behind the other: what a layer does token by token it does for real tokens alone."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """Where the tokens of right-padded rows lie when they are packed.

    `lengths` `[batch]` are the rows' real lengths, `width` that of the padded rows; `place` `[tokens]` is each packed
    token's place in the flattened padded rows.
    """

    lengths: Int[Tensor, "batch"]
    width: int
    place: Int[Tensor, "tokens"]

    @classmethod
    def of(cls, lengths: Int[Tensor, "batch"], width: int) -> "Packing":
        """The packing of rows of these lengths."""
        real = torch.arange(width, device=lengths.device) < lengths[:, None]
        return cls(lengths, width, real.flatten().nonzero()[:, 0])

    @cached_property
    def starts(self) -> Int[Tensor, "batch"]:
        """The packed place of each row's first token."""
        return self.lengths.cumsum(0) - self.lengths

    @cached_property
    def ends(self) -> Int[Tensor, "rows"]:
        """Where each row ends among the packed tokens, 0 first, as kernels want it."""
        return torch.nn.functional.pad(self.lengths.cumsum(0), (1, 0)).int()

    @cached_property
    def slots(self) -> Int[Tensor, "batch width"]:
        """The packed token at each padded place; at padding the row's last one."""
        within = torch.arange(self.width, device=self.lengths.device)
        return self.starts[:, None] + torch.minimum(within, self.lengths[:, None] - 1)

    def pack(self, x: Float[Tensor, "batch heads width dim"]) -> Float[Tensor, "1 heads tokens dim"]:
        """The real tokens of padded rows."""
        return x.transpose(0, 1).flatten(1, 2).index_select(1, self.place)[None]

    def unpack(self, x: Float[Tensor, "1 heads tokens dim"]) -> Float[Tensor, "batch heads width dim"]:
        """Padded rows; what stands at padding means nothing."""
        rows = x[0].index_select(1, self.slots.flatten())
        return rows.unflatten(1, self.slots.shape).transpose(0, 1)
