"""The context as weights: exact for any model, with controls that fail; its numbers equal those of dense matrices."""

import math
import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from raydual.measure.seeds import SeedMeasurer
from raydual.model.anatomy import MLP
from raydual.model.finetune import finetune
from raydual.model.loading import load_model
from raydual.model.patches import LowRank
from raydual.one_seed import context_weights
from raydual.one_seed.context_weights import _last_logits, norms_in_own_dtype, verify_context_weights

from .reference.finetune import FinetuneSettings
from .reference.finetune import finetune as plain_finetune
from .reference.forward import record
from .reference.patches import changes, context_weight_values
from .reference.prompts import demonstration, filled, tokenize
from .test_equals_plain import K, plain_task, prompts, study_of, sweep
from .tiny import ANATOMIES, save_tiny, tiny_examples


def setting_of(directory, **changed):
    """A loaded model with its study, queries and demonstration sets."""
    study, loaded = study_of(sweep(directory, **changed), tiny_examples()), load_model(str(directory))
    return study, loaded, *prompts(loaded, study)


@pytest.fixture(scope="module", params=ANATOMIES)
def anatomy(request, tmp_path_factory):
    return setting_of(save_tiny(tmp_path_factory.mktemp("anatomy"), **ANATOMIES[request.param]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_the_context_changed_weights_give_the_logits_with_it(anatomy, dtype):
    _, loaded, queries, sets = anatomy
    before = {name: x.clone() for name, x in loaded.model.state_dict().items()}
    report = verify_context_weights(loaded.model, sets[0].prefix, queries.in_context[:3], dtype, queries.alone[:3])
    assert report.holds
    assert report.patched.max() < {torch.float32: 1e-4, torch.float64: 1e-10}[dtype]
    assert report.control_fails
    assert min(report.unpatched.min(), report.shuffled.min()) > 0.05
    assert all(torch.equal(before[name], x) for name, x in loaded.model.state_dict().items())


def test_in_float64_nothing_is_rounded_through_float32(tiny_directory, monkeypatch):
    _, loaded, queries, sets = setting_of(tiny_directory)

    def logits_with_context():
        seen = []
        monkeypatch.setattr(
            context_weights, "_last_logits", lambda *a, f=_last_logits, **k: seen.append(f(*a, **k)) or seen[-1]
        )
        verify_context_weights(loaded.model, sets[0].prefix, queries.in_context[:2])
        return seen[0]

    exact = logits_with_context()
    monkeypatch.setattr(context_weights, "norms_in_own_dtype", nullcontext)
    rounded = (logits_with_context() - exact).norm() / exact.norm()
    assert 1e-10 < rounded < 1e-5


def test_norms_in_their_own_dtype_equal_those_of_transformers(tiny_directory):
    _, loaded, queries, _ = setting_of(tiny_directory)
    ids = torch.as_tensor(queries.alone[0])[None]
    with torch.no_grad():
        expected = loaded.model(input_ids=ids).logits
        with norms_in_own_dtype(loaded.model):
            torch.testing.assert_close(loaded.model(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-4)
        assert torch.equal(loaded.model(input_ids=ids).logits, expected)


def test_what_cannot_be_verified_is_refused(tiny_directory):
    _, loaded, queries, sets = setting_of(tiny_directory)
    with pytest.raises(ValueError, match="float32 or float64"):
        verify_context_weights(loaded.model, sets[0].prefix, queries.in_context[:2], torch.bfloat16)
    with pytest.raises(ValueError, match="at least 2"):
        verify_context_weights(loaded.model, sets[0].prefix, queries.in_context[:1])


@pytest.mark.parametrize("projections", [("v_proj", "gate_proj", "down_proj"), ("k_proj", "v_proj")])
def test_sizes_and_cosines_equal_those_of_dense_matrices(tiny_directory, projections):
    tuning = {"learning_rate": 0.05, "projections": list(projections)}
    study, loaded, queries, sets = setting_of(
        tiny_directory, finetune=tuning, measures={"context_weights": True}, execution={"batch_size": 5}
    )
    rows = SeedMeasurer(loaded, queries, study.config).measure(sets[:2])
    task, pairs = plain_task(study.config), tiny_examples()
    base = load_model(str(tiny_directory)).model
    base.set_attn_implementation("eager")
    for one in sets[:2]:
        chosen = [pairs[i] for i in chosen_by(one)]
        alone = [tokenize(loaded.tokenizer, demonstration(task, *pair)) for pair in chosen]
        tuned = plain_finetune(
            base,
            alone,
            FinetuneSettings(**study.config.finetune.model_dump()),
            [len(filled(task, t)) for t, _ in chosen],
        )
        prefix = [*one.prefix.tolist(), *np.asarray(queries.separator).tolist()]
        asked = [
            ([*prefix, *own.tolist()], len(prefix), single.tolist())
            for own, single in zip(queries.in_context, queries.alone, strict=True)
        ]
        expected = context_weight_values(base, tuned.model, asked)
        found = {
            (r["metric"], r["condition"], r["layer"]): r["value"]
            for r in rows
            if r["seed"] == one.seed and r["metric"].startswith("context_")
        }
        assert {key[:2] for key in found} == set(expected)
        for (metric, condition), by_layer in expected.items():
            got = [found[metric, condition, layer] for layer in range(len(by_layer))]
            np.testing.assert_allclose(got, by_layer, rtol=1e-3, atol=1e-5, err_msg=metric)
            trained = metric.startswith("context_norm") or f"{metric.rpartition('_')[2]}_proj" in projections
            assert np.isnan(got).all() == (not trained), metric
            assert math.isnan(found[metric, condition, -1]) == (not trained)


def chosen_by(demonstrations):
    """Which of the pairs a demonstration set holds."""

    return random.Random(demonstrations.seed).sample(range(60), K)


def test_the_plain_changes_give_the_logits_with_the_context(tiny_directory):
    _, loaded, queries, sets = setting_of(tiny_directory)
    base = load_model(str(tiny_directory)).model
    base.set_attn_implementation("eager")
    prefix, own = sets[0].prefix.tolist(), queries.in_context[0].tolist()
    changed, _ = changes(base, [*prefix, *own], len(prefix), own)
    expected = record(base, [*prefix, *own], len(prefix)).logits
    np.testing.assert_allclose(record(changed, own).logits, expected, atol=1e-3)
    assert np.abs(record(base, own).logits - expected).max() > 0.1


def test_low_rank_numbers_equal_dense_ones():
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(6, size, 2, generator=generator) for size in (5, 7))
    other = torch.randn(3, 5, 7, generator=generator)
    change = LowRank(left, right)
    dense = change.dense()
    torch.testing.assert_close(change.norm(), dense.flatten(1).norm(dim=1))
    torch.testing.assert_close(change.inner(other), (dense * other.repeat_interleave(2, dim=0)).sum(dim=(1, 2)))
    x = torch.randn(12, 4, 7, generator=generator)
    torch.testing.assert_close(change(x), x @ dense.repeat_interleave(2, dim=0).transpose(1, 2))


def test_fine_tuning_moves_any_projection_and_no_other(tiny_directory):
    study, loaded, _, sets = setting_of(
        tiny_directory, finetune={"learning_rate": 0.05, "projections": [*MLP, "o_proj"]}
    )
    tuned = finetune(loaded.model, sets[:1], study.config.finetune)
    assert {name for _, name in tuned.stacks} == {*MLP, "o_proj"}
    for (layer, name), stack in tuned.stacks.items():
        part = "mlp" if name in MLP else "self_attn"
        base = loaded.model.get_submodule(f"model.layers.{layer}.{part}.{name}").weight
        assert (stack.weight[0] - base).abs().max() > 1e-5
