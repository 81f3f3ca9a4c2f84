"""The first demonstrations of seeds, measured from the passes over all of them (docs/science.md, section 4)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel

from raydual.data.prompts import DemonstrationSet
from raydual.measure.rows import Row
from raydual.model.attention import Prefix
from raydual.model.finetune import Tuned, finetune
from raydual.model.passes import Rows, encode_prefix
from raydual.model.recording import Recorder
from raydual.settings.schema import Finetune


def by_shots(sets: Sequence[DemonstrationSet]) -> dict[int, list[DemonstrationSet]]:
    """The demonstrations of seeds by their number: all of them first, then the first ones that are measured too."""
    found = {len(sets[0].examples): list(sets)}
    for place, shorter in enumerate(sets[0].shorter):
        found[len(shorter.examples)] = [one.shorter[place] for one in sets]
    return found


def tune_by_shots(
    model: PreTrainedModel, sets: Sequence[DemonstrationSet], settings: Finetune, fields: tuple[str, ...] = ()
) -> dict[int, Tuned]:
    """Fine-tuning on each number of demonstrations, by that number.

    Where the first k steps are those of the first k demonstrations alone, all of it is one fine-tuning.
    """
    numbers = by_shots(sets)
    if not settings.steps_are_nested:
        return {k: finetune(model, some, settings, fields) for k, some in numbers.items()}
    every, *fewer = numbers
    tuned = finetune(model, sets, settings, fields, kept=fewer)
    return {every: tuned} | {k: tuned.after(k) for k in fewer}


@dataclass(frozen=True)
class Context:
    """What stands before the queries of G seeds, as tokens and passed through the model.

    `inputs` are the attention inputs of each layer; `real` says which tokens are not padding.
    """

    prompts: tuple[np.ndarray, ...]
    prefix: Prefix
    inputs: tuple[Float[Tensor, "G prefix hidden"], ...]
    real: Bool[Tensor, "G prefix"]

    @classmethod
    def of(cls, model: PreTrainedModel, prompts: Iterable[np.ndarray], kinds: Sequence[np.ndarray]) -> "Context":
        """One pass over all prompts; `kinds` say of each token what it is (`catalogue/parts.py`)."""
        prompts, recorder = tuple(prompts), Recorder(("attn_in",))
        prefix = replace(encode_prefix(model, prompts, recorder), kinds=Rows.pad(kinds, model.device).ids)
        return cls(prompts, prefix, tuple(recorder.layers["attn_in"]), Rows.pad(prompts, model.device).real)

    def first(self, model: PreTrainedModel, prompts: Iterable[np.ndarray], kinds: Sequence[np.ndarray]) -> "Context":
        """What stands before the queries with fewer demonstrations.

        It is the beginning of this pass, since no token attends to later ones. Where the tokenizer merges the end of a
        demonstration with what follows it in one prompt and not in the other, the prompts get a pass of their own.
        """
        prompts = tuple(prompts)
        if not all(np.array_equal(own[: len(p)], p) for own, p in zip(self.prompts, prompts, strict=True)):
            return Context.of(model, prompts, kinds)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.prefix.lengths.device)
        most = int(lengths.max())
        prefix = Prefix(
            tuple(keys[:, :, :most].contiguous() for keys in self.prefix.keys),
            tuple(values[:, :, :most].contiguous() for values in self.prefix.values),
            lengths,
            kinds=Rows.pad(kinds, lengths.device).ids,
        )
        real = torch.arange(most, device=lengths.device) < lengths[:, None]
        return Context(prompts, prefix, tuple(x[:, :most] for x in self.inputs), real)


def undefined(rows: Iterable[Row], reason: str) -> Iterator[Row]:
    """Rows like these of a number of demonstrations with which the seed cannot be measured."""
    for row in rows:
        missing = row["examples"] + row["undefined"]
        yield {**row, "value": float("nan"), "examples": 0, "undefined": missing, "reason": reason}
