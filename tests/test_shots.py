"""The first k demonstrations of a seed, measured on the way: what a run with these k alone would measure."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from raydual.data.demonstrations import demonstration_examples
from raydual.data.prompts import encode_demonstrations
from raydual.errors import UserError
from raydual.measure import shots as shots_module
from raydual.measure.measurer import Measurer
from raydual.measure.seeds import SeedMeasurer
from raydual.measure.shots import Context
from raydual.model.loading import load_model
from raydual.settings.controls import control_named
from raydual.study import Case

from .reference import seed as plain
from .reference.finetune import FinetuneSettings
from .synthetic import UNSWITCHED
from .test_equals_plain import RANDOM, plain_task, study_of, sweep
from .tiny import LABELS, save_tiny, tiny_examples

SHOTS, K = (1, 2, 4), 6
CLOSE = 1e-6
CONTROLS = [
    *("layer_causal", "random_step", "other_seed", "untrained", "trained_embeddings"),
    *("labels_random", "labels_flipped", "labels_abstract", "permutation_1"),
]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load_model(str(save_tiny(tmp_path_factory.mktemp("shots"), layers=2)))


def measured_on_the_way(loaded, name="none", **changes):
    """The rows of two seeds, by number of demonstrations; and the study."""
    changes = {"demonstrations": K, "measures": {"shots": list(SHOTS)}, **changes}
    study = study_of(sweep(loaded.model.name_or_path, **changes), tiny_examples())
    control = control_named(name)
    cases = [study.case(loaded.tokenizer, study.unit(seed, control, (0, 1, 2))) for seed in (0, 1)]
    rows = Measurer(loaded, study).measure(control, cases)
    assert [row["shots"] for row in rows if row["metric"] == "lambda" and row["layer"] == -1] == [
        k for k in (K, *SHOTS) for _ in cases
    ]
    return rows, study


def measured_apart(loaded, study, k, name="none"):
    """The rows of a run with the first k demonstrations of each seed and no more."""
    control = control_named(name)
    alone = replace(study, config=study.config.model_copy(update={"demonstrations": k}))

    def first(seed):
        chosen = demonstration_examples(study.dataset.train, seed, K, len(LABELS), control).take(range(k))
        return encode_demonstrations(loaded.tokenizer, study.task(control), chosen, seed)

    units = [study.unit(seed, control, (0, 1, 2)) for seed in (0, 1)]
    cases = [Case(first(u.seed), first(u.tuned_on) if u.tuned_on != u.seed else None) for u in units]
    return Measurer(loaded, alone).measure(control, cases)


def by_key(rows):
    return {(r["seed"], r["metric"], r["condition"], r["layer"]): r for r in rows}


def assert_alike(found, expected):
    found, expected = by_key(found), by_key(expected)
    assert found.keys() == expected.keys()
    assert {key[1] for key in found} == set(UNSWITCHED)
    for key, row in found.items():
        other = expected[key]
        assert (row["shots"], row["examples"], row["undefined"], row["reason"], row["control"]) == (
            other["shots"], other["examples"], other["undefined"], other["reason"], other["control"],
        ), key  # fmt: skip
        assert row["value"] == pytest.approx(other["value"], abs=CLOSE, nan_ok=True), key


@pytest.mark.parametrize("control", ["none", *(pytest.param(name, marks=pytest.mark.long) for name in CONTROLS)])
def test_every_metric_after_k_demonstrations_is_that_of_a_run_with_these_alone(loaded, control):
    rows, study = measured_on_the_way(loaded, control)
    for k in SHOTS:
        assert_alike([row for row in rows if row["shots"] == k], measured_apart(loaded, study, k, control))
    # The measurement itself has the very numbers that it has without the others.
    alone = study_of(sweep(loaded.model.name_or_path, demonstrations=K), tiny_examples())
    cases = [alone.case(loaded.tokenizer, alone.unit(seed, control_named(control), (0, 1, 2))) for seed in (0, 1)]
    expected = Measurer(loaded, alone).measure(control_named(control), cases)
    assert list(map(str, rows[: len(expected)])) == list(map(str, expected))
