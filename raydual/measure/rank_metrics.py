"""How alike context and fine-tuning rank the demonstrations: Kendall's τ and top-k recall, by token and by example."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.profiler import record_function

from raydual.catalogue.entries import CATALOGUE, Key
from raydual.catalogue.marks import Measure, of_ranks
from raydual.data.prompts import DemonstrationSet
from raydual.measure.call import arrays
from raydual.measure.conditions import Chunk
from raydual.measure.keyed_noise import KENDALL_NOISE, keyed_noise
from raydual.measure.ranking import Ranking, top_recall
from raydual.model.anatomy import QUERY
from raydual.model.finetune import Tuned
from raydual.settings.measures import Measures

_TOP_TOKENS, _TOP_EXAMPLES = 100, 5


@dataclass(frozen=True)
class Training:
    """One seed's demonstration tokens as fine-tuning saw them.

    `query` and `attn_in` `[layers, pairs, width]` are their queries and attention inputs; `prefix_index`
    `[pairs]` their places in the in-context prompt; `example` `[pairs]` the demonstrations they belong to;
    `first_alike` `[pairs]` the first of them with the same token id, whose inputs in the first layer are the same
    ones, up to rounding that must not break a tie, and `first_query_alike` the first with the same query there;
    `first_same` `[pairs]` the first whose vectors in the other layers are the same, since it follows the same tokens
    and the weights were the same; `examples` how many demonstrations there are.
    """

    seed: int
    query: Float[Tensor, "layers pairs width"]
    attn_in: Float[Tensor, "layers pairs hidden"]
    prefix_index: Int[Tensor, "pairs"]
    example: Int[Tensor, "pairs"]
    first_alike: Int[Tensor, "pairs"]
    first_query_alike: Int[Tensor, "pairs"]
    first_same: Int[Tensor, "pairs"]
    examples: int


def training_tokens(sets: Sequence[DemonstrationSet], tuned: Tuned, query: str) -> list[Training]:
    """Pick every seed's paired demonstration tokens out of the recordings of its training passes.

    `query` is the recorded field that their queries are taken from.
    """
    return [_training_tokens(group, demonstrations, tuned, query) for group, demonstrations in enumerate(sets)]


def _training_tokens(group: int, demonstrations: DemonstrationSet, tuned: Tuned, query: str) -> Training:
    device = tuned.losses.device
    fields: dict[str, list[Tensor]] = {name: [] for name in (query, "attn_in")}
    for place, recorded in enumerate(tuned.recordings):
        tokens = demonstrations.token_index[demonstrations.example_index == place]
        for name, parts in fields.items():
            parts.append(recorded[name][group][:, torch.as_tensor(tokens, device=device)])
    ids = demonstrations.prefix[demonstrations.prefix_index]
    _, example = np.unique(demonstrations.example_index, return_inverse=True)
    # Where queries are trained step by step, every step sees another projection.
    steps = (0, QUERY) in tuned.stacks and not tuned.same_weights
    of_token = ids.tolist()
    of_query = list(zip(of_token, example.tolist(), strict=True)) if steps else of_token
    return Training(
        seed=demonstrations.seed,
        query=torch.cat(fields[query], dim=1),
        attn_in=torch.cat(fields["attn_in"], dim=1),
        prefix_index=torch.as_tensor(demonstrations.prefix_index, device=device),
        example=torch.as_tensor(example, device=device),
        first_alike=torch.as_tensor(_first_equal(of_token), device=device),
        first_query_alike=torch.as_tensor(_first_equal(of_query), device=device),
        first_same=torch.as_tensor(_first_equal(_histories(demonstrations, tuned.same_weights)), device=device),
        examples=int(example.max()) + 1,
    )


def _histories(demonstrations: DemonstrationSet, same_weights: bool) -> list[Hashable]:
    """What the vectors of each paired token depend on: its demonstration's tokens so far, and the weights."""
    places = zip(demonstrations.example_index.tolist(), demonstrations.token_index.tolist(), strict=True)
    return [
        (demonstrations.examples[example][: token + 1].tobytes(), 0 if same_weights else example)
        for example, token in places
    ]


def _first_equal(keys: Sequence[Hashable]) -> list[int]:
    """For each of the keys, the place of the first one that equals it."""
    first: dict[Hashable, int] = {}
    return [first.setdefault(key, place) for place, key in enumerate(keys)]


@dataclass(frozen=True)
class Ranked:
    """Numbers `[n, layers, pairs]` of one seed's demonstration tokens, ranked when that is asked for."""

    values: Float[Tensor, "n layers pairs"]
    seed: Training
    by_example: Callable[[Tensor, Training], Tensor]

    @cached_property
    def tokens(self) -> Ranking:
        """The ranking of the tokens."""
        return Ranking.of(self.values)

    @cached_property
    def examples(self) -> Ranking:
        """The ranking of whole demonstrations, by the mass of their tokens."""
        return Ranking.of(self.by_example(self.values, self.seed))


@dataclass(frozen=True)
class Ranks:
    """One seed's demonstration tokens, for each of n queries and each layer, as the metrics of ranks compare them.

    `context` is the attention that the query pays to them in context, summed over heads; `tuning` the inner products
    of its query after fine-tuning with theirs in training; `inputs` those of attention inputs.
    """

    context: Ranked
    tuning: Ranked
    inputs: Ranked


@record_function("metrics")
def rank_metrics(
    functions: Sequence[Measure],
    chunk: Chunk,
    scores_demo: Float[Tensor, "G n layers heads prefix"],
    query: Float[Tensor, "G n layers width"],
    attn_in: Float[Tensor, "G n layers hidden"],
    training: Sequence[Training],
    measures: Measures,
) -> dict[Key, Float[Tensor, "G chosen layers"]]:
    """The metrics of ranks of every seed, on the examples that they are asked for (all, by default)."""
    chosen: slice | Tensor = slice(None)
    if measures.kendall_examples is not None:
        chosen = torch.as_tensor(chunk.index < measures.kendall_examples, device=query.device)
    found = []
    for group, seed in enumerate(training):
        attended = scores_demo[group][chosen].sum(dim=2)[..., seed.prefix_index]
        of_seed = torch.tensor([seed.seed], device=query.device)
        noise = keyed_noise(measures.noise_seed, KENDALL_NOISE, of_seed, chunk.index, attended.shape[1:])
        paid = _inner(query[group][chosen], seed.query, seed.first_query_alike, seed.first_same)
        paid_inputs = _inner(attn_in[group][chosen], seed.attn_in, seed.first_alike, seed.first_same)
        ranked = [attended, paid, paid_inputs, noise[0][chosen]]
        if measures.kendall_softmax:
            ranked = [x.double().softmax(dim=-1) for x in ranked]
        by_example = _sums if measures.kendall_softmax else _log_masses
        context, tuning, inputs, random = (Ranked(x, seed, by_example) for x in ranked)
        found.append(_of_seed(functions, Ranks(context, tuning, inputs), random))
    return {key: torch.stack([of_seed[key] for of_seed in found]) for key in found[0]}


def _of_seed(functions: Sequence[Measure], ranks: Ranks, noise: Ranked) -> dict[Key, Float[Tensor, "n layers"]]:
    """The metrics of one seed's ranks."""
    found: dict[Key, Tensor] = {}
    for one in functions:
        arguments = (ranks, noise) if one.metric.random else (ranks,)
        found |= arrays(one, arguments, ranks.context.values.shape[:2], "examples, layers")
    return found


def _inner(
    last: Float[Tensor, "n layers width"],
    tokens: Float[Tensor, "layers pairs width"],
    alike: Int[Tensor, "pairs"],
    same: Int[Tensor, "pairs"],
) -> Float[Tensor, "n layers pairs"]:
    """Inner products of each query's last token with the training tokens; of those with the same vectors the same.

    Those `alike` have the same ones in the first layer, those that are the `same` in the others.
    """
    products = torch.einsum("nlw,ltw->nlt", last, tokens)
    products[:, 0] = products[:, 0, alike]
    products[:, 1:] = products[:, 1:, same]
    return products


Layers = Float[Tensor, "n layers"]


@of_ranks(CATALOGUE["kendall"])
def tau(ranks: Ranks) -> Layers:
    """Kendall's τ of tokens."""
    return ranks.context.tokens.tau(ranks.tuning.tokens)


@of_ranks(CATALOGUE["kendall_random"])
def tau_of_noise(ranks: Ranks, noise: Ranked) -> Layers:
    """Its random baseline."""
    return ranks.context.tokens.tau(noise.tokens)


@of_ranks(CATALOGUE["kendall_input"])
def tau_of_inputs(ranks: Ranks) -> Layers:
    """Kendall-input."""
    return ranks.context.tokens.tau(ranks.inputs.tokens)


@of_ranks(CATALOGUE["kendall_example"])
def tau_of_examples(ranks: Ranks) -> Layers:
    """Kendall's τ of whole demonstrations."""
    return ranks.context.examples.tau(ranks.tuning.examples)


@of_ranks(CATALOGUE["kendall_example_random"])
def tau_of_examples_of_noise(ranks: Ranks, noise: Ranked) -> Layers:
    """Its random baseline."""
    return ranks.context.examples.tau(noise.examples)


@of_ranks(CATALOGUE["topk_token"])
def top_tokens(ranks: Ranks) -> Layers:
    """Top-k recall of tokens."""
    return top_recall(ranks.context.tokens, ranks.tuning.tokens, _TOP_TOKENS)


@of_ranks(CATALOGUE["topk_token_random"])
def top_tokens_of_noise(ranks: Ranks, noise: Ranked) -> Layers:
    """Its random baseline."""
    return top_recall(ranks.context.tokens, noise.tokens, _TOP_TOKENS)


@of_ranks(CATALOGUE["topk_example"])
def top_examples(ranks: Ranks) -> Layers:
    """Top-k recall of whole demonstrations."""
    return top_recall(ranks.context.examples, ranks.tuning.examples, _TOP_EXAMPLES)


@of_ranks(CATALOGUE["topk_example_random"])
def top_examples_of_noise(ranks: Ranks, noise: Ranked) -> Layers:
    """Its random baseline."""
    return top_recall(ranks.context.examples, noise.examples, _TOP_EXAMPLES)


def _sums(weights: Float[Tensor, "n layers pairs"], seed: Training) -> Float[Tensor, "n layers examples"]:
    """The sum of each demonstration's weights."""
    sums = weights.new_zeros((*weights.shape[:-1], seed.examples))
    return sums.scatter_add(-1, seed.example.expand(weights.shape), weights)


def _log_masses(x: Float[Tensor, "n layers pairs"], seed: Training) -> Float[Tensor, "n layers examples"]:
    """Log of each demonstration's softmax mass, up to a constant, in float64.

    Only ranks matter; logs do not underflow, and in float32 a small token beside a large one would vanish.
    """
    x = x.double()
    index = seed.example.expand(x.shape)
    peaks = x.new_full((*x.shape[:-1], seed.examples), -torch.inf).scatter_reduce(-1, index, x, "amax")
    sums = torch.zeros_like(peaks).scatter_add(-1, index, (x - peaks.gather(-1, index)).exp())
    return peaks + sums.log()
