"""The first demonstrations of seeds, measured from the passes over all of them (docs/science.md, section 4)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
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
    def of(cls, model: PreTrainedModel, sets: Sequence[DemonstrationSet], separator: Int[np.ndarray, "_"]) -> "Context":
        """One pass over the demonstrations of all seeds, each with the `separator` before the query."""
        prompts, recorder = _prompts(sets, separator), Recorder(("attn_in",))
        prefix = replace(encode_prefix(model, prompts, recorder), kinds=_kinds(sets, separator, model.device))
        return cls(prompts, prefix, tuple(recorder.layers["attn_in"]), Rows.pad(prompts, model.device).real)

    def first(
        self, model: PreTrainedModel, sets: Sequence[DemonstrationSet], separator: Int[np.ndarray, "_"]
    ) -> "Context":
        """What stands before the queries with the fewer demonstrations of `sets`.

        It is the beginning of this pass, since no token attends to later ones. Where the tokenizer merges the end of a
        demonstration with what follows it in one prompt and not in the other, the prompts get a pass of their own.
        """
        prompts = _prompts(sets, separator)
        if not all(np.array_equal(own[: len(p)], p) for own, p in zip(self.prompts, prompts, strict=True)):
            return Context.of(model, sets, separator)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.prefix.lengths.device)
        most = int(lengths.max())
        prefix = Prefix(
            tuple(keys[:, :, :most].contiguous() for keys in self.prefix.keys),
            tuple(values[:, :, :most].contiguous() for values in self.prefix.values),
            lengths,
            kinds=_kinds(sets, separator, lengths.device),
        )
        real = torch.arange(most, device=lengths.device) < lengths[:, None]
        return Context(prompts, prefix, tuple(x[:, :most] for x in self.inputs), real)


def _prompts(sets: Sequence[DemonstrationSet], separator: Int[np.ndarray, "_"]) -> tuple[np.ndarray, ...]:
    """What stands before the queries of each seed."""
    return tuple(one.before_query(separator) for one in sets)


def _kinds(
    sets: Sequence[DemonstrationSet], separator: Int[np.ndarray, "_"], device: torch.device
) -> Int[Tensor, "G prefix"]:
    """What each of these tokens is."""
    return Rows.pad([one.parts.followed_by(len(separator)).kind for one in sets], device).ids


def undefined(rows: Iterable[Row], reason: str) -> Iterator[Row]:
    """Rows like these of a number of demonstrations with which the seed cannot be measured."""
    for row in rows:
        missing = row["examples"] + row["undefined"]
        yield {**row, "value": float("nan"), "examples": 0, "undefined": missing, "reason": reason}
