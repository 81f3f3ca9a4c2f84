"""The torch side of the GPU's path, walked on a device that is CUDA in name: the CPU's numbers, no mixed devices."""

from unittest import mock

import numpy as np
import pytest
import torch

from raydual.data.examples import Dataset, Examples
from raydual.measure.grouping import Groups, group_size
from raydual.measure.measurer import Measurer
from raydual.measure.scoring import Scorer
from raydual.model.anatomy import Shape
from raydual.model.loading import load_model
from raydual.one_seed.dual import verify_dual
from raydual.one_seed.laboratory import attention_weights, record
from raydual.plan.cost import MemoryFormula
from raydual.settings.controls import MEASUREMENT, controls_of
from raydual.settings.reading import validate_config
from raydual.settings.schema import Execution, Finetune
from raydual.study import Study

from .pretend_cuda import CUDA, Pretended, pretend_cuda
from .rounding import rounding_bounds, search_bounds
from .test_controls import EVERY
from .tiny import LABELS, TEMPLATE, label_ids, save_tiny, tiny_examples, tiny_tokenizer
from .tolerance import assert_same_rows, within

pytestmark = pytest.mark.long

SEEDS = [2, 7]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of the tiny model with every control switched on."""
    directory = save_tiny(tmp_path_factory.mktemp("model"), loud=label_ids(tiny_tokenizer()))
    settings = {
        "name": "tiny",
        "model": str(directory),
        "task": {"name": "tiny", "template": TEMPLATE, "label_words": list(LABELS)},
        "data": {"train": "unused.csv"},
        "demonstrations": 5,
        "seeds": SEEDS,
        "finetune": {"learning_rate": 0.05},
        "controls": EVERY.model_dump(),
        "execution": {"batch_size": 4},
    }
    config = validate_config(settings, "test")

    def examples(pairs):
        return Examples(tuple(config.task.query({"text": t}) for t, _ in pairs), tuple(label for _, label in pairs))

    pairs = tiny_examples()
    return Study(config, Dataset(examples(pairs[:60]), examples(pairs[60:70]), examples(pairs[70:79]), "test"))


@pytest.fixture(scope="module")
def loaded(study):
    return load_model(study.config.model, device="cpu")


def measured(measurer, *controls):
    """The rows of all seeds under the controls."""
    study, tokenizer, rows = measurer.study, measurer.loaded.tokenizer, []
    for control in controls:
        units = [study.unit(seed, control, SEEDS) for seed in SEEDS]
        rows += measurer.measure(control, [study.case(tokenizer, unit) for unit in units])
    return rows


def test_the_measurement_and_every_control_give_the_cpus_numbers(loaded, study):
    with pretend_cuda():
        on_cuda = load_model(study.config.model)
        assert on_cuda.device == CUDA
        assert all(isinstance(x, Pretended) for x in on_cuda.model.state_dict().values())
        measurer = Measurer(on_cuda, study)
        found = measured(measurer, *controls_of(EVERY))
        shared = measurer.shares()
        again = measured(Measurer(on_cuda, study, zero_shot=shared), MEASUREMENT)
    assert not any(isinstance(x, Pretended) for one in shared.values() for x in one.chunks[0].fields.values())
    expected = measured(Measurer(loaded, study), *controls_of(EVERY))
    assert_same_rows(found, expected, rounding_bounds(loaded, study, study.units(SEEDS)))
    assert_same_rows(again, [row for row in found if row["control"] == MEASUREMENT.name])


def test_the_device_may_be_named(study):
    with pretend_cuda():
        assert load_model(study.config.model, device="cpu").device.type == "cpu"
        assert load_model(study.config.model, device="cuda").device == CUDA


def test_the_search_scores_as_on_the_cpu(loaded, study):
    settings = Finetune(learning_rate=0.05)

    def scored(model):
        scorer = Scorer(model, study)
        sets = [scorer.demonstrations(seed) for seed in SEEDS]
        right = [scorer.in_context_right(scorer.encode(one), start, 10) for one in sets for start in (0, 4)]
        return right, scorer.finetuned(sets, settings)

    with pretend_cuda():
        right, found = scored(load_model(study.config.model))
    expected_right, expected = scored(loaded)
    bounds = search_bounds(loaded, study, SEEDS, [settings], SEEDS)
    assert not any(bounds.unsure.values())
    assert right == expected_right
    assert within(found.accuracy, expected.accuracy, bounds.unsure_tuned / 20)
    assert within(found.loss, expected.loss, bounds.loss)
    assert found.diverged == expected.diverged == 0


def test_the_number_of_seeds_follows_the_gpus_free_memory(loaded, study):
    queries, auto = study.queries(loaded.tokenizer, "measured"), Execution()
    demonstrations = study.demonstrations(loaded.tokenizer, 2)
    formula = MemoryFormula(Shape.of(loaded.model.config.to_dict()), 4, auto.batch_size)
    a_seed = formula.seed(len(demonstrations.prefix), queries.longest, Finetune())
    for memory, expected in ((0, 1), (3.9 * a_seed / 0.8, 3), (10**15, auto.most_seeds_per_batch(True))):
        with pretend_cuda(int(memory)):
            on_cuda = load_model(study.config.model)
            assert group_size(on_cuda, queries, demonstrations, Finetune(), auto) == expected
    assert auto.most_seeds_per_batch(True) != auto.most_seeds_per_batch(False)


def test_a_group_too_large_for_the_gpu_is_tried_by_halves(study):
    with pretend_cuda(), mock.patch.object(torch.cuda, "empty_cache") as emptied:

        def function(group):
            if len(group) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
            return group

        assert Groups(4).each([1, 2, 3], function) == [[1], [2], [3]]
    assert emptied.call_count == 1


def test_recordings_and_the_dual_form_come_from_the_gpu(loaded, study):
    def made(model):
        report = verify_dual(model.model, np.arange(1, 30), np.arange(30, 40))
        text = ["Sentence: a dull film Label:"]
        context = "Sentence: fine Label: positive"
        recorded = record(model, text, ("attn_out", "scores_query", "context_mass"), context=context)
        return report, recorded, attention_weights(model, text)

    with pretend_cuda():
        found = made(load_model(study.config.model))
    expected = made(loaded)
    assert found[0].holds
    assert found[0].control_fails
    np.testing.assert_allclose(found[0].mass, expected[0].mass, rtol=1e-4)
    for name, values in found[1].items():
        np.testing.assert_allclose(values[0], expected[1][name][0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found[2][0], expected[2][0], rtol=1e-3, atol=1e-4)


# The device itself


MIXED = {
    "arithmetic": lambda gpu, cpu: gpu + cpu,
    "a product": lambda gpu, cpu: cpu @ gpu,
    "a list": lambda gpu, cpu: torch.cat([gpu, cpu]),
    "in place": lambda gpu, cpu: cpu.add_(gpu),
    "a function's option": lambda gpu, cpu: torch.where(gpu > 0, gpu, cpu),
    "an index into the CPU": lambda gpu, cpu: cpu[gpu.long()],
    "a gathered index": lambda gpu, cpu: gpu.gather(0, cpu.long()),
    "a layer": lambda gpu, cpu: torch.nn.functional.linear(cpu, gpu),
    "a random draw": lambda gpu, cpu: torch.randn(3, generator=torch.Generator(), device=gpu.device),
}


@pytest.mark.parametrize("kind", MIXED)
def test_mixed_devices_are_an_error(kind):
    cpu = torch.ones(3, 3)
    with pretend_cuda():
        gpu = cpu.to("cuda")
        with pytest.raises(RuntimeError, match="Expected"):
            MIXED[kind](gpu, cpu)


def test_a_query_on_the_cpu_is_an_error_for_a_model_on_the_gpu(study):
    with pretend_cuda():
        on_cuda = load_model(study.config.model)
        with pytest.raises(RuntimeError, match="same device"):
            on_cuda.model(torch.arange(3)[None])


def test_what_a_gpu_allows_is_allowed_and_stays_there():
    with pretend_cuda():
        gpu = torch.ones(3, 3).cuda()
        made = [
            gpu + 1.0, gpu * torch.tensor(2.0), gpu[torch.arange(2)], torch.zeros_like(gpu), gpu.to(torch.float64),
            torch.arange(3, device=gpu.device), torch.tensor([1.0], device="cuda"), *gpu.max(dim=0),
            gpu.clone().copy_(gpu.cpu()),
        ]  # fmt: skip
        assert all(isinstance(x, Pretended) and x.device == CUDA for x in made)
        assert gpu.sum().item() == 9
        assert gpu.cpu().numpy().sum() == 9
        assert type(gpu.cpu()) is torch.Tensor
        for read in (Pretended.numpy, np.asarray):
            with pytest.raises(TypeError, match="convert cuda:0"):
                read(gpu)
    assert not torch.cuda.is_available() or torch.version.cuda


def test_gradients_stay_on_the_gpu():
    with pretend_cuda():
        layer = torch.nn.Linear(3, 2).to("cuda")
        optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
        before = layer.weight.detach().cpu()
        layer(torch.ones(1, 3, device="cuda")).sum().backward()
        assert isinstance(layer.weight.grad, Pretended)
        optimizer.step()
        assert not torch.equal(layer.weight.detach().cpu(), before)
