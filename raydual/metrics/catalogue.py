"""What each measured number is: the one list that measurement, reduction, report and docs share."""

from dataclasses import dataclass

OVERALL = -1
"""The `layer` of a number that belongs to no single layer or is the mean over layers."""

CONDITIONS = {
    "zsl": "zero-shot",
    "icl": "in-context",
    "ft": "fine-tuned",
    "icl-ft": "in-context against fine-tuned",
    "icl-zsl": "in-context against zero-shot",
}


def of_label(condition: str, label: int) -> str:
    """The condition of a metric that is taken over the examples of one gold label alone."""
    return f"{condition}, gold {label}"


@dataclass(frozen=True)
class Metric:
    """One metric.

    `name` is the key in every table; `conditions` what it is measured on; `baselines` the (metric, condition)
    pairs that it must stand beside; `bounds` its range (None: unbounded); `per_layer` whether it has a value for
    each layer beside the overall one; `by_label` whether it is also split by gold label; `section` where
    docs/science.md defines it.
    """

    name: str
    label: str
    description: str
    conditions: tuple[str, ...]
    section: str
    per_layer: bool = True
    by_label: bool = False
    bounds: tuple[float | None, float | None] = (-1.0, 1.0)
    baselines: tuple[tuple[str, str], ...] = ()
    headline: bool = True

    def conditions_with_labels(self, labels: int) -> list[str]:
        """`conditions`, and if the metric is split by gold label, each label's part of a task with so many labels."""
        split = [of_label(condition, label) for condition in self.conditions for label in range(labels)]
        return [*self.conditions, *(split if self.by_label else [])]


_ALL = (
    Metric(
        "accuracy", "Accuracy",
        "Share of examples whose highest-scoring label word is the right one.",
        ("zsl", "icl", "ft"), "4", per_layer=False, bounds=(0.0, 1.0),
    ),
    Metric(
        "greedy_accuracy", "Greedy accuracy",
        "Share of examples where the arg-max over the whole vocabulary is the right label's first token.",
        ("zsl", "icl", "ft"), "4", per_layer=False, bounds=(0.0, 1.0), headline=False,
    ),
    Metric(
        "rec2ftp", "Rec2FTP",
        "Of the examples that fine-tuning corrects, the percentage that the context corrects too.",
        ("icl-ft",), "4", per_layer=False, bounds=(0.0, 100.0),
    ),
    Metric(
        "rec2ftp_both", "Rec2FTP numerator",
        "Number of examples that zero-shot gets wrong, and context and fine-tuning both get right.",
        ("icl-ft",), "4", per_layer=False, bounds=(0.0, None), headline=False,
    ),
    Metric(
        "rec2ftp_ft", "Rec2FTP denominator",
        "Number of examples that zero-shot gets wrong and fine-tuning gets right.",
        ("icl-ft",), "4", per_layer=False, bounds=(0.0, None), headline=False,
    ),
    Metric(
        "reverse_recall", "Reverse recall",
        "Of the examples that the context corrects, the percentage that fine-tuning corrects too.",
        ("icl-ft",), "4", per_layer=False, bounds=(0.0, 100.0),
    ),
    Metric(
        "jaccard", "Jaccard index of changes",
        "Of the examples whose prediction the context or fine-tuning changes, the share that both change.",
        ("icl-ft",), "4", per_layer=False, bounds=(0.0, 1.0), headline=False,
    ),
    Metric(
        "agreement", "Agreement",
        "Share of examples that context and fine-tuning predict alike.",
        ("icl-ft",), "4", per_layer=False, by_label=True, bounds=(0.0, 1.0), headline=False,
    ),
    Metric(
        "kappa", "Cohen's κ",
        "Agreement of their predictions beyond chance, given how often each predicts each label.",
        ("icl-ft",), "4", per_layer=False,
    ),
    Metric(
        "simaou", "SimAOU",
        "Cosine between the changes that context and fine-tuning make to the (normalised) attention output.",
        ("icl-ft",), "4",
        baselines=(("simaou_norm_matched", "icl-ft"), ("simaou_random", "icl-ft")),
    ),
    Metric(
        "simaou_norm_matched", "SimAOU, norm-matched null",
        "SimAOU of two independent random updates of the same norms as the measured ones.",
        ("icl-ft",), "4", headline=False,
    ),
    Metric(
        "simaou_random", "SimAOU, random baseline",
        "Cosine between the context's update and uniform [0, 1) noise (Dai).",
        ("icl-ft",), "4", headline=False,
    ),
    Metric(
        "simaou_raw", "SimAOU, raw",
        "SimAOU without normalising the attention outputs first (Deutch): unbiased, 0 for unrelated updates.",
        ("icl-ft",), "4",
    ),
    Metric(
        "update_norm", "Relative update norm",
        "Norm of the change of the attention output over the norm of the zero-shot one.",
        ("icl", "ft"), "4", bounds=(0.0, None), headline=False,
    ),
    Metric(
        "simam", "SimAM",
        "Cosine between the pre-softmax attention scores on the query's own tokens.",
        ("icl-ft", "icl-zsl"), "4", baselines=(("simam", "icl-zsl"),),
    ),
    Metric(
        "delta_simam", "ΔSimAM",
        "Cosine between the changes that context and fine-tuning make to those scores (Deutch).",
        ("icl-ft",), "4",
    ),
    Metric(
        "simam_softmax", "SimAM, after softmax",
        "SimAM of the attention weights instead of the scores.",
        ("icl-ft", "icl-zsl"), "4", baselines=(("simam_softmax", "icl-zsl"),), headline=False,
    ),
    Metric(
        "delta_simam_softmax", "ΔSimAM, after softmax",
        "ΔSimAM of the attention weights instead of the scores.",
        ("icl-ft",), "4", headline=False,
    ),
    Metric(
        "kendall", "Kendall's τ",
        "Rank correlation, over demonstration tokens, of the context's attention with fine-tuning's inner products.",
        ("icl-ft",), "4", baselines=(("kendall_random", "icl-ft"),),
    ),
    Metric(
        "kendall_random", "Kendall's τ, random baseline",
        "The same rank correlation against uniform noise.",
        ("icl-ft",), "4", headline=False,
    ),
    Metric(
        "kendall_input", "Kendall-input",
        "Kendall's τ with inner products of the attention block's inputs: what K/V fine-tuning really pays (Irie).",
        ("icl-ft",), "4", baselines=(("kendall_random", "icl-ft"),),
    ),
    Metric(
        "kendall_example", "Kendall's τ of examples",
        "Kendall's τ over whole demonstrations: the softmax mass of their tokens.",
        ("icl-ft",), "4", baselines=(("kendall_example_random", "icl-ft"),), headline=False,
    ),
    Metric(
        "kendall_example_random", "Kendall's τ of examples, random baseline",
        "The same rank correlation against uniform noise on the tokens.",
        ("icl-ft",), "4", headline=False,
    ),
    Metric(
        "topk_token", "Top-100 recall of tokens",
        "Share of the 100 demonstration tokens that the context attends to most that are also fine-tuning's.",
        ("icl-ft",), "4", bounds=(0.0, 1.0), baselines=(("topk_token_random", "icl-ft"),), headline=False,
    ),
    Metric(
        "topk_token_random", "Top-100 recall of tokens, random baseline",
        "The same share against uniform noise.",
        ("icl-ft",), "4", bounds=(0.0, 1.0), headline=False,
    ),
    Metric(
        "topk_example", "Top-5 recall of examples",
        "Share of the 5 demonstrations that the context attends to most that are also fine-tuning's.",
        ("icl-ft",), "4", bounds=(0.0, 1.0), baselines=(("topk_example_random", "icl-ft"),), headline=False,
    ),
    Metric(
        "topk_example_random", "Top-5 recall of examples, random baseline",
        "The same share against uniform noise on the tokens.",
        ("icl-ft",), "4", bounds=(0.0, 1.0), headline=False,
    ),
    Metric(
        "simdual", "SimDual",
        "Cosine of the context's exact update with fine-tuning's, at the same layer inputs.",
        ("icl-ft",), "4",
    ),
    Metric(
        "simdw", "SimΔW",
        "Cosine of the two updates of the relaxed linear attention's weights, mean over heads.",
        ("icl-ft",), "4",
    ),
    Metric(
        "lambda", "λ, mass on demonstrations",
        "Softmax mass that the last token puts on the demonstrations, mean over heads.",
        ("icl",), "4", bounds=(0.0, 1.0),
    ),
)  # fmt: skip

CATALOGUE = {metric.name: metric for metric in _ALL}
