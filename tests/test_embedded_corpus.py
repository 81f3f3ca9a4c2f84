"""The embedded corpus and model: rewritten bit for bit from the seed, fair, small, and readable without pickle."""

import json
from collections import Counter

import pytest

from raydual.embedded import MODEL_DIR, REVIEWS_DIR, SPLITS, TASKS, corpus, reviews_file

LABEL_WORDS = {"sst2": ("negative", "positive"), "sst5": ("terrible", "bad", "neutral", "good", "great")}
MEBIBYTE = 2**20


def rows(task: str, split: str) -> list[tuple[str, int]]:
    key = "sentence" if task == "sst2" else "text"
    lines = reviews_file(task, split).read_text(encoding="utf-8").splitlines()
    return [(row[key], row["label"]) for row in map(json.loads, lines)]


def test_the_generator_rewrites_the_shipped_files_bit_for_bit(tmp_path):
    corpus.write(corpus.CorpusConfig(), tmp_path)
    for task in TASKS:
        for split in SPLITS:
            name = f"{task}/{split}.jsonl"
            assert (tmp_path / name).read_bytes() == (REVIEWS_DIR / name).read_bytes()


def test_another_seed_writes_other_reviews():
    small = {"train_rows": 20, "validation_rows": 10}
    assert corpus.build(corpus.CorpusConfig(seed=1, **small)) != corpus.build(corpus.CorpusConfig(seed=2, **small))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("task", TASKS)
def test_labels_are_balanced(task, split):
    counts = Counter(label for _, label in rows(task, split))
    assert sorted(counts) == list(range(len(LABEL_WORDS[task])))
    assert len(set(counts.values())) == 1


def test_no_review_occurs_twice_in_any_file():
    texts = [text.removesuffix(" .") for task in TASKS for split in SPLITS for text, _ in rows(task, split)]
    assert len(texts) == len(set(texts))


def test_reviews_keep_to_the_configured_length_and_hold_no_label_word():
    config = corpus.CorpusConfig()
    words = {word for group in LABEL_WORDS.values() for word in group}
    for task in TASKS:
        for split in SPLITS:
            for text, _ in rows(task, split):
                assert config.min_words <= len(text.split()) <= config.max_words
                assert not words & set(text.split())


def test_an_unknown_task_or_split_is_named_in_the_error():
    with pytest.raises(ValueError, match="'imdb'.*sst2, sst5"):
        reviews_file("imdb", "train")
    with pytest.raises(ValueError, match="'test'.*train, validation"):
        reviews_file("sst2", "test")


@pytest.fixture(scope="module")
def tokenizer():
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(MODEL_DIR)


def test_label_words_are_single_tokens_that_differ(tokenizer):
    for words in LABEL_WORDS.values():
        ids = [tokenizer.encode(f" {word}", add_special_tokens=False) for word in words]
        assert all(len(word) == 1 for word in ids)
        assert len({word[0] for word in ids}) == len(words)


def test_the_tokenizer_adds_nothing_and_encodes_any_text(tokenizer):
    text = "Sentence: a naïve café – 映画 🎬\n Label: good"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode(text) == ids


def test_every_word_of_the_reviews_is_one_token(tokenizer):
    words = {word for task in TASKS for split in SPLITS for text, _ in rows(task, split) for word in text.split()}
    split_up = [word for word in sorted(words) if len(tokenizer.encode(f" {word}", add_special_tokens=False)) > 1]
    assert not split_up


def test_the_model_loads_as_a_small_grouped_query_qwen3():
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL_DIR)
    assert isinstance(model, transformers.Qwen3ForCausalLM)
    assert model.config.model_type == "qwen3"
    assert model.config.num_hidden_layers >= 4
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    assert model.config.max_position_embeddings >= 2048
    assert set(model.config.layer_types) == {"full_attention"}


def test_the_model_is_small_and_holds_no_pickle():
    files = [path for path in MODEL_DIR.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 8 * MEBIBYTE
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".txt", ".jinja"}
