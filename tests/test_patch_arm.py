"""One patch for all queries: its law, its controls, the plain counterpart, and that it is off where it is not asked."""

import math
import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from raydual import Laboratory, UserError
from raydual.catalogue.entries import CATALOGUE, OF_PATCH
from raydual.data.examples import Dataset, Examples
from raydual.measure.measurer import Measurer
from raydual.measure.patch_arm import PatchArm, explained, r_squared
from raydual.model.attention import ATTENTION, register
from raydual.model.fitted_patches import ContextStates, FixedPatcher, fit_patches, ridge_map
from raydual.model.loading import load_model
from raydual.model.passes import Rows, hidden_states
from raydual.model.patches import LowRank, MlpPatch, patched_layer_by_layer
from raydual.model.recording import Recorder
from raydual.one_seed.context_weights import norms_in_own_dtype
from raydual.report import write_report
from raydual.report.data import RunData
from raydual.report.distributions import distribution_charts
from raydual.report.layers import layer_charts
from raydual.settings.controls import MEASUREMENT, controls_of
from raydual.statistics.reduce import reduce_run
from raydual.study import Case, Study

from .default_catalogue import CATALOGUE as DEFAULT
from .reference import seed as plain
from .reference.finetune import FinetuneSettings
from .reference.patches import fit_values, least_squares, one_patch
from .synthetic import synthetic_run
from .test_equals_plain import K, plain_task, sweep
from .tiny import tiny_examples, tiny_model

RIDGE = 0.01
FITTED, MEASURED = range(77, 107), range(60, 72)


def random_rows(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("queries", [4, 40])
@pytest.mark.parametrize("ridge", [0.0, 0.01])
def test_the_least_squares_are_those_of_a_dense_solver(queries, ridge):
    generator = torch.Generator().manual_seed(1)
    x, wanted = random_rows(generator, queries, 9), random_rows(generator, queries, 5)
    found = ridge_map(x, wanted, ridge).dense()[0].numpy()
    np.testing.assert_allclose(found, least_squares(x.numpy(), wanted.numpy(), ridge), atol=1e-10)


def test_where_one_map_serves_all_queries_it_is_found_and_nowhere_else():
    generator = torch.Generator().manual_seed(2)
    x, true = random_rows(generator, 60, 9), random_rows(generator, 5, 9)
    found = ridge_map(x[:30], x[:30] @ true.T, 0.0).dense()[0]
    torch.testing.assert_close(x[30:] @ found.T, x[30:] @ true.T)
    shuffled = ridge_map(x[:30], (x @ true.T)[torch.randperm(30, generator=generator)], 0.0).dense()[0]
    assert (x[30:] @ (shuffled - true).T).norm() > 0.5 * (x[30:] @ true.T).norm()


class Made:
    """A "context" that one patch makes by construction: what queries leave in a model with these patches."""

    def __init__(self, queries):
        generator = torch.Generator().manual_seed(3)
        self.model = tiny_model(dtype=torch.float64).requires_grad_(False)
        config = self.model.config
        self.rows = Rows(
            torch.randint(0, config.vocab_size, (queries, 6), generator=generator), torch.full((queries,), 6)
        )
        register()
        self.model.set_attn_implementation(ATTENTION)
        hidden, inner = config.hidden_size, config.intermediate_size

        def small(out, into):
            return LowRank(0.3 * random_rows(generator, 1, out, 2), 0.3 * random_rows(generator, 1, into, 2))

        self.patches = [MlpPatch(small(hidden, hidden), small(hidden, inner)) for _ in range(config.num_hidden_layers)]

    def states(self, patches, rows):
        recorder = Recorder(("mlp_in", "hidden"), rows.last, dtype=torch.float64)
        with torch.no_grad(), norms_in_own_dtype(self.model):
            if patches:
                # What is recorded after the norm is patched: what the MLP gets in context.
                with patched_layer_by_layer(self.model, rows.last, FixedPatcher(self.model, patches)):
                    hidden_states(self.model, rows, recorder=recorder)
            else:
                hidden_states(self.model, rows, recorder=recorder)
        normed, output = map(recorder.result, ("mlp_in", "hidden"))
        return ContextStates(normed, output)


def part(rows, which):
    return Rows(rows.ids[which], rows.lengths[which])


def r_squared_of(made, context, ridge):
    """R² by layer of a patch that is fitted on all queries but the last 400, of these."""
    fitted, held_out = slice(0, -400), slice(-400, None)
    rows, rest = part(made.rows, fitted), part(made.rows, held_out)
    with torch.no_grad(), norms_in_own_dtype(made.model):
        patches = fit_patches(made.model, rows, ContextStates(context.normed[fitted], context.output[fitted]), ridge)
        arm = PatchArm(made.model, patches, {})
        with arm.applied(rest, context.output[held_out]):
            hidden_states(made.model, rest)
    (found,) = arm.found(np.arange(400))
    return r_squared(found).mean(axis=0), explained(found).mean(axis=0)


def test_the_patch_is_exact_where_one_serves_all_queries_and_explains_nothing_of_shuffled_targets():
    made = Made(queries=2400)
    context, plainly = made.states(made.patches, made.rows), made.states([], made.rows)
    exact, share = r_squared_of(made, context, ridge=0.0)
    assert min(exact.min(), share.min()) > 1 - 1e-6
    order = torch.randperm(2400, generator=torch.Generator().manual_seed(4))

    def of_another(one, base):
        return base + (one - base)[order]

    shuffled = ContextStates(of_another(context.normed, plainly.normed), of_another(context.output, plainly.output))
    nothing, _ = r_squared_of(made, shuffled, ridge=1e-3)
    assert np.abs(nothing).max() < 0.1


@pytest.fixture(scope="module")
def study(tiny_directory):
    config = sweep(
        tiny_directory, measures={"patch": {"ridge": RIDGE}}, split={"selection": 30}, execution={"batch_size": 5},
        finetune={"learning_rate": 0.05, "projections": ["v_proj", "down_proj"]},
        controls={"untrained": True, "random_step": True, "other_seed": True, "labels": ["flipped", "abstract"]},
    )  # fmt: skip
    pairs, task = tiny_examples(), config.task
    examples = Examples(tuple(task.query({"text": t}) for t, _ in pairs), tuple(label for _, label in pairs))
    return Study(config, Dataset(examples.take(range(60)), examples.take(FITTED), examples.take(MEASURED), "test"))


@pytest.fixture(scope="module")
def measured(study):
    loaded = load_model(study.config.model)
    cases = [Case(study.demonstrations(loaded.tokenizer, seed)) for seed in (0, 1)]
    return loaded, Measurer(loaded, study), Measurer(loaded, study).measure(MEASUREMENT, cases)


def by_key(rows, seed=0):
    return {(r["metric"], r["condition"], r["layer"]): r["value"] for r in rows if r["seed"] == seed}


def test_every_number_of_the_patch_equals_the_plain_one(study, measured):
    loaded, _, rows = measured
    pairs, task = tiny_examples(), plain_task(study.config)
    base = load_model(study.config.model).model
    base.set_attn_implementation("eager")
    for seed in (0, 1):
        chosen = [pairs[i] for i in random.Random(seed).sample(range(60), K)]
        prefix = [*study.demonstrations(loaded.tokenizer, seed).prefix.tolist()]

        def prompts(which, prefix=prefix):
            queries = study.queries(loaded.tokenizer, which)
            context = [*prefix, *np.asarray(queries.separator).tolist()]
            return [
                ([*context, *own.tolist()], len(context), alone.tolist())
                for own, alone in zip(queries.in_context, queries.alone, strict=True)
            ]

        patched, _ = one_patch(base, prompts("selection"), RIDGE)
        settings, measures = FinetuneSettings(**study.config.finetune.model_dump()), plain.MeasureSettings()
        arguments = (base, loaded.tokenizer, chosen, [pairs[i] for i in MEASURED], task, settings, measures)
        of_tuning, of_patch = plain.record_seed(*arguments), plain.record_seed(*arguments, patched)
        swapped = [
            in_place_of_the_context(tuned, one)
            for tuned, one in zip(of_tuning.examples, of_patch.examples, strict=True)
        ]
        against_context = plain.values_of(of_patch, measures, np.random.default_rng(0))
        expected = {
            **renamed(against_context, {"ft": "patch", "icl-ft": "icl-patch"}),
            **renamed(swapped_values(swapped, measures), {"icl-ft": "patch-ft"}),
            **layered(fit_values(base, patched, prompts("measured"))),
        }
        found = by_key(rows, seed)
        compared = 0
        for key, value in found.items():
            if (
                key[1].partition(",")[0] not in OF_PATCH
                or CATALOGUE[key[0]].random
                or key[0].startswith(("patch_n", "patch_c"))
            ):
                continue
            assert value == pytest.approx(expected[key], abs=2e-3, nan_ok=True), key
            compared += 1
        assert compared > 70
        assert math.isnan(found["delta_simam", "icl-patch", 0])
        assert not math.isnan(found["delta_simam", "icl-patch", 1])


def in_place_of_the_context(tuned, one):
    """An example's record with what the patched model does in the place of the context."""
    return replace(
        tuned,
        prompt=SimpleNamespace(prefix_length=0, tokens=tuned.alone),
        recordings={**tuned.recordings, "icl": one.recordings["ft"]},
        scores={**tuned.scores, "icl": one.scores["ft"]},
        query_pairs=[(i, i) for i, _ in tuned.query_pairs],
    )


def swapped_values(examples, measures):
    values = {**plain.prediction_values(examples), **plain.agreement_values(examples)}
    layers = {
        **plain.update_values(examples, measures, np.random.default_rng(0)),
        **plain.score_values(examples),
        **plain.weight_values(examples),
    }
    return {**values, **layered(layers)}


def layered(found):
    return {
        (*key, layer): value
        for key, by_layer in found.items()
        for layer, value in [(plain.OVERALL, plain.metrics.mean(list(by_layer))), *enumerate(by_layer)]
    }


def renamed(values, names):
    found = {}
    for (metric, condition, layer), value in values.items():
        name, comma, label = condition.partition(",")
        if name in names:
            found[metric, names[name] + comma + label, layer] = value
    return found


def test_its_weights_equal_dense_ones(study, measured):
    loaded, _, rows = measured
    queries = study.queries(loaded.tokenizer, "selection")
    base = load_model(study.config.model).model
    base.set_attn_implementation("eager")
    context = [*study.demonstrations(loaded.tokenizer, 0).prefix.tolist(), *np.asarray(queries.separator).tolist()]
    prompts = [
        ([*context, *own.tolist()], len(context), alone.tolist())
        for own, alone in zip(queries.in_context, queries.alone, strict=True)
    ]
    _, changes = one_patch(base, prompts, RIDGE)
    found = by_key(rows)
    for layer, change in enumerate(changes):
        for name in ("gate", "up", "down"):
            weight = getattr(base.model.layers[layer].mlp, f"{name}_proj").weight.numpy()
            expected = np.linalg.norm(change[name]) / np.linalg.norm(weight)
            assert found[f"patch_norm_{name}", "patch", layer] == pytest.approx(expected, rel=1e-3)
            assert math.isnan(found[f"patch_cosine_{name}", "patch-ft", layer]) == (name != "down")


def test_it_is_defined_under_every_control_and_other_numbers_stay(study, measured):
    loaded, measurer, rows = measured
    units = [study.unit(0, control, (0, 1)) for control in controls_of(study.config.controls)]
    for unit in units:
        found = by_key(measurer.measure(unit.control, [study.case(loaded.tokenizer, unit)]))
        assert {key[0] for key in found} == {*DEFAULT, *(m.name for m in CATALOGUE.values() if m.family == "patch")}
        assert math.isfinite(found["patch_r2", "patch", -1]), unit.control.name
        assert math.isfinite(found["simaou_raw", "icl-patch", -1]), unit.control.name
    plainly = study.config.model_copy(update={"measures": study.config.measures.model_copy(update={"patch": None})})
    without = Measurer(loaded, replace(study, config=plainly)).measure(
        MEASUREMENT, [Case(study.demonstrations(loaded.tokenizer, seed)) for seed in (0, 1)]
    )
    assert not {r["condition"] for r in without} & set(OF_PATCH)
    kept = by_key(rows)
    assert all(str(kept[key]) == str(value) for key, value in by_key(without).items())


def test_it_needs_selection_examples(tiny_directory):
    with pytest.raises(UserError, match=r"measures.patch is fitted on selection examples"):
        Laboratory({"task": "sst2", "measures": {"patch": {}}})
    with pytest.raises(UserError, match="ridge"):
        Laboratory({"task": "sst2", "measures": {"patch": {"ridge": -1}}, "split": {"selection": 9}})


def test_reduction_and_report_show_it(tmp_path):
    run = synthetic_run(tmp_path / "r", 9, 3, (), measures={"patch": {}, "context_weights": True, "resamples": 200})
    reduce_run(run)
    summary = {(row["metric"], row["condition"]) for row in run.summary().to_pylist()}
    assert {
        ("simaou", "icl-patch"),
        ("accuracy", "patch"),
        ("patch_r2", "patch"),
        ("context_norm_up", "icl"),
    } <= summary
    compared = {
        (row["metric"], row["condition"], row["baseline"], row["baseline_condition"])
        for row in run.comparisons().to_pylist()
    }
    assert ("simaou", "icl-patch", "simaou_norm_matched", "icl-patch") in compared
    assert ("simam", "icl-patch", "simam", "icl-zsl") in compared
    assert not {row for row in compared if row[1] == "patch-ft" and row[3] == "icl-zsl"}
    page = write_report(run).read_text(encoding="utf-8")
    assert "patched against fine-tuned" in page
    data = RunData(run)
    charts = [*layer_charts(data), *distribution_charts(data)]
    assert len({chart.name for chart in charts}) == len(charts)
    titles = {chart.title for chart in charts}
    assert {"SimAOU of the patch", "How much of the context one patch is", "Recall of the patch, %"} <= titles
