"""What a model is made of: the families that can be measured, and what their config.json says. Loads no torch.

All families share one block: attention with grouped-query heads, turned by a rotary embedding, then a gated MLP, each
behind an RMS norm and added to the residual stream. A `Family` says in what else they differ. `modules.py` finds the
parts that are named here in a loaded model.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from raydual.errors import shown

Trainable = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""A projection that fine-tuning may train."""
TRAINABLE: tuple[Trainable, ...] = get_args(Trainable)
TRAINED: tuple[Trainable, ...] = ("k_proj", "v_proj")
"""Those that it trains by default (Dai)."""
QUERY, KEY, VALUE, OUTPUT = "q_proj", "k_proj", "v_proj", "o_proj"
ATTENTION = (QUERY, KEY, VALUE, OUTPUT)
GATE, UP, DOWN = "gate_proj", "up_proj", "down_proj"
MLP = (GATE, UP, DOWN)
HEAD_NORMS = {QUERY: "q_norm", KEY: "k_norm"}
"""The norm of each head's queries and keys, in the families that have them."""
ATTENTION_BLOCK, INPUT_NORM = "self_attn", "input_layernorm"
MLP_BLOCK, MLP_NORM = "mlp", "post_attention_layernorm"

BACKBONE = "model."
"""What the names of all weights but the unembedding's begin with."""
EMBEDDING, UNEMBEDDING = "model.embed_tokens.weight", "lm_head.weight"
NO_WEIGHTS = (".rotary_emb.inv_freq",)
"""How the names of tensors end that files of older versions hold, and that are computed from the config."""

Config = Mapping[str, Any]
Shapes = dict[str, tuple[int, ...]]

_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)
_MOST_LAYERS = 10_000


def _hidden_per_head(config: Config) -> int:
    return config["hidden_size"] // config["num_attention_heads"]


def _as_many_as_heads(config: Config) -> int:
    return config["num_attention_heads"]


@dataclass(frozen=True)
class Family:
    """In what a family of models differs from the others.

    Parameters
    ----------
    model_type : its name in config.json; `title`: in texts.
    head_norms : whether every head's queries and keys are normed (`HEAD_NORMS`).
    biased : projections that always have a bias.
    bias_flags : keys of config.json, and the projections that have a bias where it is true.
    derived : sizes that transformers makes of others where config.json has none, or null.
    defaults : what transformers takes for other keys that config.json leaves out.
    whole_heads : whether the hidden size must be a multiple of the number of heads.
    """

    model_type: str
    title: str
    head_norms: bool = False
    biased: tuple[str, ...] = ()
    bias_flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    derived: Mapping[str, Callable[[Config], int]] = field(default_factory=dict)
    defaults: Config = field(default_factory=dict)
    whole_heads: bool = False

    @property
    def flags(self) -> tuple[str, ...]:
        """Keys of config.json that are true or false; false where they are left out."""
        return ("tie_word_embeddings", *self.bias_flags)

    def has_bias(self, projection: str, config: Config) -> bool:
        """Whether a projection has a bias."""
        return projection in self.biased or any(
            config[flag] for flag, projections in self.bias_flags.items() if projection in projections
        )


FAMILIES = {
    family.model_type: family
    for family in (
        Family("qwen3", "Qwen3", head_norms=True, bias_flags={"attention_bias": ATTENTION}, defaults={"head_dim": 128}),
        Family(
            "llama",
            "Llama",
            bias_flags={"attention_bias": ATTENTION, "mlp_bias": MLP},
            derived={"head_dim": _hidden_per_head, "num_key_value_heads": _as_many_as_heads},
            whole_heads=True,
        ),
        Family("qwen2", "Qwen2", biased=(QUERY, KEY, VALUE), derived={"head_dim": _hidden_per_head}),
    )
}


def refusal(config: Config) -> str | None:
    """Why a model with this config.json cannot be measured, as what follows its name in a sentence; None if it can."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        titles = ", ".join(family.title for family in FAMILIES.values())
        known = ", ".join(map(repr, FAMILIES))
        return f"is of type {shown(kind)}; raydual measures dense models of the families {titles} only ({known})"
    if _slides(config):
        return "attends through a sliding window, which raydual does not support"
    if config.get("is_causal", True) is False:
        return "attends to later tokens too (is_causal: false), so that no demonstrations come before a query"
    if config.get("quantization_config"):
        return f"is of quantised weights, which cannot be fine-tuned; {PLAIN_WEIGHTS}"
    return _rotary_refusal(config)


PLAIN_WEIGHTS = "take the model's float32, float16 or bfloat16 weights"


def _slides(config: Config) -> bool:
    layers = config.get("layer_types")
    if config.get("use_sliding_window") or (isinstance(layers, list) and "sliding_attention" in layers):
        return True
    # Without the switch, transformers looks at the window alone where it caches the demonstrations' keys.
    windows = ("sliding_window", "attention_chunk_size")
    return layers is None and "use_sliding_window" not in config and any(config.get(key) for key in windows)


def _rotary_refusal(config: Config) -> str | None:
    places = [config.get(key) for key in ("rope_parameters", "rope_scaling")]
    rotary = [place for place in places if isinstance(place, Mapping)]
    for place in rotary:
        kind = place.get("rope_type", place.get("type"))
        if kind == "longrope":
            return (
                "turns its heads by 'longrope', whose frequencies depend on the prompt's length: the demonstrations "
                "would not be the same for every query"
            )
    for place in (config, *rotary):
        if place.get("partial_rotary_factor") not in (None, 1):
            return "turns only a part of every head (partial_rotary_factor), which raydual does not support"
    return None


def completed(config: Config) -> dict[str, Any]:
    """A config with what its family takes for the keys that it leaves out; what cannot be derived stays out."""
    family = FAMILIES[config["model_type"]]
    found = {**dict.fromkeys(family.flags, False), **family.defaults, **config}
    for key, derive in family.derived.items():
        if found.get(key) is None:
            found.pop(key, None)
            if not any(_size_problem(found, base) for base in ("hidden_size", "num_attention_heads")):
                found[key] = derive(found)
    return found


def inconsistencies(config: Config) -> Iterator[str]:
    """What cannot be right in a `completed` config, the more telling first."""
    family = FAMILIES[config["model_type"]]
    for key in (*_SIZES, *(("max_position_embeddings",) if "max_position_embeddings" in config else ())):
        if problem := _size_problem(config, key):
            yield problem
    for key in family.flags:
        if type(config[key]) is not bool:
            yield f"{key} must be true or false, found {shown(config[key])}"
    heads, pairs, layers = (config[f"num_{name}"] for name in ("attention_heads", "key_value_heads", "hidden_layers"))
    if family.whole_heads and config["hidden_size"] % heads:
        yield f"hidden_size ({config['hidden_size']}) is not a multiple of num_attention_heads ({heads})"
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


def _size_problem(config: Config, key: str) -> str | None:
    if key not in config:
        return f"{key} is missing"
    if type(config[key]) is not int or not 0 < config[key] < 2**31:
        return f"{key} must be a positive whole number, found {shown(config[key])}"
    return None


@dataclass(frozen=True)
class Shape:
    """The sizes of a model: `queries` and `pairs` are the widths of the query and of the key (or value) projections.

    `parameters` is the number of all its weights.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    queries: int
    pairs: int
    head_dim: int
    vocabulary: int
    parameters: int

    @classmethod
    def of(cls, config: Config) -> "Shape":
        """The sizes that a model's config.json names."""
        full = completed(config)
        return cls(
            layers=full["num_hidden_layers"],
            hidden=full["hidden_size"],
            intermediate=full["intermediate_size"],
            heads=full["num_attention_heads"],
            queries=full["num_attention_heads"] * full["head_dim"],
            pairs=full["num_key_value_heads"] * full["head_dim"],
            head_dim=full["head_dim"],
            vocabulary=full["vocab_size"],
            parameters=sum(math.prod(shape) for shape in expected_shapes(full).values()),
        )

    @property
    def block(self) -> int:
        """Number of weights of one block's projections, biases left out."""
        return sum(map(self.projection, TRAINABLE))

    def projection(self, name: str) -> int:
        """Number of weights of a projection of one block, its bias left out."""
        if name in MLP:
            return self.hidden * self.intermediate
        return self.hidden * (self.pairs if name in (KEY, VALUE) else self.queries)


def expected_shapes(config: Config) -> Shapes:
    """Name and shape of every weight that a `completed` config asks for, the unembedding of a tied model left out."""
    family = FAMILIES[config["model_type"]]
    hidden, inner, dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, pairs = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
    sizes = {
        QUERY: (queries, hidden),
        KEY: (pairs, hidden),
        VALUE: (pairs, hidden),
        OUTPUT: (hidden, queries),
        **dict(zip(MLP, ((inner, hidden), (inner, hidden), (hidden, inner)), strict=True)),
    }
    block: Shapes = {}
    for name, size in sizes.items():
        place = f"{ATTENTION_BLOCK if name in ATTENTION else MLP_BLOCK}.{name}"
        block[f"{place}.weight"] = size
        if family.has_bias(name, config):
            block[f"{place}.bias"] = size[:1]
    if family.head_norms:
        block |= {f"{ATTENTION_BLOCK}.{norm}.weight": (dim,) for norm in HEAD_NORMS.values()}
    block |= {f"{norm}.weight": (hidden,) for norm in (INPUT_NORM, MLP_NORM)}
    shapes: Shapes = {EMBEDDING: (config["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    for layer in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in block.items()}
    return shapes if config["tie_word_embeddings"] else {**shapes, UNEMBEDDING: (config["vocab_size"], hidden)}


def of_projection(weight: str) -> bool:
    """Whether a weight, named as in `expected_shapes`, belongs to a projection of a block."""
    module = weight.split(".")[-2]
    return module in ATTENTION or module in MLP
