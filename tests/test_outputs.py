"""Output distributions, calibration and flips: their laws, and every number against plain code."""

import math

import numpy as np
import pytest
import torch

from raydual.catalogue.outputs import FLIPS
from raydual.measure.seeds import SeedMeasurer
from raydual.metrics.outputs import calibration_error, js_divergence, kl_divergence, top_overlap
from raydual.model.loading import load_model

from .reference import seed as plain
from .reference.finetune import FinetuneSettings
from .reference.outputs import output_values
from .test_equals_plain import K, plain_task, prompts, study_of, sweep
from .tiny import label_ids, save_tiny, tiny_examples, tiny_tokenizer


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """(rows of two seeds without the switch, with it, the model, the settings)."""
    directory = save_tiny(tmp_path_factory.mktemp("loud"), loud=label_ids(tiny_tokenizer()))
    loaded = load_model(str(directory))
    configs = [sweep(directory, measures={"outputs": on}, execution={"batch_size": 5}) for on in (False, True)]
    queries, sets = prompts(loaded, study_of(configs[0], tiny_examples()))
    before, after = (SeedMeasurer(loaded, queries, config).measure(sets[:2]) for config in configs)
    return before, after, loaded, configs[1]


def values(rows, seed):
    return {(row["metric"], row["condition"]): row["value"] for row in rows if row["seed"] == seed}


def test_every_number_equals_the_plain_one(measured):
    before, after, loaded, config = measured
    pairs, names = tiny_examples(), {row["metric"] for row in before}
    for seed in (0, 1):
        chosen = plain.random.Random(seed).sample(range(60), K)
        record = plain.record_seed(
            loaded.model, loaded.tokenizer, [pairs[i] for i in chosen], pairs[60:77], plain_task(config),
            FinetuneSettings(learning_rate=0.05),
        )  # fmt: skip
        expected = output_values(record.examples)
        found = {key: value for key, value in values(after, seed).items() if key[0] not in names}
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert found["kl_vocabulary", "icl-ft"] > 0.01
        assert 0 < found["top10_overlap", "icl-ft"] < 1


def test_outputs_change_no_other_number(measured):
    before, after, *_ = measured
    names = {row["metric"] for row in before}
    assert repr([row for row in after if row["metric"] in names]) == repr(before)


def test_flips_add_up_to_the_examples_and_hold_accuracies_and_recall(measured):
    _, after, *_ = measured
    for seed in (0, 1):
        found = values(after, seed)
        counts = {cell: found[f"flips_{cell}", "icl-ft"] for cell in FLIPS}
        assert sum(counts.values()) == 17
        for place, condition in enumerate(("zsl", "icl", "ft")):
            right = sum(count for cell, count in counts.items() if cell[place] == "r")
            assert right / 17 == pytest.approx(found["accuracy", condition])
        assert counts["wrr"] == found["rec2ftp_both", "icl-ft"]
        assert counts["wrr"] + counts["wwr"] == found["rec2ftp_ft", "icl-ft"]


def distributions(*shape):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, *shape, generator=generator, dtype=torch.float64).mul(2).log_softmax(dim=-1)


def test_divergences_are_0_of_equal_distributions_alone_and_jensen_shannon_is_symmetric_and_at_most_ln_2():
    p, q = distributions(50, 40)
    assert torch.equal(kl_divergence(p, p), torch.zeros(50, dtype=torch.float64))
    assert js_divergence(p, p).abs().max() < 1e-15
    assert (kl_divergence(p, q) > 0.1).all()
    assert (kl_divergence(p, q) - kl_divergence(q, p)).abs().max() > 0.1
    torch.testing.assert_close(js_divergence(p, q), js_divergence(q, p))
    assert (js_divergence(p, q) < math.log(2)).all()
    apart = torch.tensor([[1.0, 0, 0], [0, 0.5, 0.5]], dtype=torch.float64).log()
    assert js_divergence(apart[0], apart[1]).item() == pytest.approx(math.log(2))
    assert kl_divergence(apart[0], apart[1]).item() == math.inf


def test_overlap_is_1_of_equal_tops_0_of_disjoint_ones_and_undefined_of_few_outcomes():
    p, q = distributions(50, 40)
    share, cosine = top_overlap(p, p, 10)
    assert torch.equal(share, torch.ones_like(share))
    torch.testing.assert_close(cosine, torch.ones_like(cosine))
    share, cosine = top_overlap(p, q, 10)
    assert share.mean() > 0
    assert share.max() < 1
    assert ((cosine > 0) == (share > 0)).all()
    ordered = torch.arange(40.0).log_softmax(dim=-1)
    assert [x.item() for x in top_overlap(ordered, ordered.flip(0), 10)] == [0, 0]
    assert all(x.isnan().all() for x in top_overlap(p[:, :10], q[:, :10], 10))


def test_calibration_error_is_small_of_calibrated_confidence_alone_and_knows_no_order():
    draw = np.random.default_rng(0)
    confidence = draw.uniform(0.5, 1, 20_000)
    right = draw.random(20_000) < confidence
    assert calibration_error(confidence, right, 10) < 0.02
    assert calibration_error(confidence**0.2, right, 10) > 0.1, "overconfident"
    coarse = confidence.round(1)
    order = draw.permutation(20_000)
    assert calibration_error(coarse[order], right[order], 10) == pytest.approx(calibration_error(coarse, right, 10))
    assert math.isnan(calibration_error(confidence[:9], right[:9], 10))
    assert calibration_error(np.ones(10), np.array([True] * 7 + [False] * 3), 10) == pytest.approx(0.3)
