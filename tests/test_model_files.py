"""What is wrong with a model's files is one line: told from their headers before Ray starts, or on loading them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from raydual.model.anatomy import FAMILIES, expected_shapes
from raydual.model.checkpoint import read_config
from raydual.model.loading import load_model

from . import tiny
from .test_tasks import told
from .tiny import ANATOMIES, BASE, save_tiny

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
KEYS = "model.layers.1.self_attn.k_proj.weight"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
KINDS = ANATOMIES | {"plain": {}, "tied": {"tie_word_embeddings": True}, "biased": {"attention_bias": True}}
Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Model directories that are whole."""
    folder = tmp_path_factory.mktemp("sound")
    return {kind: save_tiny(folder / kind, **over) for kind, over in KINDS.items()}


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


def test_every_family_has_a_tiny_model():
    assert tiny.FAMILIES.keys() == FAMILIES.keys() == {over.get("family", "qwen3") for over in ANATOMIES.values()}


def test_every_family_is_in_the_docs():
    lines = (Path(__file__).parent.parent / "sweeps" / "README.md").read_text(encoding="utf-8").splitlines()
    for family in FAMILIES.values():
        assert any(line.startswith(f"| {family.title} | `{family.model_type}` |") for line in lines), family.title


@pytest.fixture
def broken(sound, tmp_path):
    def make(change: Change, kind: str = "plain") -> Path:
        shutil.copytree(sound[kind], tmp_path / "model")
        change(tmp_path / "model")
        return tmp_path / "model"

    return make


MISTAKES = {name: ("plain", *mistake) for name, mistake in FROM_HEADERS.items()} | OF_FAMILIES


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_the_headers_tell_is_told_before_anything_starts(mistake, broken, refused, tmp_path, capsys):
    kind, change, message = MISTAKES[mistake]
    model = broken(change, kind)
    (tmp_path / "s.yaml").write_text(BASE + "model: model\n")
    (line,) = refused(tmp_path / "s.yaml")
    assert line.startswith("model: ")
    assert str(model) in line
    assert message in line
    assert told(load_model, str(model)) == line
    assert capsys.readouterr() == ("", "")


FROM_VALUES = {
    "NaN": (
        "plain",
        weights(lambda w: w[KEYS].view(-1)[3:4].fill_(float("nan"))),
        f"{KEYS} holds NaN or infinite values",
    ),
    "infinity": (
        "plain",
        weights(lambda w: w[KEYS].view(-1)[:1].fill_(-float("inf"))),
        f"{KEYS} holds NaN or infinite",
    ),
    "an overflow": (
        "plain",
        weights(lambda w: w.update({KEYS: w[KEYS].double() * 1e300})),
        "infinite values in float32",
    ),
    "another unembedding": (
        "tied",
        weights(lambda w: w.update({HEAD: w[EMBEDDING] + 1})),
        f"says that {HEAD} is {EMBEDDING} (tie_word_embeddings",
    ),
    "a false tie": ("plain", config(tie_word_embeddings=True), "the file holds another one; correct the config"),
    "an unknown activation": ("plain", config(hidden_act="nonsense"), "cannot be loaded (KeyError: 'nonsense')"),
    "odd positions": ("plain", config(rope_parameters=[1]), "cannot be loaded (StrictDataclass"),
    "endless positions": (
        "plain",
        config(rope_parameters={"rope_type": "default", "rope_theta": float("nan")}),
        "inv_freq holds NaN",
    ),
    "odd ends": ("plain", config(eos_token_id="x"), "cannot be loaded (StrictDataclass"),
}


@pytest.mark.parametrize("mistake", FROM_VALUES)
def test_what_the_values_tell_is_told_when_they_are_loaded(mistake, broken, capsys):
    kind, change, message = FROM_VALUES[mistake]
    model = broken(change, kind)
    line = told(load_model, str(model))
    assert line.startswith(f"model: {model}")
    assert message in line
    assert len(line) < 700
    assert capsys.readouterr() == ("", "")


def without_prefix(found: dict) -> dict:
    return {name.removeprefix("model."): values for name, values in found.items()}


SOUND = {
    "as it is": ("plain", lambda model: None),
    **{kind: (kind, lambda model: None) for kind in KINDS if kind not in ("plain", "qwen3")},
    "sharded": ("plain", sharded()),
    "tied, with its head": ("tied", weights(lambda w: w.update({HEAD: w[EMBEDDING].clone()}))),
    "tied, with its head alone": ("tied", weights(lambda w: w.update({HEAD: w.pop(EMBEDDING)}))),
    "without a head": ("tied", weights(without_prefix)),
    "with what older versions saved": (
        "plain",
        weights(lambda w: w.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(5)})),
    ),
    "a llama of older versions": (
        "tied llama",
        both(
            weights(lambda w: w.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(5)})),
            config(pretraining_tp=2, rope_scaling=None, rope_theta=1e4),
        ),
    ),
    "a llama of scaled positions": (
        "llama with biases",
        config("rope_parameters", "head_dim", rope_scaling=tiny.LLAMA3, rope_theta=5e5),
    ),
    "a qwen2 whose window is switched off": (
        "qwen2",
        config("layer_types", sliding_window=64, use_sliding_window=False, max_window_layers=1),
    ),
    "in half": ("plain", weights(lambda w: {name: values.half() for name, values in w.items()})),
    "in double": ("plain", weights(lambda w: {name: values.double() for name, values in w.items()})),
}


@pytest.mark.parametrize("case", SOUND)
def test_whole_models_are_loaded_with_their_own_weights(case, broken, sound, capsys):
    kind, change = SOUND[case]
    loaded = load_model(str(broken(change, kind)), device="cpu").model.state_dict()
    original = load_file(sound[kind] / SINGLE)
    for name, values in original.items():
        torch.testing.assert_close(
            loaded[name], values, rtol=1e-3 if case == "in half" else 0, atol=1e-3 * (case == "in half")
        )
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("kind", KINDS)
def test_the_expected_weights_are_those_of_transformers(kind, sound):
    model = AutoModelForCausalLM.from_pretrained(sound[kind])
    shapes = {name: tuple(values.shape) for name, values in model.named_parameters()}
    assert expected_shapes(read_config(sound[kind] / "config.json")) == shapes


def test_the_headers_are_read_without_torch_and_fast(sound):
    probe = (
        "import sys, time\n"
        "from raydual.model.source import ModelSource\n"
        "start = time.monotonic()\n"
        f"ModelSource({str(sound['plain'])!r}).check()\n"
        "assert time.monotonic() - start < 0.5\n"
        "assert not {'torch', 'ray', 'transformers'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
