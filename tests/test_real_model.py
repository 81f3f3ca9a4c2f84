"""A real language model against plain `transformers`: SmolLM2, in the directory that RAYDUAL_SMOLLM2 names.

`analysis/smollm2.py` makes it.
"""

import os
from pathlib import Path

import pytest

from raydual.data.examples import Dataset, Examples
from raydual.measure.seeds import SeedMeasurer
from raydual.model.loading import load_model
from raydual.settings.reading import validate_config
from raydual.study import Study

from .reference import seed as plain
from .reference.finetune import FinetuneSettings
from .reference.prompts import TaskSettings
from .rounding import rounding_bounds
from .test_equals_plain import RANDOM
from .tiny import tiny_examples
from .tolerance import assert_same_values

DIRECTORY = os.environ.get("RAYDUAL_SMOLLM2")
TRAIN, MEASURED = 12, 5

pytestmark = [
    pytest.mark.real_model,
    pytest.mark.skipif(not DIRECTORY, reason="RAYDUAL_SMOLLM2 names no directory that analysis/smollm2.py made"),
]


def test_every_metric_of_smollm2_equals_the_plain_one():
    settings = {
        "name": "real", "model": str(Path(DIRECTORY).absolute()), "task": {"name": "sst2", "separator": "\n"},
        "data": "embedded", "demonstrations": 4, "seeds": [1], "finetune": {"learning_rate": 0.01},
        "execution": {"batch_size": 2},
    }  # fmt: skip
    config = validate_config(settings, "test")
    pairs = tiny_examples(TRAIN + MEASURED)
    task = config.task
    examples = Examples(tuple(task.query({"text": text}) for text, _ in pairs), tuple(label for _, label in pairs))
    train, measured = examples.take(range(TRAIN)), examples.take(range(TRAIN, TRAIN + MEASURED))
    study, loaded = Study(config, Dataset(train, examples.take(()), measured, "test")), load_model(config.model)
    demonstrations = [study.demonstrations(loaded.tokenizer, seed) for seed in config.seeds]
    rows = SeedMeasurer(loaded, study.queries(loaded.tokenizer, "measured"), config).measure(demonstrations)
    expected = plain.measure_seed(
        loaded.model, loaded.tokenizer, pairs[:TRAIN], pairs[TRAIN:],
        TaskSettings(template=task.template, separator=task.separator, label_words=task.label_words), 1, 4,
        FinetuneSettings(**config.finetune.model_dump()), plain.MeasureSettings(),
    )  # fmt: skip
    found = {(row["metric"], row["condition"], row["layer"]): row["value"] for row in rows}
    # In thirty layers of a trained model the few draws of a bound see less of what rounding does than in tiny ones.
    bounds = {
        key: max(bound, min(1.5 * bound, 0.01))
        for key, bound in rounding_bounds(loaded, study, study.units(config.seeds)).items()
    }
    assert_same_values(found, expected, bounds, 1, drawn=RANDOM)
    assert {layer for _, _, layer in found} == {-1, *range(loaded.model.config.num_hidden_layers)}
