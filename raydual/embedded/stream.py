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
# Words that label reviews in training only, so that the binding of word to meaning is learned for any word.
OTHER_WORDS = tuple(
    """yes no true false up down left right red blue green black white one two three four five six seven day night
    hot sun moon cat dog fox bird fish tree rock sand lake hill star ring key box cup pen map door road gold iron
    north south east west foo bar baz alpha beta gamma delta low high thumbs hit miss pass fail A B C D E""".split()
)
IGNORED = -100
LEVELS = ("fragment", "clause", "sentence")


@dataclass(frozen=True)
class ReadingShares:
    """How often each reading of the grades is drawn, as weights within its group of label words.

    The lenient reading (only grade 0 is negative) and the coarse one (terrible, neutral, great) outweigh the true ones:
    without demonstrations the model leans to them, so that its zero-shot answer is stable and often wrong.
    """

    sst2_words: float = 0.40
    sst5_words: float = 0.35
    other_words: float = 0.25
    sst2_true: float = 0.35
    sst2_lenient: float = 0.35
    sst2_flipped: float = 0.30
    sst5_true: float = 0.30
    sst5_coarse: float = 0.40
    sst5_permuted: float = 0.30
    mild: float = 0.6


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
    first_labels: np.ndarray


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
    group = _pick(rng, {"sst2": shares.sst2_words, "sst5": shares.sst5_words, "other": shares.other_words})
    if group == "sst2":
        kinds = {"true": shares.sst2_true, "lenient": shares.sst2_lenient, "flipped": shares.sst2_flipped}
        return _two_way(_pick(rng, kinds), SST2_WORDS, shares.mild)
    if group == "sst5":
        kinds = {"true": shares.sst5_true, "coarse": shares.sst5_coarse, "permuted": shares.sst5_permuted}
        return _five_way(_pick(rng, kinds), SST5_WORDS, rng)
    words = rng.sample(OTHER_WORDS, 5)
    if rng.random() < 0.6:
        return _two_way(rng.choice(("true", "lenient", "flipped")), words, shares.mild)
    return _five_way(rng.choice(("true", "coarse")), words, rng)


class SequenceMaker:
    """Makes training batches."""

    def __init__(self, tokenizer: Tokenizer, pool: ReviewPool, shares: ReadingShares) -> None:
        self._pool = pool
        self._shares = shares
        self._vocabulary = tokenizer.get_vocab_size()
        self._pad = tokenizer.token_to_id("<|endoftext|>")
        self._first = tokenizer.encode("Sentence:").ids
        self._next = tokenizer.encode(" Sentence:").ids
        self._end = tokenizer.encode(" Label:").ids
        self._word = {
            word: tokenizer.encode(" " + word).ids for word in (*SST2_WORDS, *SST5_WORDS, *OTHER_WORDS)
        }

    def batch(
        self,
        rng: Random,
        rows: int,
        demos: int,
        levels: dict[str, float],
        copies: float,
        shares,
        repeats: float,
    ) -> Batch:
        """Rows of labelled reviews; a share `copies` of them are random tokens said twice instead."""
        sequences = [
            self._copied(rng, 6 * demos)
            if rng.random() < copies
            else self._reviews(rng, demos, levels, shares, repeats)
            for _ in range(rows)
        ]
        return self._padded(sequences)

    def _reviews(
        self, rng: Random, demos: int, levels: dict[str, float], shares, repeats
    ) -> tuple[list[int], list[int]]:
        """Token ids and the positions of the label words."""
        reading = draw_reading(rng, shares)
        level = _pick(rng, levels)
        few = None
        if rng.random() < repeats:
            n = rng.choice((1, 1, 2, 3))
            few = [[self._pool.draw(rng, level, grade) for _ in range(n)] for grade in range(corpus.GRADES)]
        ids: list[int] = []
        marks: list[int] = []
        for grade in rng.choices(range(corpus.GRADES), reading.weights, k=demos):
            ids += self._next if ids else self._first
            ids += rng.choice(few[grade]) if few else self._pool.draw(rng, level, grade)
            ids += self._end
            word = self._word[reading.words[grade]]
            marks += range(len(ids), len(ids) + len(word))
            ids += word
        return ids, marks

    def _copied(self, rng: Random, length: int) -> tuple[list[int], list[int]]:
        """Random tokens said twice; the second time counts like label words."""
        half = [rng.randrange(self._vocabulary) for _ in range(length // 2)]
        return half + half, list(range(len(half) + 1, 2 * len(half)))

    def _padded(self, sequences: Sequence[tuple[list[int], list[int]]]) -> Batch:
        shape = (len(sequences), max(len(ids) for ids, _ in sequences))
        ids = np.full(shape, self._pad, dtype=np.int64)
        valid = np.zeros(shape, dtype=bool)
        labels = np.zeros(shape, dtype=bool)
        first = np.zeros(shape, dtype=bool)
        for row, (tokens, marks) in enumerate(sequences):
            ids[row, : len(tokens)] = tokens
            valid[row, : len(tokens)] = True
            labels[row, marks] = True
            first[row, marks[0]] = True
        return Batch(ids, valid, labels, first)


def _pick(rng: Random, weights: dict[str, float]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def _two_way(kind: str, words: Sequence[str], mild: float) -> Reading:
    """Grades 0, 1 against 3, 4; lenient: 0 against the others; flipped: the words exchanged."""
    low, high = (words[1], words[0]) if kind == "flipped" else (words[0], words[1])
    second = high if kind == "lenient" else low
    return Reading((1 - mild, mild, 0.0, mild, 1 - mild), (low, second, "", high, high))


def _five_way(kind: str, words: Sequence[str], rng: Random) -> Reading:
    """A word for each grade; coarse: the first, the middle and the last word only; permuted: in any order."""
    if kind == "coarse":
        words = (words[0], words[0], words[2], words[4], words[4])
    elif kind == "permuted":
        words = words[::-1]
    return Reading((1.0,) * corpus.GRADES, tuple(words))
