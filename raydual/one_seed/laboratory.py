"""One seed at a time, without Ray: what the commands and the programmatic interface are made of."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float

from raydual.data.prompts import DemonstrationSet, Queries
from raydual.data.tokens import encode
from raydual.errors import UserError
from raydual.measure.examples import Found
from raydual.measure.influence import Influences
from raydual.measure.measurer import Measurer
from raydual.measure.rows import Row
from raydual.measure.scoring import Scorer
from raydual.measure.seeds import SeedMeasurer, too_long
from raydual.model.loading import LoadedModel, load_model
from raydual.model.passes import Rows, encode_prefix, hidden_states
from raydual.model.recording import Recorder
from raydual.process.pulse import PULSE
from raydual.run_directory.directory import FAILED
from raydual.settings.controls import MEASUREMENT, control_named
from raydual.settings.reading import validate_config
from raydual.settings.schema import Finetune, SweepConfig
from raydual.study import Case, Study, prepare_study


@dataclass(frozen=True)
class Evaluation:
    """Accuracies of one seed on the measured examples: by label words, and by the greedy token."""

    zero_shot: float
    in_context: float
    finetuned: float
    zero_shot_greedy: float
    in_context_greedy: float
    finetuned_greedy: float
    examples: int


class Laboratory:
    """A study and its model on this machine.

    Parameters
    ----------
    config : a sweep, or a mapping with its settings (only `task` is needed; the rest has defaults).
    settings : the fine-tuning settings; default: the sweep's own `finetune`.
    seeds : those among which the control `other_seed` finds the next one; default: all that the sweep names.

    Raises
    ------
    UserError
        A mistake in the settings, the data or the model.
    """

    def __init__(
        self,
        config: SweepConfig | dict[str, Any],
        settings: Finetune | None = None,
        seeds: Sequence[int] | None = None,
    ) -> None:
        if not isinstance(config, SweepConfig):
            config = validate_config({"name": "laboratory", "data": "embedded", "seeds": 1, **config}, "settings")
        self.study: Study = prepare_study(config)
        self.settings = settings or config.finetune
        self.seeds = tuple(seeds or config.seeds)

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model, loaded when it is first needed."""
        source = self.study.source
        return load_model(source.name, revision=source.revision, dtype=self.study.config.dtype)

    @cached_property
    def queries(self) -> Queries:
        """The measured examples, tokenized."""
        return self.study.queries(self.loaded.tokenizer, "measured")

    @cached_property
    def measurer(self) -> Measurer:
        """What measures, under any control."""
        return Measurer(self.loaded, self.study, self.settings)

    @property
    def seed_measurer(self) -> SeedMeasurer:
        """What measures seeds on the trained model."""
        return self.measurer.for_control()

    def demonstrations(self, seed: int, control: str = MEASUREMENT.name) -> DemonstrationSet:
        """The tokenized demonstrations of a seed, checked to fit into the model's context."""
        return self._fitting(self.study.demonstrations(self.loaded.tokenizer, seed, control_named(control)))

    def _fitting(self, demonstrations: DemonstrationSet) -> DemonstrationSet:
        reason = too_long(demonstrations, self.queries, self.loaded.model.config.max_position_embeddings)
        if reason:
            raise UserError(f"seed {demonstrations.seed}: {reason}; take fewer demonstrations")
        return demonstrations

    def select(self) -> Iterator[tuple[int, float]]:
        """(seed, in-context accuracy on the selection examples) of every seed that the sweep names, as computed."""
        scorer = Scorer(self.loaded, self.study)
        count = len(scorer.queries)
        for seed in self.study.config.seeds:
            yield seed, scorer.in_context_right(scorer.encode(self.demonstrations(seed)), 0, count) / count

    def measure(self, seed: int, control: str = MEASUREMENT.name) -> list[Row]:
        """Every metric of a seed, or of a control of it: the rows that a sweep with these settings stores for it.

        Raises
        ------
        UserError
            The seed cannot be measured, with the reason, or there is no such control.
        """
        return self._measure(seed, control).rows

    def examples(self, seed: int, control: str = MEASUREMENT.name) -> pa.Table:
        """The values by example of a seed, or of a control of it, as a sweep keeps them (docs/examples.md).

        Raises
        ------
        UserError
            As `measure`, or the settings keep none (`examples: off`).
        """
        if self.study.config.examples == "off":
            raise UserError("examples: is off, so no values by example are kept; leave it out, or say overall")
        return pa.concat_tables(self._measure(seed, control).examples)

    def _measure(self, seed: int, control: str) -> Found:
        PULSE.begin(1)
        found = self.measurer.measure_all(control_named(control), [self._case(seed, control)])
        if found.rows[0]["metric"] == FAILED:
            raise UserError(f"seed {seed}: {found.rows[0]['reason']}")
        return found

    def case(self, seed: int, control: str = MEASUREMENT.name) -> tuple[Case, LoadedModel]:
        """What is measured of a seed under a control, and the model that it is measured on."""
        found = self._case(seed, control)
        return found, self.measurer.model_of(control_named(control), found)

    def _case(self, seed: int, control: str) -> Case:
        case = self.study.case(self.loaded.tokenizer, self.study.unit(seed, control_named(control), self.seeds))
        self._fitting(case.context)
        return case

    def influences(self, seed: int, examples: int = 8, control: str = MEASUREMENT.name) -> Influences:
        """What each demonstration does to a query's margin in context, and what its fine-tuning step asks for.

        Both are `[examples, demonstrations]`, of the first measured examples (docs/science.md, section 4).

        Raises
        ------
        UserError
            The seed does not fit into the model's context, or there is no such control.
        """
        return self.measurer.influences(control_named(control), self._case(seed, control), examples)

    def after_all(self, rows: Iterable[Row]) -> list[Row]:
        """The rows of all demonstrations, where `measures.shots` asks for the first ones too."""
        return [row for row in rows if row["shots"] == self.study.config.demonstrations]

    def evaluate(self, seed: int, control: str = MEASUREMENT.name) -> Evaluation:
        """Zero-shot, in-context and fine-tuned accuracy of a seed, or of a control of it."""
        return self.evaluation(self.measure(seed, control))

    def evaluation(self, rows: Sequence[Row]) -> Evaluation:
        """The accuracies among the rows of a seed, with all its demonstrations."""
        rows = self.after_all(rows)
        values = {(row["metric"], row["condition"]): row["value"] for row in rows if "accuracy" in row["metric"]}
        return Evaluation(
            zero_shot=values["accuracy", "zsl"],
            in_context=values["accuracy", "icl"],
            finetuned=values["accuracy", "ft"],
            zero_shot_greedy=values["greedy_accuracy", "zsl"],
            in_context_greedy=values["greedy_accuracy", "icl"],
            finetuned_greedy=values["greedy_accuracy", "ft"],
            examples=len(self.queries),
        )


@torch.inference_mode()
def record(
    loaded: LoadedModel, prompts: Sequence[str], fields: Sequence[str], context: str | None = None
) -> dict[str, list[Float[np.ndarray, "layers ..."]]]:
    """Pass prompts through a model and record at the last token of each: one array for each prompt.

    `fields` are those of `Recorder`: `attn_out`, `hidden`, `query`, `attn_in`, `scores_query`, and with a `context`
    (a text that all prompts continue) `scores_demo`, `context_mass` and `context_update`. Scores are raw, before the
    softmax; `attention_weights` gives those after it.
    """
    rows = Rows.pad([tokens.ids for tokens in encode(loaded.tokenizer, list(prompts))], loaded.device)
    prefix = None
    if context is not None:
        prefix = encode_prefix(loaded.model, [encode(loaded.tokenizer, [context])[0].ids])
    recorder = Recorder(tuple(fields), rows.last)
    hidden_states(loaded.model, rows, prefix, recorder)
    found = {name: recorder.result(name).cpu().numpy() for name in fields}
    lengths = rows.lengths.tolist()
    return {
        name: [x[i, ..., : lengths[i]] if name == "scores_query" else x[i] for i in range(len(lengths))]
        for name, x in found.items()
    }


def attention_weights(
    loaded: LoadedModel, prompts: Sequence[str], softmax: bool = True
) -> list[Float[np.ndarray, "layers heads tokens"]]:
    """Attention of each prompt's last token to all its tokens: weights, or raw scores if not `softmax`."""
    scores = record(loaded, prompts, ("scores_query",))["scores_query"]
    if not softmax:
        return scores
    return [torch.from_numpy(x).softmax(dim=-1).numpy() for x in scores]
