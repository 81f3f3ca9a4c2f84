"""How far rounding may move the numbers of a study: bounds derived from the study itself, number by number.

A product of n terms, summed in any order, is the exact one of weights that differ from the true ones by at most
γ = n u, relative (u: unit roundoff; Higham, Accuracy and Stability of Numerical Algorithms, section 3.5). So the study
is measured again a few times, every weight of every model moved by γ up or down at random: what a number does then is
what another kernel, batch or device may do to it. Real errors grow as √n rather than n, which leaves a margin.

A continuous number may differ by twice the largest change seen, taken example by example so that nothing cancels.
Rankings and predictions are counts: their bounds are what all pairs can do whose order is not sure (`rank_bounds`).
"""

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import numpy as np
import torch

from raydual.catalogue.entries import OVERALL, of_label
from raydual.measure import measurer as bench_module
from raydual.measure import rank_metrics, scoring
from raydual.measure import seeds as replica
from raydual.measure.measurer import Measurer
from raydual.measure.scoring import Scorer
from raydual.model.loading import LoadedModel
from raydual.settings.controls import MEASUREMENT, Control
from raydual.settings.schema import Finetune
from raydual.study import Study, Unit

from .default_catalogue import CATALOGUE
from .rank_bounds import TWICE, Order, recall_bound, tau_bound, unsure_maximum

DRAWS = 3
_BELOW_ALL = 2 * math.log(math.ulp(0.0))
Key = tuple[int, str, str, str, int]
"""Seed, control, metric, condition, layer."""
Bounds = dict[Key, float]
"""How far apart two computed values of a number may be; infinite where rounding decides whether there is one."""

_RANKED = ("context", "tuning", "inputs", "noise", "context_mass", "tuning_mass", "noise_mass")
_TAUS = {
    "kendall": ("context", "tuning"),
    "kendall_random": ("context", "noise"),
    "kendall_input": ("context", "inputs"),
    "kendall_example": ("context_mass", "tuning_mass"),
    "kendall_example_random": ("context_mass", "noise_mass"),
}
_RECALLS = {
    "topk_token": ("context", "tuning", rank_metrics._TOP_TOKENS),
    "topk_token_random": ("context", "noise", rank_metrics._TOP_TOKENS),
    "topk_example": ("context_mass", "tuning_mass", rank_metrics._TOP_EXAMPLES),
    "topk_example_random": ("context_mass", "noise_mass", rank_metrics._TOP_EXAMPLES),
}


def rounding_of(loaded: LoadedModel) -> float:
    """γ of the model's longest products, summed in float32, and of storing a result in the model's dtype."""
    longest = max(parameter.shape[-1] for parameter in loaded.model.parameters())
    stored = torch.finfo(loaded.model.dtype).eps / 2
    return longest * torch.finfo(torch.float32).eps / 2 + stored


@torch.no_grad()
def moved_by_rounding(loaded: LoadedModel, draw: int) -> LoadedModel:
    """The model with every weight moved by γ up or down at random; draw 0 is the model itself."""
    if not draw:
        return loaded
    model, size = copy.deepcopy(loaded.model), rounding_of(loaded)
    generator = torch.Generator().manual_seed(draw)
    for parameter in model.parameters():
        signs = torch.randint(0, 2, parameter.shape, generator=generator).to(parameter.device) * 2 - 1
        parameter.copy_(parameter.float() * (1 + size * signs))
    return replace(loaded, model=model)


def tensor_bounds(loaded: LoadedModel, function: Callable[[Any], Sequence[torch.Tensor]]) -> list[float]:
    """How far apart the elements of each tensor that is computed from the model may be."""
    plain, *moved = (function(moved_by_rounding(loaded, draw).model) for draw in range(DRAWS + 1))
    return [
        TWICE * max(float((other - own).abs().max()) for other in others)
        for own, *others in zip(plain, *moved, strict=True)
    ]


@dataclass
class Watch:
    """What the numbers of one measurement were made from.

    `values[seed, control, metric, condition]` is `[examples, layers]`. The rest are lists with an array for each chunk
    of examples: `ranked[seed, control, name]` `[n, layers, items]`; `scores[seed, control, condition]` of label words
    `[n, labels]`, and `words` of the whole vocabulary at the same place; `gold[seed, control]` `[n]`.
    """

    values: dict[tuple[int, str, str, str], np.ndarray] = field(default_factory=dict)
    ranked: dict[tuple[int, str, str], list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))
    scores: dict[tuple[int, str, str], list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))
    words: dict[tuple[int, str, str], list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))
    gold: dict[tuple[int, str], list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))
    control: str = MEASUREMENT.name
    _logits: list[tuple[Any, np.ndarray]] = field(default_factory=list)

    def predicted(self) -> list[np.ndarray]:
        """Scores of label words, and of the vocabulary, of all rows that passed since this was last asked."""
        found = [np.concatenate([_array(outcome.scores) for outcome, _ in self._logits])]
        found.append(np.concatenate([words for _, words in self._logits]))
        self._logits.clear()
        return found

    @contextmanager
    def watching(self, draw: int) -> Iterator[None]:
        """Watch all that is measured inside the block; models that a control draws are moved like the others."""
        fresh = bench_module.fresh_model
        with (
            mock.patch.object(replica, "run_condition", self._run_condition(replica.run_condition)),
            mock.patch.object(scoring, "run_condition", self._run_condition(scoring.run_condition)),
            mock.patch.object(replica.SeedMeasurer, "_values", self._values(replica.SeedMeasurer._values)),
            mock.patch.object(replica, "layer_rows", self._layer_rows(replica.layer_rows)),
            mock.patch.object(rank_metrics, "_of_seed", self._of_seed(rank_metrics._of_seed)),
            mock.patch.object(bench_module, "fresh_model", lambda *call: moved_by_rounding(fresh(*call), draw)),
        ):
            yield

    def _run_condition(self, function: Callable) -> Callable:
        def watched(model: torch.nn.Module, *arguments: Any, **options: Any) -> Any:
            seen: list[torch.Tensor] = []
            handle = model.lm_head.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
            try:
                outcome = function(model, *arguments, **options)
            finally:
                handle.remove()
            self._logits.append((outcome, _array(seen[0])))
            return outcome

        return watched

    def _values(self, function: Callable) -> Callable:
        def watched(
            of: Any, chunk: Any, passes: Any, simdual: Any, training: Sequence[Any], tuned: Any, contexts: Any
        ) -> Any:
            for condition, outcome in passes.items():
                words = next(logits for of, logits in self._logits if of is outcome)
                for kept, rows in ((self.scores, _array(outcome.scores)), (self.words, words)):
                    # All seeds share the zero-shot rows.
                    parts = [rows] * len(training) if condition == "zsl" else np.split(rows, len(training))
                    for one, part in zip(training, parts, strict=True):
                        kept[one.seed, self.control, condition].append(part)
            for one in training:
                self.gold[one.seed, self.control].append(_array(chunk.labels))
            gone = (passes["icl"], passes["ft"])
            self._logits = [(of, logits) for of, logits in self._logits if not any(of is one for one in gone)]
            return function(of, chunk, passes, simdual, training, tuned, contexts)

        return watched

    def _of_seed(self, function: Callable) -> Callable:
        def watched(functions: Any, ranks: Any, noise: Any) -> Any:
            masses = [x.by_example(x.values, x.seed) for x in (ranks.context, ranks.tuning, noise)]
            values = [x.values for x in (ranks.context, ranks.tuning, ranks.inputs, noise)]
            softened = noise.by_example is rank_metrics._sums
            for name, x in zip(_RANKED, [*values, *masses], strict=True):
                array = x.cpu().numpy()
                self.ranked[noise.seed.seed, self.control, name].append(_logs(array) if softened else array)
            return function(functions, ranks, noise)

        return watched

    def _layer_rows(self, function: Callable) -> Callable:
        def watched(seed: int, metric: str, condition: str, values: np.ndarray) -> Any:
            self.values[seed, self.control, metric, condition] = values
            return function(seed, metric, condition, values)

        return watched


def _logs(weights: np.ndarray) -> np.ndarray:
    """In the same order, but an error of the softmax's maximum, which moves all weights alike, moves no difference."""
    with np.errstate(divide="ignore"):
        return np.where(weights > 0, np.log(weights), _BELOW_ALL)


def _array(x: torch.Tensor) -> np.ndarray:
    return x.detach().double().cpu().numpy()


def rounding_bounds(
    loaded: LoadedModel, study: Study, units: Sequence[Unit], settings: Finetune | None = None
) -> Bounds:
    """The bounds of every number that measuring `units` gives, from measuring them once and `DRAWS` times moved."""
    plain, *moved = (_watched(loaded, draw, study, units, settings) for draw in range(DRAWS + 1))
    bounds: Bounds = {}
    for place in plain.gold:
        ranks = _rank_bounds(plain, moved, place)
        for (seed, control, metric, condition), values in plain.values.items():
            if (seed, control) == place:
                others = [one.values[seed, control, metric, condition] for one in moved]
                by_example = ranks[metric] if metric in ranks else _change_bounds(values, others)
                bounds |= {
                    (seed, control, metric, condition, layer): bound for layer, bound in _layer_bounds(by_example)
                }
        predictions = _prediction_bounds(plain, moved, place)
        bounds |= {(*place, *key, OVERALL): bound for key, bound in predictions.items()}
    return bounds


def _watched(loaded: LoadedModel, draw: int, study: Study, units: Sequence[Unit], settings: Finetune | None) -> Watch:
    watch, measurer = Watch(), Measurer(moved_by_rounding(loaded, draw), study, settings)
    by_control: dict[Control, list[Unit]] = defaultdict(list)
    for unit in units:
        by_control[unit.control].append(unit)
    with watch.watching(draw):
        for control, of_control in by_control.items():
            watch.control = control.name
            measurer.measure(control, [study.case(loaded.tokenizer, unit) for unit in of_control])
    return watch


def _layer_bounds(by_example: np.ndarray) -> Iterator[tuple[int, float]]:
    """The bounds of the means over examples, for each layer, and of their mean; NaN has never a value."""
    layers = [float(x[~np.isnan(x)].mean()) if not np.isnan(x).all() else math.nan for x in by_example.T]
    for layer, bound in enumerate(layers):
        yield layer, 0.0 if math.isnan(bound) else bound
    there = [bound for bound in layers if not math.isnan(bound)]
    yield OVERALL, float(np.mean(there)) if there else 0.0


def _change_bounds(values: np.ndarray, moved: Sequence[np.ndarray]) -> np.ndarray:
    """The bound of each example and layer of a continuous metric; NaN where it never has a value."""
    defined = np.stack([~np.isnan(x) for x in (values, *moved)])
    # The last steps, in which no weight takes part, are of float32 numbers of the size 1 or of the value.
    last_bits = 8 * np.finfo(np.float32).eps * np.maximum(1.0, np.abs(values))
    bound = TWICE * np.max([np.abs(x - values) for x in moved], axis=0) + last_bits
    return np.where(defined.all(axis=0), bound, np.where(defined.any(axis=0), np.inf, np.nan))


def _rank_bounds(plain: Watch, moved: Sequence[Watch], place: tuple[int, str]) -> dict[str, np.ndarray]:
    """The bounds of a seed's rank metrics, `[examples, layers]`."""
    values = {name: np.concatenate(plain.ranked[*place, name]) for name in _RANKED}
    others = {name: [np.concatenate(one.ranked[*place, name]) for one in moved] for name in _RANKED}
    found = defaultdict(list)
    for example in range(len(values["context"])):
        order = {name: Order.of(values[name][example], [x[example] for x in others[name]]) for name in _RANKED}
        for metric, (first, second) in _TAUS.items():
            found[metric].append(tau_bound(order[first], order[second]))
        for metric, (first, second, k) in _RECALLS.items():
            found[metric].append(recall_bound(order[first], order[second], k))
    return {metric: np.stack(bounds) for metric, bounds in found.items()}


def _prediction_bounds(plain: Watch, moved: Sequence[Watch], place: tuple[int, str]) -> dict[tuple[str, str], float]:
    """The bounds of a seed's accuracies, agreement and recalls: of how many examples the prediction is unsure."""

    def unsure(kept: str, condition: str) -> np.ndarray:
        values, *others = (np.concatenate(getattr(one, kept)[*place, condition]) for one in (plain, *moved))
        return unsure_maximum(values, others)

    label = {condition: unsure("scores", condition) for condition in ("zsl", "icl", "ft")}
    either, gold = label["icl"] | label["ft"], np.concatenate(plain.gold[place])
    corrected = (either | label["zsl"]).sum()
    bounds = {("accuracy", condition): float(found.mean()) for condition, found in label.items()}
    bounds |= {("greedy_accuracy", condition): float(unsure("words", condition).mean()) for condition in label}
    bounds["agreement", "icl-ft"] = float(either.mean())
    for of in range(plain.scores[*place, "icl"][0].shape[-1]):
        of_gold = either[gold == of]
        bounds["agreement", of_label("icl-ft", of)] = float(of_gold.mean()) if len(of_gold) else 0.0
    bounds |= {(metric, "icl-ft"): float(corrected) for metric in ("rec2ftp_both", "rec2ftp_ft")}
    # The others are ratios of counts of which any may change, also to 0 of 0.
    ratios = {
        (metric.name, condition): math.inf if corrected else 0.0
        for metric in CATALOGUE.values()
        if not metric.per_layer and not metric.switch
        for condition in metric.conditions_with_labels(plain.scores[*place, "icl"][0].shape[-1])
    }
    return ratios | bounds


@dataclass(frozen=True)
class SearchBounds:
    """What rounding may do to a search: to how many predictions, and to a seed's mean training loss.

    `unsure[seed]` counts predictions in context; `unsure_tuned` those after fine-tuning, with any of the settings.
    """

    unsure: dict[int, int]
    unsure_tuned: int
    loss: float


def search_bounds(
    loaded: LoadedModel, study: Study, seeds: Sequence[int], settings: Sequence[Finetune], tuned_on: Sequence[int]
) -> SearchBounds:
    """The bounds of searching `seeds`, and fine-tuning `settings` by those that they are `tuned_on`."""
    contexts: list[list[np.ndarray]] = []
    tuned: list[list[np.ndarray]] = []
    losses: list[list[float]] = []
    for draw in range(DRAWS + 1):
        watch, scorer = Watch(), Scorer(moved_by_rounding(loaded, draw), study)
        sets = {seed: scorer.demonstrations(seed) for seed in {*seeds, *tuned_on}}
        with watch.watching(draw):
            contexts.append([])
            for seed in (seed for seed in seeds if not scorer.unfit(sets[seed])):
                scorer.in_context_right(scorer.encode(sets[seed]), 0, len(scorer.queries))
                contexts[-1].append(watch.predicted()[0])
            found = [scorer.finetuned([sets[seed]], chosen) for chosen in settings for seed in tuned_on]
            losses.append([score.loss for score in found])
            tuned.append(watch.predicted() if found else [])
    fitting = [seed for seed in seeds if not scorer.unfit(sets[seed])]
    return SearchBounds(
        unsure={seed: int(unsure_maximum(x, o).sum()) for seed, x, *o in zip(fitting, *contexts, strict=True)},
        unsure_tuned=sum(int(unsure_maximum(x, o).sum()) for x, *o in zip(*tuned, strict=True)),
        loss=float(_change_bounds(np.array(losses[0]), np.array(losses[1:])).max(initial=0.0)),
    )
