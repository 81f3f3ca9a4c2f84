"""Tokens with the characters they cover, and which tokens of two encodings of one text are the same."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tokenizers
from jaxtyping import Bool, Int


@dataclass(frozen=True)
class Tokens:
    """A tokenized text: `ids` `[tokens]`, and `spans` `[tokens, 2]`, the characters (start, end) of each."""

    ids: Int[np.ndarray, "tokens"]
    spans: Int[np.ndarray, "tokens 2"]

    def __len__(self) -> int:
        return len(self.ids)

    def overlapping(self, start: int, end: int) -> Bool[np.ndarray, "tokens"]:
        """Which tokens cover at least one of the characters from `start` up to `end`."""
        return (self.spans[:, 1] > start) & (self.spans[:, 0] < end)

    def select(self, which: np.ndarray) -> "Tokens":
        """The tokens at a mask or at indices."""
        return Tokens(self.ids[which], self.spans[which])

    def relative_to(self, start: int, end: int) -> "Tokens":
        """The same tokens, spans counted from `start` and cut to the characters before `end`."""
        return Tokens(self.ids, np.clip(self.spans, start, end) - start)


def encode(tokenizer: tokenizers.Tokenizer, texts: Sequence[str]) -> list[Tokens]:
    """Tokenize texts as they stand: no special token is added."""
    encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [Tokens(np.asarray(e.ids, np.int64), np.asarray(e.offsets, np.int64).reshape(-1, 2)) for e in encodings]


def align(first: Tokens, second: Tokens, keep_first: bool) -> tuple[Int[np.ndarray, "pairs"], Int[np.ndarray, "pairs"]]:
    """Indices of the tokens that cover the same characters in both encodings of one text.

    A text's first token is the attention sink where nothing stands before it, so it is left out on both sides
    unless `keep_first` (docs/science.md, section 4, SimAM and Kendall).
    """
    skip = 0 if keep_first else 1
    places = {place: index for index, place in enumerate(_places(second)) if index >= skip}
    pairs = [(index, places[place]) for index, place in enumerate(_places(first)) if index >= skip and place in places]
    matched = np.asarray(pairs, np.int64).reshape(-1, 2)
    return matched[:, 0], matched[:, 1]


def _places(tokens: Tokens) -> list[tuple[int, int, int]]:
    """(start, end, how many tokens before it cover just the same): bytes of one character share a span."""
    seen: Counter[tuple[int, int]] = Counter()
    places = []
    for start, end in tokens.spans.tolist():
        places.append((start, end, seen[start, end]))
        seen[start, end] += 1
    return places
