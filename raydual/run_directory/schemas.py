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
    ]
)
"""The reduced distributions over seeds."""

COMPARISONS = pa.schema(
    [
        pa.field("metric", pa.string(), False),
        pa.field("condition", pa.string(), False),
        pa.field("baseline", pa.string(), False, {"description": "the metric that it is compared with"}),
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
