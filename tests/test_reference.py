"""The oracle's own laws: it is what `transformers` computes, and its parts are what they say."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from .default_catalogue import CATALOGUE
from .reference import agreement, dual, metrics, ranks
from .reference.finetune import FinetuneSettings, finetune
from .reference.forward import block_inputs, label_scores, record, softmax
from .reference.prompts import TaskSettings, Tokens, aligned, demonstration, filled, in_context, tokenize
from .reference.seed import (
    OVERALL,
    MeasureSettings,
    context_weights,
    measure_seed,
    record_seed,
    training_vectors,
    values_of,
)
from .tiny import LABELS, label_ids, save_tiny, tiny_examples, tiny_model, tiny_tokenizer

TASK = TaskSettings(label_words=LABELS)
EXAMPLES = tiny_examples(40)
CHOSEN = [EXAMPLES[i] for i in (4, 2, 7)]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    return tiny_model(attention_bias=True, loud=label_ids(tokenizer))


def prompt_of(tokenizer, separator=" "):
    demonstrations = [demonstration(TASK, *example) for example in EXAMPLES[:5]]
    return demonstrations, in_context(tokenizer, demonstrations, separator, filled(TASK, EXAMPLES[30][0]))


def test_scores_are_those_of_output_attentions(model, tokenizer):
    prompt = prompt_of(tokenizer)[1]
    recorded = record(model, prompt.tokens.ids, prompt.prefix_length)
    with torch.no_grad():
        output = model(
            torch.tensor([prompt.tokens.ids]),
            output_attentions=True,
            output_hidden_states=True,
            use_cache=False,
        )
    scores = np.concatenate([recorded.scores_demo, recorded.scores_query], axis=2)
    weights = torch.stack([layer[0, :, -1] for layer in output.attentions]).numpy()
    np.testing.assert_allclose(softmax(scores), weights, atol=1e-6)
    assert weights.std() > 0.01  # not uniform, or the comparison shows little
    np.testing.assert_allclose(recorded.mass, weights[:, :, : prompt.prefix_length].sum(2), atol=1e-6)
    np.testing.assert_array_equal(recorded.logits, output.logits[0, -1].numpy())
    between = torch.stack([states[0, -1] for states in output.hidden_states[1:-1]]).numpy()
    np.testing.assert_array_equal(recorded.hidden[:-1], between)
    assert not np.allclose(recorded.hidden[-1], output.hidden_states[-1][0, -1])  # that one is normed


def test_attention_is_the_merge_of_its_two_parts(model, tokenizer):
    prompt = prompt_of(tokenizer)[1]
    recorded = record(model, prompt.tokens.ids, prompt.prefix_length)
    mass = recorded.mass[:, :, None]
    merged = (1 - mass) * recorded.o_own + mass * recorded.o_demo
    for i, layer in enumerate(model.model.layers):
        weight, bias = (
            layer.self_attn.o_proj.weight.detach().numpy(),
            layer.self_attn.o_proj.bias.detach().numpy(),
        )
        np.testing.assert_allclose(weight @ merged[i].ravel() + bias, recorded.attn_out[i], atol=1e-5)
        wrong = weight @ recorded.o_own[i].ravel() + bias
        assert not np.allclose(wrong, recorded.attn_out[i], atol=1e-2)


@pytest.mark.parametrize("separator", [" ", "\n", "\n\n", " ; "])
@pytest.mark.parametrize("keep_first", [False, True])
def test_aligned_tokens_hold_the_same_characters(tokenizer, separator, keep_first):
    demonstrations, prompt = prompt_of(tokenizer, separator)
    texts = [*demonstrations, filled(TASK, EXAMPLES[30][0])]
    for text, chars in zip(texts, [*prompt.demonstrations, prompt.query], strict=True):
        alone = tokenize(tokenizer, text)
        pairs = aligned(alone, prompt.tokens, chars, keep_first)
        assert [i for i, _ in pairs] == list(range(0 if keep_first else 1, len(alone.ids)))
        for i, j in pairs[keep_first:]:
            assert alone.ids[i] == prompt.tokens.ids[j]


def test_alignment_is_by_characters_not_by_index():
    alone = Tokens("abcd", [1, 2, 3], [(0, 1), (1, 3), (3, 4)])
    full = Tokens("x abcd", [9, 4, 5, 6, 7], [(0, 1), (1, 3), (3, 4), (4, 5), (5, 6)])
    assert aligned(alone, full, (2, 6), keep_first=True) == [(0, 1), (2, 4)]
    split = Tokens("é", [1, 2], [(0, 1), (0, 1)])
    assert aligned(split, split, (0, 1), keep_first=True) == [(0, 0), (1, 1)]


def test_a_label_word_of_several_tokens_scores_its_mean_log_probability(model, tokenizer):
    prompt = tokenize(tokenizer, filled(TASK, EXAMPLES[0][0]))
    word = "unconvincing"
    full = tokenize(tokenizer, prompt.text + " " + word).ids
    assert len(full) > len(prompt.ids) + 1
    with torch.no_grad():
        logs = model(torch.tensor([full])).logits[0].double().log_softmax(-1)
    expected = [logs[i - 1, full[i]].item() for i in range(len(prompt.ids), len(full))]
    assert label_scores(model, tokenizer, prompt, (word,), record(model, prompt.ids).logits)[0] == pytest.approx(
        np.mean(expected), abs=1e-5
    )


@pytest.mark.parametrize(
    "settings",
    [
        FinetuneSettings(learning_rate=0.05),
        FinetuneSettings(learning_rate=0.05, loss="label", projections=("v_proj",)),
        FinetuneSettings(optimizer="adamw", learning_rate=1e-2, epochs=2),
    ],
)
def test_finetuning_changes_the_chosen_projections_of_a_copy(model, tokenizer, settings):
    before = copy.deepcopy(model.state_dict())
    chosen = EXAMPLES[:5]
    tokens = [tokenize(tokenizer, demonstration(TASK, *example)) for example in chosen]
    tuned = finetune(model, tokens, settings, [len(filled(TASK, text)) for text, _ in chosen])
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name])
        changed = not torch.equal(tuned.model.state_dict()[name], before[name])
        assert changed == any(part in name for part in settings.projections), name
    assert len(tuned.losses) == 5 * settings.epochs
    with torch.no_grad():
        whole = model(torch.tensor([tokens[0].ids])).logits[0].log_softmax(-1)
    counted = range(len(tokens[0].ids) - 1) if settings.loss == "all" else [len(tokens[0].ids) - 2]
    expected = np.mean([-whole[i, tokens[0].ids[i + 1]].item() for i in counted])
    assert tuned.losses[0] == pytest.approx(expected, rel=1e-4)
    seen = record(model, tokens[0].ids).query
    assert np.allclose(tuned.records[0].query[:, -1], seen, atol=1e-5) == (settings.epochs == 1)
    later = record(model, tokens[4].ids).query
    assert not np.allclose(tuned.records[4].query[:, -1], later, atol=1e-4)


def test_kendall_counts_pairs():
    draw = np.random.default_rng(0)
    a, b = draw.integers(0, 5, 17), draw.integers(0, 5, 17)
    signs = [(np.sign(a[i] - a[j]), np.sign(b[i] - b[j])) for i, j in itertools.combinations(range(17), 2)]
    untied = [sum(pair[side] != 0 for pair in signs) for side in (0, 1)]
    expected = sum(x * y for x, y in signs) / math.sqrt(untied[0] * untied[1])
    assert metrics.kendall_tau(a, b) == pytest.approx(expected)
    assert metrics.kendall_tau(np.arange(9.0), -np.arange(9.0)) == pytest.approx(-1)
    assert math.isnan(metrics.kendall_tau(np.ones(9), np.arange(9.0)))


def test_the_simulated_null_tends_to_its_limit():
    draw = np.random.default_rng(0)
    zsl = draw.standard_normal((200, 1, 2003))
    icl, ft = (zsl + scale * draw.standard_normal(zsl.shape) for scale in (math.sqrt(3), 1.0))
    null = metrics.simaou_norm_matched(icl, zsl, ft, draw)
    assert null[0] == pytest.approx(metrics.norm_matched_limit(3, 1), abs=0.01)
    assert metrics.norm_matched_limit(3, 3) == pytest.approx(0.25)
    assert metrics.simaou(icl, zsl, ft, normalised=False)[0] == pytest.approx(0, abs=0.01)


def test_rec2ftp_reads_the_three_columns():
    zsl, icl, ft = [False, False, False, True], [True, False, True, True], [True, True, False, False]
    assert metrics.rec2ftp(zsl, icl, ft) == (50.0, 1, 2)
    assert math.isnan(metrics.rec2ftp([True], [True], [True])[0])


def test_recall_the_other_way_round_and_changed_predictions():
    zsl, icl, ft = [False, False, False, True], [True, True, True, True], [True, False, False, False]
    assert agreement.reverse_recall(zsl, icl, ft) == pytest.approx(100 / 3)
    assert agreement.reverse_recall(zsl, ft, icl) == metrics.rec2ftp(zsl, icl, ft)[0] == 100
    assert math.isnan(agreement.reverse_recall([True], [True], [False]))
    assert agreement.jaccard([0, 0, 1, 2], [1, 1, 1, 0], [0, 2, 1, 1]) == pytest.approx(2 / 3)
    assert math.isnan(agreement.jaccard([0, 1], [0, 1], [0, 1]))


def test_kappa_is_agreement_beyond_chance():
    icl, ft = [0, 0, 1, 1], [0, 1, 1, 1]
    assert agreement.agreement(icl, ft) == 0.75
    assert agreement.kappa(icl, ft) == pytest.approx((0.75 - 0.5) / (1 - 0.5))
    assert agreement.kappa(icl, icl) == 1
    assert agreement.kappa([0, 1], [1, 0]) == -1
    assert agreement.kappa([0, 0], [0, 1]) == 0
    assert math.isnan(agreement.kappa([2] * 3, [2] * 3))


def test_masses_of_demonstrations_are_softmax_sums_that_never_underflow():
    attention = np.random.default_rng(0).standard_normal((2, 9))
    pairs = [[(0, i) for i in range(n)] for n in (4, 0, 3, 2)]
    masses = np.exp(ranks.log_masses(attention, pairs))
    whole = softmax(attention)
    expected = np.stack([whole[:, :4].sum(1), [0, 0], whole[:, 4:7].sum(1), whole[:, 7:].sum(1)], axis=1)
    np.testing.assert_allclose(masses / masses.sum(1, keepdims=True), expected)
    far = ranks.log_masses(attention * 1e4, pairs)
    assert all(len(set(layer)) == 4 for layer in far)
    assert metrics.kendall_tau(far[0], far[0]) == pytest.approx(1)


def test_top_recall_counts_shared_places():
    a = np.array([5.0, 1.0, 4.0, 1.0, 0.0])
    assert ranks.largest(a, 3) == {0, 2, 1}
    assert ranks.top_recall(a, a, 2) == 1
    assert ranks.top_recall(a, -a, 2) == 0
    assert ranks.top_recall(a, np.zeros(5), 2) == 0.5
    assert math.isnan(ranks.top_recall(a, a, 5))


def tuned_on(model, tokenizer, count=3):
    chosen = EXAMPLES[:count]
    tokens = [tokenize(tokenizer, demonstration(TASK, *example)) for example in chosen]
    label_from = [len(filled(TASK, text)) for text, _ in chosen]
    return finetune(model, tokens, FinetuneSettings(learning_rate=0.05), label_from).model


def test_the_dual_updates_are_what_attention_changes(model, tokenizer):
    prompt = prompt_of(tokenizer)[1]
    ids, prefix = prompt.tokens.ids, prompt.prefix_length
    recorded, tuned = record(model, ids, prefix), tuned_on(model, tokenizer)
    alone = tokenize(tokenizer, filled(TASK, EXAMPLES[30][0])).ids
    for i, block in enumerate(block_inputs(model, ids)):
        attention = model.model.layers[i].self_attn
        scores = dual.scores_and_values(attention, attention, block)[0]
        np.testing.assert_allclose(scores[:, prefix:], recorded.scores_query[i], atol=1e-5)
        bias = attention.o_proj.bias.detach().numpy()
        without = dual.after_output(attention, recorded.o_own[i]) + bias
        np.testing.assert_allclose(
            dual.context_update(attention, block, prefix), recorded.attn_out[i] - without, atol=1e-5
        )
        assert not dual.tuning_update(attention, attention, block.since(prefix)).any()
    # The first layer's inputs are the same before and after fine-tuning, and so is its query.
    first, moved = (m.model.layers[0].self_attn for m in (model, tuned))
    expected = record(tuned, alone).attn_out[0] - record(model, alone).attn_out[0]
    assert np.abs(expected).max() > 1e-3
    found = dual.tuning_update(first, moved, block_inputs(model, alone)[0])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_relaxed_updates_are_linear_attention(model, tokenizer):
    prompt = prompt_of(tokenizer)[1]
    attention, other = (model.model.layers[i].self_attn for i in (1, 2))
    states = block_inputs(model, prompt.tokens.ids)[1].states
    whole, prefix = dual.outer_sum(attention, states), prompt.prefix_length
    parts = dual.outer_sum(attention, states[:prefix]) + dual.outer_sum(attention, states[prefix:])
    np.testing.assert_allclose(parts, whole)
    with torch.no_grad():
        key, value = (p(torch.tensor(states).float()).view(-1, 3, 10) for p in (attention.k_proj, attention.v_proj))
    query = np.random.default_rng(0).standard_normal(10)
    for head in range(3):
        paid = value[:, head].double().numpy().T @ (key[:, head].double().numpy() @ query)
        np.testing.assert_allclose(whole[head] @ query, paid, rtol=1e-4, atol=1e-4)
    assert not np.allclose(whole, dual.outer_sum(other, states))


def test_weights_on_the_query_are_what_the_demonstrations_leave(model, tokenizer):
    settings = FinetuneSettings(learning_rate=0.05)
    kept = MeasureSettings(keep_first_token=True)
    seed = record_seed(model, tokenizer, CHOSEN, EXAMPLES[30:32], TASK, settings, kept)
    for example in seed.examples:
        assert len(example.query_pairs) == len(example.alone.ids)
        left = context_weights(example).sum(axis=2)
        np.testing.assert_allclose(left, 1 - example.recordings["icl"].mass, atol=1e-6)
    first = block_inputs(model, seed.demonstrations[0].ids)
    for layer, vectors in enumerate(training_vectors(seed, "attn_in")[0]):
        np.testing.assert_allclose(vectors, first[layer].states, atol=1e-5)


def test_measure_seed_gives_every_number_of_the_catalogue(model, tokenizer):
    settings = FinetuneSettings(learning_rate=0.05)
    arguments = (model, tokenizer, EXAMPLES[:30], EXAMPLES[30:], TASK, 3, 16, settings)
    values = measure_seed(*arguments)
    expected = {
        (metric.name, condition, layer)
        for metric in CATALOGUE.values()
        if not metric.switch
        for condition in metric.conditions_with_labels(len(LABELS))
        for layer in ((OVERALL, 0, 1, 2) if metric.per_layer else (OVERALL,))
    }
    assert set(values) == expected
    recalls = {(name, "icl-ft", OVERALL) for name in ("rec2ftp", "reverse_recall")}
    undefined = {key for key, value in values.items() if math.isnan(value)} - recalls
    # In the first layer ":" outweighs all other tokens in every demonstration alike: see `ranks.log_masses`.
    assert undefined == {("delta_simam", "icl-ft", 0), ("kendall_example", "icl-ft", 0)}
    for (name, *_), value in values.items():
        low, high = CATALOGUE[name].bounds
        assert math.isnan(value) or (low or 0) - 1e-9 <= value <= (math.inf if high is None else high) + 1e-9
    assert values == pytest.approx(measure_seed(*arguments), nan_ok=True)
    assert values["greedy_accuracy", "icl", OVERALL] > 0
    assert values["simam", "icl-zsl", 0] == pytest.approx(1)
    assert values["simam_softmax", "icl-zsl", 0] == pytest.approx(1, abs=1e-12)
    few = measure_seed(model, tokenizer, EXAMPLES[:30], EXAMPLES[30:32], TASK, 3, 5, settings)
    assert few.keys() == values.keys()
    assert math.isnan(few["topk_example", "icl-ft", OVERALL])


def test_without_a_step_fine_tuning_is_zero_shot(model, tokenizer):
    settings = FinetuneSettings(learning_rate=0.0)
    recorded = record_seed(model, tokenizer, CHOSEN, EXAMPLES[30:33], TASK, settings)
    values = values_of(recorded, MeasureSettings(), np.random.default_rng(0))
    assert values["update_norm", "ft", OVERALL] == 0
    assert math.isnan(values["simaou", "icl-ft", OVERALL])
    for name in ("simam", "simam_softmax"):
        assert values[name, "icl-ft", 1] == values[name, "icl-zsl", 1]
    for name in ("simdual", "simdw", "delta_simam_softmax"):
        assert math.isnan(values[name, "icl-ft", OVERALL])


def test_a_saved_model_loads_as_it_was(tmp_path, tokenizer):
    save_tiny(tmp_path, seed=5)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    for a, b in zip(loaded.parameters(), tiny_model(5).parameters(), strict=True):
        assert torch.equal(a, b)
    fast = AutoTokenizer.from_pretrained(tmp_path)
    assert fast.eos_token == fast.pad_token == "<|endoftext|>"
    for text, label in EXAMPLES:
        whole = demonstration(TASK, text, label)
        assert tokenize(fast, whole) == tokenize(tokenizer, whole)
