"""What the benchmark measures on: a model (a real one, or a full-size shape with random weights), data and prompts."""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import Qwen3Config, Qwen3ForCausalLM

from raydual.data.examples import load_dataset
from raydual.data.prompts import DemonstrationSet, Queries
from raydual.errors import UserError
from raydual.model.attention import ATTENTION, register
from raydual.model.loading import LoadedModel, load_model
from raydual.model.source import ModelSource
from raydual.settings.reading import validate_config
from raydual.settings.schema import SweepConfig
from raydual.study import Study, prepare_study

SHAPE = "-shape"
_COMMON = {
    "vocab_size": 151936,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "max_position_embeddings": 32768,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


def _sizes(hidden: int, intermediate: int, layers: int, heads: int, tied: bool = True) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "tie_word_embeddings": tied,
    }


SHAPES = {
    "qwen3-0.6b": _sizes(1024, 3072, 28, 16),
    "qwen3-1.7b": _sizes(2048, 6144, 28, 16),
    "qwen3-4b": _sizes(2560, 9728, 36, 32),
    "qwen3-8b": _sizes(4096, 12288, 36, 32, tied=False),
}
_VOCABULARY = 8000
"""Of the stand-in tokenizer; on SST-2 it makes 1.25 tokens a word, about as Qwen's own."""
_WEIGHTS_SEED = 0
_RATE = {"embedded": 1.0}
_SHAPE_RATE = 0.05


@dataclass(frozen=True)
class Setup:
    """One model with its study: everything that is needed to make a replica, or to call the baseline."""

    loaded: LoadedModel
    study: Study
    queries: Queries

    @property
    def config(self) -> SweepConfig:
        """The settings."""
        return self.study.config

    def demonstrations(self, seeds: list[int]) -> list[DemonstrationSet]:
        """The tokenized demonstrations of `seeds`."""
        return [self.study.demonstrations(self.loaded.tokenizer, seed) for seed in seeds]

    def shortened(self, examples: int) -> "Setup":
        """The same with the first `examples` measured examples alone."""
        dataset = self.study.dataset
        study = replace(self.study, dataset=replace(dataset, measured=dataset.measured.take(range(examples))))
        return Setup(self.loaded, study, study.queries(self.loaded.tokenizer, "measured"))


def is_shape(name: str) -> bool:
    """Whether a model is named by its shape, to be filled with random weights."""
    return name.endswith(SHAPE)


def settings(args: argparse.Namespace, seeds: int) -> dict[str, Any]:
    """The sweep that is measured: no search, no controls."""
    rate = args.learning_rate or _RATE.get(args.model) or (_SHAPE_RATE if is_shape(args.model) else None)
    return {
        "name": "benchmark",
        "model": args.model,
        "dtype": args.dtype,
        "task": args.task,
        "data": args.data if args.data == "embedded" else str(Path(args.data).absolute()),
        "demonstrations": args.demonstrations,
        "seeds": seeds,
        "split": {"measured": args.examples},
        "finetune": {"learning_rate": rate} if rate else {},
        "execution": {"seeds_per_batch": args.seeds_per_batch, "batch_size": args.batch_size},
    }


def make_setup(args: argparse.Namespace, dtype: str | None = None) -> Setup:
    """The model in `dtype` (default: the one asked for) on the device, and the study.

    Raises
    ------
    UserError
        A mistake in the arguments, the data or the model.
    """
    config = validate_config(settings(args, args.seeds) | {"dtype": dtype or args.dtype}, "arguments")
    if is_shape(args.model):
        study = Study(config, load_dataset(config))
        loaded = random_model(args.model, study, args.layers, args.device)
    else:
        if args.layers:
            raise UserError(f"--layers: only a model named by its shape can be cut ({', '.join(SHAPES)} + {SHAPE!r})")
        study = prepare_study(config)
        loaded = load_model(args.model, dtype=config.dtype, device=args.device)
    return Setup(loaded, study, study.queries(loaded.tokenizer, "measured"))


def random_model(name: str, study: Study, layers: int | None, device: str | None) -> LoadedModel:
    """A Qwen3 of a known shape, cut to `layers` if given; the same random weights on every machine.

    Raises
    ------
    UserError
        There is no such shape.
    """
    sizes = SHAPES.get(name.removesuffix(SHAPE))
    if sizes is None:
        raise UserError(f"--model: no shape {name!r}; there are {', '.join(known + SHAPE for known in SHAPES)}")
    register()
    config = Qwen3Config(**_COMMON, **sizes | ({"num_hidden_layers": layers} if layers else {}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_WEIGHTS_SEED)
        model = Qwen3ForCausalLM(config)
    model.set_attn_implementation(ATTENTION)
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"), getattr(torch, study.config.dtype))
    return LoadedModel(model.eval().requires_grad_(False), stand_in_tokenizer(study), ModelSource(name))


def stand_in_tokenizer(study: Study) -> tokenizers.Tokenizer:
    """A byte-level BPE trained on the study's own prompts, every label word a token of its own."""
    task, dataset = study.config.task, study.dataset
    queries = (*dataset.train.queries, *dataset.measured.queries)
    words = task.label_words
    texts = [f"{query} {words[i % len(words)]}{task.separator}{query}" for i, query in enumerate(queries)]
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
