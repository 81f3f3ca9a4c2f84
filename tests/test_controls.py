"""The controls: each changes what it says, nothing else, and its numbers are those of the plain measurement."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raydual.data.demonstrations import demonstration_examples
from raydual.data.examples import Dataset, Examples, demonstration_indices
from raydual.errors import UserError
from raydual.measure.measurer import Measurer
from raydual.model.finetune import finetune
from raydual.model.fresh import fresh_model
from raydual.model.loading import load_model
from raydual.model.random_step import random_step
from raydual.settings.controls import MEASUREMENT, control_named, controls_of, report_order
from raydual.settings.reading import validate_config
from raydual.settings.schema import Controls, Finetune
from raydual.study import Study, prepare_study

from .default_catalogue import CATALOGUE
from .reference import seed as plain
from .reference.finetune import FinetuneSettings
from .reference.prompts import TaskSettings
from .rounding import rounding_bounds
from .test_equals_plain import RANDOM
from .tiny import ANATOMIES, LABELS, TEMPLATE, label_ids, save_tiny, tiny_examples, tiny_tokenizer
from .tolerance import assert_same_values

pytestmark = pytest.mark.long

K, RATE = 5, 0.05
PAIRS = tiny_examples()
TRAIN, MEASURED = PAIRS[:60], PAIRS[60:71]
EVERY = Controls(
    layer_causal=True, random_step=True, other_seed=True, untrained=True, trained_embeddings=True,
    labels=("random", "flipped", "abstract"), permutations=2, abstract_words=("foo", "bar"),
)  # fmt: skip


def study_of(directory):
    """A study of a model with every control switched on."""
    config = validate_config(
        {
            "name": "tiny",
            "model": str(directory),
            "task": {"name": "tiny", "template": TEMPLATE, "label_words": list(LABELS)},
            "data": {"train": "unused.csv"},
            "demonstrations": K,
            "seeds": [2, 7, 4],
            "finetune": {"learning_rate": RATE},
            "controls": EVERY.model_dump(),
        },
        "test",
    )

    def examples(pairs):
        return Examples(tuple(config.task.query({"text": t}) for t, _ in pairs), tuple(label for _, label in pairs))

    return Study(config, Dataset(examples(TRAIN), examples(()), examples(MEASURED), "test"))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return study_of(save_tiny(tmp_path_factory.mktemp("model"), loud=label_ids(tiny_tokenizer())))


@pytest.fixture(scope="module")
def measurer(study):
    return Measurer(load_model(study.config.model), study)


@pytest.fixture(scope="module")
def bounds(measurer):
    """What rounding may do to the numbers of all seeds under every control."""
    return rounding_bounds(measurer.loaded, measurer.study, measurer.study.units(measurer.study.config.seeds))


def measured(measurer, name, seeds=(4,)):
    """{(metric, condition, layer): value} of the last of `seeds` under a control, all measured together."""
    control = control_named(name)
    units = [measurer.study.unit(seed, control, measurer.study.config.seeds) for seed in seeds]
    rows = measurer.measure(control, [measurer.study.case(measurer.loaded.tokenizer, unit) for unit in units])
    assert {row["control"] for row in rows} == {name}
    return {(r["metric"], r["condition"], r["layer"]): r["value"] for r in rows if r["seed"] == seeds[-1]}


def chosen(seed):
    return [TRAIN[i] for i in demonstration_indices(seed, len(TRAIN), K)]


def plain_numbers(measurer, model, demonstrations, ft_model=None, words=LABELS, gradient="full"):
    """The same by the plain measurement."""
    return plain.measure_demonstrations(
        model, measurer.loaded.tokenizer, demonstrations, MEASURED, TaskSettings(template=TEMPLATE, label_words=words),
        FinetuneSettings(learning_rate=RATE, gradient=gradient), ft_model=ft_model,
    )  # fmt: skip


def eager(model):
    twin = copy.deepcopy(model)
    twin.set_attn_implementation("eager")
    return twin


def assert_plain(measurer, bounds, control, expected, seeds=(4,)):
    """The last of `seeds`, all measured together under a control, has the plain measurement's numbers."""
    assert_same_values(measured(measurer, control, seeds), expected, bounds, seeds[-1], control, drawn=RANDOM)


def test_the_measurement_equals_the_plain_one(measurer, bounds):
    assert_plain(measurer, bounds, "none", plain_numbers(measurer, measurer.loaded.model, chosen(4)))


def test_layer_causal_equals_the_plain_one(measurer, bounds):
    expected = plain_numbers(measurer, measurer.loaded.model, chosen(4), gradient="layer_causal")
    assert_plain(measurer, bounds, "layer_causal", expected)


def test_flipped_labels_equal_the_plain_ones(measurer, bounds):
    flipped = [(text, 1 - label) for text, label in chosen(4)]
    assert_plain(measurer, bounds, "labels_flipped", plain_numbers(measurer, measurer.loaded.model, flipped))


def test_abstract_words_equal_the_plain_ones(measurer, bounds):
    expected = plain_numbers(measurer, measurer.loaded.model, chosen(4), words=("foo", "bar"))
    assert_plain(measurer, bounds, "labels_abstract", expected)


def test_another_seed_is_the_next_one_fine_tuned_on(measurer, bounds):
    task = TaskSettings(template=TEMPLATE, label_words=LABELS)
    base = eager(measurer.loaded.model)
    for seed, following in ((4, 7), (7, 2)):
        assert measurer.study.unit(seed, control_named("other_seed"), [2, 7, 4]).tuned_on == following
        _, tuned = plain.tune_on(
            base, measurer.loaded.tokenizer, chosen(following), task, FinetuneSettings(learning_rate=RATE)
        )
        expected = plain_numbers(measurer, measurer.loaded.model, chosen(seed), ft_model=tuned.model)
        assert_plain(measurer, bounds, "other_seed", expected, seeds=(2, seed))


def test_a_random_step_is_as_long_as_fine_tunings_in_every_projection_and_points_elsewhere(measurer):
    model, tokenizer = measurer.loaded.model, measurer.loaded.tokenizer
    sets = [measurer.study.demonstrations(tokenizer, seed) for seed in (2, 4)]
    tuned = finetune(model, sets, Finetune(learning_rate=RATE))
    moved = random_step(model, tuned, [2, 4], 0)
    cosines = []
    for (index, name), stack in tuned.stacks.items():
        base = getattr(model.model.layers[index].self_attn, name).weight
        for own, other in zip(stack.weight - base, moved.stacks[index, name].weight - base, strict=True):
            assert other.norm() == pytest.approx(own.norm().item(), rel=1e-3)
            cosines.append((own * other).sum() / own.norm() / other.norm())
    assert max(map(abs, cosines)) < 0.25
    alone = random_step(model, finetune(model, sets[1:], Finetune(learning_rate=RATE)), [4], 0)
    for key, stack in moved.stacks.items():
        torch.testing.assert_close(stack.weight[1], alone.stacks[key].weight[0], rtol=1e-4, atol=1e-6)
    other_noise = random_step(model, tuned, [2, 4], 1)
    assert not torch.equal(other_noise.stacks[0, "k_proj"].weight, moved.stacks[0, "k_proj"].weight)


def moved_at_random(measurer):
    """The plain model after a random step as long as that of fine-tuning on seed 4's demonstrations."""
    model = measurer.loaded.model
    tuned = finetune(model, [measurer.study.demonstrations(measurer.loaded.tokenizer, 4)], Finetune(learning_rate=RATE))
    twin = eager(model)
    with torch.no_grad():
        for (index, name), stack in random_step(model, tuned, [4], 0).stacks.items():
            linear = getattr(twin.model.layers[index].self_attn, name)
            linear.weight.copy_(stack.weight[0])
            if linear.bias is not None:
                linear.bias.copy_(stack.bias[0])
    return twin


def test_a_random_step_equals_the_plain_measurement_of_the_moved_model(measurer, bounds):
    model = measurer.loaded.model
    expected = plain_numbers(measurer, model, chosen(4), ft_model=moved_at_random(measurer))
    assert_plain(measurer, bounds, "random_step", expected)
    assert expected["simaou", "icl-ft", -1] != pytest.approx(
        measured(measurer, "none")["simaou", "icl-ft", -1], abs=0.01
    )


@pytest.mark.parametrize("name", ["untrained", "trained_embeddings"])
def test_an_untrained_model_is_drawn_for_each_seed_and_keeps_what_it_should(measurer, name):
    trained = dict(measurer.loaded.model.named_parameters())
    first, again, other = (
        dict(fresh_model(measurer.loaded, seed, name == "trained_embeddings").model.named_parameters())
        for seed in (1, 1, 2)
    )
    state = torch.get_rng_state()
    fresh_model(measurer.loaded, 3, False)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.keys() == trained.keys()
    for key, weight in first.items():
        assert torch.equal(weight, again[key])
        kept = name == "trained_embeddings" and ("embed" in key or "norm" in key or "lm_head" in key)
        assert torch.equal(weight, trained[key]) == kept, key
        if not kept and "norm" not in key:
            assert not torch.equal(weight, other[key]), key
    seen = [measured(measurer, name, seeds=seeds) for seeds in ((4,), (2, 7, 4), (2,))]
    assert seen[0] == pytest.approx(seen[1], nan_ok=True)
    assert seen[0]["simaou", "icl-ft", -1] != pytest.approx(seen[2]["simaou", "icl-ft", -1], abs=1e-4)


@pytest.fixture
def made(monkeypatch):
    """The untrained models that are drawn."""
    found = []

    def keep(*arguments):
        found.append(fresh_model(*arguments))
        return found[-1]

    monkeypatch.setattr("raydual.measure.measurer.fresh_model", keep)
    return found


def test_an_untrained_models_numbers_are_those_of_the_plain_measurement(measurer, bounds, made):
    found = measured(measurer, "untrained")
    expected = plain_numbers(measurer, made[0].model, chosen(4))
    assert_same_values(found, expected, bounds, 4, "untrained", drawn=RANDOM)


@pytest.mark.parametrize("anatomy", ["llama with biases", "tied qwen2 of wide heads"])
def test_the_controls_of_other_families_equal_the_plain_measurement(anatomy, tmp_path, made):
    study = study_of(save_tiny(tmp_path, loud=label_ids(tiny_tokenizer()), **ANATOMIES[anatomy]))
    measurer = Measurer(load_model(study.config.model), study)
    names = ("random_step", "untrained", "trained_embeddings")
    bounds = rounding_bounds(measurer.loaded, study, [study.unit(4, control_named(name), [4]) for name in names])
    expected = plain_numbers(measurer, measurer.loaded.model, chosen(4), ft_model=moved_at_random(measurer))
    assert_plain(measurer, bounds, "random_step", expected)
    trained = measurer.loaded.model.state_dict()
    for name in names[1:]:
        made.clear()
        found = measured(measurer, name)
        fresh = made[0].model
        assert type(fresh) is type(measurer.loaded.model)
        for key, weight in fresh.state_dict().items():
            kept = name == "trained_embeddings" and "_proj." not in key
            assert torch.equal(weight, trained[key]) == kept, key
        assert_same_values(found, plain_numbers(measurer, fresh, chosen(4)), bounds, 4, name, drawn=RANDOM)


def test_the_trained_model_is_as_it_was_after_every_control(measurer):
    before = copy.deepcopy(measurer.loaded.model.state_dict())
    for control in controls_of(EVERY):
        measured(measurer, control.name)
    assert all(torch.equal(before[key], value) for key, value in measurer.loaded.model.state_dict().items())


def demonstrations(name, seed, labels=3, count=9):
    train = Examples(tuple(f"text {i}" for i in range(40)), tuple(i % labels for i in range(40)))
    return demonstration_examples(train, seed, count, labels, control_named(name))


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(2, 9))
def test_an_order_holds_the_same_demonstrations_with_their_labels_otherwise(seed, number, count):
    own, other = (demonstrations(name, seed, count=count) for name in ("none", f"permutation_{number}"))
    assert own != other
    assert sorted(zip(own.queries, own.labels, strict=True)) == sorted(zip(other.queries, other.labels, strict=True))
    assert other == demonstrations(f"permutation_{number}", seed, count=count)


def test_orders_differ_from_each_other_and_one_demonstration_has_none():
    assert len({demonstrations(f"permutation_{number}", 0).queries for number in range(1, 6)}) == 5
    assert demonstrations("permutation_1", 0, count=1) == demonstrations("none", 0, count=1)


@given(st.integers(0, 10**6), st.integers(2, 6))
def test_flipped_labels_are_all_wrong_and_random_ones_are_so_by_chance(seed, labels):
    own, flipped, drawn = (demonstrations(f"{n}", seed, labels) for n in ("none", "labels_flipped", "labels_random"))
    assert own.queries == flipped.queries == drawn.queries
    assert all((a + 1) % labels == b for a, b in zip(own.labels, flipped.labels, strict=True))
    assert set(drawn.labels) <= set(range(labels))


def test_random_labels_are_right_as_often_as_chance_makes_them():
    alike = [
        np.mean(np.equal(demonstrations("none", seed).labels, demonstrations("labels_random", seed).labels))
        for seed in range(300)
    ]
    assert np.mean(alike) == pytest.approx(1 / 3, abs=4 * math.sqrt(2 / 9 / (300 * 9)))


def test_units_are_the_measurement_and_every_control_of_every_seed(study):
    units = study.units([2, 4, 7])
    names = [control.name for control in controls_of(EVERY)]
    assert names[0] == MEASUREMENT.name
    assert len(names) == len(set(names)) == 11
    assert names == sorted(names, key=report_order)
    assert [(u.seed, u.control.name) for u in units] == [(seed, name) for name in names for seed in (2, 4, 7)]
    assert all(unit.tuned_on == unit.seed for unit in units if unit.control.name != "other_seed")
    fewer = Study(study.config.model_copy(update={"controls": EVERY.model_copy(update={"seeds": 1})}), study.dataset)
    assert len(fewer.units([2, 4, 7])) == 3 + 10


def test_without_controls_only_the_measurement_is_made():
    assert list(controls_of(Controls())) == [MEASUREMENT]


def test_mistakes_are_named(study):
    with pytest.raises(UserError, match="'nothing' is not one of none, layer_causal"):
        control_named("nothing")
    with pytest.raises(UserError, match="no seed but 4"):
        study.unit(4, control_named("other_seed"), [4])
    settings = study.config.model_dump(mode="json")
    for changes, message in (
        ({"seeds": [1]}, "other_seed needs at least two"),
        ({"controls": {"labels": ["abstract"], "abstract_words": ["foo"]}}, "abstract_words has 1 words"),
        ({"controls": {"labels": ["flipped", "flipped"]}}, "listed twice"),
        ({"controls": {"untraind": True}}, "did you mean 'controls.untrained'"),
    ):
        with pytest.raises(UserError, match=message):
            validate_config({**settings, **changes}, "test")


def test_abstract_words_that_the_tokenizer_cannot_tell_apart_are_found_before_anything_runs(study, tmp_path):
    (tmp_path / "data.csv").write_text("text,label\n" + "\n".join(f"{t},{label}" for t, label in PAIRS))
    settings = study.config.model_dump(mode="json") | {"data": str(tmp_path / "data.csv")}
    settings["controls"]["abstract_words"] = ["zzza", "zzzb"]
    with pytest.raises(UserError, match="share their first token"):
        prepare_study(validate_config(settings, "test"))


def test_every_control_has_every_metric(measurer):
    for control in controls_of(EVERY):
        found = {metric for metric, _, _ in measured(measurer, control.name)}
        assert found == set(CATALOGUE)
