"""The schemas of a run's Parquet files, with a description of every column."""

import pyarrow as pa

_SHOTS = pa.field(
    "shots",
    pa.int32(),
    True,
    {"description": "after how many of the demonstrations; null in older files: all"},
)

MEASUREMENTS = pa.schema(
    [
        pa.field("seed", pa.int64(), False, {"description": "fixes the demonstration set"}),
        pa.field("control", pa.string(), False, {"description": "'none', or which control was run instead"}),
        _SHOTS,
        pa.field("metric", pa.string(), False, {"description": "a name of the catalogue, or 'failed'"}),
        pa.field("condition", pa.string(), False, {"description": "zsl, icl, ft, or the two compared"}),
        pa.field("layer", pa.int16(), False, {"description": "from 0; -1: overall, the mean over layers"}),
        pa.field("value", pa.float64(), False, {"description": "mean over examples; NaN: undefined"}),
        pa.field("examples", pa.int32(), False, {"description": "examples (a layer: with a value) in the mean"}),
        pa.field("undefined", pa.int32(), False, {"description": "examples left out, having no value"}),
        pa.field("reason", pa.string(), True, {"description": "why the seed failed or the value is undefined"}),
    ]
)
"""One row for each (seed, control, shots, metric, condition, layer); a failed seed has a single one, 'failed'."""

BOTH = (
    pa.field(
        "ci_low_both", pa.float64(), True,
        {"description": "overall: 95 % interval over other seeds and other examples; null: not known"},
    ),
    pa.field("ci_high_both", pa.float64()),
    pa.field(
        "sd_seed", pa.float64(), True,
        {"description": "overall: standard deviation of the seeds' part of a value by example; 0: estimated below 0"},
    ),
    pa.field("sd_example", pa.float64(), True, {"description": "of the examples' part"}),
    pa.field("sd_interaction", pa.float64(), True, {"description": "of what is left: both together, and noise"}),
    pa.field("examples", pa.int64(), True, {"description": "examples that count in some seed"}),
)  # fmt: skip
"""Columns that both tables end with; layers have none of it."""

SUMMARY = pa.schema(
    [
        pa.field("metric", pa.string(), False),
        pa.field("condition", pa.string(), False),
        pa.field("control", pa.string(), False),
        _SHOTS,
        pa.field("layer", pa.int16(), False, {"description": "from 0; -1: overall"}),
        pa.field("n", pa.int64(), False, {"description": "seeds with a value"}),
        pa.field("undefined", pa.int64(), False, {"description": "measured seeds whose value is NaN"}),
        pa.field("failed", pa.int64(), False, {"description": "seeds of this control that failed altogether"}),
        *(pa.field(name, pa.float64(), False) for name in ("mean", "sd", "min", "q25", "median", "q75", "max")),
        pa.field("ci_low", pa.float64(), False, {"description": "95 % BCa bootstrap interval of the mean"}),
        pa.field("ci_high", pa.float64(), False),
        *BOTH,
    ]
)
"""The reduced distributions over seeds."""

COMPARISONS = pa.schema(
    [
        pa.field("metric", pa.string(), False),
        pa.field("condition", pa.string(), False),
        pa.field("baseline", pa.string(), False, {"description": "the metric that it is compared with, or 'zero'"}),
        pa.field("baseline_condition", pa.string(), False),
        pa.field("control", pa.string(), False),
        pa.field("baseline_control", pa.string(), False, {"description": "the control that the baseline is of"}),
        _SHOTS,
        pa.field("layer", pa.int16(), False, {"description": "from 0; -1: overall"}),
        pa.field("n", pa.int64(), False, {"description": "seeds that have both"}),
        pa.field("difference", pa.float64(), False, {"description": "metric minus baseline, mean over seeds"}),
        pa.field("ci_low", pa.float64(), False, {"description": "95 % BCa bootstrap interval of the difference"}),
        pa.field("ci_high", pa.float64(), False),
        pa.field("above", pa.float64(), False, {"description": "share of seeds with a greater value; a tie is half"}),
        pa.field("p", pa.float64(), False, {"description": "Wilcoxon's signed-rank test, two-sided"}),
        pa.field("p_holm", pa.float64(), False, {"description": "corrected over layers; overall: over controls"}),
        pa.field(
            "p_max_t", pa.float64(), False,
            {"description": "sign-flip max-T, corrected like p_holm; NaN: no seed, or equal by construction"},
        ),
        pa.field(
            "p_equivalent", pa.float64(), False,
            {"description": "two one-sided tests, corrected by Holm; NaN: as p_max_t, or without a margin"},
        ),
        pa.field("mean", pa.float64(), True, {"description": "of the metric, over the n seeds"}),
        pa.field("baseline_mean", pa.float64(), True, {"description": "of the baseline, over the n seeds"}),
        pa.field("sd", pa.float64(), True, {"description": "of the differences over the n seeds"}),
        pa.field("tests", pa.int64(), True, {"description": "how many comparisons p_max_t is corrected for"}),
        *BOTH,
    ]
)  # fmt: skip
"""Every metric against its baselines, and against itself in every control, paired over seeds."""

SEED_SEARCH = pa.schema(
    [
        pa.field("seed", pa.int64(), False),
        pa.field("examples", pa.int64(), False, {"description": "selection examples seen before it was stopped"}),
        pa.field("accuracy", pa.float64(), False, {"description": "in-context accuracy on them"}),
        pa.field("stopped_at", pa.int64(), True, {"description": "slice at which it was stopped; null: never"}),
        pa.field("kept", pa.bool_(), False, {"description": "goes on to be measured"}),
        pa.field("reason", pa.string(), True, {"description": "why it could not be scored"}),
    ]
)
"""What the search over seeds tried."""

FINETUNE_SEARCH = pa.schema(
    [
        pa.field("optimizer", pa.string(), False),
        pa.field("learning_rate", pa.float64(), False),
        pa.field("epochs", pa.int64(), False),
        pa.field("accuracy", pa.float64(), False, {"description": "fine-tuned, mean over the search's seeds"}),
        pa.field("greedy_accuracy", pa.float64(), False),
        pa.field("loss", pa.float64(), False, {"description": "mean training loss over the steps; NaN: diverged"}),
        pa.field("diverged", pa.int64(), False, {"description": "seeds whose weights were no longer finite"}),
        pa.field("chosen", pa.bool_(), False),
        pa.field("reason", pa.string(), True, {"description": "why it could not be scored"}),
    ]
)
"""What the search over fine-tuning settings tried."""

ARMS = ("zsl", "icl", "ft")
"""The conditions that predict."""

EXAMPLES = pa.schema(
    [
        pa.field("seed", pa.int64(), False, {"description": "fixes the demonstration set"}),
        pa.field("control", pa.string(), False, {"description": "'none', or which control was run instead"}),
        pa.field("example", pa.int32(), False, {"description": "place among the measured examples, from 0"}),
        pa.field("gold", pa.int16(), False, {"description": "its label id"}),
        *(
            pa.field(f"prediction.{arm}", pa.int16(), False, {"description": "label id of the best label word"})
            for arm in ARMS
        ),
        *(pa.field(f"right.{arm}", pa.bool_(), False, {"description": "whether that is the gold one"}) for arm in ARMS),
        *(
            pa.field(
                f"greedy_right.{arm}", pa.bool_(), False,
                {"description": "whether the arg-max over the vocabulary is the gold label's first token"},
            )
            for arm in ARMS
        ),
    ]
)  # fmt: skip
"""The columns that every file of `examples/` begins with, one row for each (seed, control, example).

After them come `score_field` of every condition and label, then `value_field` of every metric and condition that has
values by example, with `layers_field` and `heads_field` where they are kept.
"""


def score_field(condition: str, word: str) -> pa.Field:
    """`score.CONDITION.WORD`; under abstract label words, the score of the word that stands for the label."""
    about = {"description": "mean log-probability of the label word's tokens"}
    return pa.field(f"score.{condition}.{word}", pa.float32(), False, about)


def value_field(metric: str, condition: str) -> pa.Field:
    """`METRIC.CONDITION`."""
    about = {"description": "mean over the layers that have a value; NaN: undefined, null: not measured here"}
    return pa.field(f"{metric}.{condition}", pa.float32(), True, about)


def layers_field(metric: str, condition: str, layers: int) -> pa.Field:
    """`METRIC.CONDITION.layers`."""
    kind = pa.list_(pa.float32(), layers)
    return pa.field(f"{metric}.{condition}.layers", kind, True, {"description": "the value of each layer"})


def heads_field(metric: str, condition: str, layers: int, heads: int) -> pa.Field:
    """`METRIC.CONDITION.heads`."""
    kind = pa.list_(pa.list_(pa.float32(), heads), layers)
    about = {"description": "the value of each head of each layer, whose mean is that of the layer"}
    return pa.field(f"{metric}.{condition}.heads", kind, True, about)
