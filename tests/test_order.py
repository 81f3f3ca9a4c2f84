"""Full-batch fine-tuning, and how much the order of the demonstrations matters."""

import math
import random
from dataclasses import replace

import pytest
import torch

from raydual.data.demonstrations import other_order
from raydual.measure import order as order_module
from raydual.measure.measurer import Measurer
from raydual.model.finetune import finetune
from raydual.model.loading import load_model
from raydual.model.modules import attention_blocks, projection
from raydual.settings.controls import control_named
from raydual.settings.schema import Finetune

from .reference.finetune import FinetuneSettings
from .reference.order import order_values
from .test_equals_plain import plain_task, study_of, sweep
from .tiny import label_ids, save_tiny, tiny_examples, tiny_tokenizer

K, ORDERS, RATE = 5, 3, 0.2
CONTROLS = [
    *("layer_causal", "random_step", "other_seed", "untrained", "trained_embeddings"),
    *("labels_random", "labels_flipped", "labels_abstract", "permutation_1"),
]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    directory = save_tiny(tmp_path_factory.mktemp("order"), layers=2, loud=label_ids(tiny_tokenizer()))
    return load_model(str(directory))


def study_with(loaded, **changes):
    changes = {"demonstrations": K, "measures": {"order": ORDERS}, "finetune": {"learning_rate": RATE}, **changes}
    return study_of(sweep(loaded.model.name_or_path, **changes), tiny_examples())


def spreads(loaded, name="none", seeds=(0, 1), **changes):
    """{(seed, metric, condition): row} of the metrics of orders."""
    study, control = study_with(loaded, **changes), control_named(name)
    cases = [study.case(loaded.tokenizer, study.unit(seed, control, (0, 1, 2))) for seed in seeds]
    rows = Measurer(loaded, study).measure(control, cases)
    return {(r["seed"], r["metric"], r["condition"]): r for r in rows if r["metric"].startswith("order_")}


def moved(loaded, tuned):
    """What fine-tuning changed, all of it in a vector for each seed."""
    blocks = attention_blocks(loaded.model)
    return torch.cat(
        [(stack.weight - projection(blocks[i], name).weight).flatten(1) for (i, name), stack in tuned.stacks.items()], 1
    )


def test_a_full_batch_moves_as_far_as_single_steps_do_to_first_order(loaded):
    study = study_with(loaded)
    sets = [study.demonstrations(loaded.tokenizer, seed) for seed in (0, 1)]

    def apart(rate):
        by_steps, at_once = (
            moved(loaded, finetune(loaded.model, sets, Finetune(learning_rate=rate, batch=batch)))
            for batch in ("one", "all")
        )
        return ((by_steps - at_once).norm(dim=1) / by_steps.norm(dim=1)).max().item()

    assert apart(1e-2) > 2e-3
    # The steps' gradients differ from those at the start by what the earlier steps moved: ten times as little.
    assert apart(1e-3) == pytest.approx(apart(1e-2) / 10, rel=0.3)


def test_a_full_batch_records_every_demonstration_at_the_weights_before_it(loaded):
    study = study_with(loaded)
    sets = [study.demonstrations(loaded.tokenizer, seed) for seed in (0, 1)]
    fields = ("query", "attn_in")
    whole = finetune(loaded.model, sets, Finetune(learning_rate=RATE, batch="all"), fields)
    assert whole.losses.shape == (2, K)
    still = finetune(loaded.model, sets, Finetune(learning_rate=1e-30), fields)
    torch.testing.assert_close(whole.losses, still.losses)
    for one, other in zip(whole.recordings, still.recordings, strict=True):
        for field in fields:
            torch.testing.assert_close(one[field], other[field])
    by_steps = finetune(loaded.model, sets, Finetune(learning_rate=RATE), fields)
    assert not torch.allclose(by_steps.recordings[-1]["query"], whole.recordings[-1]["query"], atol=1e-3)


def test_the_spread_over_orders_is_the_plain_one(loaded):
    found = spreads(loaded)
    study = study_with(loaded)
    for seed in (0, 1):
        chosen = [tiny_examples()[i] for i in random.Random(seed).sample(range(60), K)]
        orders = [list(range(K)), *(other_order(K, seed, number) for number in range(1, ORDERS + 1))]
        expected = order_values(
            loaded.model, loaded.tokenizer, chosen, tiny_examples()[60:77], plain_task(study.config),
            FinetuneSettings(learning_rate=RATE), orders,
        )  # fmt: skip
        for (metric, condition), value in expected.items():
            row = found[seed, metric, condition]
            assert row["value"] == pytest.approx(value, abs=1e-4), (metric, condition)
            assert (row["examples"], row["layer"], row["shots"]) == (17, -1, K)


def rounding_of_a_full_batch(loaded, study, seeds):
    """How far label scores move when sums of gradients are rounded otherwise.

    A sum of k gradients in any order is off by at most (k - 1) u Σ|g|, and storing the weights by u |w|. The weights
    are moved by twice that, up or down at random, and the largest change of a score is doubled.
    """
    u = torch.finfo(torch.float32).eps / 2
    settings = Finetune(learning_rate=RATE, batch="all")
    sets = [study.demonstrations(loaded.tokenizer, seed) for seed in seeds]
    tuned = finetune(loaded.model, sets, settings)
    singles = [finetune(loaded.model, [one_of(s, place) for s in sets], settings) for place in range(K)]
    blocks = attention_blocks(loaded.model)
    generator = torch.Generator().manual_seed(0)
    measurer = Measurer(loaded, study).for_control()

    def scores(found):
        with torch.inference_mode(), order_module.with_projections(loaded.model, found.stacks):
            return order_module._scores(loaded.model, measurer.queries, measurer.chunks, len(sets))

    before = scores(tuned)
    for (index, name), stack in tuned.stacks.items():
        base = projection(blocks[index], name).weight
        steps = sum((one.stacks[index, name].weight - base).abs() for one in singles)
        size = 2 * u * ((K - 1) * steps + stack.weight.abs())
        signs = torch.randint(0, 2, size.shape, generator=generator) * 2 - 1
        stack.weight.data += signs * size
    return 2 * (scores(tuned) - before).abs().max().item()


def one_of(demonstrations, place):
    return replace(
        demonstrations, examples=(demonstrations.examples[place],), label_masks=(demonstrations.label_masks[place],)
    )


def test_a_full_batch_has_no_order(loaded):
    found = spreads(loaded)
    bound = rounding_of_a_full_batch(loaded, study_with(loaded), (0, 1))
    assert bound < 1e-4
    for seed in (0, 1):
        assert 0 <= found[seed, "order_scores", "ft_all"]["value"] <= bound
        # One step after the other has an order, and so has the context.
        for condition in ("icl", "ft"):
            assert found[seed, "order_scores", condition]["value"] > 100 * bound
        assert found[seed, "order_accuracy", "ft_all"]["value"] == 0
    assert max(found[seed, "order_accuracy", "icl"]["value"] for seed in (0, 1)) > 0


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.long) for name in CONTROLS])
def test_the_spread_is_defined_under_every_control(loaded, name):
    found = spreads(loaded, name)
    assert len(found) == 2 * 2 * 3
    for (_, metric, condition), row in found.items():
        assert row["control"] == name
        assert math.isfinite(row["value"])
        assert row["value"] >= 0
        if condition == "ft_all" and metric == "order_scores":
            assert row["value"] < 1e-4


def test_one_demonstration_has_no_other_order_and_a_divergence_is_told(loaded):
    for row in spreads(loaded, demonstrations=1).values():
        assert math.isnan(row["value"])
        assert row["reason"] == "a single demonstration has no other order"
    both = spreads(loaded)
    for settings in ({"learning_rate": RATE, "batch": "all"}, {"learning_rate": RATE, "epochs": 1}):
        # `ft` goes step by step and `ft_all` at once whatever the sweep's own fine-tuning does.
        again = spreads(loaded, finetune=settings)
        assert {key: row["value"] for key, row in again.items()} == {key: row["value"] for key, row in both.items()}


def test_orders_are_those_of_the_permutation_controls(loaded):
    study = study_with(loaded)
    own = study.with_variants(loaded.tokenizer, 4)
    assert len(own.orders) == ORDERS
    for number, one in enumerate(own.orders, start=1):
        control = study.demonstrations(loaded.tokenizer, 4, control_named(f"permutation_{number}"))
        assert one.prefix.tolist() == control.prefix.tolist()
        assert sorted(map(str, one.examples)) == sorted(map(str, own.examples))
