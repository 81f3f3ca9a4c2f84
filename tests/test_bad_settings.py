"""Whatever is wrong in a sweep file or an override: a line for each mistake, at once, nothing left behind."""

import json
import pickle
import subprocess
import sys
import time

import pytest

from raydual.commands import main as one_seed
from raydual.errors import UserError
from raydual.settings.reading import dump_config, load_config, validate_config
from raydual.settings.yaml_text import dump_yaml, parse_yaml

from .tiny import BASE


def laughs(levels: int = 9) -> str:
    lines = ["a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


def template(text: str) -> str:
    return BASE.replace("sst2", f"{{name: sst2, template: {json.dumps(text)}, columns: {{text: text}}}}")


def task(settings: str) -> str:
    return BASE.replace("sst2", f"{{name: sst2, {settings}}}")


SETTINGS = {
    # Templates
    "an aligned field": (template("{text:>10}"), "task: template '{text:>10}' changes how 'text' is written"),
    "a converted field": (template("{text!r}"), "write {text} alone"),
    "a nested field": (template("{text:{text}}"), "write {text} alone"),
    "an attribute": (template("{text.attr}"), "uses the fields ['text.attr'], but columns names ['text']"),
    "an index": (template("{text[0]}"), "uses the fields ['text[0]']"),
    "no name": (template("{}"), "uses the fields ['']"),
    "a number as a name": (
        task("template: '{0}', columns: {'0': text}"),
        "the field '0' of the template is not a name",
    ),
    "an attribute as a column": (task("template: '{a.b}', columns: {a.b: text}"), "the field 'a.b' of the template is"),
    "an open brace": (template("{text"), "template '{text' is malformed"),
    "a closing brace": (template("text}"), "template 'text}' is malformed"),
    "no field": (template("{{text}}"), "uses the fields []"),
    "a template that is a number": (task("template: 5"), "task.template: input should be a text, found 5; put it in q"),
    # Label words and values
    "a blank label word": (task('label_words: [" ", a]'), "the label word ' ' begins or ends with a blank"),
    "label words that YAML reads": (
        task("label_words: [Yes, fine]"),
        "label_words.0: input should be a text, found True",
    ),
    "label values that YAML reads": (task("label_values: [true, 0]"), "found True; put it in quotes"),
    "label values twice": (task('label_values: [1, "1"]'), "repeats a value"),
    # YAML
    "nothing": ("", "a sweep file is a mapping of settings, found nothing"),
    "a comment": ("# name: s\n", "found nothing"),
    "a list": ("- name: s\n", "found list"),
    "a text": ("name\n", "found str"),
    "two documents": (BASE + "---\n" + BASE, "s.yaml, line 5: not valid YAML: a second document begins"),
    "a list in itself": ("name: s\ntask: &a [*a]\n", "s.yaml, line 2: not valid YAML: *a is a part of itself"),
    "a mapping in itself": ("name: s\nfinetune: &a {epochs: *a}\n", "*a is a part of itself"),
    "an axis in itself": (BASE + "model: &a [x, *a]\n", "*a is a part of itself"),
    "everything in itself": ("&a\nname: s\nsearch: *a\n", "*a is a part of itself"),
    "an alias of nothing": (BASE + "model: *b\n", "found undefined alias 'b'"),
    "a bomb of aliases": (BASE + laughs(), "aliases repeat too much"),
    "a bomb as a setting": (BASE + laughs(7) + "model: *a6\n", "aliases repeat too much"),
    "a bomb of merges": (BASE + laughs().replace("[", "[{b: c}, "), "aliases repeat too much"),
    "brackets": (BASE + "model: " + "[" * 5000, "line 5: not valid YAML: nested more than 50 deep"),
    "closed brackets": (BASE + "model: " + "[" * 5000 + "]" * 5000, "nested more than 50 deep"),
    "braces": (BASE + "model: " + "{a: " * 5000 + "}" * 5000, "nested more than 50 deep"),
    "dashes": (BASE + "model:\n " + "- " * 5000, "nested more than 50 deep"),
    "NUL": (BASE + "model: a\0b\n", "s.yaml, line 5: not valid YAML: the character '\\x00' is not allowed"),
    "a bell": (BASE + "model: a\ab\n", "the character '\\x07' is not allowed"),
    "a tab": (BASE + "\tmodel: x\n", "line 5: not valid YAML"),
    "a Python object": (
        BASE + "model: !!python/object/apply:os.system [ls]\n",
        "the tag '!!python/object/apply:os.syst",
    ),
    "a set": (BASE.replace("10", "!!set {1, 2}"), "line 4: not valid YAML: the tag '!!set' is not read"),
    "bytes": (BASE + "model: !!binary aGVsbG8=\n", "the tag '!!binary' is not read"),
    "an own tag": (BASE + "model: !mine x\n", "the tag '!mine' is not read"),
    "a wrong tag": (BASE.replace("10", "!!int ten"), "line 4: not valid YAML: 'ten' cannot be read as int"),
    "a wrong bool": (BASE.replace("10", "!!bool ten"), "'ten' cannot be read as bool"),
    "a key twice": (BASE + "finetune: {epochs: 1, 'epochs': 2}\n", "line 5: not valid YAML: the key 'epochs' is given"),
    "a merge twice": (BASE + "finetune: {<<: {epochs: 1}, <<: {epochs: 2}}\n", "the key '<<' is given twice"),
    "a merge of a number": (BASE + "finetune: {<<: 3}\n", "expected a mapping"),
    "a list as a key": (BASE + "? [a, b]\n: 3\n", "unhashable key"),
    "a number as a key": (BASE + "3: 4\n", "3: a key should be a text, found 3"),
    "nothing as a key": (BASE + "~: 4\n", "a key should be a text, found None"),
    # Numbers
    "seeds without end": (
        BASE.replace("10", "1000000000"),
        "seeds: at most 1,000,000 seeds are run at once, found 1000",
    ),
    "seeds beyond 64 bits": (BASE.replace("10", str(2**70)), "seeds: at most 1,000,000 seeds"),
    "a seed beyond 64 bits": (
        BASE.replace("10", f"[{2**70}]"),
        "seeds.0: input should be less than 9223372036854775808",
    ),
    "a number of many digits": (BASE.replace("10", "1" * 5000), "cannot be read as int"),
    "a hexadecimal number of many digits": (
        BASE.replace("10", "0x" + "f" * 50000),
        "found a number of thousands of dig",
    ),
    "seeds with an exponent": (
        BASE.replace("10", "1e3"),
        "seeds: input should be a whole number, or a list of them, fou",
    ),
    "octal seeds": (BASE.replace("10", "010"), "found '010'"),
    "sexagesimal seeds": (BASE.replace("10", "1:30"), "found '1:30'"),
    "no seeds": (BASE.replace("10", ""), "seeds: input should be a whole number, or a list of them, found None"),
    "an empty list of seeds": (BASE.replace("10", "[]"), "seeds: value should have at least 1 item"),
    "permutations without end": (
        BASE + "controls: {permutations: 100000000}\n",
        "controls.permutations: input should be les",
    ),
    "measurements without end": (
        BASE.replace("10", "1000000") + "controls: {permutations: 100}\n",
        "1,000,000 seeds with 100 controls are 101,000,000 measurements, at most 20,000,000 are run at once",
    ),
    "resamples without end": (
        BASE + "measures: {resamples: 1000000000000}\n",
        "measures.resamples: input should be less",
    ),
    "too many replicas": (
        BASE + f"execution: {{replicas: {2**70}}}\n",
        "execution.replicas: input should be less than",
    ),
    "infinitely many GPUs": (
        BASE + "execution: {gpus_per_replica: .inf}\n",
        "gpus_per_replica: input should be a finite",
    ),
    "a rate that overflows": (
        BASE + "finetune: {learning_rate: 1e400}\n",
        "finetune.learning_rate: input should be a fin",
    ),
    "a rate of many digits": (
        BASE + f"finetune: {{learning_rate: {10**400}}}\n",
        "finetune.learning_rate: input should be",
    ),
    "no rate": (BASE + "finetune: {learning_rate: .nan}\n", "finetune.learning_rate: input should be"),
    "combinations without end": (
        BASE + "".join(f"{key}: {list(range(1, 300))}\n" for key in ("model", "demonstrations", "protocol")),
        "model, demonstrations, protocol: 26,730,899 combinations, at most 1,000 are run at once",
    ),
    # Texts
    "a near word": (BASE + "finetune: {optimizer: adam}\n", "found 'adam'; did you mean 'adamw'?"),
    "a near automatic": (BASE + "execution: {replicas: atuo}\n", "found 'atuo'; did you mean 'auto'?"),
    "a path as a name": (BASE.replace("name: s", "name: ../s"), "name: input should be of letters, digits"),
    "a line break in the name": (BASE.replace("name: s", 'name: "s\\n"'), "name: input should be of letters, digits"),
    "a long name": (BASE.replace("name: s", "name: " + "s" * 300), "name: string should have at most 200 characters"),
    "a name that is a list": (
        BASE.replace("name: s", "name: [s, t]"),
        "name: input should be a text, found ['s', 't']",
    ),
    "a long unknown key": (BASE + "x" * 900 + ": 1\n", "unknown key 'xxx"),
    "an unknown key of two lines": (BASE + '"a\\nb": 1\n', "unknown key 'a\\nb'"),
    "a group that is a list": (BASE + "search: [1]\n", "search: input should be a mapping, found [1]"),
    "no task": (BASE.replace("sst2", ""), "task: input should be a mapping, found None"),
    "half a surrogate pair": (
        BASE + 'revision: "\\ud800"\n',
        "s.yaml, line 5: not valid YAML: '\\ud800' cannot be read as str",
    ),
    # Paths
    "NUL in a model": (BASE + 'model: "./a\\0b"\n', "model: a path cannot hold a NUL character, found './a\\x00b'"),
    "NUL in data": (BASE.replace("embedded", '"a\\0.csv"'), "data: a path cannot hold a NUL character"),
    "NUL in a data file": (
        BASE.replace("embedded", '{train: "a\\0.csv"}'),
        "data.train: a path cannot hold a NUL char",
    ),
    "another's home as a model": (
        BASE + "model: ~nosuchuser/m\n",
        "model: '~nosuchuser/m' is in the home of a user who",
    ),
    "another's home as data": (
        BASE.replace("embedded", "~nosuchuser/d.csv"),
        "data: '~nosuchuser/d.csv' is in the home",
    ),
    "a surrogate in a path": (BASE + 'model: "./\\ud800"\n', "'./\\ud800' cannot be read as str"),
    "a long path as a model": (BASE + "model: /" + "x" * 300 + "\n", "xxx is not a directory"),
    "a long path as data": (BASE.replace("embedded", "x" * 300 + ".csv"), "xxx.csv: File name too long"),
    "no model": (BASE + "model: ''\n", "model: string should have at least 1 character"),
    "no data": (BASE.replace("embedded", "''"), "data: string should have at least 1 character"),
    "a directory that is not there": (BASE + "model: ./nowhere\n", "nowhere is not a directory"),
}


@pytest.mark.parametrize("mistake", SETTINGS)
def test_a_mistake_in_a_sweep_file(mistake, tmp_path, refused):
    text, message = SETTINGS[mistake]
    path = tmp_path / "s.yaml"
    path.write_text(text, encoding="utf-8")
    lines = refused(path)
    assert message in lines[0]
    # `demonstrations` comes from the task, so it is missing where there is none.
    assert len(lines) == 1 or (mistake == "no task" and "demonstrations" in lines[1])


OVERRIDES = {
    "=": "--set =: expected key=value",
    "": "--set : expected key=value",
    "seeds": "--set seeds: expected key=value",
    "a..b=1": "--set a..b=1: expected key=value",
    ".a=1": "expected key=value",
    "finetune.=1": "expected key=value",
    "seeds=": "--set seeds=: no value is given; for none write seeds=null",
    "a\nb": "--set a\\nb: expected key=value",
    "a\nb=1": "unknown key 'a\\nb'",
    "seeds=*a": "--set seeds, line 1: not valid YAML: found undefined alias 'a'",
    "seeds=!!python/name:os.system": "--set seeds, line 1: not valid YAML: the tag",
    "model=~nosuchuser/m": "--set model: model: '~nosuchuser/m' is in the home",
    "seeds.0=1": "seeds: input should be a whole number, or a list of them, found {'0': 1}",
    "demonstrations.x=1": "demonstrations: input should be a whole number, found {'x': 1}",
    "x" * 5000 + "=1": "unknown key 'xxx",
    "a." * 2000 + "a=1": "unknown key 'a'",
    "task.name=sst7": "task.label_words: required",
    "controls.labels=null": "controls.labels: input should be a list, found None",
    "name=2020-01-01\n---\nx": "a second document begins",
}


@pytest.mark.parametrize("override", OVERRIDES)
def test_a_mistake_in_an_override(override, tmp_path, refused):
    (tmp_path / "s.yaml").write_text(BASE)
    lines = refused(tmp_path / "s.yaml", "--set", override)
    assert OVERRIDES[override] in lines[0]
    assert len(lines) == 1


@pytest.mark.parametrize("group", ["split", "search", "finetune", "measures", "controls", "execution"])
def test_a_group_of_settings_may_be_empty(group, tmp_path):
    (tmp_path / "s.yaml").write_text(BASE)
    plain = load_config(tmp_path / "s.yaml")
    assert load_config(tmp_path / "s.yaml", [f"{group}=null"]) == plain
    (tmp_path / "s.yaml").write_text(BASE + f"{group}:\n")
    assert load_config(tmp_path / "s.yaml") == plain
    changed = load_config(tmp_path / "s.yaml", ["search=null", "search.seeds.keep=2", "search.seeds.slices=null",
                                                "split.selection=5"])  # fmt: skip
    assert changed.search.seeds.keep == 2


def test_what_yaml_allows_and_sweeps_use_is_read(tmp_path):
    path = tmp_path / "s.yaml"
    text = BASE + "measures: &m {resamples: 500}\nfinetune: {<<: {epochs: 2}, epochs: 3, learning_rate: 1e-2}\n"
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    config = load_config(path)
    assert (config.measures.resamples, config.finetune.epochs, config.finetune.learning_rate) == (500, 3, 0.01)
    path.write_text(BASE.replace("name: s", "name: 2026-01-31"))
    assert load_config(path).name == "2026-01-31"


@pytest.mark.parametrize(
    "text", ["1e5", "1_000", "0x1f", "2020-01-01", "yes", "null", "~", "=", "<<", ".5", "1.", "*a"]
)
def test_texts_that_look_like_something_else_survive_being_written(text):
    assert parse_yaml(dump_yaml({"a": text, "b": [text]}), "text") == {"a": text, "b": [text]}


def test_a_million_seeds_are_a_line(tmp_path):
    config = validate_config({"name": "s", "task": "sst2", "data": "embedded", "seeds": 1_000_000}, "test")
    start = time.monotonic()
    (tmp_path / "s.yaml").write_text(dump_config(config))
    assert "seeds: 1000000\n" in (tmp_path / "s.yaml").read_text()
    assert load_config(tmp_path / "s.yaml") == config
    assert time.monotonic() - start < 10


def test_many_problems_are_cut_short():
    with pytest.raises(UserError) as error:
        validate_config({"name": "s", "task": "sst2", "seeds": ["x"] * 100_000}, "test")
    lines = str(error.value).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "test: and 99,980 more problems"


# The commands on one seed

COMMANDS = {
    "a seed beyond 64 bits": (["simaou", "--seed", str(2**70)], f"--seed {2**70}: a seed is"),
    "an unknown control": (["simaou", "--control", "untrained_"], "control 'untrained_' is not one of"),
    "memory that is none": (["plan", "--memory", "nan"], "--memory"),
    "memory without end": (["plan", "--memory", "inf"], "--memory"),
    "replicas below one": (["plan", "--replicas", "0"], "--replicas"),
    "hardware": (["plan", "--hardware", "abacus"], "has not been measured"),
    "a directory": (["simaou", "."], "not a run directory, it holds no config.yaml"),
    "an axis": (["simaou", "--set", "demonstrations=[2,3]"], "lists several values of demonstrations"),
}


@pytest.mark.parametrize("mistake", COMMANDS)
def test_a_mistake_in_a_command_on_one_seed(mistake, refused, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    arguments, message = COMMANDS[mistake]
    (line,) = refused(*arguments, command=one_seed)
    assert message in line


# The real command, and what no table holds


@pytest.mark.parametrize("mistake", ["a bomb of aliases", "brackets", "seeds without end", "an aligned field"])
def test_the_real_command_ends_with_one_line(mistake, tmp_path):
    text, message = SETTINGS[mistake]
    (tmp_path / "s.yaml").write_text(text)
    command = [sys.executable, "-m", "raydual.sweep", "s.yaml", "--output", "output"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=60)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert done.stdout == ""
    assert not (tmp_path / "output").exists()


def test_a_users_mistake_survives_the_way_from_a_worker():
    error = pickle.loads(pickle.dumps(UserError("model: one line")))
    assert isinstance(error, UserError)
    assert str(error) == "model: one line"
