"""The dual forms on real weights, linear attention against plain loops, and gradient descent built into its weights."""

import copy
from random import Random

import numpy as np
import pytest
import torch
from torch import nn
from transformers.models.qwen3.modeling_qwen3 import apply_rotary_pos_emb

from raydual.embedded.evaluate import WORDS, read_rows
from raydual.model.loading import load_model
from raydual.model.passes import Rows, encode_prefix, hidden_states
from raydual.model.recording import Recorder
from raydual.one_seed.dual import CONTROL, dual_lines, dual_parts, project, softmax_attention, verify_dual
from raydual.one_seed.linear_attention import (
    LINEAR_ATTENTION,
    gradient_step_update,
    linear_attention,
    linear_attention_forward,
    linear_attention_model,
    weight_update,
)

from .tiny import ANATOMIES, VOCABULARY, tiny_model

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def random_prompt(demonstrations=61, query=11):
    ids = np.random.default_rng(0).integers(1, VOCABULARY, demonstrations + query)
    return ids[:demonstrations], ids[demonstrations:]


def embedded():
    """The embedded model with sixteen demonstrations of SST-2 and a query."""
    loaded = load_model("embedded", device="cpu")
    rows = Random(0).sample(read_rows("sst2", "train"), 17)
    *shown, query = [f"Sentence: {text} Label: {WORDS['sst2'][label]}" for text, label in rows]
    query = " " + query[: query.index(" Label:") + len(" Label:")]
    return loaded.model, *(np.array(loaded.tokenizer.encode(text).ids) for text in (" ".join(shown), query))


SETTINGS = {
    **{name: lambda over=over: (tiny_model(**over), *random_prompt()) for name, over in ANATOMIES.items()},
    "embedded": embedded,
}


@pytest.fixture(scope="module", params=SETTINGS)
def setting(request):
    return SETTINGS[request.param]()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_the_identities_hold_in_every_layer_and_the_control_fails(setting, dtype):
    model, prefix, query = setting
    report = verify_dual(model, prefix, query, dtype)
    layers = (model.config.num_hidden_layers,)
    for name in ("softmax", "linear", "gradient"):
        errors, controls = getattr(report, name), getattr(report, f"{name}_control")
        assert errors.shape == controls.shape == layers
        assert (errors <= TOLERANCE[dtype]).all(), name
        assert (controls > CONTROL).all(), name
    assert report.holds
    assert report.control_fails
    assert ((report.mass > 0) & (report.mass < 1)).all()
    assert (np.abs(report.cosine) < 0.99).all(), "the relaxation is an approximation"


@pytest.fixture
def seen(setting):
    """Each layer's attention block with its inputs, and the inputs of its `o_proj`, from plain eager attention."""
    model, prefix, query = setting
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    inputs, outputs = [], []
    for layer in eager.model.layers:
        layer.self_attn.register_forward_pre_hook(lambda block, _, call: inputs.append((block, call)), with_kwargs=True)
        layer.self_attn.o_proj.register_forward_pre_hook(lambda _, args: outputs.append(args[0][0, -1]))
    with torch.no_grad():
        eager(input_ids=torch.as_tensor(np.concatenate([prefix, query]))[None], use_cache=False)
    return [(block, call, output) for (block, call), output in zip(inputs, outputs, strict=True)]


@torch.no_grad()
def test_the_exact_form_is_what_plain_eager_attention_puts_out(setting, seen):
    for block, call, expected in seen:
        heads = project(block, call["hidden_states"], call["position_embeddings"], torch.float64)
        for found in (softmax_attention(heads), dual_parts(heads, len(setting[1])).merged):
            torch.testing.assert_close(found.flatten().float(), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_cost_of_the_relaxation_is_the_cosine_of_plainly_computed_updates(setting, seen):
    model, prefix, query = setting
    report = verify_dual(model, prefix, query)
    for layer, (block, call, _) in enumerate(seen):
        x, width = call["hidden_states"][0], block.head_dim
        heads = project(block, x[None], call["position_embeddings"], torch.float64)
        parts, updates = dual_parts(heads, len(prefix)), []
        change = softmax_attention(heads) - softmax_attention(heads.tokens(slice(len(prefix), None)))
        q, k, v = (linear(x).double() for linear in (block.q_proj, block.k_proj, block.v_proj))
        for head in range(q.shape[1] // width):
            own = slice(head * width, (head + 1) * width)
            shared = slice(head // block.num_key_value_groups * width, (head // block.num_key_value_groups + 1) * width)
            updates.append(sum((k[i, shared] @ q[-1, own]) * v[i, shared] for i in range(len(prefix))))
        relaxed, exact = (block.o_proj.weight.double() @ u for u in (torch.cat(updates), change.flatten()))
        assert report.cosine[layer] == pytest.approx(torch.cosine_similarity(relaxed, exact, dim=0).item(), abs=1e-5)
        assert report.mass[layer] == pytest.approx(parts.mass.mean().item(), abs=1e-5)


@torch.no_grad()
def test_the_mass_is_the_one_that_the_fast_path_records():
    loaded = load_model("embedded", device="cpu")
    _, prefix, query = embedded()
    rows = Rows.pad([query], loaded.device)
    recorder = Recorder(("context_mass",), last=rows.last)
    hidden_states(loaded.model, rows, encode_prefix(loaded.model, [prefix]), recorder)
    expected = recorder.result("context_mass")[0].mean(dim=-1)
    np.testing.assert_allclose(verify_dual(loaded.model, prefix, query).mass, expected, rtol=1e-4)


def test_verification_leaves_the_model_alone_and_names_what_it_cannot_check():
    model, (prefix, query) = tiny_model(), random_prompt()
    before = copy.deepcopy(model.state_dict())
    verify_dual(model, prefix, query)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())
    with pytest.raises(ValueError, match="float32 or float64"):
        verify_dual(model, prefix, query, torch.bfloat16)
    with pytest.raises(ValueError, match="1 demonstration"):
        verify_dual(model, prefix[:1], query)
    with pytest.raises(ValueError, match="0 query"):
        verify_dual(model, prefix, query[:0])


def test_a_bfloat16_model_is_checked_on_its_own_activations():
    report = verify_dual(tiny_model(dtype=torch.bfloat16), *random_prompt())
    assert report.holds
    assert report.control_fails


def test_the_table_has_a_line_for_each_layer_and_says_what_holds():
    report = verify_dual(tiny_model(), *random_prompt())
    lines = list(dual_lines(report))
    assert len(lines) == 2 + 3 + 1
    assert lines[-1].startswith("The identities hold within 1e-12; the control fails")
    report.linear[1], report.softmax_control[2] = np.nan, 0
    assert not report.holds
    assert not report.control_fails
    assert "DO NOT all hold" in list(dual_lines(report))[-1]
    assert "DOES NOT fail" in list(dual_lines(report))[-1]


def random_tensors(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]


def test_pure_functions_equal_loops_and_the_step_does_not_depend_on_where_it_starts():
    values, keys, query, start = random_tensors((3, 7, 4), (3, 7, 5), (3, 5), (3, 4, 5))
    update = torch.stack([sum(torch.outer(v, k) for v, k in zip(values[h], keys[h], strict=True)) for h in range(3)])
    out = torch.stack([sum((k @ query[h]) * v for v, k in zip(values[h], keys[h], strict=True)) for h in range(3)])
    torch.testing.assert_close(weight_update(values, keys), update, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(linear_attention(values, keys, query), out, rtol=1e-12, atol=1e-12)
    before = start.clone()
    for rate, weight in ((0.03, None), (7.0, None), (0.03, start)):
        step = gradient_step_update(values, keys, rate, weight)
        torch.testing.assert_close(step, update, rtol=1e-12, atol=1e-12)
        assert not step.requires_grad
    assert torch.equal(start, before)


def looped(query, key, value, real):
    """Linear attention one row, head and position at a time; `real` says which tokens are not padding."""
    batch, heads, tokens, _ = query.shape
    shared = heads // key.shape[1]
    out = torch.zeros(batch, tokens, heads, value.shape[-1], dtype=value.dtype)
    for b in range(batch):
        for h in range(heads):
            for t in range(tokens):
                for i in range(t + 1):
                    if real[b, i]:
                        out[b, t, h] += (query[b, h, t] @ key[b, h // shared, i]) * value[b, h // shared, i]
    return out


def rows_of(*lengths):
    rng = np.random.default_rng(1)
    return Rows.pad([rng.integers(1, VOCABULARY, n) for n in lengths], torch.device("cpu"))


@torch.no_grad()
@pytest.mark.parametrize("anatomy", ["qwen3", "qwen3 with biases", "llama with biases", "qwen2"])
def test_a_whole_model_with_linear_attention_equals_the_loop(anatomy):
    model, rows = tiny_model(dtype=torch.float64, **ANATOMIES[anatomy]), rows_of(9, 4, 7)
    seen = {name: [] for name in ("query", "key", "value", "o_proj")}
    rotary = []
    for layer in model.model.layers:
        block = layer.self_attn
        last = {
            "query": getattr(block, "q_norm", block.q_proj),
            "key": getattr(block, "k_norm", block.k_proj),
            "value": block.v_proj,
        }
        for name, module in last.items():
            module.register_forward_hook(lambda _m, _i, out, name=name: seen[name].append(out))
        layer.self_attn.o_proj.register_forward_pre_hook(lambda _, args: seen["o_proj"].append(args[0]))
        layer.self_attn.register_forward_pre_hook(
            lambda _m, _i, call: rotary.append(call["position_embeddings"]), with_kwargs=True
        )
    with linear_attention_model(model):
        states = hidden_states(model, rows)
    for q, k, v, out, turn in zip(*seen.values(), rotary, strict=True):
        q, k, v = (x.view(*x.shape[:2], -1, block.head_dim).transpose(1, 2) for x in (q, k, v))
        q, k = apply_rotary_pos_emb(q, k, *turn)
        expected = looped(q, k, v, rows.real).flatten(2)
        torch.testing.assert_close(out[rows.real], expected[rows.real], rtol=1e-10, atol=1e-10)
    with linear_attention_model(model):
        alone = hidden_states(model, Rows(rows.ids[1:2, :4], rows.lengths[1:2]))
    torch.testing.assert_close(states[1, :4], alone[0], rtol=1e-6, atol=1e-6)
    assert not torch.allclose(states[0], hidden_states(model, rows)[0], rtol=0.1, atol=0.1)


def causal(lengths, tokens):
    """The additive mask of right-padded rows, as eager attention gets it."""
    places = torch.arange(tokens)
    shown = (places[:, None] >= places) & (places < torch.tensor(lengths)[:, None, None])
    return torch.zeros(shown.shape).masked_fill(~shown, torch.finfo(torch.float32).min)[:, None], shown[:, -1]


def test_gradients_of_linear_attention_are_those_of_the_loop_and_of_finite_differences():
    mask, real = causal([5, 3], 5)
    tensors = [x.requires_grad_() for x in random_tensors((2, 4, 5, 3), (2, 2, 5, 3), (2, 2, 5, 2))]

    def forward(*qkv):
        return linear_attention_forward(nn.Identity(), *qkv, mask)[0]

    assert torch.autograd.gradcheck(forward, tensors)
    (weights,) = random_tensors((2, 5, 4, 2))
    found, expected = (
        torch.autograd.grad((out * weights).sum(), tensors) for out in (forward(*tensors), looped(*tensors, real))
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_linear_attention_refuses_what_would_be_silently_wrong():
    q, k, v = random_tensors((1, 4, 5, 3), (1, 2, 5, 3), (1, 2, 5, 3))
    mask, _ = causal([5], 5)
    with pytest.raises(ValueError, match="mask"):
        linear_attention_forward(nn.Identity(), q, k, v, None)
    with pytest.raises(ValueError, match="dropout"):
        linear_attention_forward(nn.Identity(), q, k, v, mask, dropout=0.1)
    model, rows = load_model("embedded", device="cpu").model, rows_of(6)
    prefix = encode_prefix(model, [np.arange(1, 9)])
    with linear_attention_model(model), pytest.raises(ValueError, match="prefix"):
        hidden_states(model, rows, prefix)


def test_the_old_attention_comes_back_when_a_block_fails():
    model, rows = tiny_model(), rows_of(6, 3)
    with torch.no_grad():
        before = hidden_states(model, rows)
        with pytest.raises(RuntimeError, match="inside"), linear_attention_model(model):
            assert model.config._attn_implementation == LINEAR_ATTENTION
            raise RuntimeError("inside")
        assert model.config._attn_implementation == "eager"
        assert torch.equal(hidden_states(model, rows), before)


class LinearSelfAttention(nn.Module):
    """One layer of linear self-attention over tokens (x_j, y_j) whose weights are a step of gradient descent.

    Von Oswald's construction: W_K and W_Q keep x, W_V makes (0, W_0 x - y), the projection multiplies by
    rate / examples. Every token attends to the examples, all but the last, and the result is added to it: y_j
    becomes y_j - ΔW x_j, with ΔW the step that gradient descent from W_0 makes on the squared error.
    """

    def __init__(self, start, rate, examples):
        super().__init__()
        outputs, inputs = start.shape
        keep = torch.zeros(inputs + outputs, inputs + outputs, dtype=start.dtype)
        keep[:inputs, :inputs] = torch.eye(inputs)
        residual = torch.zeros_like(keep)
        residual[inputs:, :inputs], residual[inputs:, inputs:] = start, -torch.eye(outputs)
        self.query = self.key = keep
        self.value, self.projection = residual, torch.eye(inputs + outputs, dtype=start.dtype) * rate / examples

    def forward(self, tokens):
        q, k, v = (tokens @ weight.T for weight in (self.query, self.key, self.value))
        mask = torch.zeros(1, 1, len(tokens), len(tokens))
        mask[..., -1] = -1
        out, _ = linear_attention_forward(self, q[None, None], k[None, None], v[None, None], mask)
        return tokens + out[0, :, 0] @ self.projection.T


def descended(weight, inputs, targets, rate, steps):
    """Gradient descent on the mean over examples of half the squared error, by autograd."""
    for _ in range(steps):
        weight = weight.detach().requires_grad_()
        loss = (inputs @ weight.T - targets).square().sum() / (2 * len(inputs))
        weight = weight - rate * torch.autograd.grad(loss, weight)[0]
    return weight.detach()


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("zero", [True, False], ids=["from zero", "from a random layer"])
def test_layers_of_linear_attention_are_steps_of_gradient_descent_on_linear_regression(steps, zero):
    inputs, teacher, start, query = random_tensors((20, 6), (3, 6), (3, 6), (6,))
    targets, start, rate = inputs @ teacher.T, start * (not zero), 0.3
    tokens = torch.cat([torch.cat([inputs, targets], dim=1), torch.cat([query, -start @ query])[None]])
    for _ in range(steps):
        tokens = LinearSelfAttention(start, rate, len(inputs))(tokens)
    weight = descended(start, inputs, targets, rate, steps)

    def error(found, expected):
        return ((found - expected).norm() / expected.norm()).item()

    assert error(-tokens[-1, 6:], weight @ query) <= 1e-12
    assert error(tokens[:-1, 6:], targets - inputs @ (weight - start).T) <= 1e-12
    assert torch.equal(tokens[:-1, :6], inputs)
    for other in (descended(start, inputs, targets, 1.1 * rate, steps), descended(start, inputs, targets, rate, 3)):
        assert error(-tokens[-1, 6:], other @ query) > 1e-2
