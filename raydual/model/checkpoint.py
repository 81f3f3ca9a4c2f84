"""Whether a model's config and weights belong together, from the headers of its files alone. Loads no torch."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from raydual.errors import UserError, shown
from raydual.files import read_text, regular_file

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)
_DEFAULTS = {"head_dim": 128, "tie_word_embeddings": False, "attention_bias": False}
"""What transformers takes for a key that a Qwen3's config.json leaves out."""
_MOST_LAYERS = 10_000
_FLOATS = ("F64", "F32", "F16", "BF16")
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_IGNORED = (".rotary_emb.inv_freq",)
_POINTER = b"version https://git-lfs"
_AGAIN = "download or save the whole model again"

Shapes = dict[str, tuple[int, ...]]


def read_config(path: Path) -> dict[str, Any]:
    """A model's config.json, checked to be a dense Qwen3 with full attention whose sizes fit each other.

    Raises
    ------
    UserError
        It is another architecture, attends through a sliding window, is quantised, or its sizes can't be.
    """
    config = _json_mapping(path, "a model's config")
    kind = config.get("model_type")
    if kind != "qwen3":
        raise UserError(f"model: {path} is of type {shown(kind)}; raydual measures dense 'qwen3' models only")
    layers = config.get("layer_types")
    if config.get("use_sliding_window") or (isinstance(layers, list) and "sliding_attention" in layers):
        raise UserError(f"model: {path} attends through a sliding window, which raydual does not support")
    if config.get("quantization_config"):
        raise UserError(f"model: {path} is of quantised weights, which cannot be fine-tuned; {_PLAIN_WEIGHTS}")
    config = _DEFAULTS | config
    for problem in _inconsistencies(config):
        raise UserError(f"model: {path}: {problem}; the file is damaged, or not this model's: {_AGAIN}")
    return config


_PLAIN_WEIGHTS = "take the model's float32, float16 or bfloat16 weights"


def _inconsistencies(config: Mapping[str, Any]) -> Iterator[str]:
    for key in (*_SIZES, *(("max_position_embeddings",) if "max_position_embeddings" in config else ())):
        if key not in config:
            yield f"{key} is missing"
        elif type(config[key]) is not int or not 0 < config[key] < 2**31:
            yield f"{key} must be a positive whole number, found {shown(config[key])}"
    for key in ("tie_word_embeddings", "attention_bias"):
        if type(config[key]) is not bool:
            yield f"{key} must be true or false, found {shown(config[key])}"
    heads, pairs, layers = (config[f"num_{name}"] for name in ("attention_heads", "key_value_heads", "hidden_layers"))
    if heads % pairs:
        yield f"num_attention_heads ({heads}) is not a multiple of num_key_value_heads ({pairs})"
    if config["head_dim"] % 2:
        yield f"head_dim ({config['head_dim']}) is odd, but rotary embeddings need pairs"
    if layers > _MOST_LAYERS:
        yield f"num_hidden_layers is {layers}"
    kinds = config.get("layer_types")
    if kinds is not None and (not isinstance(kinds, list) or kinds != ["full_attention"] * layers):
        yield f"layer_types must name 'full_attention' {layers} times, once for each layer, found {shown(kinds)}"
    for key in ("rms_norm_eps", "rope_theta"):
        value = config.get(key, 1)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            yield f"{key} must be a positive number, found {shown(value)}"


def expected_shapes(config: Mapping[str, Any]) -> Shapes:
    """Name and shape of every weight of the Qwen3 that a config describes, the unembedding of a tied one left out."""
    hidden, inner, dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, pairs = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
    linear = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (pairs, hidden),
        "self_attn.v_proj": (pairs, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    block: Shapes = {f"{name}.weight": shape for name, shape in linear.items()}
    if config["attention_bias"]:
        block |= {f"{name}.bias": shape[:1] for name, shape in linear.items() if name.startswith("self_attn")}
    block |= {f"self_attn.{name}_norm.weight": (dim,) for name in "qk"}
    block |= {f"{name}_layernorm.weight": (hidden,) for name in ("input", "post_attention")}
    shapes: Shapes = {_EMBEDDING: (config["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    for layer in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in block.items()}
    return shapes if config["tie_word_embeddings"] else {**shapes, _HEAD: (config["vocab_size"], hidden)}


def check_weights(directory: Path, config: Mapping[str, Any]) -> None:
    """Compare the headers of a directory's safetensors files with its config; no weight is read.

    Raises
    ------
    UserError
        No weights, a damaged file, or a weight that is missing, is one too many, or has another shape or kind.
    """
    found = _headers(directory)
    expected = expected_shapes(config)
    if config["tie_word_embeddings"] and _HEAD in found:
        expected[_HEAD] = expected[_EMBEDDING]
        if _EMBEDDING not in found:
            del expected[_EMBEDDING]
    problems = list(_differences(found, expected))
    if problems:
        more = f" (likewise or otherwise wrong: {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(f"model: {directory}: {problems[0]}{more}")


Header = tuple[Path, tuple[int, ...], str]
"""Where a weight is, its shape and its kind of number."""


def _differences(found: Mapping[str, Header], expected: Shapes) -> Iterator[str]:
    """What is wrong, the more telling first."""
    for name, (path, _, kind) in found.items():
        if kind not in _FLOATS:
            yield f"{name} in {path.name} is of kind {kind}, a quantised model; {_PLAIN_WEIGHTS}"
    for name in expected:
        if name not in found:
            yield f"no file holds the weight {name}, which config.json asks for; {_AGAIN}"
    for name, (path, shape, _) in found.items():
        if name in expected and shape != expected[name]:
            yield (
                f"{name} in {path.name} has the shape {list(shape)}, but config.json asks for "
                f"{list(expected[name])}; config and weights are of different models: {_AGAIN}"
            )
    for name, (path, _, _) in found.items():
        if name not in expected:
            yield f"{shown(name)} in {path.name} is no weight of the Qwen3 that config.json describes; {_AGAIN}"


def _headers(directory: Path) -> dict[str, Header]:
    """Every weight of a directory; those of a model without its head get the names that they have in the whole."""
    if (directory / SINGLE).is_file():
        found = _header(directory / SINGLE)
    elif (directory / INDEX).is_file():
        found = _indexed(directory)
    else:
        raise UserError(no_weights(directory))
    found = {name: header for name, header in found.items() if not name.endswith(_IGNORED)}
    if not any(name.startswith("model.") for name in found):
        found = {name if name == _HEAD else f"model.{name}": header for name, header in found.items()}
    return found


def no_weights(where: object) -> str:
    """What is said of a place without weights that can be loaded."""
    return (
        f"model: {where} has no safetensors weights ({SINGLE} or {INDEX}); pickled weights are never loaded: "
        "save them with `save_pretrained`"
    )


def named_files(index: Path) -> list[str]:
    """The files of weights that an index names, which lie beside it.

    Raises
    ------
    UserError
        It is damaged, or names something else.
    """
    return list(dict.fromkeys(_weight_map(index).values()))


def _weight_map(index: Path) -> dict[str, str]:
    """The file of each weight."""
    found = _json_mapping(index, "an index of weights").get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(file, str) for file in found.values()):
        raise UserError(f"model: {index} names no files in its weight_map; {_AGAIN}")
    for file in found.values():
        if Path(file).name != file:
            raise UserError(f"model: {index} names {shown(file)}, which is not a file beside it; {_AGAIN}")
    return found


def _indexed(directory: Path) -> dict[str, Header]:
    index = _weight_map(directory / INDEX)
    found: dict[str, Header] = {}
    for file in named_files(directory / INDEX):
        if not (directory / file).is_file():
            raise UserError(f"model: {directory} has no {file}, which {INDEX} names; {_AGAIN}")
        found |= _header(directory / file)
    for name, file in index.items():
        if name not in found or found[name][0].name != file:
            raise UserError(f"model: {directory / file} has no weight {shown(name)}, though {INDEX} says so; {_AGAIN}")
    return found


def _header(path: Path) -> dict[str, Header]:
    try:
        with path.open("rb") as file:
            start = file.read(len(_POINTER))
        if not start:
            raise UserError(f"model: {path} is empty; {_AGAIN}")
        if start == _POINTER:
            raise UserError(f"model: {path} is a Git LFS pointer, not the weights; fetch them with `git lfs pull`")
        with safe_open(path, framework="numpy") as weights:
            slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118 - not a mapping
            return {name: (path, tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except (OSError, SafetensorError) as error:
        raise UserError(f"model: {path} is damaged or cut short ({one_line(error)}); {_AGAIN}") from None


def _json_mapping(path: Path, what: str) -> dict[str, Any]:
    text = read_text(regular_file(path, f"model: {path}"), f"model: {path}")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"model: {path} is not valid JSON: {one_line(error)}") from None
    if not isinstance(found, dict):
        raise UserError(f"model: {path} is not {what}: it is a {type(found).__name__}, not a mapping")
    return found


def one_line(error: BaseException) -> str:
    """What an error of another library says, on one line of bearable length."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]}…"
