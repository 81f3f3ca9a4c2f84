"""Recordings in the published form: an analysis written for that form finds raydual's own numbers."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.special
import scipy.stats

from raydual.commands import main
from raydual.one_seed.laboratory import Laboratory
from raydual.one_seed.recordings import SCHEMAS, record_seed
from raydual.settings.controls import MEASUREMENT
from raydual.settings.reading import load_config

from .rounding import rounding_bounds
from .test_cli import bounds, measured, sweep  # noqa: F401
from .tiny import FAMILIES, save_tiny
from .tolerance import within


@pytest.fixture(scope="module")
def recording(sweep, tmp_path_factory):  # noqa: F811
    out = tmp_path_factory.mktemp("recording")
    assert main(["record", str(sweep), "--seed", "1", "--out", str(out)]) == 0
    return {
        name: [json.loads(line) for line in (out / name / "record_info.jsonl").read_text().splitlines()]
        for name in SCHEMAS
    }


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def cos(x, y):
    return np.sum(unit(x) * unit(y), axis=-1)


def mean_over_layers(by_example):
    """Layers first averaged over the examples, undefined values left out."""
    return np.nanmean(np.nanmean(by_example, axis=0))


def published_analysis(recording):
    """What the published scripts compute, written from their description."""
    zs, icl, ftzs = (recording[name] for name in ("zs", "icl", "ftzs"))
    updates, maps, before, ranks = [], [], [], []
    queries = [np.asarray(example["attn_q"])[:, 1:] for example in recording["ft"]]
    lengths = [1 + q.shape[1] for q in queries]
    for a, b, c in zip(zs, icl, ftzs, strict=True):
        h_zs, h_icl, h_ft = (unit(np.asarray(x["self_attn_out_hiddens"])) for x in (a, b, c))
        updates.append(cos(h_icl - h_zs, h_ft - h_zs))
        m_zs, m_icl, m_ft = (np.asarray(x["attn_map"]) for x in (a, b, c))
        maps.append(cos(m_icl, m_ft).mean(axis=-1))
        before.append(cos(m_icl, m_zs).mean(axis=-1))
        attended = np.split(np.asarray(b["attn_map_ctx"]), np.cumsum(lengths)[:-1], axis=1)
        attended = np.concatenate([x[:, 1:] for x in attended], axis=1)
        paid = np.concatenate([np.einsum("ltw,lw->lt", q, np.asarray(c["attn_q"])) for q in queries], axis=1)
        ranks.append([scipy.stats.kendalltau(x, y).statistic for x, y in zip(attended, paid, strict=True)])
    wrong = [x["pred_label"] != x["gold_label"] for x in zs]
    right = {name: [x["pred_label"] == x["gold_label"] for x in recording[name]] for name in ("icl", "ftzs")}
    corrected = [w and r for w, r in zip(wrong, right["ftzs"], strict=True)]
    both = [c and r for c, r in zip(corrected, right["icl"], strict=True)]
    return {
        ("simaou", "icl-ft"): mean_over_layers(updates),
        ("simam", "icl-ft"): mean_over_layers(maps),
        ("simam", "icl-zsl"): mean_over_layers(before),
        ("kendall", "icl-ft"): mean_over_layers(ranks),
        ("rec2ftp", "icl-ft"): 100 * sum(both) / sum(corrected) if sum(corrected) else float("nan"),
    }


def test_a_published_analysis_of_a_recording_finds_the_sweeps_numbers(recording, measured, bounds):  # noqa: F811
    ours = {(r["metric"], r["condition"]): r["value"] for r in measured if r["seed"] == 1 and r["layer"] == -1}
    for key, value in published_analysis(recording).items():
        assert within(ours[key], value, bounds[1, "none", *key, -1]), key


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "qwen3"])
def test_recordings_of_other_families_are_analysed_alike(sweep, family, tmp_path):  # noqa: F811
    laboratory = Laboratory(load_config(sweep, [f"model={save_tiny(tmp_path, family=family)}"]))
    study = laboratory.study
    bounds = rounding_bounds(laboratory.loaded, study, [study.unit(1, MEASUREMENT, [1])])  # noqa: F811
    ours = {(r["metric"], r["condition"]): r["value"] for r in laboratory.measure(1) if r["layer"] == -1}
    for key, value in published_analysis(record_seed(laboratory, 1)).items():
        assert within(ours[key], value, bounds[1, "none", *key, -1]), key


def test_the_shapes_are_the_published_ones(recording):
    layers, heads, hidden, width, examples, demonstrations = 3, 6, 23, 60, 13, 5
    tokens = [np.asarray(example["attn_q"]).shape for example in recording["ft"]]
    assert len(tokens) == demonstrations
    assert {(shape[0], shape[2]) for shape in tokens} == {(layers, width)}
    for name in ("zs", "icl", "ftzs"):
        assert len(recording[name]) == examples
        for entry in recording[name]:
            assert np.asarray(entry["self_attn_out_hiddens"]).shape == (layers, hidden)
            assert np.asarray(entry["attn_map"]).shape[:2] == (layers, heads)
    context = np.asarray(recording["icl"][0]["attn_map_ctx"]).shape
    assert context == (layers, sum(shape[1] for shape in tokens))
    assert np.asarray(recording["ftzs"][0]["attn_q"]).shape == (layers, width)
    assert set(recording["zs"][0]) == {"self_attn_out_hiddens", "attn_map", "gold_label", "pred_label"}


def test_parquet_holds_the_same_with_its_schema(sweep, recording, tmp_path):  # noqa: F811
    assert main(["record", str(sweep), "--seed", "1", "--out", str(tmp_path), "--format", "parquet"]) == 0
    for name, schema in SCHEMAS.items():
        table = pq.read_table(tmp_path / f"{name}.parquet")
        assert table.schema.equals(schema)
        rows = [{k: v for k, v in row.items() if k != "example"} for row in table.to_pylist()]
        assert rows == recording[name]


def test_what_the_format_cannot_hold_is_refused(sweep, tmp_path, capsys):  # noqa: F811
    arguments = ["record", str(sweep), "--out", str(tmp_path), "--set", "measures.update_field=hidden"]
    assert main(arguments) == 2
    assert "update_field attn_out" in capsys.readouterr().err


def ranked_after_a_softmax(recording):
    """Kendall's τ of tokens as the published script ranks them: after a softmax in float64, underflow and all."""
    queries = [np.asarray(example["attn_q"])[:, 1:] for example in recording["ft"]]
    kept = np.concatenate([[False] + [True] * q.shape[1] for q in queries])
    found = []
    for icl, ftzs in zip(recording["icl"], recording["ftzs"], strict=True):
        attended = np.asarray(icl["attn_map_ctx"])[:, kept]
        paid = np.concatenate(queries, axis=1) @ np.asarray(ftzs["attn_q"])[..., None]
        weights = [scipy.special.softmax(x, axis=-1) for x in (attended, paid[..., 0])]
        found.append([scipy.stats.kendalltau(x, y).statistic for x, y in zip(*weights, strict=True)])
    return mean_over_layers(found), np.mean(weights[1] == 0)


@pytest.mark.long
def test_where_the_softmax_underflows_its_ranks_can_be_had_too(tmp_path):
    settings = {"task": "sst2", "split": {"measured": 12}, "demonstrations": 8, "finetune": {"learning_rate": 3.0}}
    taus, bounds = [], []  # noqa: F811
    for softmax in (False, True):
        laboratory = Laboratory({**settings, "measures": {"kendall_softmax": softmax}})
        rows = laboratory.measure(0)
        taus += [next(r["value"] for r in rows if (r["metric"], r["layer"]) == ("kendall", -1))]
        units = [laboratory.study.unit(0, MEASUREMENT, [0])]
        found = rounding_bounds(laboratory.loaded, laboratory.study, units)
        bounds += [found[0, "none", "kendall", "icl-ft", -1]]
    theirs, underflown = ranked_after_a_softmax(record_seed(laboratory, 0))
    assert underflown > 0.3
    assert within(taus[1], theirs, bounds[1])
    assert abs(taus[0] - theirs) > 2 * sum(bounds)
