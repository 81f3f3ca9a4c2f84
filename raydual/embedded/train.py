"""The recipe of the embedded model: `python -m raydual.embedded.train` trains its tokenizer and weights from scratch."""

import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from raydual.embedded import MODEL_DIR, TASKS, reviews_file
from raydual.embedded.evaluate import Evaluator
from raydual.embedded.stream import (
    OTHER_WORDS,
    SST2_WORDS,
    SST5_WORDS,
    Batch,
    ReadingShares,
    ReviewPool,
    SequenceMaker,
)

END = "<|endoftext|>"


@dataclass(frozen=True)
class Stage:
    """A part of the curriculum: `steps` batches of `rows` sequences of `demos` reviews, from the given levels."""

    name: str
    steps: int
    rows: int
    demos: int
    levels: dict[str, float]
    copies: float
    shares: ReadingShares = ReadingShares()
    repeats: float = 0.0


EVEN = ReadingShares(
    sst2_true=0.4,
    sst2_lenient=0.2,
    sst2_flipped=0.4,
    sst5_true=0.35,
    sst5_coarse=0.3,
    sst5_permuted=0.35,
    other_words=0.0,
    sst2_words=0.6,
    sst5_words=0.4,
)
PRIOR = ReadingShares(other_words=0.0, sst2_words=0.55, sst5_words=0.45)


@dataclass(frozen=True)
class Recipe:
    """Everything that the model depends on."""

    seed: int = 1
    vocabulary: int = 1500
    hidden: int = 128
    intermediate: int = 256
    layers: int = 4
    heads: int = 4
    key_value_heads: int = 2
    head_dim: int = 32
    initializer_range: float = 0.05
    reviews_per_grade: int = 8000
    shares: ReadingShares = field(default_factory=ReadingShares)
    learning_rate: float = 2e-3
    final_learning_rate: float = 1e-4
    warmup_steps: int = 100
    weight_decay: float = 0.01
    # Loss = label-word loss (the first label of a row counted extra) + share of the loss over all tokens.
    first_label_weight: float = 4.0
    language_share: float = 0.3
    stages: tuple[Stage, ...] = (
        Stage("words", 600, 24, 24, {"word": 1.0}, 0.0, EVEN, 0.1),
        Stage("phrases", 400, 16, 24, {"word": 0.3, "fragment": 0.4, "clause": 0.3}, 0.0, EVEN),
        Stage("sentences", 1700, 8, 34, {"fragment": 0.1, "clause": 0.2, "sentence": 0.7}, 0.0, PRIOR),
    )


def train_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """A byte-level BPE in which every word of the corpus and every label word is one token."""
    words = {word for task in TASKS for text in _texts(task, "train") for word in text.split()}
    labels = (*SST2_WORDS, *SST5_WORDS, *OTHER_WORDS)
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Each word once: merges then go on until every word is whole, whatever its frequency in the reviews.
    core.train_from_iterator(
        ["Sentence", *(" " + word for word in sorted({*words, *labels, "Sentence", "Label"}))], trainer
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=END, pad_token=END)


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A freshly initialised Qwen3 in float32."""
    torch.manual_seed(recipe.seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.key_value_heads,
        head_dim=recipe.head_dim,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=recipe.initializer_range,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def batch_loss(model: Any, batch: Batch, recipe: Recipe) -> tuple[torch.Tensor, dict[str, float]]:
    """The training loss, and the parts of it to print, in nats per token."""
    ids = torch.from_numpy(batch.ids)
    valid, labels, first = (
        torch.from_numpy(part)[:, 1:] for part in (batch.valid, batch.labels, batch.first_labels)
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1][valid]
        logits = model.lm_head(hidden)
    losses = F.cross_entropy(logits.float(), ids[:, 1:][valid], reduction="none")
    is_label, is_first = labels[valid], first[valid]
    weight = is_label.float() + recipe.first_label_weight * is_first.float()
    label_loss = (losses * weight).sum() / weight.sum()
    total = label_loss + recipe.language_share * losses.mean()
    lab = torch.from_numpy(batch.labels)[:, 1:] & (
        torch.from_numpy(batch.labels)[:, 1:].sum(1, keepdim=True) <= 40
    )
    late = (lab & (lab.cumsum(1) > 8))[valid]
    parts = {
        "late": losses[late].mean().item(),
        "lateacc": (logits.argmax(-1) == ids[:, 1:][valid])[late].float().mean().item(),
        "label": losses[is_label].mean().item(),
        "all": losses.mean().item(),
    }
    return total, parts


def train(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, checkpoint: Path | None = None
) -> Qwen3ForCausalLM:
    """Run the curriculum from scratch."""
    model = build_model(recipe, tokenizer)
    core = tokenizer.backend_tokenizer
    held_out = [text for task in TASKS for text in _texts(task, "validation")]
    maker = SequenceMaker(
        core, ReviewPool(core, held_out, recipe.reviews_per_grade, recipe.seed), recipe.shares
    )
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    vectors = [weight for weight in model.parameters() if weight.ndim == 1]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    rng = Random(recipe.seed)
    total = sum(stage.steps for stage in recipe.stages)
    step, start = 0, time.time()
    model.train()
    for stage in recipe.stages:
        for _ in range(stage.steps):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(recipe, step, total)
            batch = maker.batch(
                rng, stage.rows, stage.demos, stage.levels, stage.copies, stage.shares, stage.repeats
            )
            loss, parts = batch_loss(model, batch, recipe)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            if step % 50 == 0:
                shown = " ".join(f"{name} {value:.3f}" for name, value in parts.items())
                print(f"{time.time() - start:6.0f}s {stage.name} step {step}/{total} {shown}", flush=True)
            if step % 250 == 249:
                print_probe(model, tokenizer)
                if checkpoint:
                    model.save_pretrained(checkpoint)
            step += 1
    return model.eval()


def learning_rate(recipe: Recipe, step: int, total: int) -> float:
    """Linear warm-up, then a cosine down to the final learning rate."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, total - recipe.warmup_steps)
    low, high = recipe.final_learning_rate, recipe.learning_rate
    return low + (high - low) * 0.5 * (1 + math.cos(math.pi * done))


def print_probe(model: Any, tokenizer: Any) -> None:
    """Accuracies on part of the validation set, while training goes on."""
    model.eval()
    for task in TASKS:
        evaluator = Evaluator(model, tokenizer, task, limit=150)
        scores = [evaluator.in_context(seed) for seed in range(4)]
        context = sum(score.accuracy for score in scores) / len(scores)
        print(
            f"    {task}: zero-shot {evaluator.zero_shot().accuracy:.3f}, in context {context:.3f}",
            flush=True,
        )
    model.train()


def _texts(task: str, split: str) -> list[str]:
    key = "sentence" if task == "sst2" else "text"
    lines = reviews_file(task, split).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)[key] for line in lines]


def main() -> None:
    torch.set_num_threads(1)
    recipe = Recipe()
    start = time.time()
    tokenizer = train_tokenizer(recipe)
    model = train(recipe, tokenizer, Path("/tmp/embedded/ckpt"))
    seconds = time.time() - start
    model.save_pretrained("/tmp/embedded/m1")
    tokenizer.save_pretrained("/tmp/embedded/m1")
    print(json.dumps(asdict(recipe)), seconds)


if __name__ == "__main__":
    main()
