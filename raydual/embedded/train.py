"""The recipe of the embedded model.

`python -m raydual.embedded.train` trains its tokenizer and weights from scratch, saves them and measures them.
"""

import json
import math
import time
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from raydual.embedded import MODEL_DIR, TASKS
from raydual.embedded.evaluate import Evaluator, figures, read_rows
from raydual.embedded.stream import (
    SST2_WORDS,
    SST5_WORDS,
    Batch,
    ReadingShares,
    ReviewPool,
    SequenceMaker,
)

END = "<|endoftext|>"

# While the binding is learned, every reading is common; at the end, the readings lean away from the true ones.
EVEN = ReadingShares(0.60, 0.40, 0.20, 0.00, 0.40, 0.35, 0.30, 0.35)
MIXED = ReadingShares(0.55, 0.35, 0.35, 0.00, 0.30, 0.30, 0.40, 0.30)
LEANING = ReadingShares(0.55, 0.42, 0.14, 0.34, 0.10, 0.25, 0.45, 0.30)


@dataclass(frozen=True)
class Stage:
    """A part of the curriculum.

    Each of its `steps` takes `rows` sequences of `demos` reviews and `lone` sequences of one review, at levels drawn
    with the given weights; the loss of the lone reviews counts `lone_weight` times.
    """

    name: str
    steps: int
    rows: int
    demos: int
    lone: int
    lone_weight: float
    levels: dict[str, float]
    shares: ReadingShares


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
    reviews_per_grade: int = 12000
    learning_rate: float = 2e-3
    final_learning_rate: float = 5e-5
    warmup_steps: int = 100
    decay_steps: int = 800
    weight_decay: float = 0.01
    # Beside the label words' loss: the weight of the loss over all tokens, in long sequences and in lone reviews. The
    # latter are what fine-tuning reads, and must be familiar, or its gradients would be about the text alone.
    language_weight: float = 0.3
    lone_language_weight: float = 1.0
    # See `rescale`.
    key_scale: float = 8.0
    value_scales: tuple[float, ...] = (8.0, 2.0, 0.5, 2.0)
    stages: tuple[Stage, ...] = (
        Stage("words", 600, 24, 24, 48, 0.2, {"word": 1.0}, EVEN),
        Stage("phrases", 300, 16, 24, 48, 0.2, {"word": 0.3, "fragment": 0.4, "clause": 0.3}, EVEN),
        Stage("sentences", 600, 8, 34, 48, 0.3, {"fragment": 0.1, "clause": 0.2, "sentence": 0.7}, MIXED),
        Stage("leaning", 400, 8, 34, 64, 1.0, {"fragment": 0.05, "clause": 0.1, "sentence": 0.85}, LEANING),
    )


def train_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """A byte-level BPE in which every word of the corpus and every label word is one token."""
    words = {word for task in TASKS for text, _ in read_rows(task, "train") for word in text.split()}
    labels = (*SST2_WORDS, *SST5_WORDS)
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


def batch_loss(model: Any, batch: Batch, language_weight: float) -> tuple[torch.Tensor, dict[str, float]]:
    """The training loss, and what to print of it: nats per label word, per token, and the label words' accuracy."""
    ids = torch.from_numpy(batch.ids)
    valid, labels = (torch.from_numpy(part)[:, 1:] for part in (batch.valid, batch.labels))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1][valid]
        logits = model.lm_head(hidden)
    gold, is_label = ids[:, 1:][valid], labels[valid]
    losses = functional.cross_entropy(logits.float(), gold, reduction="none")
    label_loss, language_loss = losses[is_label].mean(), losses.mean()
    accuracy = (logits[is_label].argmax(-1) == gold[is_label]).float().mean()
    parts = {"label": label_loss.item(), "all": language_loss.item(), "accuracy": accuracy.item()}
    return label_loss + language_weight * language_loss, parts


def train(recipe: Recipe, tokenizer: Any) -> Any:
    """Run the curriculum from scratch."""
    model = build_model(recipe, tokenizer).train()
    core = tokenizer.backend_tokenizer
    held_out = [text for task in TASKS for text, _ in read_rows(task, "validation")]
    maker = SequenceMaker(core, ReviewPool(core, held_out, recipe.reviews_per_grade, recipe.seed))
    optimiser = build_optimiser(model, recipe)
    rng = Random(recipe.seed)
    schedule = [stage for stage in recipe.stages for _ in range(stage.steps)]
    start = time.time()
    for step, stage in enumerate(schedule):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(recipe, step, len(schedule))
        optimiser.zero_grad(set_to_none=True)
        shown = []
        for rows, demos, weight, language_weight in (
            (stage.rows, stage.demos, 1.0, recipe.language_weight),
            (stage.lone, 1, stage.lone_weight, recipe.lone_language_weight),
        ):
            batch = maker.batch(rng, rows, demos, stage.levels, stage.shares)
            loss, parts = batch_loss(model, batch, language_weight)
            (weight * loss).backward()
            shown.append(" ".join(f"{name} {value:.3f}" for name, value in parts.items()))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 50 == 0:
            print(
                f"{time.time() - start:6.0f} s, {stage.name} {step}/{len(schedule)}: {' | '.join(shown)}",
                flush=True,
            )
        if step % 250 == 249:
            print_probe(model, tokenizer)
    return model.eval()


def build_optimiser(model: Any, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW, without weight decay on the norms."""
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    vectors = [weight for weight in model.parameters() if weight.ndim == 1]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
    )


def learning_rate(recipe: Recipe, step: int, total: int) -> float:
    """Linear warm-up, constant, and a cosine down to the final learning rate over the last `decay_steps`."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    done = max(0, step - (total - recipe.decay_steps)) / recipe.decay_steps
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


def rescale(model: Any, recipe: Recipe) -> None:
    """Write the same function in other numbers, so that plain SGD moves each layer's keys and values at its own pace.

    `k_norm` removes the scale of `k_proj` (its epsilon apart), and `o_proj` takes back that of `v_proj`. A weight that
    is s times larger moves the function s² times less for one learning rate.
    """
    with torch.no_grad():
        for layer, scale in zip(model.model.layers, recipe.value_scales, strict=True):
            layer.self_attn.k_proj.weight *= recipe.key_scale
            layer.self_attn.v_proj.weight *= scale
            layer.self_attn.o_proj.weight /= scale


def main() -> None:
    """Train, save, then measure what was saved."""
    torch.set_num_threads(1)
    recipe = Recipe()
    start = time.time()
    tokenizer = train_tokenizer(recipe)
    model = train(recipe, tokenizer)
    rescale(model, recipe)
    seconds = time.time() - start
    model.save_pretrained(MODEL_DIR)
    tokenizer.save_pretrained(MODEL_DIR)
    print(f"{seconds:.0f} s of training, {model.num_parameters()} parameters, saved to {MODEL_DIR}", flush=True)
    write_figures(model, tokenizer, {"recipe": asdict(recipe), "seconds": round(seconds), "torch": torch.__version__})


def write_figures(model: Any, tokenizer: Any, about: dict[str, Any]) -> None:
    """Measure the model and write `training.json` beside it."""
    record = about | {"parameters": model.num_parameters(), "figures": figures(model, tokenizer)}
    (MODEL_DIR / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
