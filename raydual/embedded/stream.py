"""Training sequences: labelled reviews in a row, whose label words mean what the sequence alone tells.

A sequence draws a *reading* (which grades share a label, which word each label has) and then labels every review by
it. Readings vary, so a label can only be predicted by looking at the demonstrations before it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from tokenizers import Tokenizer

from raydual.embedded import corpus

SST2_WORDS = ("negative", "positive")
SST5_WORDS = ("terrible", "bad", "neutral", "good", "great")
LEVELS = ("fragment", "clause", "sentence")


@dataclass(frozen=True)
class ReadingShares:
    """Weights of the readings within each task's label words, and the share of sequences with sst2's words.

    sst2: true; lenient (only grade 0 is negative); gushing (all is positive); flipped.
    sst5: true; coarse (terrible, neutral and great only); reversed.
    """

    sst2: float
    sst2_true: float
    sst2_lenient: float
    sst2_gushing: float
    sst2_flipped: float
    sst5_true: float
    sst5_coarse: float
    sst5_reversed: float


@dataclass(frozen=True)
class Reading:
    """Weights of the five grades, and the label word of each grade."""

    weights: tuple[float, ...]
    words: tuple[str, ...]


@dataclass(frozen=True)
class Batch:
    """Token ids `[rows, length]` padded on the right; `labels` is True where a token is a label word."""

    ids: np.ndarray
    valid: np.ndarray
    labels: np.ndarray


class ReviewPool:
    """Tokenised reviews by level and grade, none of them a validation review of the corpus."""

    def __init__(self, tokenizer: Tokenizer, held_out: Iterable[str], per_grade: int, seed: int) -> None:
        self._held_out = {text.removesuffix(" .") for text in held_out}
        config = corpus.CorpusConfig()
        makers = {
            "fragment": corpus.fragment,
            "clause": corpus.clause,
            "sentence": lambda rng, grade: corpus.draw(rng, grade, config),
        }
        self._ids: dict[tuple[str, int], list[list[int]]] = {}
        for level in LEVELS:
            for grade in range(corpus.GRADES):
                rng = Random(f"{seed}/{level}/{grade}")
                texts = (makers[level](rng, grade) for _ in range(per_grade))
                kept = [" " + text for text in texts if text.removesuffix(" .") not in self._held_out]
                self._ids[level, grade] = [row.ids for row in tokenizer.encode_batch(kept)]
        for grade in range(corpus.GRADES):
            words = [" " + word for word in corpus.ADJECTIVES[grade]]
            self._ids["word", grade] = [row.ids for row in tokenizer.encode_batch(words)]

    def draw(self, rng: Random, level: str, grade: int) -> list[int]:
        """The token ids of one review."""
        return rng.choice(self._ids[level, grade])


def draw_reading(rng: Random, shares: ReadingShares) -> Reading:
    """A reading, with the configured shares."""
    sst2 = {
        "true": shares.sst2_true,
        "lenient": shares.sst2_lenient,
        "gushing": shares.sst2_gushing,
        "flipped": shares.sst2_flipped,
    }
    sst5 = {"true": shares.sst5_true, "coarse": shares.sst5_coarse, "reversed": shares.sst5_reversed}
    return sst2_reading(_pick(rng, sst2)) if rng.random() < shares.sst2 else sst5_reading(_pick(rng, sst5))


class SequenceMaker:
    """Makes training batches."""

    def __init__(self, tokenizer: Tokenizer, pool: ReviewPool) -> None:
        self._pool = pool
        self._pad = tokenizer.token_to_id("<|endoftext|>")
        self._first = tokenizer.encode("Sentence:").ids
        self._next = tokenizer.encode(" Sentence:").ids
        self._end = tokenizer.encode(" Label:").ids
        self._word = {word: tokenizer.encode(" " + word).ids[0] for word in (*SST2_WORDS, *SST5_WORDS)}

    def batch(self, rng: Random, rows: int, demos: int, levels: dict[str, float], shares: ReadingShares) -> Batch:
        """`rows` sequences of `demos` labelled reviews."""
        return self._padded([self._reviews(rng, demos, levels, shares) for _ in range(rows)])

    def _reviews(
        self, rng: Random, demos: int, levels: dict[str, float], shares: ReadingShares
    ) -> tuple[list[int], list[int]]:
        """Token ids, and the positions of the label words; one reading and one level throughout."""
        reading = draw_reading(rng, shares)
        level = _pick(rng, levels)
        ids: list[int] = []
        marks: list[int] = []
        for grade in rng.choices(range(corpus.GRADES), reading.weights, k=demos):
            ids += self._next if ids else self._first
            ids += self._pool.draw(rng, level, grade)
            ids += self._end
            marks.append(len(ids))
            ids.append(self._word[reading.words[grade]])
        return ids, marks

    def _padded(self, sequences: Sequence[tuple[list[int], list[int]]]) -> Batch:
        shape = (len(sequences), max(len(ids) for ids, _ in sequences))
        ids = np.full(shape, self._pad, dtype=np.int64)
        valid = np.zeros(shape, dtype=bool)
        labels = np.zeros(shape, dtype=bool)
        for row, (tokens, marks) in enumerate(sequences):
            ids[row, : len(tokens)] = tokens
            valid[row, : len(tokens)] = True
            labels[row, marks] = True
        return Batch(ids, valid, labels)


def _pick(rng: Random, weights: dict[str, float]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def sst2_reading(kind: str) -> Reading:
    """Grades 0, 1 against 3, 4, mild ones as often as in the corpus."""
    low, high = SST2_WORDS
    words = {
        "true": (low, low, "", high, high),
        "lenient": (low, high, "", high, high),
        "gushing": (high, high, "", high, high),
        "flipped": (high, high, "", low, low),
    }[kind]
    mild = corpus.CorpusConfig().mild_share
    return Reading((1 - mild, mild, 0.0, mild, 1 - mild), words)


def sst5_reading(kind: str) -> Reading:
    """All five grades, equally often."""
    words = {
        "true": SST5_WORDS,
        "coarse": tuple(SST5_WORDS[label] for label in (0, 0, 2, 4, 4)),
        "reversed": SST5_WORDS[::-1],
    }[kind]
    return Reading((1.0,) * corpus.GRADES, words)
