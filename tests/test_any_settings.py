"""Whatever is written into a sweep file or an override, it is accepted or refused in words."""

import contextlib
from pathlib import Path

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raydual.errors import UserError
from raydual.settings.reading import load_sweep
from raydual.settings.schema import SweepConfig

from .tiny import BASE

KEYS = [
    *SweepConfig.model_fields,
    "keep",
    "seeds.keep",
    "learning_rate",
    "labels",
    "columns",
    "template",
    "<<",
    "train",
]
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.dates(),
    st.sampled_from(["sst2", "hub", "embedded", "auto", "split", "dai", "sgd", "{text}", 10, 2**63, 1e300, "~x/y"]),
)  # fmt: skip
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
many = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def accepted_or_refused(path: Path) -> None:
    with contextlib.suppress(UserError):
        load_sweep(path)


@many
@given(st.dictionaries(st.sampled_from(KEYS), anything, max_size=5))
def test_any_settings_are_accepted_or_refused_in_words(tmp_path, settings):
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump({"name": "s", "task": "sst2", "data": "embedded", "seeds": 2, **settings}))
    accepted_or_refused(path)


FRAGMENTS = [
    *(
        "name: s\n",
        "task: sst2\n",
        "seeds: 3\n",
        "%YAML 9\n",
        "---\n",
        "...\n",
        "|\n",
        "\n",
        "&a ",
        "*a",
        "<<: ",
        "!!int ",
        "!x ",
    ),
    *("? ", "- ", ": ", "[", "]", "{", "}", ", ", "'", '"', "\\u0000", "  ", "#", "é", "\x85", "0x", "1e9"),
]


@many
@given(st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=5), max_size=25).map("".join))
def test_any_text_is_accepted_or_refused_in_words(tmp_path, text):
    path = tmp_path / "s.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    accepted_or_refused(path)


@many
@given(st.sampled_from(KEYS) | st.text(max_size=8), st.text(max_size=12))
def test_any_override_is_accepted_or_refused_in_words(tmp_path, key, value):
    path = tmp_path / "s.yaml"
    path.write_text(BASE)
    with contextlib.suppress(UserError):
        load_sweep(path, [f"{key}={value}"])
