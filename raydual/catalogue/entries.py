"""What each measured number is: the one list that measurement, commands, reduction, report and docs share.

A metric is an entry here, a function marked with that entry (`raydual.catalogue.marks`) in `raydual/measure/`, its
definition in docs/science.md and its plain counterpart in the oracle.
"""

from raydual.catalogue.influence import INFLUENCE_METRICS
from raydual.catalogue.metric import (
    CONDITIONS,
    FAILED,
    FAMILIES,
    OF_PATCH,
    OF_ZERO_SHOT,
    OVERALL,
    PANELS,
    PATCH,
    Catalogue,
    Family,
    Key,
    Metric,
    MetricError,
    Panel,
    of_label,
)
from raydual.catalogue.outputs import OUTPUT_METRICS
from raydual.catalogue.parts import PART_METRICS

__all__ = [
    "CATALOGUE",
    "CONDITIONS",
    "FAILED",
    "FAMILIES",
    "OF_PATCH",
    "OF_ZERO_SHOT",
    "OVERALL",
    "PANELS",
    "PATCH",
    "Catalogue",
    "Family",
    "Key",
    "Metric",
    "MetricError",
    "Panel",
    "of_label",
]

_BUILTIN = (
    Metric(
        "accuracy", "Accuracy",
        "Share of examples whose highest-scoring label word is the right one.",
        ("zsl", "icl", "ft", "patch"), family="accuracy", panel="accuracy",
        per_layer=False, share=True, bounds=(0.0, 1.0),
    ),
    Metric(
        "greedy_accuracy", "Greedy accuracy",
        "Share of examples where the arg-max over the whole vocabulary is the right label's first token.",
        ("zsl", "icl", "ft", "patch"), family="accuracy", panel=None, shown="summary",
        per_layer=False, share=True, bounds=(0.0, 1.0),
    ),
    Metric(
        "rec2ftp", "Rec2FTP",
        "Of the examples that fine-tuning corrects, the percentage that the context corrects too.",
        ("icl-ft", "icl-patch", "patch-ft"), family="rec2ftp", panel="recall",
        per_layer=False, share=True, bounds=(0.0, 100.0), similarity=True, zero=False,
    ),
    Metric(
        "rec2ftp_both", "Rec2FTP numerator",
        "Number of examples that zero-shot gets wrong, and context and fine-tuning both get right.",
        ("icl-ft", "icl-patch", "patch-ft"), family="rec2ftp", panel=None, shown="summary",
        per_layer=False, bounds=(0.0, None),
    ),
    Metric(
        "rec2ftp_ft", "Rec2FTP denominator",
        "Number of examples that zero-shot gets wrong and fine-tuning gets right.",
        ("icl-ft", "icl-patch", "patch-ft"), family="rec2ftp", panel=None, shown="summary",
        per_layer=False, bounds=(0.0, None),
    ),
    Metric(
        "reverse_recall", "Reverse recall",
        "Of the examples that the context corrects, the percentage that fine-tuning corrects too.",
        ("icl-ft", "icl-patch", "patch-ft"), family="rec2ftp", panel="recall", short="reverse", shown="tables",
        per_layer=False, share=True, bounds=(0.0, 100.0),
    ),
    Metric(
        "jaccard", "Jaccard index of changes",
        "Of the examples whose prediction the context or fine-tuning changes, the share that both change.",
        ("icl-ft", "icl-patch", "patch-ft"), family="rec2ftp", panel=None, shown="summary",
        per_layer=False, bounds=(0.0, 1.0),
    ),
    Metric(
        "agreement", "Agreement",
        "Share of examples that context and fine-tuning predict alike.",
        ("icl-ft", "icl-patch", "patch-ft"), family="rec2ftp", panel=None, shown="summary",
        per_layer=False, share=True, by_label=True, bounds=(0.0, 1.0),
    ),
    Metric(
        "kappa", "Cohen's κ",
        "Agreement of their predictions beyond chance, given how often each predicts each label.",
        ("icl-ft", "icl-patch", "patch-ft"), family="rec2ftp", panel=None, shown="tables",
        per_layer=False, similarity=True,
    ),
    Metric(
        "simaou", "SimAOU",
        "Cosine between the changes that context and fine-tuning make to the (normalised) attention output.",
        ("icl-ft", "icl-patch", "patch-ft"), family="simaou", panel="updates", short="normalised",
        baselines=(("simaou_norm_matched", "icl-ft"), ("simaou_random", "icl-ft")), similarity=True,
    ),
    Metric(
        "simaou_norm_matched", "SimAOU, norm-matched null",
        "SimAOU of two independent random updates of the same norms as the measured ones.",
        ("icl-ft", "icl-patch", "patch-ft"), family="simaou", panel="updates", short="its null", shown="summary",
        random=True,
    ),
    Metric(
        "simaou_random", "SimAOU, random baseline",
        "Cosine between the context's update and uniform [0, 1) noise (Dai).",
        ("icl-ft", "icl-patch", "patch-ft"), family="simaou", panel="updates", short="random", shown="summary",
        random=True, arms="icl",
    ),
    Metric(
        "simaou_raw", "SimAOU, raw",
        "SimAOU without normalising the attention outputs first (Deutch): unbiased, 0 for unrelated updates.",
        ("icl-ft", "icl-patch", "patch-ft"), family="simaou", panel="updates", short="raw",
        similarity=True,
    ),
    Metric(
        "update_norm", "Relative update norm",
        "Norm of the change of the attention output over the norm of the zero-shot one.",
        ("icl", "ft", "patch"), family="simaou", panel="size", shown="summary",
        bounds=(0.0, None),
    ),
    Metric(
        "simam", "SimAM",
        "Cosine between the pre-softmax attention scores on the query's own tokens.",
        ("icl-ft", "icl-zsl", "icl-patch", "patch-ft"), family="simam", panel="maps", shown="tables",
        baselines=(("simam", "icl-zsl"),), similarity=True, per_head=True,
    ),
    Metric(
        "delta_simam", "ΔSimAM",
        "Cosine between the changes that context and fine-tuning make to those scores (Deutch).",
        ("icl-ft", "icl-patch", "patch-ft"), family="simam", panel="maps",
        similarity=True, per_head=True,
    ),
    Metric(
        "simam_softmax", "SimAM, after softmax",
        "SimAM of the attention weights instead of the scores.",
        ("icl-ft", "icl-zsl", "icl-patch", "patch-ft"), family="simam", panel=None, shown="summary",
        baselines=(("simam_softmax", "icl-zsl"),), per_head=True,
    ),
    Metric(
        "delta_simam_softmax", "ΔSimAM, after softmax",
        "ΔSimAM of the attention weights instead of the scores.",
        ("icl-ft", "icl-patch", "patch-ft"), family="simam", panel=None, shown="summary", per_head=True,
    ),
    Metric(
        "kendall", "Kendall's τ",
        "Rank correlation, over demonstration tokens, of the context's attention with fine-tuning's inner products.",
        family="kendall", panel="ranks", short="queries",
        baselines=(("kendall_random", "icl-ft"),), similarity=True,
    ),
    Metric(
        "kendall_random", "Kendall's τ, random baseline",
        "The same rank correlation against uniform noise.",
        family="kendall", panel="ranks", short="random", shown="summary",
        random=True, arms="icl",
    ),
    Metric(
        "kendall_input", "Kendall-input",
        "Kendall's τ with inner products of the attention block's inputs: what K/V fine-tuning really pays (Irie).",
        family="kendall", panel="ranks", short="inputs", shown="tables",
        baselines=(("kendall_random", "icl-ft"),), similarity=True,
    ),
    Metric(
        "kendall_example", "Kendall's τ of examples",
        "Kendall's τ over whole demonstrations: the softmax mass of their tokens.",
        family="kendall", panel=None, shown="summary",
        baselines=(("kendall_example_random", "icl-ft"),),
    ),
    Metric(
        "kendall_example_random", "Kendall's τ of examples, random baseline",
        "The same rank correlation against uniform noise on the tokens.",
        family="kendall", panel=None, shown="summary",
        random=True, arms="icl",
    ),
    Metric(
        "topk_token", "Top-100 recall of tokens",
        "Share of the 100 demonstration tokens that the context attends to most that are also fine-tuning's.",
        family="kendall", panel=None, shown="summary",
        bounds=(0.0, 1.0), baselines=(("topk_token_random", "icl-ft"),),
    ),
    Metric(
        "topk_token_random", "Top-100 recall of tokens, random baseline",
        "The same share against uniform noise.",
        family="kendall", panel=None, shown="summary",
        bounds=(0.0, 1.0), random=True, arms="icl",
    ),
    Metric(
        "topk_example", "Top-5 recall of examples",
        "Share of the 5 demonstrations that the context attends to most that are also fine-tuning's.",
        family="kendall", panel=None, shown="summary",
        bounds=(0.0, 1.0), baselines=(("topk_example_random", "icl-ft"),),
    ),
    Metric(
        "topk_example_random", "Top-5 recall of examples, random baseline",
        "The same share against uniform noise on the tokens.",
        family="kendall", panel=None, shown="summary",
        bounds=(0.0, 1.0), random=True, arms="icl",
    ),
    Metric(
        "simdual", "SimDual",
        "Cosine of the context's exact update with fine-tuning's, at the same layer inputs.",
        family="simaou", panel="exact",
        similarity=True,
    ),
    Metric(
        "simdw", "SimΔW",
        "Cosine of the two updates of the relaxed linear attention's weights, mean over heads.",
        family="simaou", panel="exact",
        similarity=True,
    ),
    Metric(
        "lambda", "λ, mass on demonstrations",
        "Softmax mass that the last token puts on the demonstrations, mean over heads.",
        ("icl",), family="simaou", panel="mass", shown="tables",
        bounds=(0.0, 1.0), per_head=True,
    ),
    Metric(
        "context_norm_gate", "Context as weights, gate: size",
        "Norm of the change of the gate projection that stands for the context, over the norm of the projection.",
        ("icl",), family="context_weights", panel="weight_size", short="gate", shown="tables",
        bounds=(0.0, None),
    ),
    Metric(
        "context_norm_up", "Context as weights, up: size",
        "Norm of the change of the up projection that stands for the context, over the norm of the projection.",
        ("icl",), family="context_weights", panel="weight_size", short="up", shown="tables",
        bounds=(0.0, None),
    ),
    Metric(
        "context_norm_down", "Context as weights, down: size",
        "Norm of the change of the down projection that stands for the context, over the norm of the projection.",
        ("icl",), family="context_weights", panel="weight_size", short="down", shown="tables",
        bounds=(0.0, None),
    ),
    Metric(
        "context_cosine_gate", "Context as weights, gate: cosine",
        "Cosine of that change with the one that fine-tuning makes to the gate projection, where it is trained.",
        family="context_weights", panel="weights", short="gate", shown="tables",
        similarity=True,
    ),
    Metric(
        "context_cosine_up", "Context as weights, up: cosine",
        "Cosine of that change with the one that fine-tuning makes to the up projection, where it is trained.",
        family="context_weights", panel="weights", short="up", shown="tables",
        similarity=True,
    ),
    Metric(
        "context_cosine_down", "Context as weights, down: cosine",
        "Cosine of that change with the one that fine-tuning makes to the down projection, where it is trained.",
        family="context_weights", panel="weights", short="down", shown="tables",
        similarity=True,
    ),
    Metric(
        "patch_r2", "R² of the patch",
        "Held-out R² of what the context adds to a layer's output: 0 is no better than adding the mean to every query.",
        ("patch",), family="patch", panel="patch_fit", short="R²", shown="tables",
        bounds=(None, 1.0),
    ),
    Metric(
        "patch_explained", "Context that the patch makes",
        "Held-out share of what the context adds to a layer's output that one patch adds: 0 is no better than none.",
        ("patch",), family="patch", panel="patch_fit", short="share of the change", shown="tables",
        bounds=(None, 1.0),
    ),
    Metric(
        "patch_norm_gate", "The patch, gate: size",
        "Norm of the patch of the gate projection over the norm of the projection.",
        ("patch",), family="patch", panel="patch_size", short="gate", shown="summary",
        bounds=(0.0, None),
    ),
    Metric(
        "patch_norm_up", "The patch, up: size",
        "Norm of the patch of the up projection over the norm of the projection.",
        ("patch",), family="patch", panel="patch_size", short="up", shown="summary",
        bounds=(0.0, None),
    ),
    Metric(
        "patch_norm_down", "The patch, down: size",
        "Norm of the patch of the down projection over the norm of the projection.",
        ("patch",), family="patch", panel="patch_size", short="down", shown="summary",
        bounds=(0.0, None),
    ),
    Metric(
        "patch_cosine_gate", "The patch, gate: cosine",
        "Cosine of the patch with the change that fine-tuning makes to the gate projection, where it is trained.",
        ("patch-ft",), family="patch", panel="patch_weights", short="gate", shown="tables",
    ),
    Metric(
        "patch_cosine_up", "The patch, up: cosine",
        "Cosine of the patch with the change that fine-tuning makes to the up projection, where it is trained.",
        ("patch-ft",), family="patch", panel="patch_weights", short="up", shown="tables",
    ),
    Metric(
        "patch_cosine_down", "The patch, down: cosine",
        "Cosine of the patch with the change that fine-tuning makes to the down projection, where it is trained.",
        ("patch-ft",), family="patch", panel="patch_weights", short="down", shown="tables",
    ),
    Metric(
        "order_scores", "Order spread, label scores",
        "Standard deviation of a label word's score over orders of the demonstrations, mean over words and examples.",
        ("icl", "ft", "ft_all"), family="order", panel="order_scores", shown="tables",
        per_layer=False, bounds=(0.0, None), baselines=(("order_scores", "ft_all"),),
    ),
    Metric(
        "order_accuracy", "Order spread, accuracy",
        "Standard deviation of accuracy over orders of the demonstrations.",
        ("icl", "ft", "ft_all"), family="order", panel="order_accuracy", shown="tables",
        per_layer=False, bounds=(0.0, 1.0), baselines=(("order_accuracy", "ft_all"),),
    ),
    *PART_METRICS,
    *OUTPUT_METRICS,
    *INFLUENCE_METRICS,
)  # fmt: skip

CATALOGUE = Catalogue(_BUILTIN)
"""What every sweep measures; a sweep with metrics of its own has a larger one (`SweepConfig.catalogue`)."""

if _unplaced := [metric.name for metric in _BUILTIN if "own" in (metric.family, metric.panel)]:
    raise MetricError(f"metric {_unplaced[0]!r}: needs a family and a panel (or None)")
