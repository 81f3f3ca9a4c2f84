"""A model that measures seeds: demonstration sets in, metric rows out. The distributed layer only feeds it."""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.profiler import record_function

from raydual.catalogue.entries import Key
from raydual.catalogue.marks import Measure, Of
from raydual.data.prompts import DemonstrationSet, Queries
from raydual.measure.conditions import Chunk, Outcome, make_chunks, run_condition
from raydual.measure.examples import Found, example_table
from raydual.measure.functions import functions_of
from raydual.measure.gathering import ChunkOrder, ExampleValues, Gathered
from raydual.measure.influence import Influence, Influences, influence_values
from raydual.measure.nulls import SeedValues, drawn_values
from raydual.measure.order import seed_orders
from raydual.measure.patch_arm import PatchArm, patch_values
from raydual.measure.prediction_metrics import predicted_values
from raydual.measure.rank_metrics import Training, rank_metrics, training_tokens
from raydual.measure.recordings import Pass, Recordings, recorded_fields, recorded_values
from raydual.measure.rows import Row, example_row, failure_row, layer_rows, value_row
from raydual.measure.shots import Context, by_shots, tune_by_shots, undefined
from raydual.measure.weight_updates import DualRecorder, QueryInputs, context_updates
from raydual.model.anatomy import ATTENTION, KEY, MLP, QUERY
from raydual.model.attention import Prefix
from raydual.model.finetune import Tuned
from raydual.model.loading import LoadedModel
from raydual.model.random_step import random_step
from raydual.model.stacked import with_projections
from raydual.process.pulse import PULSE
from raydual.settings.schema import Finetune, SweepConfig


@dataclass(frozen=True)
class ZeroShot:
    """The zero-shot outcome of each chunk, on the CPU.

    It depends on no seed, so that all measurers of a model and its queries share one.
    """

    chunks: tuple[Outcome, ...]


class SeedMeasurer:
    """Measures seeds on one model; nothing it does changes the model.

    Parameters
    ----------
    loaded : the model.
    queries : the examples that are measured.
    config : the sweep; its `finetune` are the settings used.
    zero_shot : what another one `shares`, of the same model, queries and batch size; measured when needed if None.
    fitted_on : the examples that patches are fitted on, where the sweep measures these.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        queries: Queries,
        config: SweepConfig,
        zero_shot: ZeroShot | None = None,
        fitted_on: Queries | None = None,
    ) -> None:
        self.model = loaded.model
        self.queries = queries
        self.config = config
        self.functions = functions_of(config.measures)
        self.fields = recorded_fields(config.measures, self.functions)
        self.fitted_on = fitted_on if config.measures.patch else None
        if self.fitted_on:
            self.fields["icl"] = tuple(dict.fromkeys((*self.fields["icl"], "hidden")))
        self.chunks = make_chunks(queries, config.execution.batch_size, loaded.device)
        self.places = ChunkOrder(np.argsort(np.concatenate([chunk.index for chunk in self.chunks])))
        self.inputs = QueryInputs(self.model, self.chunks)
        self._shared = zero_shot

    @cached_property
    def zero_shot(self) -> list[Outcome]:
        """The zero-shot outcome of each chunk, on the model's device."""
        if self._shared:
            return [outcome.to(self.model.device) for outcome in self._shared.chunks]
        with torch.inference_mode():
            return [self._run(chunk, "zsl") for chunk in PULSE.through("zero-shot pass", self.chunks)]

    def shares(self) -> ZeroShot:
        """The zero-shot outcomes, for other measurers."""
        return ZeroShot(tuple(outcome.to(torch.device("cpu")) for outcome in self.zero_shot))

    def _run(self, chunk: Chunk, condition: str, seeds: int = 1) -> Outcome:
        rows = chunk.alone.repeat(seeds)
        with record_function(condition):
            return run_condition(
                self.model,
                rows,
                self.queries.label_tokens,
                self.fields[condition],
                keep_next_token=self.config.measures.outputs and condition != "zsl",
                packed=condition != "patch",
            )

    def measure(
        self,
        sets: Sequence[DemonstrationSet],
        settings: Finetune | None = None,
        *,
        tuned_on: Sequence[DemonstrationSet] | None = None,
        at_random: bool = False,
    ) -> list[Row]:
        """The metric rows of every seed in `sets`: those of `measure_all`."""
        return self.measure_all(sets, settings, tuned_on=tuned_on, at_random=at_random).rows

    def measure_all(
        self,
        sets: Sequence[DemonstrationSet],
        settings: Finetune | None = None,
        *,
        tuned_on: Sequence[DemonstrationSet] | None = None,
        at_random: bool = False,
    ) -> Found:
        """The metric rows of every seed in `sets`, and its values by example, if the sweep keeps any.

        A seed that fails for its own reasons has one row that says why. The training tokens of the rank metrics are
        always those of the seed's own fine-tuning. For the `ft` condition the model may be another: the one fine-tuned
        on the demonstrations `tuned_on`, one for each of `sets`, or one that moved by as much `at_random`. What
        demonstration sets hold beside themselves, the first ones of them and other orders, is measured too; values by
        example are those of all demonstrations alone.

        Raises
        ------
        Whatever is not a seed's own fault, such as running out of memory.
        """
        settings = settings or self.config.finetune
        limit = self.model.config.max_position_embeddings
        failed: list[Row] = []
        fitting = []
        for place, demonstrations in enumerate(sets):
            asked = (self.queries, self.fitted_on) if self.fitted_on else (self.queries,)
            reason = next(filter(None, (too_long(demonstrations, queries, limit) for queries in asked)), None)
            if reason:
                failed.append({**failure_row(demonstrations.seed, reason), "shots": len(demonstrations.examples)})
            else:
                fitting.append(place)
        if not fitting:
            return Found(failed, [])
        others = [tuned_on[place] for place in fitting] if tuned_on else None
        found = self._measure_fitting([sets[place] for place in fitting], settings, others, at_random)
        return Found(failed + found.rows, found.examples)

    def _measure_fitting(
        self,
        sets: list[DemonstrationSet],
        settings: Finetune,
        others: list[DemonstrationSet] | None,
        at_random: bool,
    ) -> Found:
        seeds, noise_seed = [s.seed for s in sets], self.config.measures.noise_seed
        own = tune_by_shots(self.model, sets, settings, self.fields["train"])
        PULSE.done += len(sets) / (len(self.chunks) + 1)
        moved = tune_by_shots(self.model, others, settings) if others else own
        if at_random:
            moved = {k: random_step(self.model, tuned, seeds, noise_seed) for k, tuned in moved.items()}
        diverged = f"fine-tuning diverged at learning rate {settings.learning_rate:g}"
        every = len(sets[0].examples)
        sound = moved[every].finite.tolist()
        rows = [failure_row(seed, diverged) for seed, finite in zip(seeds, sound, strict=True) if not finite]
        with torch.inference_mode():
            whole = Context.of(self.model, sets, self.queries.separator)
        of_all: dict[int, list[Row]] = {}
        tables: list[pa.Table] = []
        for k, some in by_shots(sets).items():
            examples = self._after(some, own[k], moved[k], whole)
            if k == every and self.config.measures.influence:
                few = self.config.measures.influence
                influences = self.influences(sets, settings, others, at_random, few, whole.prefix)
                measured = influence_values(self._of("influence"), influences, seeds, noise_seed)
                examples.values.update({key: self.places.by_chunk(x) for key, x in measured.items()})
            finite = [there and here for there, here in zip(sound, moved[k].finite.tolist(), strict=True)]
            groups = np.flatnonzero(finite).tolist()
            values = {group: self._values_of(seeds[group], examples, group) for group in groups}
            found = {seeds[group]: self._rows(seeds[group], examples, group, x) for group, x in values.items()}
            of_all = of_all or found
            for seed, rows_of_all in of_all.items():
                of_number = found[seed] if seed in found else undefined(rows_of_all, diverged)
                rows += [{**row, "shots": k} for row in of_number]
            if k == every and self.config.examples != "off":
                tables = [self._table(seeds[group], examples, group, x) for group, x in values.items()]
        if functions := self._of("orders"):
            drawn = noise_seed if at_random else None
            orders = seed_orders(self.model, self.queries, self.chunks, sets, settings, others, drawn)
            for seed, found_of in itertools.compress(zip(seeds, orders, strict=True), sound):
                rows += [value_row(seed, *value) for value in predicted_values(functions, found_of)]
        return Found([row if row["shots"] else {**row, "shots": every} for row in rows], tables)

    def _after(self, sets: list[DemonstrationSet], own: Tuned, moved: Tuned, whole: Context) -> ExampleValues:
        """What examples give with demonstrations that are the first ones, or all, of the `whole`."""
        training = training_tokens(sets, own, self.config.measures.query_field)
        with torch.inference_mode():
            context = whole.first(self.model, sets, self.queries.separator)
        return self._examples(context, training, moved)

    def _rows(self, seed: int, examples: ExampleValues, group: int, values: Mapping[Key, np.ndarray]) -> list[Row]:
        """The rows of one seed, which is the `group`-th of what examples gave, `values` among that."""
        predictions = predicted_values(self._of("predictions"), examples.predictions[group])
        rows = [value_row(seed, *value) for value in predictions]
        for (metric, condition), x in values.items():
            rows += layer_rows(seed, metric, condition, x) if x.ndim == 2 else [example_row(seed, metric, condition, x)]
        return rows

    def _values_of(self, seed: int, examples: ExampleValues, group: int) -> dict[Key, np.ndarray]:
        """The values of one seed's examples, drawn ones and those of its patch too."""
        of_seed = {key: found[group] for key, found in examples.values.items()}
        of_patch = patch_values(self._of("patches"), examples.patches[group]) if examples.patches else {}
        return of_seed | self._drawn(seed, of_seed) | of_patch

    def _table(self, seed: int, examples: ExampleValues, group: int, values: Mapping[Key, np.ndarray]) -> pa.Table:
        """A seed's rows of `examples/`, in the order of the measured set."""
        # What is of a patch alone has no examples.
        patched = {one.metric.name for one in self._of("patches")}
        count = len(self.queries)
        kept = {key: x for key, x in values.items() if key[0] not in patched or len(x) == count}
        values = {key: self.places.by_place(x) for key, x in kept.items()}
        heads = {key: found[group] for key, found in examples.heads.items()}
        return example_table(
            seed, examples.predictions[group], values, heads,
            self.config.task.label_words, self.config.catalogue, self.config.examples,
        )  # fmt: skip

    def influences(
        self,
        sets: Sequence[DemonstrationSet],
        settings: Finetune,
        tuned_on: Sequence[DemonstrationSet] | None,
        at_random: bool,
        examples: int,
        prefix: Prefix | None = None,
    ) -> list[Influences]:
        """The influences of every seed's demonstrations on the first `examples`; the rest as in `measure`.

        `prefix`: what `encode` makes of `sets`, where it is there already.
        """
        queries = self.queries.take(range(min(examples, len(self.queries))))
        execution, noise_seed = self.config.execution, self.config.measures.noise_seed
        measurer = Influence(self.model, queries, execution.batch_size, settings, noise_seed)
        return measurer.measure(sets, prefix or self.encode(sets), tuned_on, at_random)

    @torch.inference_mode()
    def _examples(self, context: Context, training: list[Training], tuned: Tuned) -> ExampleValues:
        contexts = context_updates(self.model, context.inputs, context.real)
        arm = self._fitted(context.prefix, tuned)
        gathered, outcomes = Gathered(self.config.examples == "heads"), defaultdict(list)
        for chunk, passes, simdual in self.passes(context.prefix, tuned, arm):
            for name, outcome in passes.items():
                shape = (-1, len(chunk.index))
                found = (outcome.prediction.view(shape), outcome.greedy.view(shape))
                outcomes[name].append((*found, outcome.scores.view(*shape, outcome.scores.shape[1])))
            for key, value in self._values(chunk, passes, simdual, training, tuned, contexts).items():
                gathered.add(key, value)
            PULSE.done += len(training) / (len(self.chunks) + 1) / (1 + len(self.config.shots))
        predictions = self.places.predictions(outcomes, self.queries, len(training))
        return ExampleValues(
            self.places.in_order(gathered.values), self.places.in_order(gathered.heads), predictions,
            arm.found(self.places.order) if arm else [],
        )  # fmt: skip

    def _fitted(self, prefix: Prefix, tuned: Tuned) -> PatchArm | None:
        """The seeds' patches, where they are measured."""
        if not (self.fitted_on and self.config.measures.patch):
            return None
        ridge, batch_size = self.config.measures.patch.ridge, self.config.execution.batch_size
        return PatchArm.fitted(self.model, self.fitted_on, prefix, tuned.stacks, ridge, batch_size)

    def _values(
        self,
        chunk: Chunk,
        passes: Mapping[str, Outcome],
        simdual: Tensor,
        training: Sequence[Training],
        tuned: Tuned,
        contexts: Sequence[Tensor],
    ) -> dict[Key, Tensor]:
        """The metrics of a chunk that are taken example by example: `[G, n, layers]`, or with an axis of heads too."""
        seeds = torch.tensor([one.seed for one in training], device=chunk.labels.device)
        zsl, icl, ft = (Pass.of(passes[name], len(seeds) if name != "zsl" else 1) for name in ("zsl", "icl", "ft"))
        measures = self.config.measures
        patch = Pass.of(passes["patch"], len(seeds)) if "patch" in passes else None

        def recorded(functions: Sequence[Measure], zsl: Pass, inputs: QueryInputs) -> dict[Key, Tensor]:
            # Made anew for each use, so that what it shares between metrics is let go of.
            found = Recordings(
                chunk,
                seeds,
                tuned.finite,
                zsl,
                icl,
                ft,
                measures,
                self.model,
                tuned.stacks,
                contexts,
                inputs,
                simdual,
                patch,
            )
            return recorded_values(functions, found)

        values = recorded(self._of("recordings", own=False), zsl, self.inputs)
        attended, query, attn_in = icl["scores_demo"], ft[measures.query_field], ft["attn_in"]
        values |= rank_metrics(self._of("ranks"), chunk, attended, query, attn_in, training, measures)
        own = self._of("recordings", own=True)
        if not own:
            return values
        # Last, and on a copy of what later seeds need too: a user's function may change what it is given.
        return values | recorded(own, zsl.copy(), QueryInputs(self.model, self.chunks, most_bytes=0))

    def _of(self, of: Of, own: bool | None = None) -> list[Measure]:
        """The functions of one kind, those of a user's own file or raydual's alone if `own` says so."""
        return [one for one in self.functions if one.of == of and own in (None, one.file is not None)]

    @torch.inference_mode()
    def encode(self, sets: Sequence[DemonstrationSet]) -> Prefix:
        """The shared prefixes of seeds."""
        return Context.of(self.model, sets, self.queries.separator).prefix

    def passes(
        self, prefix: Prefix, tuned: Tuned, arm: PatchArm | None = None
    ) -> Iterator[tuple[Chunk, dict[str, Outcome], Tensor]]:
        """Each chunk with its outcomes under `zsl`, `icl`, `ft` and, of an `arm`, `patch`; and SimDual.

        Rows are grouped by seed.
        """
        count = len(prefix.lengths)
        for chunk, zsl in zip(self.chunks, self.zero_shot, strict=True):
            icl, simdual = self._in_context(chunk, count, prefix, tuned)
            with with_projections(self.model, tuned.stacks):
                ft = self._run(chunk, "ft", count)
            _keep_untouched(ft, zsl, [name for layer, name in tuned.stacks if layer == 0])
            outcomes = {"zsl": zsl, "icl": icl, "ft": ft}
            if arm:
                with arm.applied(chunk.alone.repeat(count), icl.fields["hidden"]):
                    outcomes["patch"] = self._run(chunk, "patch", count)
                _keep_untouched(outcomes["patch"], zsl, MLP)
            yield chunk, outcomes, simdual

    def _in_context(self, chunk: Chunk, count: int, prefix: Prefix, tuned: Tuned) -> tuple[Outcome, Tensor]:
        """The in-context outcome of the chunk for all seeds, and SimDual `[G, n, layers]`."""
        rows = chunk.in_context.repeat(count)
        recorder = DualRecorder(self.fields["icl"], rows.last, stacks=tuned.stacks, real=rows.real)
        with record_function("icl"):
            outcome = run_condition(
                self.model,
                rows,
                self.queries.label_tokens,
                prefix=prefix,
                recorder=recorder,
                keep_next_token=self.config.measures.outputs,
            )
        return outcome, torch.stack(recorder.simdual, dim=-1).view(count, len(chunk.index), -1)

    def _drawn(self, seed: int, values: dict[Key, np.ndarray]) -> dict[Key, np.ndarray]:
        """The nulls that are drawn from the values of a seed."""
        shape = (len(self.places.order), self.model.config.num_hidden_layers)
        found = SeedValues(values, shape, self.model.config.hidden_size)
        return drawn_values(self._of("values"), found, self.config.measures.noise_seed, seed)


def untouched(trained: Iterable[str]) -> tuple[str, ...]:
    """The fields whose first layer no change of the `trained` projections reaches."""
    trained = set(trained)
    scores = () if trained & {QUERY, KEY} else ("scores_query",)
    return scores if trained & set(ATTENTION) else (*scores, "attn_out")


def _keep_untouched(changed: Outcome, zsl: Outcome, trained: Sequence[str]) -> None:
    """Where no change of the first layer reaches is what zero-shot has; what rounding parts, cosines take for one."""
    for name in untouched(trained):
        if name in changed.fields:
            same = zsl.fields[name][:, 0]
            count = len(changed.fields[name]) // len(same)
            changed.fields[name][:, 0] = same.repeat(count, *[1] * (same.ndim - 1))


def too_long(demonstrations: DemonstrationSet, queries: Queries, limit: int) -> str | None:
    """Why a seed's prompts do not fit into a context of `limit` tokens, or None if they do."""
    needed = len(demonstrations.prefix) + len(queries.separator) + queries.longest
    if needed <= limit:
        return None
    return f"its longest prompt has {needed} tokens, but the model's context holds {limit}"
