"""No token is misplaced: prompts, label words and demonstrations against the text tokenized whole."""

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers, trainers

from raydual.data.examples import Examples
from raydual.data.prompts import encode_demonstrations, encode_queries, label_tokens
from raydual.data.tokens import encode
from raydual.settings.task import Task, builtin_tasks

from .test_tasks import told
from .tiny import LABELS, TEMPLATE, tiny_texts, tiny_tokenizer

few = settings(max_examples=25, deadline=None)


QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def qwen_like() -> tokenizers.Tokenizer:
    """Qwen's normaliser and its way to cut a text into words; its vocabulary has seen whole prompts."""
    tokenizer = tiny_tokenizer([" ".join(tiny_texts()[i : i + 3]) for i in range(0, 120, 3)])
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(tokenizers.Regex(QWEN_WORDS), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    return tokenizer


def greedy_merges() -> tokenizers.Tokenizer:
    """A tokenizer whose tokens run across words."""
    tokenizer = tiny_tokenizer()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=701, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(tiny_texts(), trainer)
    return tokenizer


TOKENIZERS = {"gpt2": tiny_tokenizer(), "qwen": qwen_like()}
each_tokenizer = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
each_separator = pytest.mark.parametrize("separator", [" ", "\n", "\n\n"], ids=["space", "newline", "two newlines"])
words = st.sampled_from(
    ["lovely", "dull", "café", "naïve", "映画", "👍🏽", "e\u0301", "it 's", "{x}", "1999", ". . .", "a\nb"]
)
texts = st.one_of(
    st.lists(words, min_size=1, max_size=6).map(" ".join),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).map(str.strip).filter(bool),
)
labelled = st.lists(st.tuples(texts, st.integers(0, 1)), min_size=1, max_size=5)


def examples(rows) -> Examples:
    return Examples(tuple(TEMPLATE.format(text=text) for text, _ in rows), tuple(label for _, label in rows))


def task_with(**over) -> Task:
    return Task.model_validate({**builtin_tasks()["sst2"], **over})


def whole_prompt(task: Task, demonstrations: Examples) -> str:
    pairs = zip(demonstrations.queries, demonstrations.labels, strict=True)
    return task.separator.join(f"{query} {task.label_words[label]}" for query, label in pairs)


@each_tokenizer
@each_separator
@few
@given(demonstrations=labelled, validation=labelled)
def test_prefix_separator_and_query_are_the_tokens_of_the_whole_text(tokenizer, separator, demonstrations, validation):
    demonstrations, validation = examples(demonstrations), examples(validation)
    task = task_with(separator=separator)
    prefix = encode_demonstrations(tokenizer, task, demonstrations, seed=0).prefix
    queries = encode_queries(tokenizer, task, validation)
    assert len(queries) == len(validation)
    for query, alone, following in zip(validation.queries, queries.alone, queries.in_context, strict=True):
        whole, by_itself = encode(tokenizer, [whole_prompt(task, demonstrations) + separator + query, query])
        assert [*prefix, *queries.separator, *following] == whole.ids.tolist()
        assert alone.tolist() == by_itself.ids.tolist()
    longest = max(map(len, queries.alone + queries.in_context))
    assert queries.longest >= longest


@each_tokenizer
@each_separator
@pytest.mark.parametrize("keep_first", [False, True])
@few
@given(validation=labelled)
def test_aligned_tokens_are_the_same_text_at_the_same_place(tokenizer, separator, keep_first, validation):
    validation = examples(validation)
    queries = encode_queries(tokenizer, task_with(separator=separator), validation, keep_first)
    for i, query in enumerate(validation.queries):
        alone, after = queries.aligned_alone[i], queries.aligned_in_context[i]
        assert (queries.alone[i][alone][1:] == queries.in_context[i][after][1:]).all()
        assert (np.diff(alone) > 0).all()
        assert (np.diff(after) > 0).all()
        # Counted from the end, a token has the same place in both: only the first can be cut otherwise.
        assert (len(queries.alone[i]) - alone == len(queries.in_context[i]) - after).all()
        assert len(alone) >= len(encode(tokenizer, [query])[0]) - (2 - keep_first)
        assert (0 in alone) == (0 in after) == keep_first


def test_a_separator_that_joins_the_first_word_leaves_no_token_to_the_prefix():
    validation = Examples((TEMPLATE.format(text="dull"),), (0,))
    by_space = encode_queries(TOKENIZERS["qwen"], task_with(separator=" "), validation)
    by_line = encode_queries(TOKENIZERS["qwen"], task_with(separator="\n"), validation)
    assert (len(by_space.separator), len(by_line.separator)) == (0, 1)
    assert by_line.in_context[0].tolist() == by_line.alone[0].tolist()


def test_label_tokens_are_the_words_with_their_space():
    tokenizer = TOKENIZERS["gpt2"]
    found = label_tokens(tokenizer, task_with(label_words=["positives", "negative"]))
    assert [[tokenizer.id_to_token(token) for token in word] for word in found] == [
        ["Ġpositive", "s"],
        ["Ġnegative"],
    ]
    one, two = (
        encode_queries(tokenizer, task_with(label_words=words), Examples((TEMPLATE.format(text="dull"),), (0,)))
        for words in (["negative", "positive"], ["negative", "positives"])
    )
    assert two.longest == one.longest + 1


def test_label_words_that_share_their_first_token_are_refused():
    message = told(label_tokens, TOKENIZERS["gpt2"], task_with(label_words=["great", "bad", "greatly"]))
    assert "'great' and 'greatly' share their first token ('Ġgreat')" in message


def test_label_words_and_separators_that_merge_with_what_is_before_them_are_refused():
    merging = greedy_merges()
    assert "merges 'negative' with the prompt before it" in told(label_tokens, merging, task_with())
    validation = Examples(("Label: it",), (0,))
    task = task_with(template="{text}", separator="")
    joining = tiny_tokenizer(["x positiveLabel"] * 50)
    message = told(encode_queries, joining, task, validation)
    assert "merges characters across the boundary" in message
    assert "task.separator: with ''" in message


@pytest.mark.parametrize(("by", "separator"), [("normalizer", " "), ("normalizer", "\n"), ("pre_tokenizer", "\n")])
def test_a_tokenizer_that_puts_a_space_before_every_text_is_refused(by, separator):
    like_llama_2 = tokenizers.Tokenizer(models.BPE())
    if by == "normalizer":
        like_llama_2.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        like_llama_2.pre_tokenizer = pre_tokenizers.Metaspace()
    like_llama_2.train_from_iterator(tiny_texts(), trainers.BpeTrainer(vocab_size=300, show_progress=False))
    validation = Examples((TEMPLATE.format(text="dull"),), (0,))
    message = told(encode_queries, like_llama_2, task_with(separator=separator), validation)
    assert "model: its tokenizer puts a space before every text (as Llama 2's does)" in message


@each_tokenizer
@each_separator
@pytest.mark.parametrize("keep_first", [False, True])
@few
@given(demonstrations=labelled)
def test_paired_demonstration_tokens_are_the_same_characters(tokenizer, separator, keep_first, demonstrations):
    task, demonstrations = task_with(separator=separator), examples(demonstrations)
    found = encode_demonstrations(tokenizer, task, demonstrations, 7, keep_first)
    texts = [whole_prompt(task, demonstrations.take([i])) for i in range(len(demonstrations))]
    whole, *alone = encode(tokenizer, [separator.join(texts), *texts])
    starts = [len(separator.join([*texts[:i], ""])) for i in range(len(texts))]
    assert found.seed == 7
    assert found.prefix.tolist() == whole.ids.tolist()
    assert [ids.tolist() for ids in found.examples] == [tokens.ids.tolist() for tokens in alone]
    assert (np.diff(found.prefix_index) > 0).all()
    for place, example, token in zip(found.prefix_index, found.example_index, found.token_index, strict=True):
        span, start = alone[example].spans[token] + starts[example], starts[example]
        assert max(whole.spans[place][0], start) == span[0]
        assert whole.spans[place][1] == span[1]
        assert token == 0 or found.prefix[place] == found.examples[example][token]
    for example, tokens in enumerate(alone):
        own = found.token_index[found.example_index == example]
        assert (0 in own) == keep_first
        # No token but the first can be cut otherwise in the prompt.
        assert set(range(1, len(tokens))) <= set(own.tolist())


@each_tokenizer
@few
@given(demonstrations=labelled)
def test_label_masks_mark_the_label_word_and_nothing_else(tokenizer, demonstrations):
    task, demonstrations = task_with(), examples(demonstrations)
    found = encode_demonstrations(tokenizer, task, demonstrations, 0)
    for ids, mask, label in zip(found.examples, found.label_masks, demonstrations.labels, strict=True):
        assert tokenizer.decode(ids[mask].tolist()) == " " + LABELS[label]
        assert mask.tolist() == sorted(mask.tolist())
