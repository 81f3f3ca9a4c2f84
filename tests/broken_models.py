"""Ways to break a model's directory, and the line that tells of each: by the headers of its files alone."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from .tiny import ANATOMIES

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
KEYS = "model.layers.1.self_attn.k_proj.weight"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
KINDS = ANATOMIES | {"plain": {}, "tied": {"tie_word_embeddings": True}, "biased": {"attention_bias": True}}
Change = Callable[[Path], object]


def weights(change: Callable[[dict], object]) -> Change:
    """Change the weights; a mapping that `change` returns takes their place."""

    def apply(model: Path) -> None:
        found = load_file(model / SINGLE)
        changed = change(found)
        save_file(changed if isinstance(changed, dict) else found, model / SINGLE, metadata={"format": "pt"})

    return apply


def config(*without: str, **over) -> Change:
    """Change the config, and leave keys out of it."""

    def apply(model: Path) -> None:
        found = json.loads((model / "config.json").read_text()) | over
        (model / "config.json").write_text(json.dumps({k: v for k, v in found.items() if k not in without}))

    return apply


def content(name: str, change: bytes | Callable[[bytes], bytes]) -> Change:
    def apply(model: Path) -> None:
        path = model / name
        path.write_bytes(change if isinstance(change, bytes) else change(path.read_bytes()))

    return apply


def sharded(then: Change = lambda model: None) -> Change:
    """The weights in two files and an index, as large models have them."""

    def apply(model: Path) -> None:
        found = load_file(model / SINGLE)
        (model / SINGLE).unlink()
        names = sorted(found)
        parts = dict(zip(SHARDS, (names[:9], names[9:]), strict=True))
        for file, part in parts.items():
            save_file({name: found[name] for name in part}, model / file, metadata={"format": "pt"})
        index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
        (model / INDEX).write_text(json.dumps(index))
        then(model)

    return apply


def pipe(name: str) -> Change:
    def apply(model: Path) -> None:
        (model / name).unlink()
        os.mkfifo(model / name)

    return apply


def narrow(found: dict) -> None:
    found.update({name: found[name][:50].contiguous() for name in (EMBEDDING, HEAD)})


def both(*changes: Change) -> Change:
    return lambda model: [change(model) for change in changes]


def header(change: Callable[[dict], object]) -> Change:
    """Change the header of the weights and leave the numbers as they are."""

    def apply(raw: bytes) -> bytes:
        end = 8 + int.from_bytes(raw[:8], "little")
        found = json.loads(raw[8:end])
        change(found)
        text = json.dumps(found).encode()
        return len(text).to_bytes(8, "little") + text + raw[end:]

    return content(SINGLE, apply)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
FROM_HEADERS = {
    "a missing weight": (
        weights(lambda w: w.pop(KEYS)),
        f"no file holds the weight {KEYS}, which config.json asks for",
    ),
    "no unembedding": (weights(lambda w: w.pop(HEAD)), f"no file holds the weight {HEAD}"),
    "a weight too many": (
        weights(lambda w: w.update({"score.weight": torch.ones(2, 23)})),
        "'score.weight' in model.safetensors is no weight of the Qwen3 that config.json describes",
    ),
    "a weight's scales": (
        weights(lambda w: w.update({f"{KEYS}_scale": torch.ones(1)})),
        f"'{KEYS}_scale' in model.safetensors is no weight",
    ),
    "another shape": (
        weights(lambda w: w.update({KEYS: w[KEYS].T.contiguous()})),
        f"{KEYS} in model.safetensors has the shape [23, 30], but config.json asks for [30, 23]",
    ),
    "whole numbers": (
        weights(lambda w: w.update({KEYS: w[KEYS].to(torch.int8)})),
        f"{KEYS} in model.safetensors is of kind I8",
    ),
    "eight bits": (
        weights(lambda w: w.update({KEYS: w[KEYS].to(torch.float8_e4m3fn)})),
        "is of kind F8_E4M3, a quantised",
    ),
    "fewer layers": (
        config("layer_types", num_hidden_layers=2),
        "'model.layers.2.input_layernorm.weight' in model.safet",
    ),
    "more layers": (config("layer_types", num_hidden_layers=4), "no file holds the weight model.layers.3."),
    "layers without end": (config("layer_types", num_hidden_layers=10**8), "num_hidden_layers is 100000000"),
    "layer types": (config(num_hidden_layers=2), "layer_types must name 'full_attention' 2 times"),
    "another width": (config(hidden_size=10**9), "but config.json asks for [701, 1000000000]"),
    "heads that don't divide": (config(num_attention_heads=5), "(5) is not a multiple of num_key_value_heads (3)"),
    "other heads": (config(num_attention_heads=9), "[23, 60], but config.json asks for [23, 90]"),
    "an odd head": (config(head_dim=9), "head_dim (9) is odd"),
    "a head's default": (config("head_dim"), "[10], but config.json asks for [128]"),
    "a size in words": (
        config(hidden_size="23"),
        "config.json: hidden_size must be a positive whole number, found '23'",
    ),
    "a size below one": (config(vocab_size=0), "vocab_size must be a positive whole number, found 0"),
    "a missing size": (config("intermediate_size"), "config.json: intermediate_size is missing"),
    "a context in words": (
        config(max_position_embeddings="x"),
        "max_position_embeddings must be a positive whole number",
    ),
    "an odd epsilon": (config(rms_norm_eps=float("nan")), "rms_norm_eps must be a positive number, found nan"),
    "tied in words": (config(tie_word_embeddings="no"), "tie_word_embeddings must be true or false, found 'no'"),
    "biases": (config(attention_bias=True), "no file holds the weight model.layers.0.self_attn.q_proj.bias"),
    "quantised": (config(quantization_config={"bits": 4}), "config.json is of quantised weights"),
    "a small embedding": (
        both(config(vocab_size=50), weights(narrow)),
        "but config.json has embeddings for 50 (vocab_size)",
    ),
    "weights cut short": (content(SINGLE, lambda raw: raw[:-100]), "model.safetensors is damaged or cut short"),
    "a header cut short": (content(SINGLE, lambda raw: raw[:50]), "model.safetensors is damaged or cut short"),
    "empty weights": (content(SINGLE, b""), "model.safetensors is empty; download or save the whole model again"),
    "a pointer": (
        content(SINGLE, POINTER),
        "model.safetensors is a Git LFS pointer, not the weights; fetch them with `git",
    ),
    "no safetensors": (content(SINGLE, b"x" * 1000), "model.safetensors is damaged or cut short"),
    "a false shape": (header(lambda h: h[KEYS].update(shape=[1, 1])), "model.safetensors is damaged or cut short"),
    "false places": (
        header(lambda h: h[KEYS].update(data_offsets=[0, 2**40])),
        "model.safetensors is damaged or cut short",
    ),
    "a false kind": (header(lambda h: h[KEYS].update(dtype="Q9")), "model.safetensors is damaged or cut short"),
    "a pipe of weights": (pipe(SINGLE), "has no safetensors weights"),
    "a pipe of tokens": (pipe("tokenizer.json"), "has no tokenizer.json"),
    "a missing shard": (sharded(lambda m: (m / SHARDS[1]).unlink()), f"has no {SHARDS[1]}, which {INDEX} names"),
    "a shard that is a pointer": (sharded(content(SHARDS[0], POINTER)), f"{SHARDS[0]} is a Git LFS pointer"),
    "an index of lies": (
        sharded(content(INDEX, lambda raw: raw.replace(b"00001-of", b"00002-of"))),
        f"{SHARDS[1]} has no weight",
    ),
    "an index of nothing": (sharded(content(INDEX, b"{}")), "names no files in its weight_map"),
    "an index that leads away": (
        sharded(content(INDEX, b'{"weight_map": {"a": "../a"}}')),
        "'../a', which is not a file besi",
    ),
    "an index that is none": (sharded(content(INDEX, b"[")), f"{INDEX} is not valid JSON"),
    "Latin-1": (content("config.json", b'{"a": "\xe9"}'), "config.json: line 1 is not UTF-8 text"),
    "brackets": (content("config.json", b"[" * 100_000), "config.json is not valid JSON: maximum recursion depth"),
    "a list": (content("config.json", b"[]"), "config.json is not a model's config: it is a list"),
    "no tokens": (content("tokenizer.json", b""), "tokenizer.json is not a readable tokenizer"),
}


LONG = {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}
OF_FAMILIES = {
    **{
        f"{mistake}, {kind}": (kind, *FROM_HEADERS[mistake])
        for kind in ("tied llama", "qwen2")
        for mistake in ("a missing weight", "whole numbers", "more layers", "a size in words", "quantised")
    },
    "a weight of another family": (
        "tied llama",
        weights(lambda w: w.update({"model.layers.1.self_attn.q_norm.weight": torch.ones(10)})),
        "'model.layers.1.self_attn.q_norm.weight' in model.safetensors is no weight of the Llama that config.json",
    ),
    "biases of attention": ("tied llama", *FROM_HEADERS["biases"]),
    "biases of the MLP": (
        "tied llama",
        config(mlp_bias=True),
        "no file holds the weight model.layers.0.mlp.gate_proj.bias",
    ),
    "biases in words": ("tied llama", config(mlp_bias="no"), "mlp_bias must be true or false, found 'no'"),
    "heads that are not whole": (
        "tied llama",
        config(num_attention_heads=9),
        "hidden_size (24) is not a multiple of num_attention_heads (9)",
    ),
    "a head's width left out": (
        "tied llama",
        config("head_dim"),
        "k_proj.weight in model.safetensors has the shape [30, 24], but config.json asks for [12, 24]",
    ),
    "key heads left out": (
        "tied llama",
        config("num_key_value_heads"),
        "the shape [30, 24], but config.json asks for [60, 24]",
    ),
    "a hidden size left out": ("qwen2", config("hidden_size"), "hidden_size is missing"),
    "heads of an odd width": ("qwen2", config("head_dim", hidden_size=30), "head_dim (5) is odd"),
    "a bias that is always there": (
        "qwen2",
        weights(lambda w: w.pop("model.layers.1.self_attn.v_proj.bias")),
        "no file holds the weight model.layers.1.self_attn.v_proj.bias",
    ),
    "a bias that is never there": (
        "qwen2",
        weights(lambda w: w.update({"model.layers.1.self_attn.o_proj.bias": torch.ones(24)})),
        "no weight of the Qwen2 that config.json describes",
    ),
    "a window that is switched on": ("qwen2", config(use_sliding_window=True), "attends through a sliding window"),
    "a window without a switch": ("tied llama", config(sliding_window=64), "attends through a sliding window"),
    "attention in chunks": ("tied llama", config(attention_chunk_size=64), "attends through a sliding window"),
    "no causality": ("qwen2", config(is_causal=False), "attends to later tokens too (is_causal: false)"),
    "positions by length": ("tied llama", config(rope_parameters=LONG), "'longrope', whose frequencies depend on"),
    "positions by length, as they were written": ("tied llama", config(rope_scaling=LONG), "'longrope', whose"),
    "heads turned in part": ("tied llama", config(partial_rotary_factor=0.5), "turns only a part of every head"),
    "experts": (
        "plain",
        config(model_type="qwen3_moe"),
        "is of type 'qwen3_moe'; raydual measures dense models of the families Qwen3, Llama, Qwen2 only",
    ),
    "no family": ("plain", config("model_type"), "is of type None; raydual measures dense models"),
    "a list of families": ("plain", config(model_type=["qwen3"]), "is of type ['qwen3']; raydual measures"),
}
