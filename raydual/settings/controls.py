"""The controls: runs that differ from the measurement in one thing (docs/science.md, section 5)."""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from raydual.errors import UserError, did_you_mean
from raydual.settings.schema import Controls, Relabelling


@dataclass(frozen=True)
class Control:
    """What a control changes; all else is as in the measurement.

    `weights` are the model's; `labels` those of the demonstrations; `order` is 0 for the seed's own, else which other
    order of the same demonstrations; `tuned_on` says whose demonstrations are fine-tuned on, the seed's own or those of
    another one; `step` how the weights move: as the settings say, by layer-causal gradients, or at random. Of a null,
    `than` says in a sentence what the measurement is compared with.
    """

    name: str
    label: str
    description: str
    weights: Literal["trained", "untrained", "trained_embeddings"] = "trained"
    labels: Literal["true"] | Relabelling = "true"
    order: int = 0
    tuned_on: Literal["own", "other"] = "own"
    step: Literal["set", "layer_causal", "random"] = "set"
    than: str = ""

    @property
    def draws_models(self) -> bool:
        """Whether every seed has a model of its own, while the measured model is a single one."""
        return self.weights != "trained"

    def changes(self, condition: str, gradient: str = "full") -> bool:
        """Whether anything can differ in a condition: `zsl`, `icl`, `ft`, `patch` or two of them (`icl-ft`).

        `gradient` is that of the measurement's fine-tuning, which may be layer-causal itself.
        """
        own_words = self.labels == "abstract"
        context = own_words or self.labels != "true" or self.order > 0
        changed = {
            "zsl": self.draws_models or own_words,
            "icl": self.draws_models or context,
            "patch": self.draws_models or context,
            "ft": self.draws_models or context or self.tuned_on == "other" or self.step not in ("set", gradient),
        }
        changed["ft_all"] = changed["ft"]
        return any(changed[arm] for arm in condition.split("-"))

    @property
    def is_null(self) -> bool:
        """Whether nothing that was learnt links the context with what stands for fine-tuning."""
        return self.draws_models or self.tuned_on == "other" or self.step == "random"


MEASUREMENT = Control("none", "Measurement", "The measurement itself.")

_KNOWN = (
    MEASUREMENT,
    Control(
        "layer_causal", "Layer-causal fine-tuning",
        "Fine-tuning in which each layer learns from what it and those below it compute alone (Deutch).",
        step="layer_causal",
    ),
    Control(
        "random_step", "Random step",
        "The weights move at random, each projection of each layer by as much as fine-tuning moves it.",
        step="random", than="after a random step of the same size",
    ),
    Control(
        "other_seed", "Other seed",
        "The context holds this seed's demonstrations, fine-tuning is on those of the next seed.",
        tuned_on="other", than="when fine-tuned on other demonstrations of the task",
    ),
    Control(
        "untrained", "Untrained model",
        "The same architecture with freshly initialised weights, drawn anew for every seed.",
        weights="untrained", than="in untrained models",
    ),
    Control(
        "trained_embeddings", "Untrained blocks",
        "Freshly initialised blocks, drawn anew for every seed, between the trained embeddings, norms and unembedding.",
        weights="trained_embeddings", than="in models with untrained blocks",
    ),
    Control(
        "labels_random", "Random labels",
        "Every demonstration has a label drawn at random, in the context and in fine-tuning.",
        labels="random",
    ),
    Control(
        "labels_flipped", "Flipped labels",
        "Every demonstration has the label after its own, the last label the first.",
        labels="flipped",
    ),
    Control(
        "labels_abstract", "Abstract label words",
        "Words without a meaning stand for the labels, in the context, in fine-tuning and in scoring.",
        labels="abstract",
    ),
)  # fmt: skip


def _permutation(number: int) -> Control:
    return Control(
        f"permutation_{number}", f"Other order {number}" if number > 1 else "Other order",
        "The same demonstrations in another random order, in the context and in fine-tuning.",
        order=number,
    )  # fmt: skip


def control_named(name: str) -> Control:
    """A control by its name.

    Raises
    ------
    UserError
        There is none of that name.
    """
    numbered = re.fullmatch(r"permutation_([1-9]\d*)", name)
    if numbered:
        return _permutation(int(numbered[1]))
    for control in _KNOWN:
        if control.name == name:
            return control
    known = control_names()
    raise UserError(f"control {name!r} is not one of {', '.join(known)}, permutation_2, …{did_you_mean(name, known)}")


def next_seed(seed: int, in_order: Sequence[int]) -> int:
    """Whose demonstrations `other_seed` is fine-tuned on: the next of sorted seeds, after the last the first."""
    after = bisect_right(in_order, seed)
    return in_order[after] if after < len(in_order) else next(iter(in_order), seed)


def control_names() -> list[str]:
    """The name of every control, and of the first other order of the demonstrations."""
    return [*(control.name for control in _KNOWN), "permutation_1"]


def controls_of(settings: Controls) -> Iterator[Control]:
    """The measurement, then every control that is switched on, in the order of reports."""
    for control in _KNOWN:
        kind, _, variant = control.name.partition("labels_")
        if control is MEASUREMENT or (variant in settings.labels if variant else getattr(settings, kind)):
            yield control
    for number in range(1, settings.permutations + 1):
        yield _permutation(number)


def report_order(name: str) -> tuple[int, str]:
    """Sorts names of controls as reports show them."""
    names = [control.name for control in _KNOWN]
    return (names.index(name), "") if name in names else (len(names), name.rjust(20))
