"""Who is attended, by kind of token: every token is of one kind, and the kinds add up to the whole."""

from dataclasses import replace

import pytest
import torch

from raydual.catalogue.parts import PARTS
from raydual.data.examples import Examples
from raydual.data.parts import BETWEEN, text_spans
from raydual.data.prompts import encode_demonstrations
from raydual.measure.seeds import SeedMeasurer
from raydual.model.loading import load_model
from raydual.model.passes import encode_prefix, hidden_states
from raydual.model.recording import PART_FIELDS, Recorder
from raydual.settings.task import Task

from .reference.parts import KINDS, token_kinds
from .reference.prompts import TaskSettings, in_context
from .test_equals_plain import prompts, study_of, sweep
from .tiny import LABELS, TEMPLATE, tiny_examples, tiny_tokenizer

QUERY = TEMPLATE.format(text="a dull film")


@pytest.mark.parametrize("separator", [" ", "\n", " \n\n", "\n###\n"])
@pytest.mark.parametrize("template", [TEMPLATE, "{text} =>", "Review:\n{text}\nIt was"])
def test_every_token_is_of_the_kind_that_plain_code_says(separator, template):
    tokenizer, pairs = tiny_tokenizer(), tiny_examples(6)
    task = Task(name="t", template=template, separator=separator, label_words=LABELS)
    examples = Examples(tuple(task.query({"text": text}) for text, _ in pairs), tuple(label for _, label in pairs))
    found = encode_demonstrations(tokenizer, task, examples, 0)
    texts = [f"{query} {LABELS[label]}" for query, label in zip(examples.queries, examples.labels, strict=True)]
    prompt = in_context(tokenizer, texts, separator, QUERY)
    parts = found.parts.followed_by(prompt.prefix_length - len(found.prefix))
    settings = TaskSettings(template=template, separator=separator, label_words=LABELS)
    assert PARTS == KINDS
    assert [PARTS[kind] for kind in parts.kind] == token_kinds(prompt, settings)
    between = [
        all(not (a < end and start < b) for start, end in prompt.demonstrations)
        for a, b in prompt.tokens.spans[: prompt.prefix_length]
    ]
    assert (parts.demonstration == BETWEEN).tolist() == between == (parts.kind == PARTS.index("separator")).tolist()
    assert found.parts.demonstration[found.first_index].tolist() == list(range(6))


def test_texts_are_found_where_the_template_was_filled():
    two = "{premise} Question: {hypothesis} True?"
    query = two.format(premise="It rains", hypothesis="wet {x}")
    assert [query[a:b] for a, b in text_spans(two, query)] == ["It rains", "wet {x}"]
    query = TEMPLATE.format(text="odd\nSentence: Label: it Label:")
    assert [query[a:b] for a, b in text_spans(TEMPLATE, query)] == ["odd\nSentence: Label: it Label:"]
    with pytest.raises(ValueError, match="is not the template"):
        text_spans(TEMPLATE, "another prompt")


@pytest.fixture(scope="module")
def split(tiny_directory):
    """(recorder, prefix) of a pass with padded prefixes and rows that records the whole and its parts."""
    task = {"name": "t", "template": TEMPLATE, "label_words": list(LABELS), "separator": " \n"}
    loaded = load_model(str(tiny_directory))
    config = sweep(tiny_directory, task=task)
    queries, sets = prompts(loaded, study_of(config, tiny_examples()))
    assert len({len(one.prefix) for one in sets}) > 1
    measurer = SeedMeasurer(loaded, queries, config)
    chunk = measurer.chunks[0]
    with torch.inference_mode():
        prefix = measurer.encode(sets)
        rows = chunk.in_context.repeat(len(sets))
        recorder = Recorder(("context_mass", "context_update", *PART_FIELDS), rows.last)
        hidden_states(loaded.model, rows, prefix, recorder)
    return loaded, rows, prefix, recorder


def test_masses_of_the_kinds_add_up_to_λ_and_their_updates_to_the_exact_one(split):
    _, _, _, recorder = split
    mass, update = recorder.result("part_mass"), recorder.result("part_update")
    assert (mass.mean(dim=(0, 1, 2)) > 0.01).all(), "there are tokens of every kind"
    torch.testing.assert_close(mass.sum(dim=-1), recorder.result("context_mass"), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(update.sum(dim=-2), recorder.result("context_update"), rtol=1e-4, atol=1e-5)


def test_kinds_of_other_tokens_give_other_parts(split):
    loaded, rows, prefix, recorder = split
    with torch.inference_mode():
        wrong = Recorder(PART_FIELDS, rows.last)
        hidden_states(loaded.model, rows, replace(prefix, kinds=prefix.kinds.roll(1, dims=1)), wrong)
    assert (wrong.result("part_mass") - recorder.result("part_mass")).abs().mean() > 0.01
    part = recorder.result("part_update")[..., :-1, :].sum(dim=-2)
    assert ((part - recorder.result("context_update")).norm() / part.norm()).item() > 0.01


def test_parts_of_a_prefix_that_does_not_say_what_its_tokens_are_are_refused(split):
    loaded, rows, prefix, _ = split
    with torch.inference_mode(), pytest.raises(ValueError, match="kinds"):
        plain = encode_prefix(loaded.model, [rows.ids[0, :5].numpy()])
        hidden_states(loaded.model, rows, plain, Recorder(("part_mass",), rows.last))


def test_parts_change_no_other_number(tiny_directory):
    loaded = load_model(str(tiny_directory))
    plain, switched = sweep(tiny_directory), sweep(tiny_directory, measures={"parts": True})
    queries, sets = prompts(loaded, study_of(plain, tiny_examples()))
    before, after = (SeedMeasurer(loaded, queries, config).measure(sets[:2]) for config in (plain, switched))
    names = {row["metric"] for row in before}
    assert repr([row for row in after if row["metric"] in names]) == repr(before)
    added = {row["metric"] for row in after} - names
    assert added == {
        f"{name}_{part}" for name in ("lambda", "update_share", "update_norm", "simdual") for part in PARTS
    }
    for seed in (0, 1):
        shares = [
            row["value"]
            for row in after
            if row["metric"].startswith("update_share") and row["layer"] == 1 and row["seed"] == seed
        ]
        assert len(shares) == len(PARTS)
        assert sum(shares) == pytest.approx(1, abs=1e-5)
    assert plain.fingerprint() != switched.fingerprint()
