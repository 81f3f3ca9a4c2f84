"""What a sweep is said to cost: counted from data and config alone, and in proportion to what is done."""

import csv
import json
import re
import shutil

import pytest
from transformers import AutoModelForCausalLM

from raydual.commands import main
from raydual.errors import UserError
from raydual.files import SWEEPS
from raydual.model.anatomy import Shape
from raydual.plan import estimate as module
from raydual.plan.cost import MemoryFormula
from raydual.plan.estimate import TABLE, estimate, hardware_named
from raydual.settings.reading import validate_config
from raydual.study import prepare_study

from .tiny import ANATOMIES, FAMILIES, save_tiny, tiny_model

SWEEP = {
    "name": "s", "task": "sst2", "data": "embedded", "demonstrations": 4, "seeds": 16,
    "split": {"selection": 50, "measured": 30},
}  # fmt: skip


def work(**changes):
    found = estimate(prepare_study(validate_config({**SWEEP, **changes}, "test"), weights=False))
    return {part: value.flops for part, value in found.work.items()}, found


def test_the_work_grows_with_seeds_and_controls_and_the_zero_shot_pass_does_not():
    once, _ = work()
    wide = {"controls": {"random_step": True, "labels": ["flipped"], "permutations": 1}}
    four, found = work(**wide)
    assert found.units == 4 * 16
    for part in ("icl", "ft", "prefix", "fine-tuning"):
        assert four[part] == pytest.approx(4 * once[part], rel=1e-6)
    assert four["zero-shot"] == once["zero-shot"]
    half, found = work(controls={**wide["controls"], "seeds": 4})
    assert found.units == 16 + 3 * 4
    assert half["icl"] == pytest.approx(once["icl"] * 28 / 16, rel=1e-6)


def test_controls_that_take_more_cost_more():
    once, _ = work()
    assert work(controls={"other_seed": True})[0]["fine-tuning"] == pytest.approx(3 * once["fine-tuning"])
    assert work(controls={"layer_causal": True})[0]["fine-tuning"] > 2 * once["fine-tuning"]
    assert work(controls={"untrained": True})[0]["zero-shot"] == pytest.approx(17 * once["zero-shot"])


def test_learning_curves_and_orders_cost_passes_and_what_cannot_be_shared():
    once, alone = work()
    curve, found = work(measures={"shots": [1, 2]})
    assert curve["ft"] == pytest.approx(3 * once["ft"])
    assert 2 * once["icl"] < curve["icl"] < 3 * once["icl"]
    assert (curve["prefix"], curve["fine-tuning"]) == (once["prefix"], once["fine-tuning"])
    assert found.a_seed > alone.a_seed
    again = work(measures={"shots": [1, 2]}, finetune={"batch": "all"})[0]
    # On one, two and four demonstrations instead of four.
    assert again["fine-tuning"] == pytest.approx(once["fine-tuning"] * 7 / 4, rel=0.1)
    orders = work(measures={"order": 3})[0]
    for part, times in (("prefix", 5), ("icl", 5), ("ft", 9), ("fine-tuning", 9)):
        assert orders[part] == pytest.approx(times * once[part], rel=1e-2)
    searched = {"search": {"seeds": {"keep": 8, "slices": [10, 50]}}}
    assert work(**searched, measures={"order": 3, "shots": [1]})[0]["search"] == work(**searched)[0]["search"]


def test_a_search_costs_in_proportion_to_its_settings_and_nothing_without():
    assert "search" not in work()[0]
    one, two = (
        work(search={"finetune": {"learning_rate": rates, "seeds": 4}})[0]["search"] for rates in ([1.0], [1.0, 2.0])
    )
    assert two == pytest.approx(2 * one)
    seeds = [
        work(search={"seeds": {"keep": keep, "slices": slices}})[0]["search"]
        for keep, slices in ((16, [10, 50]), (4, [10, 50]), (4, [50]))
    ]
    assert seeds[1] < seeds[0]
    assert seeds[0] == pytest.approx(seeds[2])


def test_memory_is_that_of_the_longest_prompt_and_the_models_weights():
    _, found = work()
    config = json.loads((prepare_study(validate_config(SWEEP, "t")).source.directory / "config.json").read_text())
    formula = MemoryFormula(Shape.of(config), 4, 64)
    assert found.weights == formula.weights() == 4 * Shape.of(config).parameters
    study = prepare_study(validate_config(SWEEP, "t"))
    tokenizer = study.source.tokenizer()
    longest = max(len(study.demonstrations(tokenizer, seed).prefix) for seed in range(16))
    query = study.queries(tokenizer, "measured").longest
    assert found.a_seed == formula.seed(longest, query, study.config.finetune)


@pytest.mark.parametrize("anatomy", ANATOMIES)
def test_the_number_of_weights_is_the_models(anatomy):
    model = tiny_model(**ANATOMIES[anatomy])
    shape = Shape.of(model.config.to_dict())
    assert shape.parameters == model.num_parameters()
    projections = (p for name, p in model.named_parameters() if "_proj.weight" in name)
    assert shape.layers * shape.block == sum(p.numel() for p in projections)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plan_counts_the_weights_of_every_family(family, tmp_path):
    directory = save_tiny(tmp_path, family=family)
    loaded = AutoModelForCausalLM.from_pretrained(directory)
    (directory / "model.safetensors").unlink()
    assert work(model=str(directory))[1].weights == 4 * loaded.num_parameters()


@pytest.fixture
def table(tmp_path, monkeypatch):
    with TABLE.open(encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    path = tmp_path / "table.csv"
    rows = [
        row | {"hardware": "Small CPU", "matmul_tflops": "0.1", "share_of_matmul": "0.25"},
        row | {"hardware": "Big GPU", "matmul_tflops": "700", "share_of_matmul": "0.2", "dtype": "bfloat16"},
        row | {"hardware": "Big GPU", "matmul_tflops": "50", "share_of_matmul": "0.3"},
    ]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerows(rows)
    monkeypatch.setattr(module, "TABLE", path)
    return path


def test_time_is_work_over_the_measured_rate_of_the_hardware_named(table):
    _, found = work()
    big, small = hardware_named("big gpu", "bfloat16"), hardware_named("small", "bfloat16")
    assert (big.rate, big.share, small.rate) == (700e12, 0.2, 0.1e12)
    assert hardware_named("big", "float32").rate == 50e12
    assert found.seconds(small, 1) - 30 == pytest.approx(found.total.flops / (0.1e12 * 0.25))
    assert found.seconds(small, 4) - 30 == pytest.approx(found.total.flops / (0.1e12 * 0.25) / 4)
    with pytest.raises(UserError, match="has not been measured; there is Small CPU, Big GPU"):
        hardware_named("H200", "float32")


def test_the_command_says_what_it_takes_and_what_limits_it(table, capsys):
    arguments = ["plan", str(SWEEPS / "quickstart.yaml"), "--set", "seeds=24", "--hardware"]
    assert main([*arguments, "small"]) == 0
    slow = capsys.readouterr().out
    assert re.search(r"24 seeds measured of 24", slow)
    assert re.search(r"memory of a replica: .* 8 at once", slow)
    assert main([*arguments, "big", "--gpus", "4", "--memory", "0.2"]) == 0
    fast = capsys.readouterr().out
    assert "about 30 s on 4 x Big GPU" in fast
    assert "what limits it: starting and loading" in fast
    assert int(re.search(r"(\d+) at once in 0.2 GiB", fast)[1]) < 8
    assert main([*arguments, "big", "--memory", "0.001"]) == 0
    assert "LIMIT: not even one seed fits" in capsys.readouterr().out


def test_every_cell_of_a_sweep_is_told_and_the_sum(table, capsys):
    changes = ["--set", "demonstrations=[4, 8]", "--set", "split.measured=20"]
    assert main(["plan", str(SWEEPS / "quickstart.yaml"), *changes, "--hardware", "small"]) == 0
    said = capsys.readouterr().out
    assert "demonstrations 4\n" in said
    assert "all 2 combinations: about" in said


def test_the_same_is_given_as_json(table, capsys):
    axes = ["--set", "demonstrations=[4, 8]", "--set", "split.measured=20"]
    arguments = ["plan", str(SWEEPS / "quickstart.yaml"), *axes, "--hardware", "small", "--memory", "4"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [cell["cell"] for cell in found["cells"]] == [{"demonstrations": "4"}, {"demonstrations": "8"}]
    for cell in found["cells"]:
        assert f"work: {cell['flops'] / 1e12:,.1f} TFLOP, {cell['tokens']:,} tokens" in said
        assert f"{cell['memory']['seeds_at_once']} at once in 4 GiB, {cell['batches']} batches" in said
        assert cell["flops"] == pytest.approx(sum(work["flops"] for work in cell["work"].values()))
    assert f"about {sum(cell['seconds'] for cell in found['cells']) / 60:.0f} min" in said
    assert main([*arguments[:-1], "0.001", "--json"]) == 0
    assert [cell["seconds"] for cell in json.loads(capsys.readouterr().out)["cells"]] == [None, None]


def test_mistakes_are_one_line(table, capsys, tmp_path):
    for arguments, message in (
        (["--hardware", "abacus"], "has not been measured"),
        (["--gpus", "0"], "must be positive"),
        (["--set", "demonstrations=100000"], "100000 are asked for"),
    ):
        assert main(["plan", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_nothing_is_loaded_for_it(tmp_path):
    """A model directory without weights is enough."""
    source = prepare_study(validate_config(SWEEP, "t")).source.directory
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(source / name, tmp_path / name)
    assert work(model=str(tmp_path))[0] == work()[0]
