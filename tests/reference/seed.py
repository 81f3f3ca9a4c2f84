"""Everything that one seed measures, from plain lists of (text, label)."""

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from . import agreement, metrics, ranks
from .dual import similarities
from .finetune import Finetuned, FinetuneSettings, finetune
from .forward import label_scores, record, softmax
from .parts import part_values, token_kinds
from .prompts import (
    TaskSettings,
    Tokens,
    aligned,
    continuation,
    demonstration,
    filled,
    in_context,
    tokenize,
)

Examples = list[tuple[str, int]]
from .records import ExampleRecord, MeasureSettings, SeedRecord

Values = dict[tuple[str, str, int], float]
OVERALL = -1


def measure_seed(
    model: PreTrainedModel,
    tokenizer: Any,
    train: Examples,
    validation: Examples,
    task: TaskSettings,
    seed: int,
    k: int,
    finetune_settings: FinetuneSettings | None = None,
    measures: MeasureSettings | None = None,
) -> Values:
    """Every number of the catalogue as {(metric, condition, layer): value}; layer -1 is the overall one."""
    chosen = [train[i] for i in random.Random(seed).sample(range(len(train)), k)]
    return measure_demonstrations(model, tokenizer, chosen, validation, task, finetune_settings, measures)


def measure_demonstrations(
    model: PreTrainedModel,
    tokenizer: Any,
    chosen: Examples,
    validation: Examples,
    task: TaskSettings,
    finetune_settings: FinetuneSettings | None = None,
    measures: MeasureSettings | None = None,
    ft_model: PreTrainedModel | None = None,
) -> Values:
    """The same for demonstrations in prompt order.

    With `ft_model`, it stands in the `ft` condition; the training tokens are still those of fine-tuning on `chosen`.
    """
    measures = measures or MeasureSettings()
    recorded = record_seed(model, tokenizer, chosen, validation, task, finetune_settings, measures, ft_model)
    return values_of(recorded, measures, np.random.default_rng(measures.noise_seed))


def record_seed(
    model: PreTrainedModel,
    tokenizer: Any,
    chosen: Examples,
    validation: Examples,
    task: TaskSettings,
    finetune_settings: FinetuneSettings | None = None,
    measures: MeasureSettings | None = None,
    ft_model: PreTrainedModel | None = None,
) -> SeedRecord:
    """All recordings for the demonstrations `chosen`; the model is left as it was."""
    base = copy.deepcopy(model).eval()
    base.set_attn_implementation("eager")
    alone, tuned = tune_on(base, tokenizer, chosen, task, finetune_settings)
    measures = measures or MeasureSettings()
    examples = [
        record_example(
            base, ft_model or tuned.model, tokenizer, alone, task, filled(task, text), label,
            measures.keep_first_token, measures.parts,
        )
        for text, label in validation
    ]  # fmt: skip
    return SeedRecord(alone, tuned, examples)


def tune_on(
    base: PreTrainedModel,
    tokenizer: Any,
    chosen: Examples,
    task: TaskSettings,
    settings: FinetuneSettings | None = None,
) -> tuple[list[Tokens], Finetuned]:
    """Demonstrations tokenized alone, and a copy of the model fine-tuned on them."""
    alone = [tokenize(tokenizer, demonstration(task, text, label)) for text, label in chosen]
    label_from = [len(filled(task, text)) for text, _ in chosen]
    return alone, finetune(base, alone, settings or FinetuneSettings(), label_from)


def record_example(
    base: PreTrainedModel,
    tuned: PreTrainedModel,
    tokenizer: Any,
    demonstrations: list[Tokens],
    task: TaskSettings,
    query: str,
    label: int,
    keep_first: bool,
    parts: bool = False,
) -> ExampleRecord:
    """One validation example under the three conditions."""
    alone = tokenize(tokenizer, query)
    prompt = in_context(tokenizer, [tokens.text for tokens in demonstrations], task.separator, query)
    prefix = prompt.prefix_length
    words = task.label_words
    pairs = aligned(alone, prompt.tokens, prompt.query, keep_first)
    zsl, icl, ft = record(base, alone.ids), record(base, prompt.tokens.ids, prefix), record(tuned, alone.ids)
    simdual, simdw = similarities(base, tuned, icl.blocks, zsl.blocks, prefix)
    return ExampleRecord(
        label=label,
        first_label_token=continuation(tokenizer, alone, words[label])[0],
        alone=alone,
        prompt=prompt,
        recordings={"zsl": zsl, "icl": icl, "ft": ft},
        scores={
            "zsl": label_scores(base, tokenizer, alone, words, zsl.logits),
            "icl": label_scores(base, tokenizer, prompt.tokens, words, icl.logits),
            "ft": label_scores(tuned, tokenizer, alone, words, ft.logits),
        },
        query_pairs=[(i, j - prefix) for i, j in pairs],
        demonstration_pairs=[
            aligned(tokens, prompt.tokens, chars, keep_first)
            for tokens, chars in zip(demonstrations, prompt.demonstrations, strict=True)
        ],
        simdual=simdual,
        simdw=simdw,
        parts=part_values(base, tuned, icl.blocks, token_kinds(prompt, task)) if parts else {},
    )


def values_of(seed: SeedRecord, measures: MeasureSettings, generator: np.random.Generator) -> Values:
    """The metrics of one seed's recordings; `generator` feeds the three random baselines."""
    layered = {
        **update_values(seed.examples, measures, generator),
        **score_values(seed.examples),
        **weight_values(seed.examples),
        **kendall_values(seed, measures, generator),
        **dual_values(seed.examples),
        **part_means(seed.examples),
    }
    values: Values = {**prediction_values(seed.examples), **agreement_values(seed.examples)}
    for (metric, condition), by_layer in layered.items():
        for layer, value in enumerate(by_layer):
            values[metric, condition, layer] = float(value)
        values[metric, condition, OVERALL] = metrics.mean(list(by_layer))
    return values


def prediction_values(examples: list[ExampleRecord]) -> Values:
    """Accuracies and Rec2FTP."""
    values: Values = {}
    right = {}
    for condition in ("zsl", "icl", "ft"):
        right[condition] = [example.right(condition) for example in examples]
        greedy = [example.greedy_right(condition) for example in examples]
        values["accuracy", condition, OVERALL] = sum(right[condition]) / len(examples)
        values["greedy_accuracy", condition, OVERALL] = sum(greedy) / len(examples)
    recall, both, tuned = metrics.rec2ftp(right["zsl"], right["icl"], right["ft"])
    values["rec2ftp", "icl-ft", OVERALL] = recall
    values["rec2ftp_both", "icl-ft", OVERALL] = float(both)
    values["rec2ftp_ft", "icl-ft", OVERALL] = float(tuned)
    return values


def agreement_values(examples: list[ExampleRecord]) -> Values:
    """How alike the context and fine-tuning predict."""
    conditions = ("zsl", "icl", "ft")
    right = [[example.right(condition) for example in examples] for condition in conditions]
    zsl, icl, ft = ([example.prediction(condition) for example in examples] for condition in conditions)
    return {
        ("reverse_recall", "icl-ft", OVERALL): agreement.reverse_recall(*right),
        ("jaccard", "icl-ft", OVERALL): agreement.jaccard(zsl, icl, ft),
        ("agreement", "icl-ft", OVERALL): agreement.agreement(icl, ft),
        **{
            ("agreement", f"icl-ft, gold {label}", OVERALL): agreement.agreement(
                *([p for p, e in zip(kind, examples, strict=True) if e.label == label] for kind in (icl, ft))
            )
            for label in range(len(examples[0].scores["icl"]))
        },
        ("kappa", "icl-ft", OVERALL): agreement.kappa(icl, ft),
    }


def update_values(
    examples: list[ExampleRecord], measures: MeasureSettings, generator: np.random.Generator
) -> dict[tuple[str, str], np.ndarray]:
    """SimAOU, its variants and baselines, and the norms of the updates."""
    zsl, icl, ft = (
        np.stack([getattr(example.recordings[condition], measures.update_field) for example in examples])
        for condition in ("zsl", "icl", "ft")
    )
    null = metrics.simaou_norm_matched(icl, zsl, ft, generator, measures.draws)
    return {
        ("simaou", "icl-ft"): metrics.simaou(icl, zsl, ft),
        ("simaou_raw", "icl-ft"): metrics.simaou(icl, zsl, ft, normalised=False),
        ("simaou_random", "icl-ft"): metrics.simaou_random(icl, zsl, generator.random(zsl.shape)),
        ("simaou_norm_matched", "icl-ft"): null,
        ("update_norm", "icl"): metrics.update_norm(icl, zsl),
        ("update_norm", "ft"): metrics.update_norm(ft, zsl),
    }


def score_values(examples: list[ExampleRecord]) -> dict[tuple[str, str], np.ndarray]:
    """SimAM, its baseline and ΔSimAM on aligned query tokens, and λ."""
    scores: dict[str, list[np.ndarray]] = {"zsl": [], "icl": [], "ft": []}
    for example in examples:
        columns = {"icl": [j for _, j in example.query_pairs]}
        columns["zsl"] = columns["ft"] = [i for i, _ in example.query_pairs]
        for condition, kept in scores.items():
            kept.append(example.recordings[condition].scores_query[:, :, columns[condition]])
        same = unmoved(example)
        scores["icl"][-1][0, :, same] = scores["zsl"][-1][0, :, same]
    lambdas = np.stack([example.recordings["icl"].mass for example in examples])
    return {
        ("simam", "icl-ft"): metrics.simam(scores["icl"], scores["ft"]),
        ("simam", "icl-zsl"): metrics.simam(scores["icl"], scores["zsl"]),
        ("delta_simam", "icl-ft"): metrics.delta_simam(scores["icl"], scores["zsl"], scores["ft"]),
        ("lambda", "icl"): metrics.mass(lambdas),
    }


def unmoved(example: ExampleRecord) -> list[int]:
    """Which aligned tokens have the same score in the first layer with and without demonstrations, exactly.

    There a score depends on two tokens and their distance alone, so that icl - zsl is 0 but for rounding, and
    its direction undefined.
    """
    alone, own = example.alone.ids, example.prompt.tokens.ids[example.prompt.prefix_length :]
    if alone[-1] != own[-1]:
        return []
    return [n for n, (i, j) in enumerate(example.query_pairs) if alone[i] == own[j] and len(alone) - i == len(own) - j]


def weight_values(examples: list[ExampleRecord]) -> dict[tuple[str, str], np.ndarray]:
    """SimAM, its baseline and ΔSimAM of the weights that the last token puts on the aligned query tokens."""
    weights: dict[str, list[np.ndarray]] = {"zsl": [], "icl": [], "ft": []}
    for example in examples:
        alone = [i for i, _ in example.query_pairs]
        for condition in ("zsl", "ft"):
            weights[condition].append(softmax(example.recordings[condition].scores_query)[:, :, alone])
        weights["icl"].append(context_weights(example))
    return {
        ("simam_softmax", "icl-ft"): metrics.simam(weights["icl"], weights["ft"]),
        ("simam_softmax", "icl-zsl"): metrics.simam(weights["icl"], weights["zsl"]),
        ("delta_simam_softmax", "icl-ft"): metrics.delta_simam(weights["icl"], weights["zsl"], weights["ft"]),
    }


def context_weights(example: ExampleRecord) -> np.ndarray:
    """Weights on the aligned query tokens within the whole prompt's softmax [layers, heads, tokens].

    In the first layer the unmoved tokens take the zero-shot scores, which are theirs but for rounding.
    """
    own = example.recordings["icl"].scores_query.copy()
    same = [example.query_pairs[n] for n in unmoved(example)]
    own[0][:, [j for _, j in same]] = example.recordings["zsl"].scores_query[0][:, [i for i, _ in same]]
    whole = softmax(np.concatenate([example.recordings["icl"].scores_demo, own], axis=2))
    return whole[:, :, [example.prompt.prefix_length + j for _, j in example.query_pairs]]


def dual_values(examples: list[ExampleRecord]) -> dict[tuple[str, str], np.ndarray]:
    """SimDual and SimΔW."""
    simdual, simdw = (np.stack([getattr(example, name) for example in examples]) for name in ("simdual", "simdw"))
    layers = range(simdual.shape[1])
    return {
        ("simdual", "icl-ft"): np.array([metrics.mean(simdual[:, layer].tolist()) for layer in layers]),
        ("simdw", "icl-ft"): np.array([metrics.mean(simdw[:, layer].ravel().tolist()) for layer in layers]),
    }


def part_means(examples: list[ExampleRecord]) -> dict[tuple[str, str], np.ndarray]:
    """What each kind of token adds, where it was asked for."""
    return {
        (name, "icl-ft" if name.startswith("simdual") else "icl"): np.array(
            [metrics.mean([float(example.parts[name][layer]) for example in examples]) for layer in range(len(values))]
        )
        for name, values in examples[0].parts.items()
    }


def training_vectors(seed: SeedRecord, field: str) -> list[np.ndarray]:
    """A field of every training example; in the first layer one token has one, to the last bit.

    The first layer's depend on the token alone and are not trained, so equal tokens are ties, which rounding
    must not break. Where the weights stood still, those of the other layers depend on the example's tokens so far.
    """
    first: dict[int, np.ndarray] = {}
    followed: dict[tuple[int, ...], np.ndarray] = {}
    result = []
    for tokens, trained in zip(seed.demonstrations, seed.finetuned.records, strict=True):
        vectors = getattr(trained, field).copy()
        for i, token in enumerate(tokens.ids):
            vectors[0, i] = first.setdefault(token, vectors[0, i].copy())
            if seed.finetuned.still:
                vectors[1:, i] = followed.setdefault(tuple(tokens.ids[: i + 1]), vectors[1:, i].copy())
        result.append(vectors)
    return result


def kendall_values(
    seed: SeedRecord, measures: MeasureSettings, generator: np.random.Generator
) -> dict[tuple[str, str], np.ndarray]:
    """Ranks of the context's attention to the demonstrations beside fine-tuning's, and beside noise."""
    examples = seed.examples[: measures.kendall_examples]
    queries, inputs = training_vectors(seed, measures.query_field), training_vectors(seed, "attn_in")
    if seed.finetuned.trains_queries:
        queries = [getattr(trained, measures.query_field) for trained in seed.finetuned.records]
    context, tuning, tuning_input, noise = [], [], [], []
    for example in examples:
        pairs, ft = example.demonstration_pairs, example.recordings["ft"]
        context.append(metrics.context_attention(example.recordings["icl"].scores_demo, pairs))
        tuning.append(metrics.tuning_attention(queries, getattr(ft, measures.query_field), pairs))
        tuning_input.append(metrics.tuning_attention(inputs, ft.attn_in, pairs))
        noise.append(generator.random(context[-1].shape))
    if measures.kendall_softmax:
        context, tuning, tuning_input, noise = (
            [softmax(tokens) for tokens in kind] for kind in (context, tuning, tuning_input, noise)
        )
    masses = ranks.sums if measures.kendall_softmax else ranks.log_masses
    return {
        ("kendall", "icl-ft"): metrics.kendall(context, tuning),
        ("kendall_random", "icl-ft"): metrics.kendall(context, noise),
        ("kendall_input", "icl-ft"): metrics.kendall(context, tuning_input),
        ("topk_token", "icl-ft"): ranks.topk(context, tuning, ranks.TOP_TOKENS),
        ("topk_token_random", "icl-ft"): ranks.topk(context, noise, ranks.TOP_TOKENS),
        **demonstration_values(examples, context, tuning, noise, masses),
    }


def demonstration_values(
    examples: list[ExampleRecord],
    context: list[np.ndarray],
    tuning: list[np.ndarray],
    noise: list[np.ndarray],
    masses: Callable[[np.ndarray, list[metrics.Pairs]], np.ndarray],
) -> dict[tuple[str, str], np.ndarray]:
    """The same over whole demonstrations; each example's attention [layers, tokens]."""
    context, tuning, noise = (
        [masses(tokens, example.demonstration_pairs) for tokens, example in zip(kind, examples, strict=True)]
        for kind in (context, tuning, noise)
    )
    return {
        ("kendall_example", "icl-ft"): metrics.kendall(context, tuning),
        ("kendall_example_random", "icl-ft"): metrics.kendall(context, noise),
        ("topk_example", "icl-ft"): ranks.topk(context, tuning, ranks.TOP_EXAMPLES),
        ("topk_example_random", "icl-ft"): ranks.topk(context, noise, ranks.TOP_EXAMPLES),
    }
