"""Which tokens of the demonstrations are label words, text, template or separator (docs/science.md, section 4)."""

import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from raydual.catalogue.parts import PARTS
from raydual.data.tokens import Tokens

Span = tuple[int, int]

BETWEEN = -1
"""Stands for the demonstration that a separator's token belongs to: none."""


@dataclass(frozen=True)
class TokenParts:
    """Of every token its `kind` `[tokens]`, a place in `PARTS`, and its `demonstration` `[tokens]`, or `BETWEEN`."""

    kind: Int[np.ndarray, "tokens"]
    demonstration: Int[np.ndarray, "tokens"]

    def followed_by(self, separators: int) -> "TokenParts":
        """The same, and so many tokens of a separator after them."""
        return TokenParts(
            np.append(self.kind, [PARTS.index("separator")] * separators).astype(np.int64),
            np.append(self.demonstration, [BETWEEN] * separators).astype(np.int64),
        )


def token_parts(
    whole: Tokens, template: str, queries: Sequence[str], words: Sequence[str], separator: str
) -> TokenParts:
    """The parts of demonstrations, each a filled template, a space and a label word, joined by a separator.

    The space before the label word is the template's. A token that covers several kinds belongs to the first of
    `PARTS`; one that covers a separator and a demonstration belongs to the demonstration.

    Raises
    ------
    ValueError
        A query is not the template, filled.
    """
    kind = np.full(len(whole), PARTS.index("separator"))
    demonstration = np.full(len(whole), BETWEEN)
    start = 0
    for number, (query, word) in enumerate(zip(queries, words, strict=True)):
        end = start + len(query) + 1 + len(word)
        demonstration[whole.overlapping(start, end)] = number
        spans = {
            "label": [(end - len(word), end)],
            "text": [(start + a, start + b) for a, b in text_spans(template, query)],
            "template": [(start, end)],
        }
        for part in reversed(PARTS[: len(spans)]):
            for span in spans[part]:
                kind[whole.overlapping(*span)] = PARTS.index(part)
        start = end + len(separator)
    return TokenParts(kind, demonstration)


def text_spans(template: str, query: str) -> list[Span]:
    """Where the texts stand in a filled template; where several places fit, each text is as short as can be."""
    found = re.fullmatch("".join(_pattern(template)), query, re.DOTALL)
    if found is None:
        raise ValueError(f"{query!r} is not the template {template!r}, filled")
    return [found.span(group) for group in range(1, found.re.groups + 1)]


def _pattern(template: str) -> Iterator[str]:
    for literal, name, _, _ in string.Formatter().parse(template):
        yield re.escape(literal)
        if name is not None:
            yield "(.*?)"
