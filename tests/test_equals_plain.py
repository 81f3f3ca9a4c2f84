"""The fast replica against plain `transformers`, one prompt at a time: every number, tensor and gradient."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from raydual.catalogue.entries import CATALOGUE
from raydual.data.examples import Dataset, Examples
from raydual.measure.conditions import make_chunks, run_condition
from raydual.measure.seeds import SeedMeasurer
from raydual.model.anatomy import TRAINABLE
from raydual.model.attention import attend, dual_attention
from raydual.model.finetune import finetune
from raydual.model.loading import load_model
from raydual.model.passes import Rows, encode_prefix, hidden_states
from raydual.model.recording import FIELDS, MODULE_FIELDS, PART_FIELDS
from raydual.model.stacked import stack_projections, with_projections
from raydual.settings.reading import validate_config
from raydual.settings.schema import Finetune
from raydual.study import Study

from .reference import seed as plain
from .reference.finetune import FinetuneSettings
from .reference.forward import record
from .reference.prompts import TaskSettings
from .rounding import rounding_bounds, tensor_bounds
from .tiny import ANATOMIES, LABELS, TEMPLATE, label_ids, save_tiny, tiny_examples, tiny_tokenizer
from .tolerance import assert_same_rows, assert_same_values

K = 5
WHOLE = tuple(name for name in FIELDS if name not in PART_FIELDS)
RANDOM = tuple(metric.name for metric in CATALOGUE.values() if metric.random)


def sweep(directory, **changes):
    settings = {
        "name": "tiny",
        "model": str(directory),
        "task": {"name": "tiny", "template": TEMPLATE, "label_words": list(LABELS)},
        "data": {"train": "unused.csv"},
        "demonstrations": K,
        "seeds": 3,
        "finetune": {"learning_rate": 0.05},
    }
    return validate_config({**settings, **changes}, "test")


def study_of(config, pairs):
    """A study of (sentence, label) pairs; the first sixty are demonstrations."""
    task = config.task
    examples = Examples(tuple(task.query({"text": t}) for t, _ in pairs), tuple(label for _, label in pairs))
    train, measured = examples.take(range(60)), examples.take(range(60, 77))
    return Study(config, Dataset(train, examples.take(range(0)), measured, "test"))


def prompts(loaded, study):
    """The queries and the demonstration sets of a study."""
    sets = [study.demonstrations(loaded.tokenizer, seed) for seed in study.config.seeds]
    return study.queries(loaded.tokenizer, "measured"), sets


def bounds_of(loaded, study):
    """What rounding may do to the measurement of all seeds."""
    return rounding_bounds(loaded, study, study.units(study.config.seeds))


def plain_task(config):
    task = config.task
    return TaskSettings(template=task.template, separator=task.separator, label_words=task.label_words)


CASES = {
    "as Dai": {},
    "newline separator": {"task": {"name": "t", "template": TEMPLATE, "label_words": list(LABELS), "separator": "\n"}},
    "words of several tokens": {
        "task": {"name": "t", "template": TEMPLATE, "label_words": ["negatively", "positively", "neutral"]}
    },
    "label loss, adamw, two epochs": {
        "finetune": {"learning_rate": 1e-3, "optimizer": "adamw", "loss": "label", "epochs": 2}
    },
    "first token kept, residual stream": {
        "measures": {"keep_first_token": True, "update_field": "hidden", "kendall_examples": 7}
    },
    "more demonstrations": {"demonstrations": 17},
    "layer-causal": {"finetune": {"learning_rate": 0.1, "gradient": "layer_causal", "epochs": 2}},
    "full batch": {"finetune": {"learning_rate": 0.02, "batch": "all", "epochs": 2}},
    "ranks after a softmax": {"measures": {"kendall_softmax": True}},
    "normalised queries": {"measures": {"query_field": "query_normed"}},
    "values only": {"finetune": {"learning_rate": 0.1, "projections": ["v_proj"]}},
    "queries and outputs": {"finetune": {"learning_rate": 0.1, "projections": ["q_proj", "o_proj"]}},
    "MLP only": {"finetune": {"learning_rate": 0.1, "projections": ["gate_proj", "up_proj", "down_proj"]}},
    "all projections": {"finetune": {"learning_rate": 0.02, "projections": list(TRAINABLE)}},
    "kinds of tokens": {
        "task": {"name": "t", "template": TEMPLATE, "label_words": list(LABELS), "separator": " \n"},
        "measures": {"parts": True},
    },
}


OTHERS = [
    *((case, "qwen3") for case in CASES if case not in ("as Dai", "all projections")),
    ("as Dai", "qwen3 with biases"),
    ("as Dai", "llama with biases"),
    ("as Dai", "qwen2"),
    ("normalised queries", "tied llama"),
    ("values only", "llama with biases"),
    ("all projections", "llama with biases"),
    ("label loss, adamw, two epochs", "qwen2"),
    ("layer-causal", "tied qwen2 of wide heads"),
]


@pytest.mark.parametrize(
    ("case", "anatomy"), [("as Dai", "qwen3"), *(pytest.param(*other, marks=pytest.mark.long) for other in OTHERS)]
)
def test_every_metric_equals_the_plain_one(tmp_path, case, anatomy):
    directory = save_tiny(tmp_path, loud=label_ids(tiny_tokenizer()), **ANATOMIES[anatomy])
    config = sweep(directory, **CASES[case], execution={"batch_size": 5})
    loaded, pairs = load_model(str(directory)), tiny_examples()
    study = study_of(config, pairs)
    queries, sets = prompts(loaded, study)
    rows = SeedMeasurer(loaded, queries, config).measure(sets)
    bounds = bounds_of(loaded, study)
    for seed in config.seeds:
        expected = plain.measure_seed(
            loaded.model, loaded.tokenizer, pairs[:60], pairs[60:77], plain_task(config), seed, config.demonstrations,
            FinetuneSettings(**config.finetune.model_dump()),
            plain.MeasureSettings(
                update_field=config.measures.update_field,
                query_field=config.measures.query_field,
                keep_first_token=config.measures.keep_first_token,
                kendall_examples=config.measures.kendall_examples,
                kendall_softmax=config.measures.kendall_softmax,
                parts=config.measures.parts,
            ),
        )  # fmt: skip
        found = {(r["metric"], r["condition"], r["layer"]): r["value"] for r in rows if r["seed"] == seed}
        assert_same_values(found, expected, bounds, seed, drawn=RANDOM)
    assert len({r["value"] for r in rows if r["metric"] in ("accuracy", "greedy_accuracy")}) > 2


def test_random_baselines_agree_with_simulation_within_their_spread(tiny_directory):
    config = sweep(tiny_directory)
    loaded, pairs = load_model(str(tiny_directory)), tiny_examples()
    queries, sets = prompts(loaded, study_of(config, pairs))
    rows = SeedMeasurer(loaded, queries, config).measure(sets[:1])
    expected = plain.measure_seed(
        loaded.model, loaded.tokenizer, pairs[:60], pairs[60:77], plain_task(config), 0, K,
        FinetuneSettings(learning_rate=0.05), plain.MeasureSettings(draws=200),
    )  # fmt: skip
    for metric in ("simaou_random", "simaou_norm_matched", "kendall_random"):
        found = next(r["value"] for r in rows if r["metric"] == metric and r["layer"] == -1)
        # 51 (example, layer) pairs of cosines or correlations whose own spread is below 0.35.
        assert found == pytest.approx(expected[metric, "icl-ft", -1], abs=4 * 0.35 / math.sqrt(51)), metric


def setting_of(directory):
    study, loaded = study_of(sweep(directory), tiny_examples()), load_model(str(directory))
    return study, loaded, *prompts(loaded, study)


@pytest.fixture(scope="module")
def setting(tiny_directory):
    return setting_of(tiny_directory)


@pytest.fixture(scope="module", params=ANATOMIES)
def anatomy(request, tmp_path_factory):
    """A setting of every anatomy."""
    return setting_of(save_tiny(tmp_path_factory.mktemp("anatomy"), **ANATOMIES[request.param]))


@pytest.fixture(scope="module")
def bounds(setting):
    study, loaded, *_ = setting
    return bounds_of(loaded, study)


def test_every_recorded_tensor_equals_the_plain_one(anatomy):
    _, loaded, queries, sets = anatomy
    eager = copy.deepcopy(loaded.model)
    eager.set_attn_implementation("eager")

    def recorded(model, context, own):
        found = record(model, [*context.tolist(), *own.tolist()], len(context))
        delta = found.mass[..., None] * (found.o_demo - found.o_own)
        weights = [block.self_attn.o_proj.weight.double().numpy() for block in model.model.layers]
        update = np.stack([weight @ change.ravel() for weight, change in zip(weights, delta, strict=True)])
        return {name: getattr(found, name) for name in MODULE_FIELDS} | {
            "scores_query": found.scores_query, "scores_demo": found.scores_demo, "context_mass": found.mass,
            "context_update": update,
        }  # fmt: skip

    def few(model):
        some = [recorded(model, one.prefix, own) for one in sets for own in queries.in_context[:2]]
        return [torch.cat([torch.from_numpy(x[name]).flatten() for x in some]) for name in WHOLE]

    with torch.no_grad():
        bounds = dict(zip(WHOLE, tensor_bounds(replace(loaded, model=eager), few), strict=True))
        assert max(bounds.values()) < 0.01
        prefix = encode_prefix(loaded.model, [s.prefix for s in sets])
        for chunk in make_chunks(queries, 7, loaded.device):
            n = len(chunk.index)
            found = run_condition(loaded.model, chunk.in_context.repeat(len(sets)), queries.label_tokens, WHOLE, prefix)
            for group, demonstrations in enumerate(sets):
                for place, index in enumerate(chunk.index):
                    own, context = queries.in_context[index], demonstrations.prefix
                    fields = {name: x[group * n + place].numpy() for name, x in found.fields.items()}
                    for name, expected in recorded(eager, context, own).items():
                        value = fields[name][..., : expected.shape[-1]]
                        np.testing.assert_allclose(value, expected, rtol=0, atol=bounds[name], err_msg=name)


def test_logits_and_gradients_with_padding_and_prefix_equal_the_plain_ones(anatomy):
    _, loaded, queries, sets = anatomy
    prompt, lengths = sets[0].prefix, [len(q) for q in queries.in_context[:6]]
    assert len(set(lengths)) > 2, "the rows must be padded differently"
    rows = Rows.pad(list(queries.in_context[:6]), loaded.device)

    def gradients(model, logits_of):
        for layer in model.model.layers:
            layer.self_attn.k_proj.requires_grad_(True)
            layer.self_attn.v_proj.requires_grad_(True)
        logits = logits_of(model)
        logits.square().mean().backward()
        found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        return logits.detach(), found

    def shared(model):
        states = hidden_states(model, rows, encode_prefix(model, [prompt]))
        return model.lm_head(states[torch.arange(6), rows.last])

    def one_by_one(model):
        texts = [torch.tensor([[*prompt.tolist(), *q.tolist()]]) for q in queries.in_context[:6]]
        return torch.cat([model(input_ids=text).logits[:, -1] for text in texts])

    fast, slow = copy.deepcopy(loaded.model), copy.deepcopy(loaded.model)
    slow.set_attn_implementation("eager")
    logits, grads = gradients(fast, shared)
    expected_logits, expected_grads = gradients(slow, one_by_one)
    biased = fast.model.layers[0].self_attn.k_proj.bias is not None
    assert len(grads) == len(expected_grads) == (4 if biased else 2) * len(fast.model.layers)

    def both(model):
        logits, grads = gradients(model, one_by_one)
        return [logits, *grads]

    # Copies: the gradients of a pass are added to those of the last one.
    bounds = tensor_bounds(replace(loaded, model=slow), lambda model: both(copy.deepcopy(model)))
    for found, expected, bound in zip([logits, *grads], [expected_logits, *expected_grads], bounds, strict=True):
        assert expected.abs().max() > 1e-3
        assert bound < 0.01 * expected.abs().max()
        torch.testing.assert_close(found, expected, rtol=0, atol=bound)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_as_a_plain_attention_implementation_it_honours_masks_and_caches(setting, padding):
    _, loaded, queries, _ = setting
    eager = copy.deepcopy(loaded.model)
    eager.set_attn_implementation("eager")
    texts = queries.alone[:5]
    width = max(map(len, texts))
    ids, mask = torch.zeros(5, width, dtype=torch.long), torch.zeros(5, width, dtype=torch.long)
    for row, text in enumerate(texts):
        where = slice(width - len(text), width) if padding == "left" else slice(0, len(text))
        ids[row, where], mask[row, where] = torch.as_tensor(text), 1

    def logits(model):
        return [model(input_ids=ids, attention_mask=mask).logits.detach()[mask.bool()]]

    (bound,) = tensor_bounds(replace(loaded, model=eager), logits)
    assert bound < 0.01
    torch.testing.assert_close(logits(loaded.model), logits(eager), rtol=0, atol=bound)
    if padding == "left":
        options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        fast, slow = (m.generate(ids, attention_mask=mask, **options) for m in (loaded.model, eager))
        assert torch.equal(fast, slow)


def test_without_its_mask_function_the_attention_refuses_to_run(setting):
    _, loaded, queries, _ = setting
    attention = loaded.model.model.layers[0].self_attn
    states = torch.zeros(1, 3, loaded.model.config.hidden_size)
    rotary = loaded.model.model.rotary_emb(states, torch.arange(3)[None])
    with pytest.raises(ValueError, match="mask"):
        attention(states, position_embeddings=rotary, attention_mask=None)


def test_stacked_fine_tuning_equals_one_seed_at_a_time_and_leaves_the_model_alone(setting):
    _, loaded, _, sets = setting
    before = copy.deepcopy(loaded.model.state_dict())
    modules = list(loaded.model.modules())
    settings = Finetune(learning_rate=0.05)
    together = finetune(loaded.model, sets, settings, ("query",))
    for group, demonstrations in enumerate(sets):
        alone = finetune(loaded.model, [demonstrations], settings, ("query",))
        torch.testing.assert_close(together.losses[group], alone.losses[0], rtol=1e-5, atol=1e-5)
        for key, stack in together.stacks.items():
            moved = alone.stacks[key].weight[0]
            torch.testing.assert_close(stack.weight[group], moved, rtol=1e-5, atol=1e-6)
            base = loaded.model.get_submodule(f"model.layers.{key[0]}.self_attn.{key[1]}").weight
            assert (moved - base).abs().max() > 1e-4
    assert all(torch.equal(before[k], v) for k, v in loaded.model.state_dict().items())
    assert all(a is b for a, b in zip(modules, loaded.model.modules(), strict=True))


def test_the_model_is_given_back_when_a_block_fails(setting):
    _, loaded, _, _ = setting
    projection = loaded.model.model.layers[0].self_attn.k_proj
    eager = copy.deepcopy(loaded.model)
    eager.set_attn_implementation("eager")
    with pytest.raises(RuntimeError, match="inside"), dual_attention(eager):
        assert eager.config._attn_implementation == "raydual"
        raise RuntimeError("inside")
    assert eager.config._attn_implementation == "eager"
    stacks = stack_projections(loaded.model, ("k_proj",), 2)
    with pytest.raises(RuntimeError, match="inside"), with_projections(loaded.model, stacks):
        assert loaded.model.model.layers[0].self_attn.k_proj is not projection
        raise RuntimeError("inside")
    assert loaded.model.model.layers[0].self_attn.k_proj is projection


def test_numbers_depend_on_neither_batch_sizes_nor_order(setting, bounds, tiny_directory):
    _, loaded, queries, sets = setting

    def measured(batch_size, groups):
        replica = SeedMeasurer(loaded, queries, sweep(tiny_directory, execution={"batch_size": batch_size}))
        return [row for group in groups for row in replica.measure(group)]

    first = measured(17, [sets])
    assert_same_rows(measured(17, [sets]), first)
    assert_same_rows(measured(4, [[sets[2]], [sets[0]], [sets[1]]]), first, bounds)
    assert_same_rows(measured(1, [sets[::-1]]), first, bounds)


def test_seeds_that_fail_say_why_and_leave_the_others_alone(setting, bounds, tiny_directory):
    _, loaded, queries, sets = setting
    good = SeedMeasurer(loaded, queries, sweep(tiny_directory)).measure(sets[:1])
    diverging = SeedMeasurer(loaded, queries, sweep(tiny_directory, finetune={"learning_rate": 1e38}))
    rows = diverging.measure(sets)
    assert [(r["metric"], r["seed"]) for r in rows] == [("failed", 0), ("failed", 1), ("failed", 2)]
    assert all("diverged" in r["reason"] and "1e+38" in r["reason"] for r in rows)
    limit = loaded.model.config.max_position_embeddings
    needed = [len(s.prefix) + len(queries.separator) + queries.longest for s in sets]
    try:
        loaded.model.config.max_position_embeddings = sorted(needed)[1]
        rows = SeedMeasurer(loaded, queries, sweep(tiny_directory)).measure(sets)
    finally:
        loaded.model.config.max_position_embeddings = limit
    failed = {r["seed"]: r["reason"] for r in rows if r["metric"] == "failed"}
    assert list(failed) == [sets[int(np.argmax(needed))].seed]
    assert str(max(needed)) in next(iter(failed.values()))
    if 0 not in failed:
        kept = [r for r in rows if r["seed"] == 0]
        assert_same_rows(kept, good, bounds)


@pytest.mark.parametrize("shape", [(1, 1, 7, 5), (3, 2, 11, 13), (2, 3, 1, 701)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_fused_attention_equals_the_steps_and_both_mask_and_share_heads(shape, dtype):
    batch, kv_heads, queries, keys = shape
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(batch, 2 * kv_heads, queries, 19, generator=generator).to(dtype)
    key, value = (torch.randn(batch, kv_heads, keys, 19, generator=generator).to(dtype) for _ in range(2))
    hidden = torch.rand(batch, 1, queries, keys, generator=generator) < 0.3
    hidden[..., 0] = False
    mask = torch.zeros(hidden.shape).masked_fill(hidden, torch.finfo(torch.float32).min)
    with torch.no_grad():
        fused = attend(query, key, value, mask, 0.3)
    steps = attend(query.requires_grad_(), key, value, mask, 0.3)
    assert steps.out.grad_fn is not None
    assert fused.out.grad_fn is None
    scores = 0.3 * query.double() @ key.double().repeat_interleave(2, 1).transpose(2, 3)
    scores = scores.masked_fill(hidden, -torch.inf)
    expected = scores.softmax(-1) @ value.double().repeat_interleave(2, 1)
    # Of weights, sums and outputs, each stored in the dtype; in float32 of the sums over all keys instead.
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 4e-2, "atol": 4e-2}
    for part in (fused, steps):
        torch.testing.assert_close(part.out.double(), expected, **tolerance)
        torch.testing.assert_close(part.log_mass.double(), scores.logsumexp(-1), **tolerance)
