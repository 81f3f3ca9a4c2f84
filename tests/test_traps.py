"""What might mislead: settings that no search chose, arms that changed nothing, names with a slip, silence."""

import io
import json
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from raydual.commands import main
from raydual.commands.studies import read_study
from raydual.console import Bar, Done, following
from raydual.plan.progress import stage
from raydual.process.pulse import Pulse
from raydual.report.data import RunData
from raydual.run_directory.directory import FINETUNE_SEARCH, RunDirectory
from raydual.settings.reading import load_config
from raydual.statistics.unchanged import unchanged, warnings_of

from .sweeping import make_inputs, tiny_settings
from .tiny import BASE

SEARCH = {"finetune": {"learning_rate": [0.01, 0.3]}}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A sweep file that searches the learning rate."""
    folder = tmp_path_factory.mktemp("traps")
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_settings(make_inputs(folder), search=SEARCH, seeds=4, controls={})))
    return path


@pytest.fixture(scope="module")
def run(sweep, tmp_path_factory):
    """A run of it whose search chose 0.3."""
    run = RunDirectory(tmp_path_factory.mktemp("run") / "run")
    run.start(load_config(sweep))
    row = {"optimizer": "sgd", "epochs": 2, "accuracy": 0.5, "greedy_accuracy": 0.5, "loss": 1.0, "diverged": 0}
    rows = [{**row, "learning_rate": rate, "chosen": rate == 0.3} for rate in (0.01, 0.3)]
    pq.write_table(pa.Table.from_pylist(rows, FINETUNE_SEARCH), run.search / "finetune.parquet")
    return run


# Which fine-tuning settings


@pytest.mark.parametrize(
    ("overrides", "rate", "epochs", "origin"),
    [
        ([], 0.3, 2, "chosen by the run's search"),
        (["finetune.loss=label"], 0.3, 2, "changed by --set, not what the run's search chose"),
        (["finetune.learning_rate=0.5"], 0.5, 2, "changed by --set, not what the run's search chose"),
        (["finetune={}"], 5e-4, 1, "changed by --set, not what the run's search chose"),
        (["demonstrations=3"], 0.3, 2, "chosen by the run's search"),
    ],
)
def test_of_a_run_the_chosen_settings_are_taken_but_for_what_is_set(overrides, rate, epochs, origin, run):
    found = read_study(str(run.path), overrides)
    assert (found.finetune.learning_rate, found.finetune.epochs, found.origin) == (rate, epochs, origin)


@pytest.mark.parametrize(
    ("overrides", "origin"),
    [
        ([], "not searched: the sweep's own value"),
        (["finetune.learning_rate=0.5"], "not searched: set by --set"),
        (["search=null"], "as the sweep says, which searches none"),
    ],
)
def test_of_a_sweep_it_is_said_that_nothing_was_searched(overrides, origin, sweep):
    assert read_study(str(sweep), overrides).origin == origin


def test_a_run_whose_search_is_not_over_says_so(sweep, tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.start(load_config(sweep))
    assert read_study(str(run.path), []).origin == "not searched yet: the sweep's own value"


def test_the_first_line_says_which_settings_are_used(sweep, run, capsys):
    for where, rate, origin in ((sweep, "0.0005", "the sweep's own value"), (run.path, "0.3", "run's search")):
        assert main(["rec2ftp", str(where)]) == 0
        first = capsys.readouterr().out.splitlines()[0]
        assert f"learning rate {rate} (" in first
        assert first.endswith(f"{origin})")


# An arm that changed nothing


def rows(seed=0, zsl=0.5, icl=0.6, ft=0.6, corrected=(1, 1), moved=(0.5, 0.1)):
    """The rows that tell, of one seed: what context and fine-tuning correct, and how far they move the outputs."""
    shared = {"seed": seed, "layer": -1, "examples": 10, "control": "none"}
    of_accuracy = [
        {**shared, "metric": metric, "condition": condition, "value": value}
        for metric in ("accuracy", "greedy_accuracy")
        for condition, value in (("zsl", zsl), ("icl", icl), ("ft", ft))
    ]
    return [
        *of_accuracy,
        {**shared, "metric": "reverse_recall", "condition": "icl-ft", "value": 50.0, "examples": corrected[0]},
        {**shared, "metric": "rec2ftp_ft", "condition": "icl-ft", "value": float(corrected[1])},
        {**shared, "metric": "update_norm", "condition": "icl", "value": moved[0]},
        {**shared, "metric": "update_norm", "condition": "ft", "value": moved[1]},
    ]


@pytest.mark.parametrize(
    ("changes", "dtype", "arms"),
    [
        ({}, "float32", set()),
        ({"ft": 0.5, "corrected": (1, 0), "moved": (0.5, 1e-7)}, "float32", {"ft"}),
        ({"ft": 0.5, "corrected": (1, 0), "moved": (0.5, 1e-3)}, "float32", set()),
        ({"ft": 0.5, "corrected": (1, 0), "moved": (0.5, 1e-3)}, "bfloat16", {"ft"}),
        ({"ft": 0.5, "corrected": (1, 2), "moved": (0.5, 1e-7)}, "float32", set()),
        ({"icl": 0.5, "corrected": (0, 1), "moved": (0.0, 0.1)}, "float32", {"icl"}),
        ({"icl": 0.5, "ft": 0.5, "corrected": (0, 0), "moved": (0.0, 0.0)}, "float32", {"icl", "ft"}),
        ({"ft": 0.5, "corrected": (1, 0), "moved": (0.5, float("nan"))}, "float32", set()),
    ],
)
def test_an_arm_changed_nothing_where_predictions_are_the_same_and_outputs_too(changes, dtype, arms):
    found = unchanged(rows(**changes), dtype)
    assert {arm for arm, seeds in found.items() if seeds} == arms


def test_how_many_seeds_are_concerned_is_said():
    none = {"ft": 0.5, "corrected": (1, 0), "moved": (0.5, 0.0)}
    (line,) = warnings_of([*rows(0), *rows(1, **none), *rows(2, **none)], "float32", 3)
    assert line.startswith("fine-tuning changed nothing for 2 of 3 seeds: the same predictions")
    assert "greater finetune.learning_rate" in line


def test_a_learning_rate_that_moves_nothing_is_told(sweep, capsys):
    assert main(["simaou", str(sweep), "--set", "finetune.learning_rate=1e-20"]) == 0
    errors = capsys.readouterr().err.splitlines()
    assert errors[-1].startswith("note: fine-tuning changed nothing for seed 0: ")
    assert main(["simaou", str(sweep), "--set", "finetune.learning_rate=0.3"]) == 0
    assert "changed nothing" not in capsys.readouterr().err


def test_a_runs_warnings_are_read_from_its_rows(plain):
    assert RunData(plain).warnings == []
    assert plain.manifest()["warnings"] == []


# Names with a slip


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("plan --set task=sst22", "did you mean 'sst2'?"),
        ("plan --set controls.labels=[flipd]", "did you mean 'flipped'?"),
        ("plan --set finetune.optimizer=adam", "did you mean 'adamw'?"),
        ("plan --set contrls.labels=[]", "did you mean 'controls'?"),
        ("simaou --control labels_fliped", "did you mean 'labels_flipped'?"),
        ("simaoo", "Did you mean 'simaou'"),
        ("record --out x --format parket", "did you mean 'parquet'?"),
        ("dual --precision float46", "did you mean 'float64'?"),
        ("plan --hardware epic", "did you mean 'EPYC'?"),
        ("init x.yaml --task agnew", "did you mean 'agnews'?"),
        ("plan SWEEPS/quikstart.yaml", "did you mean 'quickstart.yaml'?"),
        ("models SWEEPS/quikstart.yaml", "did you mean 'quickstart.yaml'?"),
    ],
)
def test_the_nearest_name_is_told(typed, meant, capsys):
    from raydual.files import SWEEPS

    assert main([word.replace("SWEEPS", str(SWEEPS)) for word in typed.split()]) == 2
    out, errors = capsys.readouterr()
    (line,) = errors.splitlines()
    assert (out, meant in line) == ("", True), line


def test_a_group_may_be_set_to_null(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(BASE + "split: {selection: 9}\nsearch: {finetune: {learning_rate: [1.0]}}\n")
    assert load_config(path).search.finetune is not None
    assert load_config(path, ["search=null"]).search.finetune is None
    assert main(["plan", "--set", "search=null"]) == 0


# How far something is


def test_what_takes_long_is_told_in_a_log_in_lines():
    log, done = io.StringIO(), iter(range(1000))
    with following("select", lambda: Done(next(done), 1000, "seeds"), file=log, silent=0.05):
        time.sleep(0.8)
    assert log.getvalue() == "select: 0 of 1000 seeds\n"


def test_what_is_quick_says_nothing():
    log = io.StringIO()
    with following("select", file=log):
        pass
    assert log.getvalue() == ""


def test_a_failure_is_not_hidden_by_progress():
    log = io.StringIO()
    with pytest.raises(ZeroDivisionError), following("select", file=log, silent=0.01):
        time.sleep(0.1)
        raise ZeroDivisionError
    assert log.getvalue() == "select: at work\n"


@pytest.mark.parametrize(
    ("done", "line"),
    [
        (Done(), "x: at work"),
        (Done(words="loading"), "x: loading"),
        (Done(0.4, 1), "x: 40%"),
        (Done(3, 8, "seeds"), "x: 3 of 8 seeds"),
        (Done(2.7, 8), "x: 3 of 8"),
    ],
)
def test_a_line_says_what_is_known(done, line):
    assert done.line("x") == line


class Terminal(io.StringIO):
    """A stream that a person reads."""

    def isatty(self):
        return True


def test_in_a_terminal_a_bar_moves_and_goes():
    terminal = Terminal()
    bar = Bar("measure", terminal)
    bar.show(Done(3, 10, "seed 7"))
    bar.close()
    assert "3/10" in terminal.getvalue()
    assert "seed 7" in terminal.getvalue()


def test_a_stage_of_a_sweep_has_a_bar_in_a_terminal_and_lines_elsewhere(monkeypatch):
    for kind, shown in ((Terminal, "2/3"), (io.StringIO, "measure: 2/3, ")):
        monkeypatch.setattr(sys, "stdout", kind())
        with stage("measure", 3) as progress:
            for number in range(3):
                progress.advance(1, f"seed {number}")
                progress.said_at -= 2
                time.sleep(0.15)
        assert shown in sys.stdout.getvalue()
        assert ("measure: 2/3" in sys.stdout.getvalue()) == (kind is io.StringIO)
        assert "measure: 3/3 - seed 2" in sys.stdout.getvalue()


def test_the_pulse_says_how_far_the_zero_shot_pass_is():
    pulse = Pulse()
    seen = [pulse.part for _ in pulse.through("zero-shot pass", "ab")]
    assert (seen, pulse.part) == (["zero-shot pass 0/2", "zero-shot pass 1/2"], "")
    for _ in pulse.through("zero-shot pass", "ab"):
        break
    assert pulse.part == ""


def test_json_names_where_the_settings_come_from(run, capsys):
    assert main(["finetune-eval", str(run.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["finetune_origin"] == "chosen by the run's search"
