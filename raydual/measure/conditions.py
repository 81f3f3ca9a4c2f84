"""One condition (zsl, icl, ft) over one chunk of queries: a single pass that everything is computed from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from raydual.data.prompts import Queries
from raydual.model.attention import Prefix
from raydual.model.passes import Rows, logits, states_at
from raydual.model.recording import Recorder


@dataclass(frozen=True)
class Chunk:
    """Queries of similar length that go through the model together.

    `index` `[n]` are their places in the whole set. `aligned` `[n, pairs]` marks the real entries of
    `aligned_alone` and `aligned_in_context`, the tokens that are the same in both prompts. Where a pair has the
    same token id at the same distance from the last token, `same_in_first_layer`, its score in the first layer
    is the same number too: nothing but rounding tells them apart.
    """

    index: Int[np.ndarray, "n"]
    alone: Rows
    in_context: Rows
    aligned_alone: Int[Tensor, "n pairs"]
    aligned_in_context: Int[Tensor, "n pairs"]
    aligned: Bool[Tensor, "n pairs"]
    same_in_first_layer: Bool[Tensor, "n pairs"]
    labels: Int[Tensor, "n"]


def make_chunks(queries: Queries, size: int, device: torch.device) -> list[Chunk]:
    """Queries sorted by length, `size` at a time; the same chunks for every seed."""
    order = np.argsort([len(ids) for ids in queries.in_context], kind="stable")
    chunks = []
    for start in range(0, len(order), size):
        index = order[start : start + size]
        alone = Rows.pad([queries.alone[i] for i in index], device)
        in_context = Rows.pad([queries.in_context[i] for i in index], device)
        places = Rows.pad([queries.aligned_alone[i] for i in index], device)
        places_in_context = Rows.pad([queries.aligned_in_context[i] for i in index], device).ids
        same = _id_and_distance(alone, places.ids) == _id_and_distance(in_context, places_in_context)
        chunks.append(
            Chunk(
                index=index,
                alone=alone,
                in_context=in_context,
                aligned_alone=places.ids,
                aligned_in_context=places_in_context,
                aligned=places.real,
                same_in_first_layer=same.all(dim=0),
                labels=torch.tensor([queries.labels[i] for i in index], device=device),
            )
        )
    return chunks


def _id_and_distance(rows: Rows, places: Int[Tensor, "n pairs"]) -> Int[Tensor, "2 n pairs"]:
    """The token id at each place, and how far it is from the row's last token."""
    return torch.stack([rows.ids.gather(1, places), rows.last[:, None] - places])


@dataclass(frozen=True)
class Outcome:
    """What a pass over `rows` gave: recorded fields (see `Recorder`), label scores and the greedy token.

    `scores` `[rows, labels]` are mean log-probabilities of the label words' tokens; `next_token` those of every token
    after the prompt, kept only where they are asked for.
    """

    fields: dict[str, Float[Tensor, "rows layers ..."]]
    scores: Float[Tensor, "rows labels"]
    greedy: Int[Tensor, "rows"]
    next_token: Float[Tensor, "rows vocabulary"] | None = None

    @property
    def prediction(self) -> Int[Tensor, "rows"]:
        """The label id with the highest score."""
        return self.scores.argmax(dim=1)

    def to(self, device: torch.device) -> "Outcome":
        """The same on a device; log-probabilities of the vocabulary stay behind."""
        fields = {name: x.to(device) for name, x in self.fields.items()}
        return Outcome(fields, self.scores.to(device), self.greedy.to(device))


def run_condition(
    model: PreTrainedModel,
    rows: Rows,
    label_tokens: Sequence[Sequence[int]],
    fields: tuple[str, ...] = (),
    prefix: Prefix | None = None,
    recorder: Recorder | None = None,
    keep_next_token: bool = False,
    packed: bool = True,
) -> Outcome:
    """Pass `rows` through the model, after `prefix` if there is one, and record at each row's last token.

    What is recorded are `fields`, or what a `recorder` made for these rows asks for. `keep_next_token` keeps the
    log-probabilities of the whole vocabulary. Rows are not `packed` for what needs gradients, or changes modules at the
    rows' last tokens.
    """
    if recorder is None and fields:
        recorder = Recorder(fields, rows.last)
    states = states_at(model, rows, rows.last[:, None], prefix, recorder, packed)[:, 0]
    log_probs = logits(model, states).log_softmax(dim=-1)
    scores = torch.stack(
        [_word_score(model, rows, log_probs[:, word[0]], word, prefix, packed) for word in label_tokens], dim=1
    )
    recorded = {} if recorder is None else {name: recorder.result(name) for name in recorder.fields}
    return Outcome(recorded, scores, log_probs.argmax(dim=-1), log_probs if keep_next_token else None)


def _word_score(
    model: PreTrainedModel,
    rows: Rows,
    first: Float[Tensor, "rows"],
    word: Sequence[int],
    prefix: Prefix | None,
    packed: bool,
) -> Float[Tensor, "rows"]:
    """Mean log-probability of a label word's tokens; those after the first are scored by teacher forcing."""
    if len(word) == 1:
        return first
    extra = len(word) - 1
    ids = torch.nn.functional.pad(rows.ids, (0, extra))
    places = rows.lengths[:, None] + torch.arange(extra, device=ids.device)
    forced = torch.tensor(list(word[:-1]), device=ids.device).expand(len(ids), -1)
    extended = Rows(ids.scatter(1, places, forced), rows.lengths + extra)
    states = states_at(model, extended, places, prefix, packed=packed)
    total = first
    for offset, token in enumerate(word[1:]):
        log_probs = logits(model, states[:, offset]).log_softmax(dim=-1)
        total = total + log_probs[:, token]
    return total / len(word)
