"""The measurement and its controls on one trained model: which model, words and step a control needs."""

from collections.abc import Mapping, Sequence

import numpy as np

from raydual.measure.examples import Found
from raydual.measure.grouping import Groups, group_size
from raydual.measure.influence import Influences
from raydual.measure.rows import Row
from raydual.measure.seeds import SeedMeasurer, ZeroShot
from raydual.model.fresh import fresh_model
from raydual.model.loading import LoadedModel
from raydual.settings.controls import MEASUREMENT, Control, controls_of
from raydual.settings.schema import Finetune
from raydual.study import Case, Study


class Measurer:
    """Measures cases under any control.

    Parameters
    ----------
    loaded : the trained model.
    study : the sweep and its data.
    settings : of fine-tuning; default: those of the sweep.
    zero_shot : what another measurer `shares`, of the same model and study; measured when needed if None.
    memory_share : the part of the device's free memory that it may count on.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        study: Study,
        settings: Finetune | None = None,
        zero_shot: Mapping[str, ZeroShot] | None = None,
        memory_share: float = 1.0,
    ) -> None:
        self.loaded = loaded
        self.study = study
        self.settings = settings or study.config.finetune
        self.zero_shot = zero_shot or {}
        self.memory_share = memory_share
        self.groups: Groups | None = None
        self._by_words: dict[str, SeedMeasurer] = {}

    def for_control(self, control: Control = MEASUREMENT) -> SeedMeasurer:
        """What measures seeds on the trained model with the label words of a control."""
        words = _words(control)
        if words not in self._by_words:
            queries = self.study.queries(self.loaded.tokenizer, "measured", control)
            fitted_on = None
            if self.study.config.measures.patch:
                fitted_on = self.study.queries(self.loaded.tokenizer, "selection", control)
            self._by_words[words] = SeedMeasurer(
                self.loaded, queries, self.study.config, self.zero_shot.get(words), fitted_on
            )
        return self._by_words[words]

    def shares(self) -> dict[str, ZeroShot]:
        """The zero-shot outcomes that every control on the trained model needs, by label words."""
        controls = {_words(c): c for c in controls_of(self.study.config.controls) if c.weights == "trained"}
        return {words: self.for_control(control).shares() for words, control in controls.items()}

    def measure(self, control: Control, cases: Sequence[Case]) -> list[Row]:
        """The metric rows of every case, marked as the control's."""
        return self.measure_all(control, cases).rows

    def measure_all(self, control: Control, cases: Sequence[Case]) -> Found:
        """The metric rows of every case, and its values by example, marked as the control's."""
        if control.weights == "trained":
            parts = self._measure(self.for_control(control), control, cases)
        else:
            parts = [part for case in cases for part in self._measure(self._fresh(case, control), control, [case])]
        return Found.joined(parts, control.name)

    def influences(self, control: Control, case: Case, examples: int) -> Influences:
        """What each demonstration of a case does, and what its fine-tuning step asks for, on the first `examples`."""
        trained = control.weights == "trained"
        seeds = self.for_control(control) if trained else self._fresh(case, control)
        others = [case.tuned_on] if case.tuned_on else None
        at_random = control.step == "random"
        return seeds.influences([case.context], self._settings(control), others, at_random, examples)[0]

    def _settings(self, control: Control) -> Finetune:
        if control.step != "layer_causal":
            return self.settings
        return self.settings.model_copy(update={"gradient": "layer_causal"})

    def _measure(self, seeds: SeedMeasurer, control: Control, cases: Sequence[Case]) -> list[Found]:
        settings = self._settings(control)
        if self.groups is None:
            execution = self.study.config.execution
            self.groups = Groups(
                group_size(self.loaded, seeds.queries, cases[0].context, settings, execution, self.memory_share)
            )

        def measured(group: Sequence[Case]) -> Found:
            others = [case.tuned_on for case in group if case.tuned_on]
            sets = [case.context for case in group]
            return seeds.measure_all(sets, settings, tuned_on=others, at_random=control.step == "random")

        return list(self.groups.each(cases, measured))

    def _fresh(self, case: Case, control: Control) -> SeedMeasurer:
        """What measures on an untrained model, drawn for this seed alone."""
        plain = self.for_control()
        return SeedMeasurer(self.model_of(control, case), plain.queries, self.study.config, fitted_on=plain.fitted_on)

    def model_of(self, control: Control, case: Case) -> LoadedModel:
        """The model that a case is measured on: the trained one, or one that is drawn for its seed."""
        if not control.draws_models:
            return self.loaded
        keys = [self.study.config.measures.noise_seed, case.context.seed]
        seed = int(np.random.SeedSequence(keys).generate_state(1)[0])
        return fresh_model(self.loaded, seed, control.weights == "trained_embeddings")


def _words(control: Control) -> str:
    return "abstract" if control.labels == "abstract" else "own"
