"""What the report says of controls: above, below, equivalent, undecided, or that it cannot be told."""

import re

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from raydual.catalogue.entries import OVERALL
from raydual.one_seed.laboratory import Laboratory
from raydual.report import theme, write_report
from raydual.report.standing import ABOVE, BELOW, EQUIVALENT, SIGNS, UNDECIDED, UNTELLABLE, UNTESTED, verdict
from raydual.run_directory.directory import RunDirectory, measurement_table
from raydual.settings.controls import MEASUREMENT, control_named
from raydual.settings.reading import validate_config
from raydual.statistics.reduce import reduce_run

from .pages import page_of
from .synthetic import control_rows, synthetic_run
from .tiny import LABELS, TEMPLATE, save_tiny, tiny_config, tiny_examples

pytestmark = pytest.mark.long

NULLS = ("random_step", "other_seed", "untrained", "trained_embeddings")


def text_of(run):
    reduce_run(run)
    return page_of(write_report(run)).text


def with_controls(path, seeds=12, **shifts):
    run = synthetic_run(path, seeds, 2, ())
    for control, shift in shifts.items():
        run.write_measurements(measurement_table(control_rows(control, shift, seeds, 2)))
    return run


def standing_of(text, metric):
    """The signs of a metric's row in the first table, each beside its word and its number of pairs."""
    words = "|".join(f"{sign} {verdict}".replace("?", r"\?") for verdict, sign in SIGNS.items())
    row = re.search(rf"{metric} (above all|not above all|not shown) [−.\d]+ \[[^]]*\]((?: (?:{words}) n = \d+)+)", text)
    signs = re.findall("[▲▼≈?∅=](?= [a-z]{2})", row[2])
    assert (row[1] == "above all") == (set(signs) == {"▲"})
    return signs


def test_a_similarity_that_is_above_all_is_said_to_be(tmp_path):
    text = text_of(with_controls(tmp_path / "r", **dict.fromkeys(NULLS, 0.3), labels_flipped=0.0))
    said = re.search(r"Above every null and control that it was compared with: (.*?)\.\s[A-Z]", text)[1]
    assert "SimDual" in said
    assert standing_of(text, "SimDual") == ["▲"] * 5
    assert "No control that breaks the link" not in text
    for name in (*NULLS, "labels_flipped"):
        assert control_named(name).label in text
        assert control_named(name).description in text


@pytest.mark.parametrize(
    ("shift", "sign", "said"),
    [
        (0.0, "≈", r"no more alike than {}, as alike by all 10 similarities \(within 0.05 of the largest value\)"),
        (-0.3, "▼", "no more alike than {}, less alike by all 10 similarities"),
    ],
)
def test_one_null_that_does_as_well_is_enough_to_deny_it(tmp_path, shift, sign, said):
    text = text_of(with_controls(tmp_path / "r", random_step=0.3, other_seed=shift))
    assert "No similarity is above all of its nulls and controls" in text
    assert standing_of(text, "SimDual")[-1] == sign
    than = "when fine-tuned on other demonstrations of the task"
    assert re.search(
        "In-context learning and fine-tuning are more alike than after a random step of the same size by [^;.]*; "
        + said.format(than),
        text,
    )


@pytest.mark.parametrize(("seeds", "sign"), [(5, "∅"), (6, "▲"), (8, "▲")])
def test_what_so_few_seeds_cannot_tell_is_not_denied(tmp_path, seeds, sign):
    shifts = {f"permutation_{number}": 0.3 for number in range(1, 10)}
    text = text_of(with_controls(tmp_path / "r", seeds, other_seed=0.3, **shifts))
    assert standing_of(text, "SimDual")[-1] == sign
    untold = (
        "With 4 to 5 seeds it cannot be told whether they are more alike than when fine-tuned on other demonstrations"
    )
    assert (untold in text) == (seeds == 5)
    assert ("No similarity is shown to be above" in text) == (seeds == 5)
    assert "No similarity is above" not in text


def test_what_is_equal_by_construction_is_not_tested(tmp_path):
    run = with_controls(tmp_path / "r", random_step=0.3, labels_flipped=0.3)
    text = text_of(run)
    assert re.search(r"= equal by construction [−.\d]+ [−.\d]+ - 12 ", text)
    rows = {
        (r["condition"], r["baseline_control"]): r for r in run.comparisons().to_pylist() if r["metric"] == "accuracy"
    }
    for condition, tested in (("zsl", []), ("icl", ["labels_flipped"]), ("ft", ["random_step", "labels_flipped"])):
        for control in ("random_step", "labels_flipped"):
            row = rows[condition, control]
            assert np.isnan([row["p_max_t"], row["p_equivalent"]]).all() == (control not in tested)
            assert not np.isnan(row["p_holm"])


def test_without_controls_that_break_the_link_the_report_asks_for_them(tmp_path):
    text = text_of(with_controls(tmp_path / "r", permutation_1=0.0))
    assert "No control that breaks the link was run" in text


NAN = float("nan")


@pytest.mark.parametrize(
    ("compared", "draws_models", "expected"),
    [
        ({}, False, ABOVE),
        ({"p_equivalent": 0.01}, False, ABOVE),
        ({"p_max_t": 0.06}, False, UNDECIDED),
        ({"p_max_t": 0.06, "p_equivalent": 0.01}, False, EQUIVALENT),
        ({"p_max_t": 0.06, "p_equivalent": NAN}, False, UNDECIDED),
        ({"p_max_t": NAN, "p_equivalent": NAN}, False, UNTESTED),
        ({"ci_low": -0.1}, False, UNDECIDED),
        ({"ci_low": -0.3, "ci_high": -0.1}, False, BELOW),
        ({"n": 1, "p_max_t": 1.0, "ci_low": NAN, "ci_high": NAN}, False, UNTELLABLE),
        ({"n": 5, "p_max_t": 0.0625}, False, UNTELLABLE),
        ({"n": 5, "p_max_t": 0.0625, "p_equivalent": 0.03}, False, EQUIVALENT),
        ({"n": 6, "p_max_t": 0.0625}, False, UNDECIDED),
        ({"above": 0.9}, False, ABOVE),
        ({"above": 0.9}, True, UNDECIDED),
        ({"above": 0.98}, True, ABOVE),
        ({"ci_low": -0.3, "ci_high": -0.1, "above": 0.1}, True, UNDECIDED),
        ({"ci_low": -0.3, "ci_high": -0.1, "above": 0.0}, True, BELOW),
    ],
)
def test_the_verdict_needs_interval_and_test_and_for_drawn_models_the_share_of_them(compared, draws_models, expected):
    row = {"n": 30, "p_max_t": 0.01, "p_equivalent": 0.9, "ci_low": 0.1, "ci_high": 0.3, "above": 0.99}
    assert verdict({**row, **compared}, draws_models) == expected


def test_overall_rows_are_corrected_for_the_number_of_controls(tmp_path):
    run = with_controls(tmp_path / "r", random_step=0.02, other_seed=0.01, untrained=0.0)
    reduce_run(run)
    rows = [
        row
        for row in run.comparisons().to_pylist()
        if row["metric"] == "simdual" and row["layer"] == OVERALL and row["baseline_control"] != MEASUREMENT.name
    ]
    assert [row["baseline_control"] for row in rows] == ["random_step", "other_seed", "untrained"]
    assert min(rows, key=lambda row: row["p"])["p_holm"] == pytest.approx(3 * min(row["p"] for row in rows))
    assert all(row["p_holm"] >= row["p"] for row in rows)
    assert min(row["p_max_t"] for row in rows) == 2 / 2**12


def test_on_an_untrained_model_the_report_says_that_nothing_was_learnt(tmp_path):
    """A model as transformers initialises it: what it shows, any untrained model does."""
    directory = save_tiny(tmp_path / "model")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(tiny_config()).save_pretrained(directory)
    (tmp_path / "reviews.csv").write_text("text,label\n" + "".join(f'"{t}",{i}\n' for t, i in tiny_examples(90)))
    config = validate_config(
        {
            "name": "untrained",
            "model": str(directory),
            "task": {"name": "tiny", "template": TEMPLATE, "label_words": list(LABELS)},
            "data": str(tmp_path / "reviews.csv"),
            "demonstrations": 5,
            "seeds": 20,
            "split": {"measured": 12},
            "finetune": {"learning_rate": 1.0},
            "measures": {"resamples": 500},
            "controls": {"random_step": True, "other_seed": True, "untrained": True},
        },
        "test",
    )
    laboratory, run = Laboratory(config), RunDirectory(tmp_path / "run")
    run.start(config)
    measurer, tokenizer = laboratory.measurer, laboratory.loaded.tokenizer
    for name in ("none", "random_step", "other_seed", "untrained"):
        control = control_named(name)
        units = [laboratory.study.unit(seed, control, config.seeds) for seed in config.seeds]
        rows = measurer.measure(control, [laboratory.study.case(tokenizer, unit) for unit in units])
        run.write_measurements(measurement_table(rows))
    text = text_of(run)
    assert "No similarity is shown to be above all of its nulls and controls" in text
    assert "Above every null" not in text


def contrast(first, second):
    """The contrast of two colours, as WCAG 2 defines it."""

    def luminance(colour):
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("colours", [theme.LIGHT, theme.DARK], ids=["light", "dark"])
def test_colours_can_be_told_from_their_ground(colours):
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#dddddd", "#ffffff") < 3
    for ground in ("card", "page", "soft"):
        for text in ("ink", "muted", "accent"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for mark in ("main", "second", "third", "icl", "ft", "zsl", "null", "axis", "warn"):
        assert contrast(colours[mark], colours["card"]) >= 3, mark


def test_no_two_series_of_a_kind_are_told_by_colour_alone():
    for kind in (theme._COMPARISONS, theme._NULLS, theme._VARIANTS, tuple(theme.OF_CONDITION.values())):
        assert len({(look.shape, look.dash) for look in kind}) == len(kind)
