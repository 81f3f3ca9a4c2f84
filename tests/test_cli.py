"""The commands on one seed, and the programmatic interface: the numbers of the sweep, without Ray."""

import csv
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

import raydual
from raydual.catalogue import entries as catalogue
from raydual.commands import main
from raydual.measure.seeds import SeedMeasurer
from raydual.one_seed.laboratory import Laboratory
from raydual.run_directory.directory import FINETUNE_SEARCH, RunDirectory
from raydual.settings.controls import MEASUREMENT

from .default_catalogue import CATALOGUE
from .rounding import rounding_bounds
from .sweeping import tiny_settings
from .tiny import FAMILIES, LABELS, save_tiny, tiny_examples
from .tolerance import within

TABLES = [family for family in catalogue.FAMILIES.values() if family.table and family.command != "own"]
METRICS = [family.command for family in TABLES if not family.switch]
SWITCHED = [family.command for family in TABLES if family.switch]
PRINTED = 0.5e-4
"""What four decimals leave out."""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A sweep file on a tiny model, without a search."""
    folder = tmp_path_factory.mktemp("cli")
    with (folder / "reviews.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text", "label"], *tiny_examples(150)])
    inputs = (save_tiny(folder / "model"), folder / "reviews.csv")
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_settings(inputs, search={}, finetune={"learning_rate": 0.2}, seeds=4)))
    return path


@pytest.fixture(scope="module")
def measured(sweep):
    """What a replica gives for three seeds together, as in a sweep."""
    laboratory = Laboratory(raydual.load_config(sweep))
    replica = SeedMeasurer(laboratory.loaded, laboratory.queries, laboratory.study.config)
    return replica.measure([laboratory.demonstrations(seed) for seed in (0, 1, 2)])


@pytest.fixture(scope="module")
def bounds(sweep):
    """What rounding may do to them."""
    laboratory = Laboratory(raydual.load_config(sweep))
    units = [laboratory.study.unit(seed, MEASUREMENT, laboratory.seeds) for seed in (0, 1, 2)]
    return rounding_bounds(laboratory.loaded, laboratory.study, units)


@pytest.mark.parametrize("command", METRICS)
def test_a_metric_command_prints_the_sweeps_numbers(sweep, measured, bounds, command, capsys):
    assert main([command, str(sweep), "--seed", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    printed, printed_by = 0, CATALOGUE.of_command(command)
    for row in measured:
        if row["seed"] == 2 and row["metric"] in {m.name for m in printed_by} and row["layer"] == -1:
            label = f"{CATALOGUE[row['metric']].label}, {row['condition']} "
            line = next(line for line in lines if line.startswith(label))
            shown = line[52:61].strip()
            if np.isnan(row["value"]):
                assert shown == "-"
            else:
                bound = bounds[2, "none", row["metric"], row["condition"], -1]
                assert within(float(shown), row["value"], bound + PRINTED)
            printed += 1
    assert printed == sum(len(metric.conditions_with_labels(len(LABELS))) for metric in printed_by)


@pytest.mark.parametrize("command", METRICS)
def test_a_metric_command_gives_the_same_as_json(sweep, measured, bounds, command, capsys):
    assert main([command, str(sweep), "--seed", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["task"], found["seed"], found["control"], found["finetune"]["learning_rate"]) == (
        "tiny", 2, "none", 0.2,
    )  # fmt: skip
    printed = {(row["metric"], row["condition"], row["layer"]): row["value"] for row in found["rows"]}
    names = {metric.name for metric in CATALOGUE.of_command(command)}
    rows = [row for row in measured if row["seed"] == 2 and row["metric"] in names]
    assert len(printed) == len(found["rows"]) == len(rows)
    for row in rows:
        key = row["metric"], row["condition"], row["layer"]
        if np.isnan(row["value"]):
            assert printed[key] is None
        else:
            assert within(printed[key], row["value"], bounds[2, "none", *key])


@pytest.mark.parametrize("command", SWITCHED)
def test_a_command_turns_on_what_it_prints(sweep, command, capsys):
    assert main([command, str(sweep), "--seed", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    metrics = CATALOGUE.of_command(command)
    for label in [f"{m.label}, {c} " for m in metrics for c in m.conditions_with_labels(len(LABELS))]:
        assert sum(line.startswith(label) for line in lines) == 1, label
    family = next(family for family in TABLES if family.command == command)
    laboratory = Laboratory(raydual.load_config(sweep, [f"measures.{family.switch}={family.on}"]))
    rows = [row for row in laboratory.measure(2) if row["metric"] in {m.name for m in metrics} and row["layer"] == -1]
    for row in rows:
        line = next(x for x in lines if x.startswith(f"{CATALOGUE[row['metric']].label}, {row['condition']} "))
        assert line[52:61].strip() == ("-" if np.isnan(row["value"]) else f"{row['value']:.4f}")


def test_accuracies_are_given_as_json_too(sweep, capsys):
    printed = []
    for arguments in (["select"], ["select", "--json"], ["finetune-eval"], ["finetune-eval", "--json"]):
        assert main([*arguments, str(sweep)]) == 0
        printed.append(capsys.readouterr().out)
    selected, evaluated = json.loads(printed[1]), json.loads(printed[3])
    listed = [f"seed {row['seed']:>6}   in-context accuracy {row['accuracy']:.3f}" for row in selected["seeds"]]
    assert listed == printed[0].splitlines()[1:]
    assert evaluated["examples"] == 13
    for name in ("zero_shot", "in_context", "finetuned"):
        assert f"{name:<12}{evaluated[name]:>12.4f}{evaluated[name + '_greedy']:>9.4f}" in printed[2]


def test_a_control_is_measured_by_its_name(sweep, capsys):
    printed = []
    for control in ("none", "labels_flipped", "other_seed"):
        assert main(["finetune-eval", str(sweep), "--seed", "1", "--control", control]) == 0
        printed.append(capsys.readouterr().out)
    assert len(set(printed)) == 3
    assert main(["finetune-eval", str(sweep), "--control", "nothing"]) == 2
    assert "control 'nothing' is not one of" in capsys.readouterr().err


def test_evaluation_is_the_sweeps(sweep, measured, bounds, capsys):
    assert main(["finetune-eval", str(sweep), "--seed", "1"]) == 0
    printed = dict(re.findall(r"^(\w+) +(\d\.\d+)", capsys.readouterr().out, re.MULTILINE))
    for name, condition in (("zero_shot", "zsl"), ("in_context", "icl"), ("finetuned", "ft")):
        value = next(
            r["value"] for r in measured if (r["seed"], r["metric"], r["condition"]) == (1, "accuracy", condition)
        )
        assert within(float(printed[name]), value, bounds[1, "none", "accuracy", condition, -1] + PRINTED)


def test_selection_lists_every_seed_best_first(sweep, capsys):
    assert main(["select", str(sweep)]) == 0
    found = re.findall(r"seed +(\d+) +in-context accuracy (\S+)", capsys.readouterr().out)
    assert sorted(int(seed) for seed, _ in found) == [0, 1, 2, 3]
    accuracies = [float(accuracy) for _, accuracy in found]
    assert accuracies == sorted(accuracies, reverse=True)


def test_a_run_directory_brings_the_settings_that_its_search_chose(sweep, tmp_path, capsys):
    config = raydual.load_config(sweep, ["search.finetune={learning_rate: [0.01, 0.3]}"])
    run = RunDirectory(tmp_path / "run")
    run.start(config)
    row = {"optimizer": "sgd", "epochs": 1, "accuracy": 0.5, "greedy_accuracy": 0.5, "loss": 1.0, "diverged": 0}
    rows = [{**row, "learning_rate": rate, "chosen": rate == 0.3} for rate in (0.01, 0.3)]
    pq.write_table(pa.Table.from_pylist(rows, FINETUNE_SEARCH), run.search / "finetune.parquet")
    assert main(["rec2ftp", str(run.path)]) == 0
    assert "learning rate 0.3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["simaou", "nowhere.yaml"], "nowhere.yaml: cannot read the sweep file"),
        (["simaou", "--seed", "-1"], "--seed -1: a seed is 0 or greater"),
        (
            ["simaou", "--set", "demonstrations=1000", "--set", "seeds=2", "--set", "search.seeds=null"],
            "the context of embedded holds",
        ),
        (["simaou", "--set", "finetune.learning_rate=1e42"], "finetune.learning_rate: input should be less than"),
        (["select", "--set", "search={}", "--set", "split.selection=0"], "there are no examples to select seeds on"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments, message, capsys):
    assert main(arguments) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert message in errors[0]


def test_a_seed_that_diverges_says_so(sweep, capsys):
    assert main(["simaou", str(sweep), "--set", "finetune.learning_rate=1e38"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[-1] == "error: seed 0: fine-tuning diverged at learning rate 1e+38"


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_the_dual_form_is_verified_from_the_command_line(sweep, precision, capsys):
    assert main(["dual", str(sweep), "--seed", "1", "--precision", precision]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 3 + 3
    assert "hold" in lines[-1]


def test_the_dual_form_is_given_as_json_too(sweep, capsys):
    assert main(["dual", str(sweep), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["holds"]
    assert found["control_fails"]
    assert found["dtype"] == "float64"
    assert all(len(numbers) == 3 for numbers in found["layers"].values())
    assert max(found["layers"]["softmax"]) < found["tolerance"] < min(found["layers"]["softmax_control"])


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "qwen3"])
def test_commands_take_a_model_of_every_family(sweep, family, tmp_path, capsys):
    settings = [str(sweep), "--set", f"model={save_tiny(tmp_path, family=family)}"]
    said = {}
    for name, arguments in (("dual", ["dual"]), ("plan", ["plan"]), ("kendall", ["kendall"]), ("normed", ["kendall"])):
        field = "query_normed" if name == "normed" else "query"
        assert main([*arguments, *settings, "--set", f"measures.query_field={field}"]) == 0
        said[name] = capsys.readouterr().out
    assert "The identities hold" in said["dual"]
    assert "of weights" in said["plan"]
    assert said["normed"] == said["kendall"], "without a norm of heads, queries are the same before and after it"


def test_every_name_of_the_interface_is_there():
    assert all(getattr(raydual, name) is not None for name in raydual.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = raydual.nonsense


def test_recordings_of_single_prompts(sweep):
    loaded = Laboratory(raydual.load_config(sweep)).loaded
    prompts = ["Sentence: dull film Label:", "Sentence: a lovely story Label:"]
    found = raydual.record(loaded, prompts, ("hidden", "query", "scores_query"))
    layers, heads = 3, 6
    for index, prompt in enumerate(prompts):
        ids = loaded.tokenizer.encode(prompt, add_special_tokens=False).ids
        assert found["scores_query"][index].shape == (layers, heads, len(ids))
        with torch.no_grad():
            expected = loaded.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        np.testing.assert_allclose(found["hidden"][index][0], expected[1][0, -1], rtol=1e-4, atol=1e-5)
    weights = raydual.attention_weights(loaded, prompts)
    np.testing.assert_allclose(weights[0].sum(axis=-1), 1, rtol=1e-5)
    raw = raydual.attention_weights(loaded, prompts, softmax=False)
    np.testing.assert_allclose(raw[1], found["scores_query"][1])
    after = raydual.record(loaded, [" " + prompts[0]], ("context_mass",), context="Sentence: fine Label: positive")
    assert after["context_mass"][0].shape == (layers, heads)
    assert np.all((after["context_mass"][0] > 0) & (after["context_mass"][0] < 1))
