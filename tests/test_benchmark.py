"""The benchmark: it compares numbers before it tells times, counts FLOPs rightly, and keeps whole rows."""

import copy
import csv
import time

import numpy as np
import pytest
import torch
from torch.profiler import record_function
from torch.utils.flop_counter import FlopCounterMode

from analysis import benchmark, benchmark_setup
from analysis.benchmark_baseline import RANDOM, compare
from analysis.benchmark_parts import PARTS, seconds_by_part
from analysis.benchmark_setup import make_setup
from raydual.data.tokens import encode
from raydual.measure.seeds import SeedMeasurer
from raydual.model.anatomy import Shape
from raydual.plan.cost import TRAINING, FlopFormula
from raydual.settings.schema import Finetune

from . import test_equals_plain
from .tiny import tiny_model

SMALL = ["--examples", "12", "--demonstrations", "4", "--seeds", "2", "--seeds-per-batch", "2"]


@pytest.fixture
def small_shape(monkeypatch):
    """The shape with a vocabulary of the size that the stand-in tokenizer has, and narrow."""
    monkeypatch.setitem(benchmark_setup._COMMON, "vocab_size", benchmark_setup._VOCABULARY)
    monkeypatch.setitem(benchmark_setup.SHAPES, "qwen3-0.6b", benchmark_setup._sizes(64, 96, 28, 16))


@pytest.mark.long
def test_times_are_told_and_recorded_once_the_numbers_agree(tmp_path, capsys, small_shape):
    table = tmp_path / "benchmarks.csv"
    for model in ("embedded", "qwen3-0.6b-shape"):
        small = ["--layers", "1", "--baseline-examples", "2"] if model != "embedded" else []
        assert benchmark.main([*SMALL, "--model", model, *small, "--record", str(table)]) == 0
        said = capsys.readouterr().out
        assert said.index("agree with the baseline") < said.index("ratio: ")
        assert ("extrapolated" in said) == bool(small)
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == ["embedded", "qwen3-0.6b-shape (1 layers)"]
    for row in rows:
        assert all(row.values())
        assert None not in row
        numbers = {name: float(value) for name, value in row.items() if name not in list(row)[:6]}
        assert all(value > 0 for value in numbers.values()), numbers
        assert numbers["ratio"] == pytest.approx(numbers["baseline_seconds"] / numbers["replica_seconds"], rel=0.01)
        assert numbers["share_of_matmul"] < 1
    table.write_text("date,other\n", encoding="utf-8")
    assert benchmark.main([*SMALL, "--baseline-seeds", "0", "--record", str(table)]) == 2
    assert "no baseline" in capsys.readouterr().out


def test_no_time_is_told_when_a_number_is_wrong(monkeypatch, capsys):
    own = SeedMeasurer.measure

    def tampered(self, *args, **kwargs):
        rows = own(self, *args, **kwargs)
        return [{**r, "value": r["value"] + 0.01 * (r["metric"] == "lambda" and r["layer"] == 1)} for r in rows]

    monkeypatch.setattr(SeedMeasurer, "measure", tampered)
    assert benchmark.main(SMALL) == 1
    said = capsys.readouterr()
    assert "seed 0: lambda, icl, layer 1: replica" in said.err
    assert "ratio:" not in said.out
    assert "replica:" not in said.out


def test_what_one_side_lacks_or_leaves_undefined_is_a_difference():
    row = {"seed": 3, "metric": "simaou", "condition": "icl-ft", "layer": 0, "value": float("nan")}
    key = ("simaou", "icl-ft", 0)
    assert not compare([row], {3: {key: float("nan")}}).problems
    assert compare([row], {3: {key: 0.5}}).problems
    assert compare([{**row, "value": 0.5}], {3: {key: 0.5, ("simaou", "icl-ft", 1): 0.5}}).problems
    assert compare([row], {4: {key: float("nan")}}).problems
    assert compare([row], {3: {}}).problems
    assert RANDOM == test_equals_plain.RANDOM


@pytest.mark.parametrize("kv_heads", [1, 3])
def test_the_formula_counts_what_a_plain_forward_computes(kv_heads):
    model = tiny_model(num_key_value_heads=kv_heads)
    formula, tokens = FlopFormula(Shape.of(model.config.to_dict())), 37
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.arange(tokens)[None], use_cache=False)
    work = formula.forward(tokens) + formula.head(tokens)
    assert counter.get_total_flops() == work.flops
    assert work.tokens == tokens
    halves = formula.forward(20) + formula.forward(17, prefix=20)
    scores = 4 * model.config.num_hidden_layers * model.config.num_attention_heads * model.config.head_dim
    assert formula.forward(tokens).flops - halves.flops == scores * 20 * 17


@torch.inference_mode()
def test_the_formula_counts_a_seed_as_plain_passes_do():
    """Demonstrations once, every query after their cached keys and values, every text alone; no word has two tokens."""
    setup = make_setup(benchmark.parser().parse_args(SMALL))
    model, queries = setup.loaded.model, setup.queries
    model.set_attn_implementation("eager")
    formula, demonstrations = FlopFormula(Shape.of(model.config.to_dict())), setup.demonstrations([0])[0]

    def counted(texts, context=None, keep=lambda text: 1):
        with FlopCounterMode(display=False) as counter:
            for text in texts:
                ids = torch.as_tensor(text)[None]
                cache = None if context is None else copy.deepcopy(context)
                model(input_ids=ids, past_key_values=cache, use_cache=cache is not None, logits_to_keep=keep(text))
        return counter.get_total_flops()

    prefix = torch.as_tensor(np.concatenate([demonstrations.prefix, queries.separator]))[None]
    with FlopCounterMode(display=False) as counter:
        context = model.model(input_ids=prefix, use_cache=True).past_key_values
    work = formula.seed(demonstrations, queries, Finetune(epochs=2))
    assert {part: found.flops for part, found in work.items()} == {
        "prefix": counter.get_total_flops(),
        "icl": counted(queries.in_context, context),
        "fine-tuning": 2 * TRAINING * counted(demonstrations.examples, keep=lambda text: len(text) - 1),
        "ft": counted(queries.alone),
    }
    assert formula.zero_shot(queries) == work["ft"]
    assert work["icl"].tokens == sum(map(len, queries.in_context))


def test_the_words_later_tokens_count_as_a_continuation():
    formula = FlopFormula(Shape.of(tiny_model().config.to_dict()))
    prompt, words = np.arange(9), ((1,), (2, 3, 4))
    expected = formula.forward(9, 5).flops + formula.head(3).flops + formula.forward(2, 14).flops
    assert formula.rows([prompt], words, prefix=5).flops == expected


def test_seconds_by_part_are_those_of_the_ranges_and_inner_ones_are_not_the_outer_ones():
    def call():
        with record_function("icl"):
            time.sleep(0.02)
            with record_function("simdual"):
                time.sleep(0.5)
        with record_function("another"):
            time.sleep(0.05)

    found = seconds_by_part(call, torch.device("cpu"))
    assert list(found) == list(PARTS)
    assert found["simdual"] >= 0.1
    assert found["icl"] >= 0.02
    assert found["rest"] >= 0.05
    assert found["ft"] == 0
    assert found["icl"] < found["rest"] < found["simdual"]


def test_a_replica_records_every_part():
    setup = make_setup(benchmark.parser().parse_args(SMALL))
    replica = SeedMeasurer(setup.loaded, setup.queries, setup.config)
    found = seconds_by_part(lambda: replica.measure(setup.demonstrations([0])), setup.loaded.device)
    assert all(seconds > 0 for seconds in found.values()), found


def test_the_stand_in_tokenizer_tells_label_words_apart(small_shape):
    args = benchmark.parser().parse_args([*SMALL, "--model", "qwen3-0.6b-shape", "--layers", "1", "--task", "sst5"])
    setup = make_setup(args)
    assert {len(word) for word in setup.queries.label_tokens} == {1}
    text = setup.study.dataset.measured.queries[0]
    assert 1 <= len(encode(setup.loaded.tokenizer, [text])[0]) / len(text.split()) < 2
    again = make_setup(args).loaded.model
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), setup.loaded.model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--seeds", "none"], "--seeds"),
        (["--seeds", "0"], "--seeds"),
        (["--baseline-seeds", "9"], "--baseline-seeds"),
        (["--baseline-examples", "900"], "--baseline-examples"),
        (["--demonstrations", "0"], "demonstrations"),
        (["--examples", "100000"], "examples"),
        (["--model", "qwen3-0.5b-shape"], "--model"),
        (["--model", "/nowhere"], "/nowhere"),
        (["--layers", "2"], "--layers"),
        (["--data", "/nowhere"], "/nowhere"),
        (["--device", "tpu"], "--device"),
        (["--task", "none"], "none"),
    ],
)
def test_a_mistake_in_the_arguments_is_one_line(arguments, named, capsys):
    assert benchmark.main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert named in said
    assert len(said.splitlines()) == 1
