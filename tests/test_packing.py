"""Rows without their padding: the same states, attention and recordings as padded rows."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from raydual.catalogue.parts import PARTS
from raydual.measure.weight_updates import QueryInputs
from raydual.model import attention, kernels
from raydual.model.attention import Prefix, dual_attention
from raydual.model.packing import Packing
from raydual.model.passes import Rows, encode_prefix, hidden_states, states_at
from raydual.model.recording import ATTENTION_FIELDS, MODULE_FIELDS, Recorder
from raydual.one_seed.laboratory import Laboratory

from .tiny import ANATOMIES, VOCABULARY, tiny_model

LENGTHS = (9, 4, 7, 1)


def rows_of(*lengths, times=1):
    rng = np.random.default_rng(1)
    rows = [rng.integers(1, VOCABULARY, n) for n in lengths]
    return Rows.pad(rows, torch.device("cpu")).repeat(times)


def prefix_of(model, rng):
    prefix = encode_prefix(model, [rng.integers(1, VOCABULARY, n) for n in (6, 11)])
    return replace(prefix, kinds=torch.as_tensor(rng.integers(0, len(PARTS), (2, 11))))


def test_what_is_packed_and_unpacked_is_the_same_where_tokens_are_real():
    rows = rows_of(*LENGTHS)
    packing = rows.packing
    x = torch.randn(len(LENGTHS), 3, max(LENGTHS), 5)
    packed = packing.pack(x)
    assert packed.shape == (1, 3, sum(LENGTHS), 5)
    assert torch.equal(packed[0].transpose(0, 1), x.transpose(1, 2)[rows.real])
    again = packing.unpack(packed)
    assert torch.equal(again.transpose(1, 2)[rows.real], x.transpose(1, 2)[rows.real])
    assert torch.equal(packing.pack(again), packed)
    assert packing.place.tolist() == rows.real.flatten().nonzero()[:, 0].tolist()


@torch.inference_mode()
@pytest.mark.parametrize("in_context", [False, True])
@pytest.mark.parametrize("anatomy", ["qwen3", "llama with biases"])
def test_a_packed_pass_gives_and_records_what_a_padded_one_does(anatomy, in_context):
    model = tiny_model(**ANATOMIES[anatomy])
    rows = rows_of(*LENGTHS, times=2)
    fields = MODULE_FIELDS + (ATTENTION_FIELDS if in_context else ("scores_query",))
    found, expected = (Recorder(fields, rows.last) for _ in range(2))
    with dual_attention(model):
        rng = np.random.default_rng(2)
        prefix = prefix_of(model, rng) if in_context else None
        places = torch.stack([torch.zeros_like(rows.last), rows.last], dim=1)
        states = states_at(model, rows, places, prefix, found)
        padded = hidden_states(model, rows, prefix, expected)
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(states, padded[torch.arange(len(rows.ids))[:, None], places], **close)
    for name in fields:
        torch.testing.assert_close(found.result(name), expected.result(name), **close)


def plain_varlen(query, key, value, query_ends, key_ends, *longest, return_aux, scale, window_size, **options):
    """What `torch.nn.attention.varlen.varlen_attn` is asked for, one sequence and head at a time."""
    assert return_aux.lse
    assert options == {"enable_gqa": True, "num_splits": 1, "seqused_k": options["seqused_k"]}
    assert query_ends.dtype == key_ends.dtype == torch.int32
    shared = query.shape[1] // key.shape[1]
    out, log_mass = torch.zeros_like(query), torch.zeros(query.shape[1], len(query))
    for number in range(len(query_ends) - 1):
        (a, b), (c, d) = query_ends[number : number + 2].tolist(), key_ends[number : number + 2].tolist()
        assert b - a <= longest[0]
        assert d - c <= longest[1]
        used = d - c if options["seqused_k"] is None else int(options["seqused_k"][number])
        for head in range(query.shape[1]):
            k, v = (x[c : c + used, head // shared] for x in (key, value))
            scores = scale * query[a:b, head] @ k.T
            if window_size == (-1, 0):
                scores = scores.masked_fill(torch.ones(b - a, used).triu(1 + used - (b - a)).bool(), -torch.inf)
            log_mass[head, a:b] = scores.logsumexp(-1)
            out[a:b, head] = scores.softmax(-1) @ v
    return out, log_mass


@torch.inference_mode()
@pytest.mark.parametrize("anatomy", ["qwen3", "llama with biases"])
def test_the_kernel_of_a_gpu_is_asked_for_what_the_others_compute(anatomy, monkeypatch):
    model = tiny_model(**ANATOMIES[anatomy])
    rows, rng = rows_of(*LENGTHS, times=2), np.random.default_rng(2)
    fields = MODULE_FIELDS + ATTENTION_FIELDS
    found, expected = (Recorder(fields, rows.last) for _ in range(2))
    with dual_attention(model):
        prefix = prefix_of(model, rng)
        states_at(model, rows, rows.last[:, None], prefix, expected)
        monkeypatch.setattr(attention, "varlen_serves", lambda *_: True)
        monkeypatch.setattr(kernels, "varlen_attn", plain_varlen)
        states_at(model, rows, rows.last[:, None], prefix, found)
    for name in fields:
        torch.testing.assert_close(found.result(name), expected.result(name), rtol=1e-4, atol=1e-5)


def test_lambda_is_what_an_indicator_of_the_demonstrations_among_the_values_averages_to():
    torch.manual_seed(0)
    query, key = torch.randn(1, 4, 5, 8), torch.randn(1, 2, 5, 8)
    demonstrations = torch.randn(1, 2, 7, 8)
    prefix = Prefix((demonstrations,), (torch.ones(1, 2, 7, 8),), torch.tensor([7]))
    packing = Packing.of(torch.tensor([5]), 5)
    own = attention.attend_packed(query, key, torch.zeros(1, 2, 5, 8), packing, 0.3)
    context = attention.attend_prefix(query, prefix, 0, 0.3)
    share = torch.sigmoid(context.log_mass - own.log_mass)
    merged = torch.lerp(own.out, context.out, share[..., None])
    both = torch.cat([demonstrations, key], dim=2).repeat_interleave(2, dim=1)
    scores = 0.3 * query @ both.mT
    hidden = torch.cat([torch.zeros(5, 7), torch.ones(5, 5).triu(1)], dim=1).bool()
    expected = scores.masked_fill(hidden, -torch.inf).softmax(-1)[..., :7].sum(-1)
    torch.testing.assert_close(merged[..., 0], expected)
    torch.testing.assert_close(share, expected)


SERVED = {"dtype": torch.bfloat16, "width": 64, "device": "cuda", "capability": (9, 0)}


@pytest.mark.parametrize(
    ("changed", "serves"),
    [
        ({}, True),
        ({"width": 256, "capability": (8, 0), "dtype": torch.float16}, True),
        ({"dtype": torch.float32}, False),
        ({"width": 20}, False),
        ({"width": 264}, False),
        ({"capability": (7, 5)}, False),
        ({"device": "cpu"}, False),
    ],
)
def test_what_the_kernel_does_not_serve_takes_the_plain_way(changed, serves, monkeypatch):
    case = SERVED | changed
    monkeypatch.setattr(kernels, "_capability", lambda _: case["capability"])
    assert kernels.varlen_serves(torch.device(case["device"]), case["dtype"], case["width"]) is serves


@torch.inference_mode()
def test_a_row_sees_neither_other_rows_nor_what_follows():
    model = tiny_model()
    rows = rows_of(*LENGTHS)
    with dual_attention(model):
        before = states_at(model, rows, rows.last[:, None])
        ids = rows.ids.clone()
        ids[0, 5:] = (ids[0, 5:] + 1) % VOCABULARY
        changed = Rows(ids, rows.lengths)
        after = states_at(model, changed, rows.last[:, None])
        first = [states_at(model, one, torch.full((4, 1), 0)) for one in (rows, changed)]
    assert torch.equal(before[1:], after[1:])
    assert not torch.allclose(before[0], after[0])
    assert torch.equal(*first)


def test_padding_goes_through_no_layer():
    model = tiny_model()
    seen = []
    model.model.layers[0].mlp.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].shape[:2]))
    rows = rows_of(*LENGTHS)
    with dual_attention(model), torch.inference_mode():
        states_at(model, rows, rows.last[:, None])
    assert seen == [(1, sum(LENGTHS))]


def test_query_inputs_are_made_once_or_where_memory_does_not_hold_them_each_time():
    laboratory = Laboratory(
        {"task": "sst2", "demonstrations": 4, "split": {"measured": 5}, "execution": {"batch_size": 3}}
    )
    measurer = laboratory.seed_measurer

    def found(most, times):
        inputs, passes = QueryInputs(measurer.model, measurer.chunks, most), []
        handle = measurer.model.model.register_forward_hook(lambda *_: passes.append(1))
        with torch.inference_mode():
            values = [inputs.of(chunk) for chunk in measurer.chunks for _ in range(times)]
        handle.remove()
        return values, len(passes)

    kept, once = found(None, 2)
    made, each = found(10, 2)
    assert (once, each) == (len(measurer.chunks), 2 * len(measurer.chunks)) == (2, 4)
    assert all(torch.equal(a, b) for one, two in zip(kept, made, strict=True) for a, b in zip(one, two, strict=True))
