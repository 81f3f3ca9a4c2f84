"""Texts of section 1, their tokens, and which tokens of two prompts stand for the same characters."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tokenizers

Span = tuple[int, int]


@dataclass(frozen=True)
class TaskSettings:
    """A task: `template` with `{text}` (or named columns), `separator`, one label word for each label id."""

    template: str = "Sentence: {text} Label:"
    separator: str = " "
    label_words: tuple[str, ...] = ("negative", "positive")


@dataclass(frozen=True)
class Tokens:
    """A tokenised text; `spans[i]` are the characters [start, end) of token `ids[i]`."""

    text: str
    ids: list[int]
    spans: list[Span]


@dataclass(frozen=True)
class InContext:
    """The prompt demonstrations + query: its tokens, and the characters of each part (separators in none)."""

    tokens: Tokens
    demonstrations: list[Span]
    query: Span

    @property
    def prefix_length(self) -> int:
        """How many tokens stand before the query's own: demonstrations and separators."""
        return overlapping(self.tokens, self.query)[0]


def filled(task: TaskSettings, text: str | Mapping[str, str]) -> str:
    """The template without a label."""
    fields = {"text": text} if isinstance(text, str) else text
    return task.template.format(**fields)


def demonstration(task: TaskSettings, text: str | Mapping[str, str], label: int) -> str:
    """The filled template, a space, the label word."""
    return filled(task, text) + " " + task.label_words[label]


def tokenize(tokenizer: Any, text: str) -> Tokens:
    """Tokens of `text` by a `tokenizers.Tokenizer` or a fast `transformers` tokenizer; no special tokens."""
    if isinstance(tokenizer, tokenizers.Tokenizer):
        encoding = tokenizer.encode(text, add_special_tokens=False)
        return Tokens(text, list(encoding.ids), list(encoding.offsets))
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return Tokens(text, list(encoding["input_ids"]), [tuple(span) for span in encoding["offset_mapping"]])


def in_context(tokenizer: Any, demonstrations: list[str], separator: str, query: str) -> InContext:
    """Demonstrations and query joined by the separator, tokenised at once."""
    parts = [*demonstrations, query]
    chars = []
    start = 0
    for part in parts:
        chars.append((start, start + len(part)))
        start += len(part) + len(separator)
    text = separator.join(parts)
    assert [text[a:b] for a, b in chars] == parts
    return InContext(tokenize(tokenizer, text), chars[:-1], chars[-1])


def overlapping(tokens: Tokens, chars: Span) -> list[int]:
    """Indices of the tokens that hold at least one of the characters."""
    begin, stop = chars
    return [i for i, (a, b) in enumerate(tokens.spans) if max(a, begin) < min(b, stop)]


def aligned(alone: Tokens, full: Tokens, chars: Span, keep_first: bool = False) -> list[tuple[int, int]]:
    """Pairs (index in `alone`, index in `full`) of tokens that stand for the same characters.

    `chars` is where the text of `alone` lies within `full`. Each token's span is cut to that text, so that
    the separator's space in " Sentence" does not count. Several tokens of one character are paired in order.
    Without `keep_first` the first token of each side is left out before anything is paired.
    """
    left = overlapping(alone, (0, len(alone.text)))
    right = overlapping(full, chars)
    if not keep_first:
        left, right = left[1:], right[1:]
    where = dict(zip(_keys(full, right, chars), right, strict=True))
    keys = _keys(alone, left, (0, len(alone.text)))
    return [(i, where[key]) for i, key in zip(left, keys, strict=True) if key in where]


def _keys(tokens: Tokens, indices: list[int], chars: Span) -> list[tuple[int, int, int]]:
    """(start, end, how many earlier tokens have the same span), relative to the beginning of `chars`."""
    seen: Counter[Span] = Counter()
    keys = []
    for i in indices:
        a, b = tokens.spans[i]
        span = (max(a, chars[0]) - chars[0], min(b, chars[1]) - chars[0])
        keys.append((*span, seen[span]))
        seen[span] += 1
    return keys


def continuation(tokenizer: Any, prompt: Tokens, word: str) -> list[int]:
    """Token ids of " word" in place, after the prompt; the prompt's own tokens must stay what they were."""
    ids = tokenize(tokenizer, prompt.text + " " + word).ids
    length = len(prompt.ids)
    if ids[:length] != prompt.ids or len(ids) == length:
        raise ValueError(f"the label word {word!r} changes the tokens of the prompt before it")
    return ids[length:]
