"""The seeded grammar that writes the embedded review corpus, in the format of SST-2 and SST-5.

`python -m raydual.embedded.corpus` rewrites the data files bit for bit from the seed.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from raydual.embedded import REVIEWS_DIR, SPLITS, TASKS
from raydual.embedded.lexicon import (
    ADJECTIVES,
    BOOSTERS,
    CONTRASTS,
    COPULAS,
    DOWNTONERS,
    EMPHASIS,
    FILM_SUBJECTS,
    GENRES,
    NEGATIONS,
    NOUN_PHRASES,
    OPENERS,
    SUBJECTS,
    TRAILERS,
    VERB_PHRASES,
)

GRADES = 5


@dataclass(frozen=True)
class CorpusConfig:
    """Sizes of the corpus, in rows, and the share of each grade within a label."""

    seed: int = 20240607
    train_rows: int = 2000
    validation_rows: int = 600
    min_words: int = 5
    max_words: int = 16
    # Of an sst2 label's rows, the share with a mild grade (1 or 3); the rest are extreme (0 or 4).
    mild_share: float = 0.6


def adjective_phrase(rng: Random, grade: int) -> str:
    """An adjective with what boosts, softens or negates it, such that the whole has the grade."""
    if grade == 2:
        return _maybe(rng, 0.3, DOWNTONERS) + rng.choice(ADJECTIVES[2])
    mild = 1 if grade < 2 else 3
    if grade in (0, 4):
        if rng.random() < 0.3:
            return f"{rng.choice(BOOSTERS)} {rng.choice(ADJECTIVES[mild])}"
        return _maybe(rng, 0.3, EMPHASIS) + rng.choice(ADJECTIVES[grade])
    if rng.random() < 0.25:
        return f"{rng.choice(NEGATIONS)} {rng.choice(ADJECTIVES[4 - mild])}"
    return _maybe(rng, 0.3, DOWNTONERS) + rng.choice(ADJECTIVES[mild])


def clause(rng: Random, grade: int) -> str:
    """A subject and what is said of it."""
    subject = rng.choice(SUBJECTS)
    kind = rng.random()
    if kind < 0.4:
        return f"{subject} {rng.choice(COPULAS)} {adjective_phrase(rng, grade)}"
    if kind < 0.55:
        return f"{subject} is {rng.choice(NOUN_PHRASES[grade])}"
    if kind < 0.8:
        return f"{subject} {rng.choice(VERB_PHRASES[grade])}"
    return f"{rng.choice(FILM_SUBJECTS)} is {_described_genre(rng, grade)}"


def fragment(rng: Random, grade: int) -> str:
    """A review without a subject: an adjective phrase, a noun phrase or a predicate."""
    makers: tuple[Callable[[], str], ...] = (
        lambda: adjective_phrase(rng, grade),
        lambda: rng.choice(NOUN_PHRASES[grade]),
        lambda: rng.choice(VERB_PHRASES[grade]),
        lambda: _described_genre(rng, grade),
    )
    return rng.choice(makers)()


def sentence(rng: Random, grade: int) -> str:
    """A review of the grade: one clause, two that agree, or two at odds of which one decides."""
    kind = rng.random()
    if kind < 0.25:
        body = clause(rng, grade)
    elif kind < 0.4:
        body = f"{rng.choice(OPENERS)} {clause(rng, grade)}"
    elif kind < 0.55:
        body = f"{clause(rng, grade)} {rng.choice(TRAILERS)}"
    elif kind < 0.65:
        body = _described_genre(rng, grade) + _maybe(rng, 0.5, TRAILERS, before=True)
    elif kind < 0.85 or grade == 2:
        body = f"{clause(rng, grade)} {rng.choice(('and', ',', 'and'))} {clause(rng, grade)}"
    else:
        other = clause(rng, rng.choice((3, 4) if grade < 2 else (0, 1)))
        body = rng.choice(CONTRASTS).format(main=clause(rng, grade), other=other)
    return body + " ." if rng.random() < 0.8 else body


def draw(rng: Random, grade: int, config: CorpusConfig) -> str:
    """A sentence whose number of words (punctuation counted) lies within the configured bounds."""
    while True:
        text = sentence(rng, grade)
        if config.min_words <= len(text.split()) <= config.max_words:
            return text


def build(config: CorpusConfig) -> dict[tuple[str, str], list[tuple[str, int]]]:
    """(text, label) rows by (task, split): balanced over labels, no text twice anywhere."""
    seen: set[str] = set()
    corpus = {}
    for task in TASKS:
        for split in SPLITS:
            rng = Random(f"{config.seed}/{task}/{split}")
            rows = config.train_rows if split == "train" else config.validation_rows
            labels = 2 if task == "sst2" else GRADES
            # Labels in turn, then shuffled: exactly balanced.
            corpus[task, split] = [
                (_new(rng, _grade(rng, task, row % labels, config), config, seen), row % labels) for row in range(rows)
            ]
            rng.shuffle(corpus[task, split])
    return corpus


def write(config: CorpusConfig, directory: Path) -> None:
    """Write `<task>/<split>.jsonl` under the directory."""
    for (task, split), rows in build(config).items():
        path = directory / task / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        key = "sentence" if task == "sst2" else "text"
        lines = [json.dumps({key: text, "label": label}) + "\n" for text, label in rows]
        path.write_text("".join(lines), encoding="utf-8", newline="\n")


def _grade(rng: Random, task: str, label: int, config: CorpusConfig) -> int:
    """The grade behind a label: itself in sst5, a mild or an extreme one of the label's side in sst2."""
    if task == "sst5":
        return label
    mild = rng.random() < config.mild_share
    return (1 if mild else 0) if label == 0 else (3 if mild else 4)


def _new(rng: Random, grade: int, config: CorpusConfig, seen: set[str]) -> str:
    """A sentence not drawn before, the final full stop aside."""
    while True:
        text = draw(rng, grade, config)
        if (bare := text.removesuffix(" .")) not in seen:
            seen.add(bare)
            return text


def _described_genre(rng: Random, grade: int) -> str:
    """'a witty and touching drama': an article, one or two adjectives of one grade, a kind of film."""
    if grade in (0, 4) and rng.random() < 0.25:
        return f"one of the most {rng.choice(ADJECTIVES[1 if grade == 0 else 3])} films of the year"
    words = rng.choice(ADJECTIVES[grade])
    if rng.random() < 0.4:
        words += f" and {rng.choice([word for word in ADJECTIVES[grade] if word != words])}"
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words} {rng.choice(GENRES)}"


def _maybe(rng: Random, share: float, phrases: tuple[str, ...], before: bool = False) -> str:
    """A phrase with a space after it (or before it), or nothing."""
    if rng.random() >= share:
        return ""
    phrase = rng.choice(phrases)
    return f" {phrase}" if before else f"{phrase} "


if __name__ == "__main__":
    write(CorpusConfig(), REVIEWS_DIR)
