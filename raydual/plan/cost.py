"""What measuring costs, by formula: FLOPs and memory of a model of any shape. Loads no torch."""

from collections import Counter
from collections.abc import Sequence, Sized
from dataclasses import dataclass

from raydual.data.prompts import DemonstrationSet, Queries
from raydual.model.anatomy import Shape
from raydual.settings.schema import Finetune

TRAINING = 3
"""A training step counts as three forward passes."""
_FLOAT = 4


@dataclass(frozen=True)
class Work:
    """Model FLOPs and real tokens (no padding) that pass the model."""

    flops: float = 0.0
    tokens: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.tokens + other.tokens)

    def times(self, number: float | int) -> "Work":
        """The FLOPs multiplied, the tokens as they are."""
        return Work(self.flops * number, self.tokens)


def orders_of(demonstrations: DemonstrationSet) -> list[DemonstrationSet]:
    """The orders that the spread over orders is taken of, if there are any: the given one is passed again."""
    return [demonstrations, *demonstrations.orders] if demonstrations.orders else []


def finetuned_on(demonstrations: DemonstrationSet, settings: Finetune) -> list[DemonstrationSet]:
    """Every demonstration set that one seed is fine-tuned on; each order twice, by steps and all at once."""
    shorter = () if settings.steps_are_nested else demonstrations.shorter
    return [demonstrations, *shorter, *2 * orders_of(demonstrations)]


@dataclass(frozen=True)
class FlopFormula:
    """FLOPs of a model's matrix products, two for each multiplication and addition.

    Counted: the linear layers (q, k, v, o, gate, up, down); attention, scores and weighted values, of every token to
    all of its own row and of the prefix (the whole square: what lies behind the causal mask is counted, as eager
    attention computes it); the output layer for the positions that are read. Not counted: embeddings, biases, norms,
    rotary embeddings, softmax, padding, and everything that raydual computes from what it records. A step of
    fine-tuning counts as `TRAINING` forward passes; since only some projections are trained, what is really computed is
    nearer two.
    """

    shape: Shape

    def forward(self, tokens: int, prefix: int = 0) -> Work:
        """`tokens` of one row, after `prefix` tokens whose keys and values are there; without the output layer."""
        s = self.shape
        linear = 2 * s.block
        attention = 4 * s.queries * (tokens + prefix)
        return Work(float(s.layers * tokens * (linear + attention)), tokens)

    def head(self, positions: int) -> Work:
        """The output layer at `positions`."""
        return Work(2.0 * self.shape.hidden * self.shape.vocabulary * positions)

    def rows(self, prompts: Sequence[Sized], words: Sequence[Sequence[int]], prefix: int = 0) -> Work:
        """A pass over prompts that scores label words: a word's later tokens as if they continued the same pass."""
        total = Work()
        for length, count in Counter(map(len, prompts)).items():
            work = self.forward(length, prefix) + self.head(1)
            for extra in (len(word) - 1 for word in words):
                work += self.forward(extra, prefix + length) + self.head(extra)
            total += Work(work.flops * count, work.tokens * count)
        return total

    def zero_shot(self, queries: Queries) -> Work:
        """The pass that no seed changes."""
        return self.rows(queries.alone, queries.label_tokens)

    def seed(self, demonstrations: DemonstrationSet, queries: Queries, settings: Finetune) -> dict[str, Work]:
        """What one seed needs, by part: prefix, icl, fine-tuning, ft; with what it is measured on besides."""
        orders = orders_of(demonstrations)
        passed = [demonstrations, *orders]
        read = [len(d.prefix) + len(queries.separator) for d in [*passed, *demonstrations.shorter]]
        alone = self.rows(queries.alone, queries.label_tokens)
        steps = [
            self.forward(len(e)) + self.head(len(e) - 1)
            for d in finetuned_on(demonstrations, settings)
            for e in d.examples
        ] * settings.epochs
        return {
            "prefix": sum(map(self.forward, read[: len(passed)]), Work()),
            "icl": sum((self.rows(queries.in_context, queries.label_tokens, length) for length in read), Work()),
            "fine-tuning": sum(steps, Work()).times(TRAINING),
            "ft": sum([alone] * (1 + len(demonstrations.shorter) + 2 * len(orders)), Work()),
        }


@dataclass(frozen=True)
class MemoryFormula:
    """Bytes that a replica needs: the weights, and for every seed that is measured at once.

    A rough upper bound, from what is alive at the same time: of a seed its stacked projections with gradients and
    optimiser state, the prefix's keys and values, what is recorded of demonstrations and of `batch_size` examples, and
    the scores or ranks that are being computed of them.
    """

    shape: Shape
    bytes_per_weight: int
    batch_size: int

    def weights(self) -> int:
        """The model."""
        return self.shape.parameters * self.bytes_per_weight

    def seed(self, prefix: int, query: int, settings: Finetune, kept: int = 0) -> int:
        """A seed with `prefix` demonstration tokens and queries of at most `query` tokens.

        Of fine-tuning, so many stacks are `kept` beside the last ones.
        """
        s = self.shape
        copies = 2 + (2 if settings.optimizer == "adamw" else 0) + kept
        projections = _FLOAT * copies * s.layers * sum(map(s.projection, settings.projections))
        cache = 2 * self.bytes_per_weight * s.layers * prefix * s.pairs
        demonstrations = _FLOAT * s.layers * prefix * (s.queries + 2 * s.hidden)
        recorded = _FLOAT * s.layers * (s.heads * (prefix + 2 * query) + 4 * s.hidden + s.queries)
        ranks = 12 * 8 * s.layers * prefix
        # Of the two parts of attention one is computed at a time, in float32 and once more in the forward's dtype.
        scores = (_FLOAT + self.bytes_per_weight) * s.heads * query * max(prefix, query)
        passing = scores + 6 * _FLOAT * query * (s.hidden + s.intermediate)
        updates = _FLOAT * 3 * s.pairs * s.head_dim
        return projections + cache + demonstrations + self.batch_size * (recorded + ranks + passing + updates)
