"""What each demonstration does in context and asks for in fine-tuning: against plain code, and where both are one."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

from raydual import Laboratory
from raydual.measure.influence import Influences, margin, tau_of_influence, tau_of_noise
from raydual.measure.measurer import Measurer
from raydual.measure.seeds import SeedMeasurer
from raydual.model.gradients import watching
from raydual.model.loading import load_model
from raydual.settings.controls import control_named, controls_of
from raydual.settings.schema import Controls, Finetune

from .reference import influence as plain
from .reference.finetune import FinetuneSettings
from .reference.prompts import tokenize
from .test_dual import LinearSelfAttention, random_tensors
from .test_equals_plain import K, plain_task, prompts, study_of, sweep
from .tiny import ANATOMIES, TEMPLATE, save_tiny, tiny_examples

N = 6
SEVERAL = {"name": "t", "template": TEMPLATE, "label_words": ["negatively", "positively"], "separator": " \n"}
CASES = {
    "as Dai": ("qwen3", {}),
    "label loss, biases": ("llama with biases", {"finetune": {"learning_rate": 0.1, "loss": "label"}}),
    "words of several tokens, values alone": (
        "qwen3", {"task": SEVERAL, "finetune": {"learning_rate": 0.3, "projections": ["v_proj"]}},
    ),
    "layer-causal": ("qwen2", {"finetune": {"learning_rate": 0.1, "gradient": "layer_causal"}}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_done_and_asked_equal_the_plain_ones(tmp_path, case):
    anatomy, changes = CASES[case]
    directory = save_tiny(tmp_path, **ANATOMIES[anatomy])
    config = sweep(directory, **changes, execution={"batch_size": 4})
    loaded, pairs = load_model(str(directory)), tiny_examples()
    queries, sets = prompts(loaded, study_of(config, pairs))
    found = SeedMeasurer(loaded, queries, config).influences(sets[:2], config.finetune, None, False, N)
    eager, task = copy.deepcopy(loaded.model), plain_task(config)
    eager.set_attn_implementation("eager")
    settings = FinetuneSettings(**config.finetune.model_dump())
    for seed in (0, 1):
        chosen = [pairs[i] for i in random.Random(seed).sample(range(60), K)]
        texts = [plain_text(task, text, label) for text, label in chosen]
        alone = [tokenize(loaded.tokenizer, text) for text in texts]
        label_from = [len(task.template.format(text=text)) for text, _ in chosen]
        assert found[seed].done.shape == found[seed].asked.shape == (N, K)
        for row, (text, gold) in enumerate(pairs[60 : 60 + N]):
            query = task.template.format(text=text)
            done = plain.done(eager, loaded.tokenizer, texts, task, query, gold)
            np.testing.assert_allclose(found[seed].done[row], done, rtol=1e-3, atol=2e-5)
            asked = plain.asked(eager, loaded.tokenizer, alone, label_from, settings, task, query, gold)
            np.testing.assert_allclose(found[seed].asked[row], asked, rtol=1e-3, atol=1e-3 * np.abs(asked).max())
            assert np.abs(done).max() > 1e-3
            assert np.abs(asked).max() > 1e-6


def plain_text(task, text, label):
    return f"{task.template.format(text=text)} {task.label_words[label]}"


def measured(directory, **changes):
    config = sweep(directory, **changes)
    loaded = load_model(str(directory))
    study = study_of(config, tiny_examples())
    return config, loaded, study, *prompts(loaded, study)


def test_asked_is_the_slope_of_the_margin_along_the_step(tiny_directory):
    config, loaded, _, queries, sets = measured(tiny_directory)
    measurer = SeedMeasurer(loaded, queries, config)
    (found,) = measurer.influences(sets[:1], Finetune(learning_rate=1.0), None, False, N)
    eager = copy.deepcopy(loaded.model).double()
    eager.set_attn_implementation("sdpa")
    parameters = [
        p for layer in eager.model.layers for p in (layer.self_attn.k_proj.weight, layer.self_attn.v_proj.weight)
    ]
    base = [p.detach().clone() for p in parameters]
    for p in parameters:
        p.requires_grad_(True)
    for place, ids in enumerate(sets[0].examples[:3]):
        text = torch.as_tensor(ids)[None]
        steps = torch.autograd.grad(eager(input_ids=text, labels=text).loss, parameters)

        def margins(size, steps=steps):
            with torch.no_grad():
                for p, start, step in zip(parameters, base, steps, strict=True):
                    p.copy_(start - size * step)
                scores = [eager(input_ids=torch.as_tensor(q)[None]).logits[0, -1] for q in queries.alone[:N]]
                words = [word[0] for word in queries.label_tokens]
                return margin(torch.stack(scores).log_softmax(-1)[:, words], torch.tensor(queries.labels[:N]))

        size = 1e-3
        slope = (margins(size) - margins(-size)) / (2 * size)
        margins(0.0)
        torch.testing.assert_close(
            found.asked[:, place].double(), slope, rtol=5e-3, atol=5e-3 * slope.abs().max().item()
        )
        assert slope.abs().max() > 1e-4


def test_products_of_gradients_equal_those_of_the_gradients_themselves():
    torch.manual_seed(0)
    layers = {"first": nn.Linear(4, 5), "second": nn.Linear(5, 3, bias=False)}

    def outputs(x):
        return layers["second"](layers["first"](x).tanh()).square().sum((1, 2))

    first, second = torch.randn(3, 7, 4), torch.randn(2, 5, 4)
    with watching(layers) as watch:
        one = watch.factors(outputs(first).sum())
    with watching(layers) as watch:
        other = watch.factors(outputs(second).sum())
    parameters = [p for layer in layers.values() for p in layer.parameters()]

    def gradients(x):
        rows = [torch.autograd.grad(outputs(row[None]).sum(), parameters) for row in x]
        return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])

    expected = gradients(first) @ gradients(second).T
    torch.testing.assert_close(one.products(other, layers), expected, rtol=1e-5, atol=1e-5)
    norms = torch.stack([torch.stack(one.norms(key)) for key in layers])
    torch.testing.assert_close(norms[:, 0].square().sum(0) + norms[0, 1].square(), gradients(first).square().sum(1))
    weight, bias = torch.randn(5, 4), torch.randn(5)
    along = gradients(first)[:, :25] @ torch.cat([weight.flatten(), bias])
    torch.testing.assert_close(one.along("first", weight, bias), along, rtol=1e-5, atol=1e-5)


def von_oswald(rate=0.3, count=7):
    """(done, asked) of each example of a linear regression, for some queries, in von Oswald's construction."""
    inputs, teacher, start, queries = random_tensors((count, 6), (3, 6), (3, 6), (5, 6))
    targets, direction = inputs @ teacher.T, torch.tensor([1.0, -1.0, 0.0], dtype=inputs.dtype)
    layer = LinearSelfAttention(start, rate, count)

    def prediction(which, query):
        own = torch.cat([query, -start @ query])[None]
        return -layer(torch.cat([torch.cat([inputs, targets], dim=1)[which], own]))[-1, 6:]

    def margin_of(which, query):
        return prediction(which, query) @ direction

    every = list(range(count))
    done = torch.stack(
        [
            torch.stack([margin_of(every, q) - margin_of([i for i in every if i != left], q) for left in every])
            for q in queries
        ]
    )
    linear = nn.Linear(6, 3, bias=False).to(inputs.dtype)
    linear.weight = nn.Parameter(start.clone())
    with watching({"layer": linear}) as watch:
        losses = watch.factors((linear(inputs[:, None]) - targets[:, None]).square().sum() / (2 * count))
    with watching({"layer": linear}) as watch:
        margins = watch.factors((linear(queries[:, None]) @ direction).sum())
    return done, -rate * margins.products(losses, {"layer": linear})


def test_in_von_oswalds_construction_done_and_asked_are_one_and_τ_is_1():
    done, asked = von_oswald()
    torch.testing.assert_close(done.float(), asked.float(), rtol=1e-4, atol=1e-6)
    assert tau_of_influence(Influences(done, asked)).tolist() == [1] * 5
    assert tau_of_influence(Influences(done, -asked)).tolist() == [-1] * 5
    assert tau_of_influence(Influences(done, asked.roll(1, dims=1))).abs().max() < 1
    assert tau_of_noise(Influences(done, asked), torch.rand(asked.shape)).abs().max() < 1


@pytest.mark.long
def test_what_is_switched_on_is_defined_under_every_control(tiny_directory):
    on = Controls(
        layer_causal=True, random_step=True, other_seed=True, untrained=True, trained_embeddings=True,
        labels=("random", "flipped", "abstract"), permutations=1,
    )  # fmt: skip
    _, loaded, study, *_ = measured(tiny_directory, measures={"influence": N, "parts": True, "outputs": True})
    rows, found = {}, {}
    for control in controls_of(on):
        measurer = Measurer(loaded, study)
        case = study.case(loaded.tokenizer, study.unit(0, control, (0, 1, 2)))
        rows[control.name] = {
            (r["metric"], r["condition"]): r["value"] for r in measurer.measure(control, [case]) if r["layer"] == -1
        }
        found[control.name] = measurer.influences(control, case, N)
    for name, values in rows.items():
        for metric in study.config.catalogue.values():
            for condition in metric.conditions if metric.switch else ():
                assert np.isfinite(values[metric.name, condition]), (name, metric.name)
    same_context = {"layer_causal", "random_step", "other_seed"}
    for name, one in found.items():
        assert one.asked.isfinite().all()
        done_alike = torch.equal(one.done, found["none"].done)
        assert done_alike == (name in {"none", *same_context}), name
        assert torch.equal(one.asked, found["none"].asked) == (name == "none"), name
    measurement = control_named("none")
    following = study.case(loaded.tokenizer, study.unit(1, measurement, (1,)))
    own = Measurer(loaded, study).influences(measurement, following, N)
    torch.testing.assert_close(found["other_seed"].asked, own.asked)


def test_one_demonstration_has_an_influence_but_no_ranking(tiny_directory):
    config, loaded, _, queries, sets = measured(tiny_directory, demonstrations=1, measures={"influence": 3})
    measurer = SeedMeasurer(loaded, queries, config)
    rows = {row["metric"]: row for row in measurer.measure(sets[:1])}
    assert np.isnan(rows["influence_tau"]["value"])
    assert rows["influence_tau"]["undefined"] == 3
    assert rows["influence_done"]["examples"] == 3
    # With the only demonstration left out, the query stands alone, further on.
    (found,) = measurer.influences(sets[:1], config.finetune, None, False, 3)
    assert found.done.isfinite().all()


def test_a_laboratory_gives_the_influences_of_a_seed():
    laboratory = Laboratory({"task": "sst2", "demonstrations": 4, "split": {"measured": 5}, "seeds": 2})
    found = laboratory.influences(0, examples=3)
    assert found.done.shape == found.asked.shape == (3, 4)
    other = laboratory.influences(0, examples=3, control="random_step")
    assert torch.equal(other.done, found.done)
    assert not torch.equal(other.asked, found.asked)


def test_influences_change_no_other_number(tiny_directory):
    plain_config, loaded, _, queries, sets = measured(tiny_directory)
    switched = sweep(tiny_directory, measures={"influence": N})
    before, after = (SeedMeasurer(loaded, queries, config).measure(sets[:2]) for config in (plain_config, switched))
    names = {row["metric"] for row in before}
    assert repr([row for row in after if row["metric"] in names]) == repr(before)
    assert {row["metric"] for row in after} - names == {
        "influence_tau", "influence_tau_random", "influence_done", "influence_asked",
    }  # fmt: skip


def test_values_by_example_are_those_of_the_first_examples_in_their_order():
    laboratory = Laboratory(
        {
            "task": "sst2",
            "demonstrations": 4,
            "split": {"measured": 12},
            "measures": {"influence": 5},
            "execution": {"batch_size": 4},
        }
    )
    column = laboratory.examples(0).column("influence_tau.icl-ft").to_pylist()
    expected = tau_of_influence(laboratory.influences(0, examples=5)).tolist()
    assert len(set(expected)) > 2
    assert column[:5] == pytest.approx(expected)
    assert column[5:] == [None] * 7
