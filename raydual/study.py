"""A sweep and its data together: what every worker needs to make prompts. Loads no torch."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import tokenizers

from raydual.catalogue.own import check_own
from raydual.data.demonstrations import demonstration_examples, other_order
from raydual.data.examples import Dataset, load_dataset
from raydual.data.prompts import DemonstrationSet, Queries, encode_demonstrations, encode_queries, label_tokens
from raydual.data.tokens import encode
from raydual.errors import UserError
from raydual.model.source import ModelSource
from raydual.settings.controls import MEASUREMENT, Control, controls_of, next_seed
from raydual.settings.schema import SweepConfig
from raydual.settings.task import Task

_CHECKED_SEEDS = 200


@dataclass(frozen=True)
class Unit:
    """What is measured at once: a seed under a control, with the seed that is fine-tuned on (most often its own)."""

    seed: int
    control: Control
    tuned_on: int


@dataclass(frozen=True)
class Case:
    """A unit with its tokenized demonstrations; `tuned_on` is None where they are the context's own."""

    context: DemonstrationSet
    tuned_on: DemonstrationSet | None = None


@dataclass(frozen=True)
class Study:
    """The settings and the examples of one sweep, and the `commit` of its model, if that is on the hub."""

    config: SweepConfig
    dataset: Dataset
    commit: str | None = None

    @property
    def source(self) -> ModelSource:
        """Where the model comes from; of the hub the commit that was checked, wherever it is loaded."""
        return ModelSource(self.config.model, self.commit or self.config.revision)

    @property
    def slices(self) -> tuple[int, ...]:
        """Numbers of selection examples at which the search over seeds scores them."""
        search, count = self.config.search.seeds, len(self.dataset.selection)
        if search is None or search.slices is None:
            return (count,)
        return search.slices

    def task(self, control: Control) -> Task:
        """The task, with other label words if the control has them."""
        if control.labels != "abstract":
            return self.config.task
        words = self.config.controls.abstract_words[: len(self.config.task.label_words)]
        return self.config.task.model_copy(update={"label_words": words})

    def queries(
        self,
        tokenizer: tokenizers.Tokenizer,
        which: Literal["selection", "measured"],
        control: Control = MEASUREMENT,
    ) -> Queries:
        """The tokenized queries of the selection or the measured slice."""
        examples = self.dataset.selection if which == "selection" else self.dataset.measured
        return encode_queries(tokenizer, self.task(control), examples, self.config.measures.keep_first_token)

    def demonstrations(
        self, tokenizer: tokenizers.Tokenizer, seed: int, control: Control = MEASUREMENT
    ) -> DemonstrationSet:
        """The tokenized demonstrations of a seed."""
        return next(self._encoded(tokenizer, seed, control))

    def with_variants(
        self, tokenizer: tokenizers.Tokenizer, seed: int, control: Control = MEASUREMENT
    ) -> DemonstrationSet:
        """The same, with the first ones alone and the other orders that the sweep measures too."""
        count, shots = self.config.demonstrations, self.config.shots
        others = [other_order(count, seed, number) for number in range(1, self.config.measures.order + 1)]
        whole, *more = self._encoded(tokenizer, seed, control, [*map(range, shots), *others])
        return replace(whole, shorter=tuple(more[: len(shots)]), orders=tuple(more[len(shots) :]))

    def _encoded(
        self, tokenizer: tokenizers.Tokenizer, seed: int, control: Control, others: Sequence[Sequence[int]] = ()
    ) -> Iterator[DemonstrationSet]:
        """The demonstrations of a seed, and each other choice or order of them."""
        task = self.task(control)
        chosen = demonstration_examples(
            self.dataset.train, seed, self.config.demonstrations, len(task.label_words), control
        )
        for examples in (chosen, *map(chosen.take, others)):
            yield encode_demonstrations(tokenizer, task, examples, seed, self.config.measures.keep_first_token)

    def units(self, seeds: Sequence[int]) -> list[Unit]:
        """Everything that is measured when `seeds` are: control by control, the measurement itself first."""
        in_order = sorted(seeds)
        return [
            _unit(seed, control, in_order)
            for control in controls_of(self.config.controls)
            for seed in (seeds if control is MEASUREMENT else seeds[: self.config.controls.seeds])
        ]

    def unit(self, seed: int, control: Control, seeds: Sequence[int]) -> Unit:
        """A seed under a control; another seed that is fine-tuned on is the next of `seeds`, after the last the first.

        Raises
        ------
        UserError
            There is no other seed.
        """
        return _unit(seed, control, sorted(seeds))

    def case(self, tokenizer: tokenizers.Tokenizer, unit: Unit) -> Case:
        """The tokenized demonstrations of a unit."""
        context = self.with_variants(tokenizer, unit.seed, unit.control)
        if unit.tuned_on == unit.seed:
            return Case(context)
        return Case(context, self.with_variants(tokenizer, unit.tuned_on, unit.control))


def _unit(seed: int, control: Control, in_order: Sequence[int]) -> Unit:
    """`Study.unit` among sorted seeds."""
    if control.tuned_on == "own":
        return Unit(seed, control, seed)
    following = next_seed(seed, in_order)
    if following == seed:
        raise UserError(f"control {control.name!r}: there is no seed but {seed} to fine-tune on; name more `seeds`")
    return Unit(seed, control, following)


def prepare_study(config: SweepConfig, weights: bool = True) -> Study:
    """Load a sweep's data and check it against the model's tokenizer and context, before anything heavy starts.

    A local model's `weights` are checked by their headers; what is only to be planned needs none.

    Raises
    ------
    UserError
        Anything in the model or the data that would make every seed fail.
    """
    if config.measures.own:
        check_own(config.measures.own.source, config.measures.own.file, config.measures.own.metrics)
    study = Study(config, load_dataset(config), ModelSource(config.model, config.revision).commit())
    if config.search.seeds and study.slices[-1] > len(study.dataset.selection):
        raise UserError(
            f"search.seeds.slices: ends at {study.slices[-1]}, but only {len(study.dataset.selection)} examples are "
            "there to select on; take fewer, or none (`null`: all at once)"
        )
    study.source.check(weights)
    model, tokenizer = study.source.config(), study.source.tokenizer()
    tasks = {task.label_words: task for task in map(study.task, controls_of(config.controls))}
    for task in tasks.values():
        label_tokens(tokenizer, task)
    _check_lengths(study, tokenizer, model.get("max_position_embeddings", math.inf))
    return study


def _check_lengths(study: Study, tokenizer: tokenizers.Tokenizer, limit: int | float) -> None:
    """Refuse examples that the model's context cannot hold, and more demonstrations than it can in any prompt."""
    config = study.config
    _check_train(study, tokenizer, limit)
    after, place = 0, ""
    for which in ("selection", "measured"):
        examples = getattr(study.dataset, which)
        if not len(examples):
            continue
        lengths = study.queries(tokenizer, which).lengths
        longest = max(range(len(lengths)), key=lengths.__getitem__)
        _check_alone(lengths[longest], examples.place(longest), config.model, limit)
        after, place = max((after, place), (lengths[longest], examples.place(longest)))
    before = min(len(study.demonstrations(tokenizer, seed).prefix) for seed in config.seeds[:_CHECKED_SEEDS])
    if before + after > limit:
        raise UserError(
            f"demonstrations: with {config.demonstrations} of them the shortest prompt has {before} tokens, and "
            f"the longest query {after} more ({place}), but the context of {config.model} holds {limit}; take fewer"
        )


def _check_train(study: Study, tokenizer: tokenizers.Tokenizer, limit: int | float) -> None:
    """Refuse a training example that no context holds: only those of more bytes than that can have so many tokens."""
    examples, words = study.dataset.train, study.config.task.label_words
    for index, (query, label) in enumerate(zip(examples.queries, examples.labels, strict=True)):
        text = f"{query} {words[label]}"
        if len(text.encode()) > limit:
            _check_alone(len(encode(tokenizer, [text])[0]), examples.place(index), study.config.model, limit)


def _check_alone(tokens: int, place: str, model: str, limit: int | float) -> None:
    if tokens > limit:
        raise UserError(
            f"data: {place}: the example has {tokens} tokens with its label, but the context of {model} holds {limit}; "
            "shorten it or leave it out"
        )
