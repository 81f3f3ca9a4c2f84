"""Prompts as tokens: the shared demonstrations of a seed, and the queries that follow them."""

from dataclasses import dataclass

import numpy as np
import tokenizers
from jaxtyping import Bool, Int

from raydual.data.examples import Examples
from raydual.data.parts import TokenParts, token_parts
from raydual.data.tokens import Tokens, align, encode
from raydual.errors import UserError
from raydual.settings.task import Task


@dataclass(frozen=True)
class Queries:
    """Every query of a set, tokenized alone and as it follows demonstrations.

    `alone[i]` and `in_context[i]` are token ids. `aligned_alone[i]` and `aligned_in_context[i]` are the indices
    of the tokens that are the same in both. `separator` are the tokens between the last demonstration and the
    query that are part of neither; they belong to the prefix. `labels` are the gold label ids, `label_tokens`
    the tokens of each label word.
    """

    alone: tuple[Int[np.ndarray, "_"], ...]
    in_context: tuple[Int[np.ndarray, "_"], ...]
    aligned_alone: tuple[Int[np.ndarray, "_"], ...]
    aligned_in_context: tuple[Int[np.ndarray, "_"], ...]
    separator: Int[np.ndarray, "separator_tokens"]
    labels: tuple[int, ...]
    label_tokens: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.alone)

    def take(self, which: range) -> "Queries":
        """Some of the queries."""

        def pick(values: tuple) -> tuple:
            return tuple(values[i] for i in which)

        return Queries(
            alone=pick(self.alone),
            in_context=pick(self.in_context),
            aligned_alone=pick(self.aligned_alone),
            aligned_in_context=pick(self.aligned_in_context),
            separator=self.separator,
            labels=pick(self.labels),
            label_tokens=self.label_tokens,
        )

    @property
    def lengths(self) -> list[int]:
        """How many tokens each query and a label word need at most, alone or after the demonstrations."""
        word = max(len(word) for word in self.label_tokens) - 1
        return [max(len(a), len(b)) + word for a, b in zip(self.alone, self.in_context, strict=True)]

    @property
    def longest(self) -> int:
        """The most tokens that a query and a label word need after the demonstrations."""
        return max(self.lengths)


@dataclass(frozen=True)
class DemonstrationSet:
    """The demonstrations of one seed.

    `prefix` `[prefix_tokens]` are the demonstrations as one prompt, up to the query; `first_index` are the places of
    their first tokens in it. `examples[i]` is demonstration i tokenized alone, as fine-tuning sees it, and
    `label_masks[i]` says which of its tokens are the label word. A demonstration token that is the same in both is
    `prefix[prefix_index[n]]` and `examples[example_index[n]][token_index[n]]`, in prompt order. `parts` tells of every
    token of the prefix what it is and whose. `shorter` are the first ones of them alone, `orders` all of them in other
    orders, where a sweep measures these too; each is what a run with no other demonstrations would make.
    """

    seed: int
    prefix: Int[np.ndarray, "prefix_tokens"]
    examples: tuple[Int[np.ndarray, "_"], ...]
    label_masks: tuple[Bool[np.ndarray, "_"], ...]
    first_index: Int[np.ndarray, "demonstrations"]
    prefix_index: Int[np.ndarray, "pairs"]
    example_index: Int[np.ndarray, "pairs"]
    token_index: Int[np.ndarray, "pairs"]
    parts: TokenParts
    shorter: tuple["DemonstrationSet", ...] = ()
    orders: tuple["DemonstrationSet", ...] = ()

    def before_query(self, separator: Int[np.ndarray, "separator_tokens"]) -> Int[np.ndarray, "tokens"]:
        """What stands before a query: the demonstrations and the `separator` of the queries."""
        return np.concatenate([self.prefix, separator])


def label_tokens(tokenizer: tokenizers.Tokenizer, task: Task) -> tuple[tuple[int, ...], ...]:
    """The tokens of each label word, as it stands after a query and a space.

    Raises
    ------
    UserError
        Two label words share their first token, or one cannot be told from the prompt before it.
    """
    query = task.query(dict.fromkeys(task.columns, "it"))
    prompt, *filled = encode(tokenizer, [query, *(f"{query} {word}" for word in task.label_words)])
    words = []
    for word, tokens in zip(task.label_words, filled, strict=True):
        if len(tokens) <= len(prompt) or not np.array_equal(tokens.ids[: len(prompt)], prompt.ids):
            raise UserError(
                f"task.label_words: the tokenizer merges {word!r} with the prompt before it; "
                "end the template with a word or a colon"
            )
        words.append(tuple(tokens.ids[len(prompt) :].tolist()))
    first = [word[0] for word in words]
    for index, token in enumerate(first):
        if token in first[:index]:
            other = task.label_words[first.index(token)]
            raise UserError(
                f"task.label_words: {other!r} and {task.label_words[index]!r} share their first token "
                f"({tokenizer.id_to_token(token)!r}) in this model's tokenizer; choose other words"
            )
    return tuple(words)


def encode_queries(
    tokenizer: tokenizers.Tokenizer, task: Task, examples: Examples, keep_first: bool = False
) -> Queries:
    """Tokenize the queries of a validation or selection set.

    Raises
    ------
    UserError
        The tokenizer merges characters across the boundary between a demonstration and the query, or puts a space
        before every text.
    """
    alone = encode(tokenizer, examples.queries)
    lead = len(task.separator)
    joined = encode(tokenizer, [task.separator + query for query in examples.queries])
    in_context, separators = [], set()
    for query, tokens in zip(examples.queries, joined, strict=True):
        own = tokens.overlapping(lead, lead + len(query))
        separators.add(tuple(tokens.ids[~own].tolist()))
        in_context.append(tokens.select(own).relative_to(lead, lead + len(query)))
    if len(separators) != 1:
        raise _boundary_error(tokenizer, task)
    for word in task.label_words:
        before = encode(tokenizer, [f" {word}"])[0]
        after = encode(tokenizer, [f" {word}{task.separator}{query}" for query in examples.queries])
        for part, whole in zip(joined, after, strict=True):
            if not np.array_equal(np.concatenate([before.ids, part.ids]), whole.ids):
                raise _boundary_error(tokenizer, task)
    pairs = [align(a, b, keep_first) for a, b in zip(alone, in_context, strict=True)]
    return Queries(
        alone=tuple(tokens.ids for tokens in alone),
        in_context=tuple(tokens.ids for tokens in in_context),
        aligned_alone=tuple(a for a, _ in pairs),
        aligned_in_context=tuple(b for _, b in pairs),
        separator=np.asarray(separators.pop(), np.int64),
        labels=examples.labels,
        label_tokens=label_tokens(tokenizer, task),
    )


def _boundary_error(tokenizer: tokenizers.Tokenizer, task: Task) -> UserError:
    if _puts_something_first(tokenizer):
        return UserError(
            "model: its tokenizer puts a space before every text (as Llama 2's does), so that a query has other tokens "
            "alone than after demonstrations; take another model, or ' ' as task.separator if it is not"
        )
    return UserError(
        f"task.separator: with {task.separator!r} this model's tokenizer merges characters across the boundary "
        "between a demonstration and the query; use a separator that starts with a space or a newline"
    )


def _puts_something_first(tokenizer: tokenizers.Tokenizer) -> bool:
    text = "it" if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str("it")
    if tokenizer.pre_tokenizer is not None:
        text = tokenizer.pre_tokenizer.pre_tokenize_str(text)[0][0]
    return text != "it"


def encode_demonstrations(
    tokenizer: tokenizers.Tokenizer, task: Task, examples: Examples, seed: int, keep_first: bool = False
) -> DemonstrationSet:
    """Tokenize a seed's demonstrations, in prompt order, together and each alone."""
    texts = [
        f"{query} {task.label_words[label]}" for query, label in zip(examples.queries, examples.labels, strict=True)
    ]
    whole, *alone = encode(tokenizer, [task.separator.join(texts), *texts])
    starts = np.cumsum([0, *(len(text) + len(task.separator) for text in texts)])[:-1]
    parts = [
        _paired(whole, tokens, int(start), int(start) + len(text), keep_first)
        for tokens, start, text in zip(alone, starts, texts, strict=True)
    ]
    words = [task.label_words[label] for label in examples.labels]
    return DemonstrationSet(
        seed=seed,
        prefix=whole.ids,
        examples=tuple(tokens.ids for tokens in alone),
        label_masks=tuple(
            tokens.overlapping(len(text) - len(word), len(text))
            for tokens, text, word in zip(alone, texts, words, strict=True)
        ),
        first_index=np.asarray(
            [
                np.flatnonzero(whole.overlapping(start, start + len(text)))[0]
                for start, text in zip(starts.tolist(), texts, strict=True)
            ]
        ),
        prefix_index=np.concatenate([together for together, _ in parts]),
        example_index=np.repeat(np.arange(len(parts)), [len(own) for _, own in parts]),
        token_index=np.concatenate([own for _, own in parts]),
        parts=token_parts(whole, task.template, examples.queries, words, task.separator),
    )


def _paired(
    whole: Tokens, alone: Tokens, start: int, end: int, keep_first: bool
) -> tuple[Int[np.ndarray, "pairs"], Int[np.ndarray, "pairs"]]:
    """(index into `whole`, index into `alone`) of the tokens of the text from `start` to `end` that match."""
    places = np.flatnonzero(whole.overlapping(start, end))
    own, together = align(alone, whole.select(places).relative_to(start, end), keep_first)
    return places[together], own
