"""How alike context and fine-tuning rank the demonstrations: Kendall's τ and top-k recall, by token and by example."""

from collections.abc import Callable, Sequence
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
from raydual.settings.schema import Measures

_TOP_TOKENS, _TOP_EXAMPLES = 100, 5


@dataclass(frozen=True)
class Training:
    """One seed's demonstration tokens as fine-tuning saw them.

    `query` and `attn_in` `[layers, pairs, width]` are their queries and attention inputs; `prefix_index`
    `[pairs]` their places in the in-context prompt; `example` `[pairs]` the demonstrations they belong to;
    `first_alike` `[pairs]` the first of them with the same token id, whose inputs in the first layer are the same
    ones, up to rounding that must not break a tie, and `first_query_alike` the first with the same query there;
    `examples` how many demonstrations there are.
    """

    seed: int
    query: Float[Tensor, "layers pairs width"]
    attn_in: Float[Tensor, "layers pairs hidden"]
    prefix_index: Int[Tensor, "pairs"]
    example: Int[Tensor, "pairs"]
    first_alike: Int[Tensor, "pairs"]
    first_query_alike: Int[Tensor, "pairs"]
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
    alike = torch.as_tensor(_first_alike(ids), device=device)
    # Where queries are trained, every step sees another projection.
    by_step = ids + example * (int(ids.max()) + 1)
    query_alike = torch.as_tensor(_first_alike(by_step), device=device) if (0, QUERY) in tuned.stacks else alike
    return Training(
        seed=demonstrations.seed,
        query=torch.cat(fields[query], dim=1),
        attn_in=torch.cat(fields["attn_in"], dim=1),
        prefix_index=torch.as_tensor(demonstrations.prefix_index, device=device),
        example=torch.as_tensor(example, device=device),
        first_alike=alike,
        first_query_alike=query_alike,
        examples=int(example.max()) + 1,
    )


def _first_alike(kinds: Int[np.ndarray, "pairs"]) -> Int[np.ndarray, "pairs"]:
    """The place of the first of the same kind."""
    _, first, group_of = np.unique(kinds, return_index=True, return_inverse=True)
    return first[group_of]


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
        paid = _inner(query[group][chosen], seed.query, seed.first_query_alike)
        paid_inputs = _inner(attn_in[group][chosen], seed.attn_in, seed.first_alike)
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
    last: Float[Tensor, "n layers width"], tokens: Float[Tensor, "layers pairs width"], alike: Int[Tensor, "pairs"]
) -> Float[Tensor, "n layers pairs"]:
    """Inner products of each query's last token with the training tokens, those `alike` equal in the first layer."""
    products = torch.einsum("nlw,ltw->nlt", last, tokens)
    products[:, 0] = products[:, 0, alike]
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
