"""What each demonstration does to a query's margin in context, and what its fine-tuning step asks for (section 4)."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.profiler import record_function
from transformers import PreTrainedModel

from raydual.catalogue.entries import CATALOGUE, Key
from raydual.catalogue.marks import Measure, of_influence
from raydual.data.prompts import DemonstrationSet, Queries
from raydual.measure.call import arrays
from raydual.measure.conditions import Chunk, make_chunks, run_condition
from raydual.measure.keyed_noise import keyed_noise, stream_of
from raydual.measure.ranking import Ranking
from raydual.model.attention import Prefix
from raydual.model.finetune import Step
from raydual.model.gradients import Factors, watching
from raydual.model.layer_causal import layer_by_layer
from raydual.model.modules import attention_blocks, final_norm, layers, projection
from raydual.model.passes import hidden_states
from raydual.model.random_step import gaussian
from raydual.settings.schema import Finetune

_AT_ONCE = 8
"""Demonstrations whose losses are differentiated together."""


@dataclass(frozen=True)
class Influences:
    """Of one seed's demonstrations on n queries: what each does, and what its fine-tuning step asks for.

    `done` is the gold label's margin in context less that with one demonstration taken out of the query's attention;
    `asked` the first-order effect of its step on the zero-shot margin; both `[n, demonstrations]`.
    """

    done: Float[Tensor, "n demonstrations"]
    asked: Float[Tensor, "n demonstrations"]

    @cached_property
    def ranked(self) -> Ranking:
        """The ranking of what is done."""
        return Ranking.of(self.done)


Examples = Float[Tensor, "n"]


@of_influence(CATALOGUE["influence_tau"])
def tau_of_influence(found: Influences) -> Examples:
    """Kendall's τ of done and asked."""
    return found.ranked.tau(Ranking.of(found.asked))


@of_influence(CATALOGUE["influence_tau_random"])
def tau_of_noise(found: Influences, noise: Float[Tensor, "n demonstrations"]) -> Examples:
    """Its random baseline."""
    return found.ranked.tau(Ranking.of(noise))


@of_influence(CATALOGUE["influence_done"])
def size_of_done(found: Influences) -> Examples:
    """Mean size of what is done."""
    return found.done.abs().mean(dim=-1)


@of_influence(CATALOGUE["influence_asked"])
def size_of_asked(found: Influences) -> Examples:
    """Mean size of what is asked."""
    return found.asked.abs().mean(dim=-1)


def influence_values(
    functions: Sequence[Measure], found: Sequence[Influences], seeds: Sequence[int], noise_seed: int
) -> dict[Key, Float[np.ndarray, "G n"]]:
    """The metrics of every seed's influences on the first n examples."""
    values: dict[Key, list[np.ndarray]] = {}
    for seed, one in zip(seeds, found, strict=True):
        for function in functions:
            arguments: tuple = (one,)
            if function.metric.random:
                arguments = (one, _noise(noise_seed, function.metric.name, seed, one))
            for key, x in arrays(function, arguments, one.done.shape[:1], "examples").items():
                values.setdefault(key, []).append(x.double().cpu().numpy())
    return {key: np.stack(parts) for key, parts in values.items()}


def _noise(noise_seed: int, metric: str, seed: int, found: Influences) -> Float[Tensor, "n demonstrations"]:
    examples, count = found.done.shape
    seeds = torch.tensor([seed], device=found.done.device)
    return keyed_noise(noise_seed, stream_of(metric), seeds, np.arange(examples), (1, count))[0, :, 0]


@dataclass(frozen=True)
class Influence:
    """What measures influences on a model: `queries` are those that it is measured on, `batch_size` at a time."""

    model: PreTrainedModel
    queries: Queries
    batch_size: int
    settings: Finetune
    noise_seed: int

    def measure(
        self,
        sets: Sequence[DemonstrationSet],
        prefix: Prefix,
        tuned_on: Sequence[DemonstrationSet] | None,
        at_random: bool,
    ) -> list[Influences]:
        """The influences of every seed's demonstrations, which stand in the `prefix`.

        What is asked for is what the demonstrations `tuned_on` ask for (default: the seed's own); `at_random` instead
        random steps, as long as theirs.
        """
        chunks = make_chunks(self.queries, self.batch_size, self.model.device)
        order = np.argsort(np.concatenate([chunk.index for chunk in chunks]))
        asking = tuned_on or sets
        found: list[list[Influences]] = []
        for chunk in chunks:
            margins = self._margin_factors(chunk)
            found.append(
                [
                    Influences(self._done(chunk, prefix, group, one), self._asked(margins, other, one.seed, at_random))
                    for group, (one, other) in enumerate(zip(sets, asking, strict=True))
                ]
            )
        return [
            Influences(*(torch.cat([getattr(x, name) for x in of_seed])[order] for name in ("done", "asked")))
            for of_seed in zip(*found, strict=True)
        ]

    @cached_property
    def _linears(self) -> dict[Hashable, nn.Linear]:
        """The layers that fine-tuning trains."""
        return {
            (index, name): projection(block, name)
            for index, block in enumerate(attention_blocks(self.model))
            for name in self.settings.projections
        }

    @record_function("influence")
    @torch.inference_mode()
    def _done(self, chunk: Chunk, prefix: Prefix, group: int, one: DemonstrationSet) -> Tensor:
        """What each demonstration does in context `[n, demonstrations]`; the first variant leaves none out."""
        count, n = len(one.examples), len(chunk.index)
        owner = one.parts.followed_by(len(self.queries.separator)).demonstration
        left_out = np.zeros((count + 1, prefix.keys[0].shape[2]), bool)
        left_out[1:, : len(owner)] = np.arange(count)[:, None] == owner
        margins = []
        size = max(1, self.batch_size // n)
        for start in range(0, count + 1, size):
            some = torch.as_tensor(left_out[start : start + size], device=self.model.device)
            variants = prefix.without(group, some)
            rows = chunk.in_context.repeat(len(some))
            scores = run_condition(self.model, rows, self.queries.label_tokens, prefix=variants).scores
            margins.append(margin(scores, chunk.labels.repeat(len(some))).view(len(some), n))
        whole, *without = torch.cat(margins)
        return whole[:, None] - torch.stack(without, dim=1)

    @record_function("influence")
    def _margin_factors(self, chunk: Chunk) -> Factors:
        """The gradient of each query's zero-shot margin, in factors."""
        with watching(self._linears) as watch:
            outcome = run_condition(self.model, chunk.alone, self.queries.label_tokens, packed=False)
            return watch.factors(margin(outcome.scores, chunk.labels).sum())

    @record_function("influence")
    def _asked(self, margins: Factors, one: DemonstrationSet, seed: int, at_random: bool) -> Tensor:
        """−η ∇ℓ·∇margin of every query and demonstration `[n, demonstrations]`."""
        found, moved = [], self._at_random if at_random else self._products
        for start in range(0, len(one.examples), _AT_ONCE):
            which = range(start, min(start + _AT_ONCE, len(one.examples)))
            found.append(moved(margins, self._loss_factors(one, which), (self.noise_seed, seed), which))
        return -self.settings.learning_rate * torch.cat(found, dim=1)

    def _loss_factors(self, one: DemonstrationSet, which: range) -> Factors:
        """The gradient of each demonstration's loss, in factors."""
        step = Step.together(one, which, self.settings.loss, self.model)
        with watching(self._linears) as watch:
            if self.settings.gradient == "full":
                return watch.factors(step.losses(self.model, hidden_states(self.model, step.rows)).sum())
            with layer_by_layer(layers(self.model)) as outputs:
                hidden_states(self.model, step.rows)
            # Each layer's output is read as if it were the last one's.
            read = [step.losses(self.model, final_norm(self.model)(output)).sum() for output in outputs]
            return watch.factors(torch.stack(read).sum())

    def _products(self, margins: Factors, losses: Factors, _key: tuple[int, int], _which: range) -> Tensor:
        return margins.products(losses, self._linears)

    def _at_random(self, margins: Factors, losses: Factors, key: tuple[int, int], which: range) -> Tensor:
        """In place of each gradient a random one: in every weight and bias of the same norm."""
        columns = []
        for place, demonstration in enumerate(which):
            total = torch.zeros(1)
            for number, (layer, linear) in enumerate(self._linears.items()):
                norms = losses.norms(layer)
                parts = [
                    None if x is None else _of_norm(x, norm[place], [*key, number, kind, demonstration])
                    for kind, (x, norm) in enumerate(zip((linear.weight, linear.bias), norms, strict=True))
                ]
                total = total.to(norms[0].device) + margins.along(layer, *parts)
            columns.append(total)
        return torch.stack(columns, dim=1)


def _of_norm(like: Tensor, norm: Float[Tensor, ""], key: Sequence[int]) -> Tensor:
    noise = gaussian(like.shape, key).to(norm.device)
    return noise * (norm / noise.norm())


def margin(scores: Float[Tensor, "rows labels"], gold: Int[Tensor, "rows"]) -> Float[Tensor, "rows"]:
    """The gold label's score less the best other one's."""
    own = torch.nn.functional.one_hot(gold, scores.shape[1]).bool()
    return scores[own] - scores.masked_fill(own, -torch.inf).amax(dim=1)
