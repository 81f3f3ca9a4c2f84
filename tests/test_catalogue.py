"""A metric has one home: entries and functions belong together, and what shows metrics shows all of them."""

import re
import types
from pathlib import Path

import pytest

from raydual.catalogue.entries import CATALOGUE, CONDITIONS, FAMILIES, PANELS, Catalogue, Metric, MetricError
from raydual.catalogue.marks import Measure, of_predictions, of_ranks, of_recordings, of_values
from raydual.commands.metrics import commands
from raydual.measure.functions import _MODULES, BUILTIN, matched
from raydual.measure.rows import Row
from raydual.report import write_report
from raydual.report.controls import control_charts
from raydual.report.data import RunData
from raydual.report.distributions import distribution_charts
from raydual.report.layers import layer_charts
from raydual.report.panels import panels_over_seeds, panels_through_layers
from raydual.run_directory.directory import MEASUREMENTS, measurement_table
from raydual.statistics.reduce import reduce_run

from .default_catalogue import CATALOGUE as DEFAULT
from .pages import without_pictures
from .synthetic import control_rows, synthetic_run

SCIENCE = (Path(__file__).parent.parent / "docs" / "science.md").read_text(encoding="utf-8")
NEW = Metric("new", "New", "A new one.", family="simam", panel="maps")


def module_with(*measures: Measure) -> types.ModuleType:
    found = types.ModuleType("made")
    for number, one in enumerate(measures):
        one.function.__module__ = "made"
        setattr(found, f"f{number}", one)
    return found


def test_every_metric_has_a_function_a_definition_and_a_command():
    assert [one.metric for one in BUILTIN] == list(CATALOGUE.values())
    defined = SCIENCE[SCIENCE.index("## 4.") : SCIENCE.index("## 5.")]
    assert [name for name in CATALOGUE if f"`{name}`" not in defined] == []
    for family in FAMILIES.values():
        assert (family.command in {one.name for one in commands.registered_commands}) == family.table
    assert {m.name for family in FAMILIES.values() for m in CATALOGUE.of_command(family.command)} == set(CATALOGUE)


def test_an_entry_without_a_function_and_a_function_without_an_entry_are_errors():
    with pytest.raises(MetricError, match="'new': is in the catalogue, but has no function"):
        matched(CATALOGUE.with_own([NEW]), _MODULES)
    stray = of_recordings(NEW)(lambda found: found)
    with pytest.raises(MetricError, match="'new': has a function, but is not in the catalogue"):
        matched(CATALOGUE, (*_MODULES, module_with(stray)))
    again = of_recordings(NEW)(lambda found: found)
    with pytest.raises(MetricError, match="'new': has two functions"):
        matched(CATALOGUE.with_own([NEW]), (*_MODULES, module_with(stray, again)))
    assert matched(CATALOGUE.with_own([NEW]), (*_MODULES, module_with(stray)))[-1] is stray


@pytest.mark.parametrize(
    ("mark", "changes"),
    [
        (of_recordings, {"random": True}),
        (of_ranks, {"random": True}),
        (of_predictions, {}),
        (of_predictions, {"per_layer": False, "random": True}),
        (of_values, {}),
        (of_ranks, {"per_layer": False}),
        (of_recordings, {"by_label": True}),
    ],
)
def test_a_function_and_an_entry_that_do_not_fit_are_errors(mark, changes):
    with pytest.raises(MetricError, match="'new'"):
        mark(Metric("new", "New", "A new one.", **changes))(lambda found: found)


def test_a_catalogue_has_no_name_twice_and_every_baseline():
    with pytest.raises(MetricError, match="'new': the name is taken"):
        Catalogue([NEW, NEW])
    with pytest.raises(MetricError, match="'new': its baseline 'simam', 'icl' is not measured"):
        CATALOGUE.with_own([Metric("new", "New", "A new one.", baselines=(("simam", "icl"),))])


def test_panels_draw_every_metric_that_names_one_with_a_name_of_its_own():
    drawn = [one for _, found in panels_over_seeds(CATALOGUE) for one in found]
    expected = {m.name for m in CATALOGUE.values() if m.panel and PANELS[m.panel].over_seeds}
    assert {one.metric.name for one in drawn} == expected
    for _, found in (*panels_over_seeds(CATALOGUE), *panels_through_layers(CATALOGUE)):
        assert len({one.name for one in found}) == len(found)
        assert len({one.look for one in found}) == len(found)
    layers = list(panels_through_layers(CATALOGUE))
    assert {one.metric.name for _, found in layers for one in found} == {
        m.name for m in CATALOGUE.values() if m.panel and m.per_layer
    }
    # A curve stands beside its own baselines alone.
    (raw,) = (found for _, found in layers if any(one.key == ("simaou_raw", "icl-ft") for one in found))
    assert not any(one.baseline for one in raw)


@pytest.mark.parametrize("more", [1, 2, 5])
def test_any_number_of_metrics_and_panels_is_laid_out(tmp_path, more):
    own = [
        {"name": f"own_{n}", "label": f"Own {n}", "description": f"Number {n}.", "similarity": True}
        | ({"baselines": [[f"own_{n - 1}", "icl-ft"]]} if n else {})
        for n in range(more)
    ]
    source = {"file": "my.py", "source": "no one runs this", "metrics": own}
    run = synthetic_run(tmp_path / "r", 9, 3, (), measures={"own": source, "resamples": 200})
    run.write_measurements(measurement_table(control_rows("random_step", 0.3, 9, 3)))
    reduce_run(run)
    text = without_pictures(write_report(run).read_text(encoding="utf-8"))
    data = RunData(run)
    in_figures = [m.label if c == "icl-ft" else f"{m.label}, {CONDITIONS[c]}" for m, c in figured(data.catalogue)]
    assert len(in_figures) == len(DEFAULT.in_figures()) + more > 9
    assert [chart.title for chart in control_charts(data)] == in_figures
    layers = [chart.title for chart in layer_charts(data)]
    through = [found for _, found in panels_through_layers(data.catalogue)]
    drawn = [one for found in through for one in found]
    alone = {one.metric.label for one in drawn if one.metric.similarity and one.condition == "icl-ft"}
    assert alone < set(layers), "what is compared has a chart of its own"
    assert len(layers) == len(set(layers)) >= len(through) > 8
    assert layers[-2 - more :] == [*(f"Own {n}" for n in range(more)), *layers[-2:]]
    seeds = [chart.title for chart in distribution_charts(data)]
    assert seeds == [*(panel.title for panel, _ in panels_over_seeds(DEFAULT)), "Own metrics"]
    for metric in own:
        assert metric["description"] in text
        assert len(re.findall(rf"<th scope=.row[^>]*>{metric['label']}(<small>|</th>)", text)) == 3, (
            "headline, verdicts, controls"
        )


def figured(catalogue):
    return [(catalogue[name], condition) for name, condition in catalogue.in_figures()]


def test_rows_have_the_columns_of_their_schema():
    assert list(Row.__annotations__) == MEASUREMENTS.names
