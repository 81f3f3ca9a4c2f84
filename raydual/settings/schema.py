"""A sweep's settings: YAML in, one frozen and validated `SweepConfig` out. Loads neither torch nor ray."""

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, field_validator, model_validator

from raydual.catalogue.entries import CATALOGUE, Catalogue
from raydual.errors import did_you_mean, shown
from raydual.model.anatomy import TRAINED, Trainable
from raydual.settings.base import Count, Flag, Index, Rate, Settings, Weight, distinct, growing
from raydual.settings.measures import NEWER_MEASURES, Measures
from raydual.settings.task import Name, Task, builtin_tasks

_MOST_SEEDS = 1_000_000
_MOST_UNITS = 20_000_000

Relabelling = Literal["random", "flipped", "abstract"]
"""Which other labels a control gives the demonstrations."""


def _expand_seeds(value: Any) -> Any:
    """`seeds: 100` is short for the seeds 0 to 99."""
    if isinstance(value, list | tuple):
        return value
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"input should be a whole number, or a list of them, found {shown(value)}")
    if value <= 0:
        raise ValueError("a number of seeds must be positive")
    if value > _MOST_SEEDS:
        raise ValueError(f"at most {_MOST_SEEDS:,} seeds are run at once, found {shown(value)}")
    return list(range(value))


Seeds = Annotated[tuple[Index, ...], BeforeValidator(_expand_seeds), Field(min_length=1, max_length=_MOST_SEEDS)]


class DataFiles(Settings):
    """Local CSV, JSONL or Parquet files; `validation` may be left out, then a fifth of `train` is held out."""

    train: Name
    validation: Name | None = None


class Finetune(Settings):
    """Fine-tuning of chosen projections (docs/science.md, section 2). Defaults are Dai's."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Rate = 5e-4
    weight_decay: Weight = 0.0
    epochs: Count = 1
    batch: Literal["one", "all"] = Field(
        default="one", description="all: a single step an epoch, on the sum of all demonstrations' losses"
    )
    loss: Literal["all", "label"] = "all"
    gradient: Literal["full", "layer_causal"] = Field(
        default="full", description="layer_causal: each layer learns from what it and those below it compute (Deutch)"
    )
    projections: Annotated[tuple[Trainable, ...], Field(min_length=1)] = TRAINED

    _projections_distinct = field_validator("projections")(distinct)

    @property
    def steps_are_nested(self) -> bool:
        """Whether the first k steps are those of the first k demonstrations alone."""
        return self.epochs == 1 and self.batch == "one"

    def identity(self) -> dict[str, Any]:
        """What fingerprints are made of: settings that older versions did not have are left out at their default."""
        return _without_newer(self.model_dump(mode="json"), type(self)(), _NEWER_FINETUNE)


class Split(Settings):
    """How many validation examples choose seeds and learning rates, and how many are measured."""

    selection: Index = 0
    measured: Count | None = Field(default=None, description="None: all that are left")
    measured_at_most: Count | None = Field(default=None, description="fewer if there are fewer")
    shuffle_seed: Index = 0


class SeedSearch(Settings):
    """Ray Tune over seeds: accuracy on growing slices of the selection set, the poorer part stopped at each."""

    keep: Count
    slices: Annotated[tuple[Count, ...], Field(min_length=1)] | None = Field(
        default=(25, 50, 100), description="None: every seed is scored on the whole selection set"
    )

    @field_validator("slices")
    @classmethod
    def _slices_grow(cls, slices: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return slices if slices is None else growing(slices, "slices")


class FinetuneSearch(Settings):
    """Ray Tune over fine-tuning settings: every combination of the lists, scored on the selection set."""

    learning_rate: Annotated[tuple[Rate, ...], Field(min_length=1)]
    epochs: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None
    optimizer: Annotated[tuple[Literal["sgd", "adamw"], ...], Field(min_length=1)] | None = None
    objective: Literal["accuracy", "greedy_accuracy"] = "accuracy"
    seeds: Count = Field(default=4, description="how many of the chosen seeds each setting is scored on")

    _lists_distinct = field_validator("learning_rate", "epochs", "optimizer")(
        lambda values: values if values is None else distinct(values)
    )


class Search(Settings):
    """What is chosen before anything is measured; a part left out is not searched."""

    seeds: SeedSearch | None = None
    finetune: FinetuneSearch | None = None


class Controls(Settings):
    """What is run beside the measurement, to tell what is specific about it (docs/science.md, section 5)."""

    layer_causal: Flag = False
    random_step: Flag = False
    other_seed: Flag = False
    untrained: Flag = False
    trained_embeddings: Flag = False
    labels: tuple[Relabelling, ...] = ()
    permutations: Annotated[int, Field(strict=True, ge=0, le=1000)] = Field(
        default=0, description="how many other orders of each seed's demonstrations"
    )
    seeds: Count | None = Field(default=None, description="on the first so many of the measured seeds; None: all")
    abstract_words: tuple[Name, ...] = ("foo", "bar", "dax", "wug", "lek", "zot")

    _lists_distinct = field_validator("labels", "abstract_words")(distinct)

    @property
    def number(self) -> int:
        """How many controls are run."""
        flags = [getattr(self, name) for name, field in type(self).model_fields.items() if field.annotation is bool]
        return sum(flags) + len(self.labels) + self.permutations


class Execution(Settings):
    """How the work is laid on the hardware. No number that is measured depends on it."""

    replicas: Count | Literal["auto"] = "auto"
    gpus_per_replica: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] | Literal["auto"] = "auto"
    seeds_per_batch: Count | Literal["auto"] = Field(default="auto", description="auto: what memory holds")
    batch_size: Count = Field(default=64, description="validation examples of one seed in a forward pass")
    retries: Index = Field(
        default=3,
        description="how often a batch is tried again after its worker died; then it is split until the seed is found",
    )
    stall_minutes: Annotated[float, Field(strict=True, gt=0)] = Field(
        default=10,
        description="a replica that gives no sign of life for so long is ended, and its batch tried elsewhere",
    )
    failures_in_a_row: Count = Field(default=20, description="so many failed seeds one after another stop the run")
    loggers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = Field(
        default=(), description="what is told of the search, the headline numbers and the report"
    )

    _loggers_distinct = field_validator("loggers")(distinct)

    def most_seeds_per_batch(self, on_gpu: bool) -> int:
        """How many seeds go to a replica together; it may measure fewer at once. Beyond these more hardly pay."""
        return (32 if on_gpu else 8) if self.seeds_per_batch == "auto" else self.seeds_per_batch


_NEWER_FINETUNE = {"batch"}
"""Settings of `finetune` that the first version did not have."""


def _without_newer(settings: dict[str, Any], defaults: BaseModel, newer: set[str]) -> dict[str, Any]:
    """Settings of a group without those of the `newer` ones that have their default."""
    plain = defaults.model_dump(mode="json", include=newer)
    return {name: value for name, value in settings.items() if name not in newer or value != plain[name]}


Kept = Literal["overall", "layers", "heads", "off"]
"""What is kept of every example beside its predictions: overall values, those of layers too, those of heads too."""


def _read_kept(value: Any) -> Any:
    # What YAML makes of `off`.
    return "off" if value is False else value


_GROUPS = ("split", "search", "finetune", "measures", "controls", "execution")


class SweepConfig(Settings):
    """One study, as written in a YAML file of `sweeps/`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)]
    model: Name = Field(default="embedded", description="embedded, a hub id, or a local directory")
    revision: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    task: Task
    data: Name | DataFiles = Field(default="hub", description="embedded, hub, a file or a directory, or files")
    demonstrations: Count
    seeds: Seeds
    protocol: Literal["split", "dai"] = "split"
    split: Split = Split()
    search: Search = Search()
    finetune: Finetune = Finetune()
    measures: Measures = Measures()
    controls: Controls = Controls()
    examples: Annotated[Kept, BeforeValidator(_read_kept)] = Field(
        default="overall", description="which values by example are kept (docs/examples.md); no number depends on it"
    )
    execution: Execution = Execution()

    _seeds_distinct = field_validator("seeds")(distinct)

    @model_validator(mode="before")
    @classmethod
    def _drop_empty_groups(cls, raw: Any) -> Any:
        """`search:` with nothing after it, or `search: null`, is a group that is left out."""
        if not isinstance(raw, dict):
            return raw
        return {key: value for key, value in raw.items() if value is not None or key not in _GROUPS}

    @model_validator(mode="before")
    @classmethod
    def _fill_task(cls, raw: Any) -> Any:
        """A task given by name, or by a name and what it changes, becomes a whole task."""
        if not isinstance(raw, dict) or "task" not in raw:
            return raw
        task, known = raw["task"], builtin_tasks()
        if isinstance(task, str):
            if task not in known:
                nearest = did_you_mean(task, known)
                raise ValueError(
                    f"task {shown(task)} is not one of {', '.join(known)}; a custom task is a mapping{nearest}"
                )
            task = known[task]
        elif isinstance(task, dict):
            task = {**known.get(str(task.get("name")), {}), **task}
        else:
            return raw
        return {"demonstrations": task.get("demonstrations", 32), **raw, "task": task}

    @model_validator(mode="after")
    def _consistent(self) -> "SweepConfig":
        seeds = self.search.seeds
        if seeds and seeds.keep > len(self.seeds):
            raise ValueError(f"search.seeds.keep is {seeds.keep}, but only {len(self.seeds)} seeds are named")
        if self.protocol == "split" and (self.search.seeds or self.search.finetune) and not self.split.selection:
            raise ValueError("split.selection is 0, but search needs selection examples (or `protocol: dai`)")
        if self.protocol == "dai" and self.split.selection:
            raise ValueError("split.selection has no meaning with `protocol: dai`, which selects on what it reports")
        if self.protocol == "split" and seeds and seeds.slices and seeds.slices[-1] > self.split.selection:
            raise ValueError(
                f"search.seeds.slices ends at {seeds.slices[-1]}, but split.selection is {self.split.selection}"
            )
        if self.measures.patch and self.split.selection < 2:
            raise ValueError(
                "measures.patch is fitted on selection examples, which are not measured: it needs `protocol: split` "
                "and split.selection of at least 2"
            )
        controls, labels = self.controls, len(self.task.label_words)
        if "abstract" in controls.labels and len(controls.abstract_words) < labels:
            raise ValueError(
                f"controls.abstract_words has {len(controls.abstract_words)} words, but the task has {labels} labels"
            )
        measured = seeds.keep if seeds else len(self.seeds)
        if controls.other_seed and measured < 2:
            raise ValueError("controls.other_seed needs at least two measured seeds")
        units = measured + controls.number * min(measured, controls.seeds or measured)
        if units > _MOST_UNITS:
            raise ValueError(
                f"{measured:,} seeds with {controls.number:,} controls are {units:,} measurements, at most "
                f"{_MOST_UNITS:,} are run at once; take fewer seeds, or controls.seeds"
            )
        if self.measures.shots and self.measures.shots[-1] > self.demonstrations:
            raise ValueError(
                f"measures.shots ends at {self.measures.shots[-1]}, but there are {self.demonstrations} demonstrations"
            )
        if self.data == "hub" and self.task.hub is None:
            raise ValueError(f"data is 'hub', but the task {shown(self.task.name)} names no hub data set")
        if self.data == "embedded" and self.task.name not in ("sst2", "sst5"):
            raise ValueError(f"the embedded data has only sst2 and sst5, not the task {shown(self.task.name)}")
        return self

    @property
    def catalogue(self) -> Catalogue:
        """Every metric that is measured: the built-in ones that are switched on, and those of `measures.own`."""
        own = self.measures.own.metrics if self.measures.own else ()
        builtin = map(self.measures.switched, CATALOGUE.values())
        return Catalogue([*(metric for metric in builtin if metric), *own])

    @property
    def shots(self) -> tuple[int, ...]:
        """After how many demonstrations it is measured beside all of them, which need no saying."""
        return tuple(k for k in self.measures.shots if k < self.demonstrations)

    def fingerprint(self) -> str:
        """A hash of all settings that a run's numbers can depend on (not of `execution`, `examples` and `name`).

        A margin is part of it, since it must be stated before the run. Settings that older versions did not have are
        left out where they have their default, so that their runs can be gone on with.
        """
        return _hash(self._measured_settings())

    def number_fingerprint(self) -> str:
        """A hash of those settings that a measured number can depend on: the fingerprint without the plan of units.

        The plan is which seeds, how many of them a search keeps, and which controls on how many: a finished run may be
        given more of them.
        """
        settings = self._measured_settings()
        del settings["seeds"]
        if settings["search"]["seeds"]:
            del settings["search"]["seeds"]["keep"]
        settings["controls"] = {"abstract_words": settings["controls"]["abstract_words"]}
        return _hash(settings)

    def _measured_settings(self) -> dict[str, Any]:
        settings = self.model_dump(mode="json", exclude={"execution", "examples", "name"})
        settings["measures"] = _without_newer(settings["measures"], Measures(), NEWER_MEASURES)
        settings["finetune"] = self.finetune.identity()
        own = settings["measures"].pop("own")
        if own is not None:
            settings["measures"]["own"] = own["source"]
        return settings


def _hash(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
