"""What is wrong with a model's files is one line: told from their headers before Ray starts, or on loading them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from raydual.model.anatomy import FAMILIES, expected_shapes
from raydual.model.checkpoint import read_config
from raydual.model.loading import load_model

from . import tiny
from .broken_models import (
    EMBEDDING,
    FROM_HEADERS,
    HEAD,
    KEYS,
    KINDS,
    OF_FAMILIES,
    SINGLE,
    Change,
    both,
    config,
    sharded,
    weights,
)
from .test_tasks import told
from .tiny import ANATOMIES, BASE, save_tiny


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Model directories that are whole."""
    folder = tmp_path_factory.mktemp("sound")
    return {kind: save_tiny(folder / kind, **over) for kind, over in KINDS.items()}


def test_every_family_has_a_tiny_model():
    assert tiny.FAMILIES.keys() == FAMILIES.keys() == {over.get("family", "qwen3") for over in ANATOMIES.values()}


def test_every_family_is_in_the_docs():
    lines = (Path(__file__).parent.parent / "sweeps" / "README.md").read_text(encoding="utf-8").splitlines()
    for family in FAMILIES.values():
        assert any(line.startswith(f"| {family.title} | `{family.model_type}` |") for line in lines), family.title


@pytest.fixture
def broken(sound, tmp_path):
    def make(change: Change, kind: str = "plain") -> Path:
        shutil.copytree(sound[kind], tmp_path / "model")
        change(tmp_path / "model")
        return tmp_path / "model"

    return make


MISTAKES = {name: ("plain", *mistake) for name, mistake in FROM_HEADERS.items()} | OF_FAMILIES


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_the_headers_tell_is_told_before_anything_starts(mistake, broken, refused, tmp_path, capsys):
    kind, change, message = MISTAKES[mistake]
    model = broken(change, kind)
    (tmp_path / "s.yaml").write_text(BASE + "model: model\n")
    (line,) = refused(tmp_path / "s.yaml")
    assert line.startswith("model: ")
    assert str(model) in line
    assert message in line
    assert told(load_model, str(model)) == line
    assert capsys.readouterr() == ("", "")


FROM_VALUES = {
    "NaN": (
        "plain",
        weights(lambda w: w[KEYS].view(-1)[3:4].fill_(float("nan"))),
        f"{KEYS} holds NaN or infinite values",
    ),
    "infinity": (
        "plain",
        weights(lambda w: w[KEYS].view(-1)[:1].fill_(-float("inf"))),
        f"{KEYS} holds NaN or infinite",
    ),
    "an overflow": (
        "plain",
        weights(lambda w: w.update({KEYS: w[KEYS].double() * 1e300})),
        "infinite values in float32",
    ),
    "another unembedding": (
        "tied",
        weights(lambda w: w.update({HEAD: w[EMBEDDING] + 1})),
        f"says that {HEAD} is {EMBEDDING} (tie_word_embeddings",
    ),
    "a false tie": ("plain", config(tie_word_embeddings=True), "the file holds another one; correct the config"),
    "an unknown activation": ("plain", config(hidden_act="nonsense"), "cannot be loaded (KeyError: 'nonsense')"),
    "odd positions": ("plain", config(rope_parameters=[1]), "cannot be loaded (StrictDataclass"),
    "endless positions": (
        "plain",
        config(rope_parameters={"rope_type": "default", "rope_theta": float("nan")}),
        "inv_freq holds NaN",
    ),
    "odd ends": ("plain", config(eos_token_id="x"), "cannot be loaded (StrictDataclass"),
}


@pytest.mark.parametrize("mistake", FROM_VALUES)
def test_what_the_values_tell_is_told_when_they_are_loaded(mistake, broken, capsys):
    kind, change, message = FROM_VALUES[mistake]
    model = broken(change, kind)
    line = told(load_model, str(model))
    assert line.startswith(f"model: {model}")
    assert message in line
    assert len(line) < 700
    assert capsys.readouterr() == ("", "")


def without_prefix(found: dict) -> dict:
    return {name.removeprefix("model."): values for name, values in found.items()}


SOUND = {
    "as it is": ("plain", lambda model: None),
    **{kind: (kind, lambda model: None) for kind in KINDS if kind not in ("plain", "qwen3")},
    "sharded": ("plain", sharded()),
    "tied, with its head": ("tied", weights(lambda w: w.update({HEAD: w[EMBEDDING].clone()}))),
    "tied, with its head alone": ("tied", weights(lambda w: w.update({HEAD: w.pop(EMBEDDING)}))),
    "without a head": ("tied", weights(without_prefix)),
    "with what older versions saved": (
        "plain",
        weights(lambda w: w.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(5)})),
    ),
    "a llama of older versions": (
        "tied llama",
        both(
            weights(lambda w: w.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(5)})),
            config(pretraining_tp=2, rope_scaling=None, rope_theta=1e4),
        ),
    ),
    "a llama of scaled positions": (
        "llama with biases",
        config("rope_parameters", "head_dim", rope_scaling=tiny.LLAMA3, rope_theta=5e5),
    ),
    "a qwen2 whose window is switched off": (
        "qwen2",
        config("layer_types", sliding_window=64, use_sliding_window=False, max_window_layers=1),
    ),
    "in half": ("plain", weights(lambda w: {name: values.half() for name, values in w.items()})),
    "in double": ("plain", weights(lambda w: {name: values.double() for name, values in w.items()})),
}


@pytest.mark.parametrize("case", SOUND)
def test_whole_models_are_loaded_with_their_own_weights(case, broken, sound, capsys):
    kind, change = SOUND[case]
    loaded = load_model(str(broken(change, kind)), device="cpu").model.state_dict()
    original = load_file(sound[kind] / SINGLE)
    for name, values in original.items():
        torch.testing.assert_close(
            loaded[name], values, rtol=1e-3 if case == "in half" else 0, atol=1e-3 * (case == "in half")
        )
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("kind", KINDS)
def test_the_expected_weights_are_those_of_transformers(kind, sound):
    model = AutoModelForCausalLM.from_pretrained(sound[kind])
    shapes = {name: tuple(values.shape) for name, values in model.named_parameters()}
    assert expected_shapes(read_config(sound[kind] / "config.json")) == shapes


def test_the_headers_are_read_without_torch_and_fast(sound):
    probe = (
        "import sys, time\n"
        "from raydual.model.source import ModelSource\n"
        "start = time.monotonic()\n"
        f"ModelSource({str(sound['plain'])!r}).check()\n"
        "assert time.monotonic() - start < 0.5\n"
        "assert not {'torch', 'ray', 'transformers'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
