"""Models with a few thousand random weights, a tokenizer trained on a few sentences, and the sentences."""

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

VOCABULARY = 701
END = "<|endoftext|>"
LABELS = ("negative", "positive")
TEMPLATE = "Sentence: {text} Label:"
BASE = "name: s\ntask: sst2\ndata: embedded\nseeds: 10\n"
"""A sweep file."""

FAMILIES = {
    "qwen3": {"hidden_size": 23, "head_dim": 10},
    "llama": {"hidden_size": 24, "head_dim": 10},
    "qwen2": {"hidden_size": 24},
}
"""Sizes of each family's tiny model. Where no `head_dim` is named, heads are as wide as the hidden size allows."""
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
"""Positions as Llama 3 scales them."""
ANATOMIES: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "qwen3 with biases": {"attention_bias": True},
    "tied llama": {"family": "llama", "tie_word_embeddings": True},
    "llama with biases": {
        "family": "llama", "attention_bias": True, "mlp_bias": True, "head_dim": 4,
        "rope_parameters": LLAMA3 | {"rope_theta": 1e4},
    },
    "qwen2": {"family": "qwen2"},
    "tied qwen2 of wide heads": {
        "family": "qwen2", "tie_word_embeddings": True, "head_dim": 10,
        "rope_parameters": {
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 1e4,
        },
    },
}  # fmt: skip
"""What of a family's anatomy may differ from model to model, as arguments of `tiny_model`."""

_ADJECTIVES = (
    ("dull", "awful", "weak", "boring", "clumsy", "lifeless"),
    ("lovely", "great", "warm", "funny", "moving", "brilliant"),
)
_NOUNS = ("film", "story", "plot", "cast", "music", "ending", "script", "café scene", "humour")
_OPENERS = ("honestly", "overall", "frankly", "in short", "somehow")
_FILLERS = ("and", "with", "the", "very", "quite", "a", "in", "its", "but", "never", "always", "until")


def tiny_examples(count: int = 120, seed: int = 0) -> list[tuple[str, int]]:
    """(sentence, label) pairs: 1 to 12 words, the labels in turn; the same for the same seed."""
    draw = random.Random(seed)
    return [(_sentence(draw, i % 2, 1 + i % 12), i % 2) for i in range(count)]


def _sentence(draw: random.Random, label: int, words: int) -> str:
    kinds = (_ADJECTIVES[label], _NOUNS, _FILLERS, _FILLERS)
    chosen = [draw.choice(_ADJECTIVES[label])]
    if words > 2:
        chosen.insert(0, draw.choice(_OPENERS))
    while len(chosen) < words:
        chosen.append(draw.choice(kinds[draw.randrange(len(kinds))]))
    return " ".join(" ".join(chosen).split()[:words]) + draw.choice(("", " .", "!"))


def tiny_texts() -> list[str]:
    """The texts that the default tokenizer is trained on: the sentences in the template, with label words."""
    words = (*LABELS, "terrible", "bad", "neutral", "good", "great")
    sentences = [TEMPLATE.format(text=text) for text, _ in tiny_examples()]
    return [sentence + " " + words[i % len(words)] for i, sentence in enumerate(sentences)]


def tiny_tokenizer(texts: Iterable[str] | None = None, vocabulary: int = VOCABULARY) -> Tokenizer:
    """A byte-level BPE like Qwen's, with every byte, trained on the texts (default `tiny_texts`)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(tiny_texts() if texts is None else texts, trainer)
    return tokenizer


def label_ids(tokenizer: Tokenizer, words: Iterable[str] = LABELS) -> list[int]:
    """First token of each label word with its leading space, for `loud`."""
    return [tokenizer.encode(" " + word).ids[0] for word in words]


def tiny_config(layers: int = 3, family: str = "qwen3", **over: Any) -> PreTrainedConfig:
    """Sizes pairwise different, so that a mixed-up axis shows; 3 key/value heads, 2 query heads for each."""
    settings = {
        "vocab_size": VOCABULARY,
        "intermediate_size": 29,
        "num_hidden_layers": layers,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "max_position_embeddings": 2048,
        "attn_implementation": "eager",
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    return AutoConfig.for_model(family, **{**settings, **FAMILIES[family], **over})


def tiny_model(
    seed: int = 0,
    layers: int = 3,
    dtype: torch.dtype = torch.float32,
    std: float = 0.3,
    loud: Sequence[int] = (),
    **over: Any,
) -> PreTrainedModel:
    """A random model in eval mode; `over` goes to `tiny_config`. Norm weights are scattered about 1.

    The tokens `loud` have large output weights, so that the arg-max over the vocabulary is often one of them.
    The weights are drawn in float32 by a generator of its own, so a seed gives the same ones in every dtype.
    """
    model = AutoModelForCausalLM.from_config(tiny_config(layers, **over), attn_implementation="eager")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * std
            parameter.copy_(1 + noise if "norm" in name else noise)
        model.lm_head.weight[list(loud)] *= 4
    return model.to(dtype).eval()


def save_tiny(directory: str | Path, seed: int = 0, texts: Iterable[str] | None = None, **over: Any) -> Path:
    """Write a whole model directory: config, weights, tokenizer; `over` goes to `tiny_model`."""
    directory = Path(directory)
    tiny_model(seed, **over).save_pretrained(directory)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer(texts),
        eos_token=END,
        pad_token=END,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(directory)
    return directory
