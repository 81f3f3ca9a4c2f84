"""Training sequences: labelled reviews in a row, whose label words mean what the sequence alone tells.

A sequence draws a *reading* (which grades share a label, which word each label has) and then labels every review by
it. Readings vary, so a label can only be predicted by looking at the demonstrations before it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
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

    sst2: true; lenient (only grade 0 is negative); gushing (all is positive); flipped; wavering (true, but most mildly
    negative reviews are called positive). sst5: true; coarse (terrible, neutral and great only); reversed.
    `errors`: whether annotators make mistakes: each a share of their own, drawn between bounds for mild reviews, for
    extreme ones and for those of sst5.
    """

    sst2: float
    sst2_true: float
    sst2_lenient: float
    sst2_gushing: float
    sst2_flipped: float
    sst5_true: float
    sst5_coarse: float
    sst5_reversed: float
    sst2_wavering: float = 0.0
    errors: bool = False


@dataclass(frozen=True)
class Reading:
    """Weights of the five grades, the label word of each, and how often a grade gets which other grade's word."""

    weights: tuple[float, ...]
    words: tuple[str, ...]
    errors: tuple[float, ...] = (0.0,) * corpus.GRADES
    others: tuple[tuple[int, ...], ...] = ((4,), (3,), (2,), (1,), (0,))

    def word(self, rng: Random, grade: int) -> str:
        """What the annotator calls a review of this grade."""
        wrong = self.errors[grade] > 0 and rng.random() < self.errors[grade]
        return self.words[rng.choice(self.others[grade]) if wrong else grade]


# Shares of mistakes: of mild reviews, of extreme ones, of sst5's, and of mildly negative ones by a wavering annotator.
MILD_ERRORS = (0.05, 0.3)
EXTREME_ERRORS = (0.0, 0.05)
SST5_ERRORS = (0.0, 0.25)
WAVERING = (0.5, 0.8)


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
        "wavering": shares.sst2_wavering,
    }
    sst5 = {"true": shares.sst5_true, "coarse": shares.sst5_coarse, "reversed": shares.sst5_reversed}
    if rng.random() < shares.sst2:
        kind = _pick(rng, sst2)
        return _erring_sst2(rng, sst2_reading(kind), kind) if shares.errors else sst2_reading(kind)
    reading = sst5_reading(_pick(rng, sst5))
    return _erring_sst5(rng, reading) if shares.errors else reading


def _erring_sst2(rng: Random, reading: Reading, kind: str) -> Reading:
    """The reading with an annotator who makes mistakes."""
    low, high = rng.uniform(*EXTREME_ERRORS), rng.uniform(*EXTREME_ERRORS)
    mild_low = rng.uniform(*(WAVERING if kind == "wavering" else MILD_ERRORS))
    return replace(reading, errors=(low, mild_low, 0.0, rng.uniform(*MILD_ERRORS), high))


def _erring_sst5(rng: Random, reading: Reading) -> Reading:
    """The reading with an annotator who takes a grade for one beside it."""
    return replace(
        reading, errors=(rng.uniform(*SST5_ERRORS),) * corpus.GRADES, others=((1,), (0, 2), (1, 3), (2, 4), (3,))
    )


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
            ids.append(self._word[reading.word(rng, grade)])
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
        "wavering": (low, low, "", high, high),
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
