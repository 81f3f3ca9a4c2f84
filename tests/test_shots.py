"""The first k demonstrations of a seed, measured on the way: what a run with these k alone would measure."""

import itertools
import math
import random
import re
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
from raydual.run_directory.directory import fingerprint_of
from raydual.settings.controls import control_named
from raydual.study import Case

from .default_catalogue import CATALOGUE
from .reference import seed as plain
from .reference.finetune import FinetuneSettings
from .test_equals_plain import RANDOM, plain_task, study_of, sweep
from .tiny import LABELS, TEMPLATE, save_tiny, tiny_examples, tiny_texts

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
    assert sorted(row["shots"] for row in rows if row["metric"] == "lambda" and row["layer"] == -1) == [
        k for k in (*study.config.shots, study.config.demonstrations) for _ in cases
    ]
    return rows, study


def measured_apart(loaded, study, k, name="none"):
    """The rows of a run with the first k demonstrations of each seed and no more."""
    control = control_named(name)
    alone = replace(study, config=study.config.model_copy(update={"demonstrations": k}))

    def first(seed):
        chosen = demonstration_examples(
            study.dataset.train, seed, study.config.demonstrations, len(LABELS), control
        ).take(range(k))
        return encode_demonstrations(loaded.tokenizer, study.task(control), chosen, seed)

    units = [study.unit(seed, control, (0, 1, 2)) for seed in (0, 1)]
    cases = [Case(first(u.seed), first(u.tuned_on) if u.tuned_on != u.seed else None) for u in units]
    return Measurer(loaded, alone).measure(control, cases)


def by_key(rows):
    return {(r["seed"], r["metric"], r["condition"], r["layer"]): r for r in rows}


def assert_alike(found, expected):
    found, expected = by_key(found), by_key(expected)
    assert found.keys() == expected.keys()
    assert {key[1] for key in found} == set(CATALOGUE)
    for key, row in found.items():
        other = expected[key]
        names = ("shots", "examples", "undefined", "reason", "control")
        assert [row[name] for name in names] == [other[name] for name in names], key
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
    assert [str(row) for row in rows if row["shots"] == K] == list(map(str, expected))


def test_numbers_of_demonstrations_differ_by_far_more_than_the_tolerance(loaded):
    rows, study = measured_on_the_way(loaded)
    with pytest.raises(AssertionError):
        assert_alike([row for row in rows if row["shots"] == 4], measured_apart(loaded, study, 2))
    mass = {
        row["shots"]: row["value"] for row in rows if (row["seed"], row["metric"], row["layer"]) == (0, "lambda", -1)
    }
    assert min(abs(mass[a] - mass[b]) for a, b in itertools.combinations(mass, 2)) > 1000 * CLOSE


@pytest.mark.parametrize("tuning", [{"epochs": 2}, {"batch": "all"}, {"optimizer": "adamw", "learning_rate": 1e-3}])
def test_other_fine_tuning_gives_what_a_run_with_k_demonstrations_gives(loaded, tuning):
    rows, study = measured_on_the_way(
        loaded, demonstrations=4, measures={"shots": [2]}, finetune={"learning_rate": 0.05, **tuning}
    )
    assert_alike([row for row in rows if row["shots"] == 2], measured_apart(loaded, study, 2))


def test_the_plain_measurement_of_k_demonstrations_agrees(loaded):
    rows, study = measured_on_the_way(loaded, measures={"shots": [2]})
    chosen = [tiny_examples()[i] for i in random.Random(1).sample(range(60), K)][:2]
    expected = plain.measure_demonstrations(
        loaded.model, loaded.tokenizer, chosen, tiny_examples()[60:77], plain_task(study.config),
        FinetuneSettings(learning_rate=study.config.finetune.learning_rate),
    )  # fmt: skip
    compared = 0
    for (seed, metric, condition, layer), row in by_key([row for row in rows if row["shots"] == 2]).items():
        # Rankings turn on the last bit; that they are those of a run apart, whose own are compared, is shown above.
        if seed == 1 and metric not in RANDOM and not metric.startswith(("kendall", "topk")):
            assert row["value"] == pytest.approx(expected[metric, condition, layer], abs=1e-3, nan_ok=True), metric
            compared += 1
    assert compared > 40


def context_of(loaded, study, seeds=(0, 1)):
    """Demonstration sets with their first ones, and what measures them."""
    measurer = SeedMeasurer(loaded, study.queries(loaded.tokenizer, "measured"), study.config)
    return measurer, [study.with_variants(loaded.tokenizer, seed) for seed in seeds]


@pytest.mark.parametrize(("separator", "of_its_own"), [(" ", 1), ("\n", 1), (" ", 0)])
def test_the_first_demonstrations_are_the_beginning_of_the_prompt_and_are_not_passed_again(
    tmp_path, separator, of_its_own, monkeypatch
):
    # A tokenizer that has seen sentences side by side has a token of the space and the next one's first word.
    side_by_side = [f"{one} {other}" for one, other in itertools.pairwise(tiny_texts())]
    loaded = load_model(str(save_tiny(tmp_path, layers=1, texts=None if of_its_own else side_by_side)))
    task = {"name": "tiny", "template": TEMPLATE, "label_words": list(LABELS), "separator": separator}
    config = sweep(loaded.model.name_or_path, demonstrations=K, measures={"shots": list(SHOTS)}, task=task)
    measurer, sets = context_of(loaded, study_of(config, tiny_examples()))
    assert len(measurer.queries.separator) == of_its_own
    with torch.inference_mode():
        separator = measurer.queries.separator
        whole = Context.of(loaded.model, sets, separator)
        monkeypatch.setattr(shots_module, "encode_prefix", None)
        for place, k in enumerate(SHOTS):
            shorter = [one.shorter[place] for one in sets]
            prompts = [np.concatenate([one.prefix, separator]) for one in shorter]
            found = whole.first(loaded.model, shorter, separator)
            assert found.prefix.lengths.tolist() == [len(prompt) for prompt in prompts]
            for one, prompt in zip(sets, prompts, strict=True):
                assert one.prefix[: len(prompt)].tolist() == prompt.tolist()
                assert len(prompt) == one.first_index[k]


def test_demonstrations_that_the_tokenizer_merges_otherwise_are_passed_by_themselves(loaded):
    study = study_of(sweep(loaded.model.name_or_path, demonstrations=4, measures={"shots": [2]}), tiny_examples())
    measurer, sets = context_of(loaded, study)

    def otherwise(one):
        # As if the end of the second demonstration were another token without the third one.
        (shorter,) = one.shorter
        prefix = shorter.prefix.copy()
        prefix[-1] += 1
        return replace(one, shorter=(replace(shorter, prefix=prefix),))

    merged = [otherwise(sets[0]), sets[1]]
    found = [row for row in measurer.measure(merged) if row["shots"] == 2]
    apart = SeedMeasurer(loaded, measurer.queries, study.config)
    assert_alike(found, apart.measure([one.shorter[0] for one in merged]))
    as_it_was = [row for row in measurer.measure(sets) if row["shots"] == 2]
    with pytest.raises(AssertionError):
        assert_alike(found, as_it_was)


def test_a_seed_that_diverges_has_a_single_row(loaded):
    rows = SeedMeasurer(*_diverging(loaded)).measure(context_of(loaded, _study(loaded))[1])
    assert [(row["metric"], row["shots"]) for row in rows] == [("failed", K)] * 2


def test_a_number_on_which_fine_tuning_alone_diverges_is_undefined_there(loaded, monkeypatch):
    study = _study(loaded, finetune={"learning_rate": 0.05, "epochs": 2})
    measurer, sets = context_of(loaded, study)
    expected = measurer.measure(sets)
    tuned = shots_module.finetune

    def diverging(model, some, *arguments, **options):
        found = tuned(model, some, *arguments, **options)
        sound = torch.tensor([len(one.examples) != 2 or one.seed > 0 for one in some])
        return replace(found, finite=found.finite & sound)

    whole = by_key([row for row in expected if row["shots"] == K])
    monkeypatch.setattr(shots_module, "finetune", diverging)
    for row, before in zip(measurer.measure(sets), expected, strict=True):
        if (row["seed"], row["shots"]) != (0, 2):
            assert str(row) == str(before)
            continue
        assert math.isnan(row["value"])
        assert (row["examples"], row["reason"]) == (0, "fine-tuning diverged at learning rate 0.05")
        of_all = whole[row["seed"], row["metric"], row["condition"], row["layer"]]
        assert row["undefined"] == of_all["examples"] + of_all["undefined"]


def _study(loaded, **changes):
    config = sweep(loaded.model.name_or_path, demonstrations=K, measures={"shots": list(SHOTS)}, **changes)
    return study_of(config, tiny_examples())


def _diverging(loaded):
    study = _study(loaded, finetune={"learning_rate": 1e38})
    return loaded, study.queries(loaded.tokenizer, "measured"), study.config


@pytest.mark.parametrize(
    ("shots", "message"),
    [([4, 2], "shots must grow, found [4, 2]"), ([2, 9], "measures.shots ends at 9, but there are 6 demonstrations")],
)
def test_numbers_that_make_no_curve_are_refused(tiny_directory, shots, message):
    with pytest.raises(UserError, match=re.escape(message)):
        sweep(tiny_directory, demonstrations=K, measures={"shots": shots})


def test_shots_and_a_full_batch_belong_to_the_fingerprint_and_are_off_by_default(tiny_directory):
    plain_one = sweep(tiny_directory)
    assert plain_one.shots == ()
    assert sweep(tiny_directory, measures={"shots": []}).fingerprint() == plain_one.fingerprint()
    assert sweep(tiny_directory, measures={"shots": [K]}, demonstrations=K).shots == ()
    named = {"learning_rate": 0.05, "batch": "one"}
    assert sweep(tiny_directory, finetune=named).fingerprint() == plain_one.fingerprint()
    others = [
        sweep(tiny_directory, measures={"shots": [2]}),
        sweep(tiny_directory, measures={"order": 2}),
        sweep(tiny_directory, finetune={**named, "batch": "all"}),
    ]
    assert len({one.fingerprint() for one in (plain_one, *others)}) == 4
    assert fingerprint_of(others[2].finetune) != fingerprint_of(plain_one.finetune)
