"""What CONTRIBUTING.md says is enough to add a task and a control: its steps are followed in a copy of the package."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from raydual.data.examples import demonstration_indices

from .default_catalogue import CATALOGUE
from .reference import seed as plain
from .reference.finetune import FinetuneSettings
from .reference.prompts import TaskSettings
from .sweeping import ROOT
from .tiny import LABELS, tiny_model, tiny_tokenizer

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MEASURE = """
import json, sys
import raydual
from raydual.settings.reading import validate_config
from raydual.settings.controls import controls_of

model, data = sys.argv[1:]
settings = {
    "task": "imdb", "model": model, "data": data, "demonstrations": 5, "split": {"measured": 7},
    "finetune": {"learning_rate": 0.2}, "controls": {"labels": ["same"]},
}
laboratory = raydual.Laboratory(settings)
dataset = laboratory.study.dataset
print(json.dumps({
    "controls": [control.name for control in controls_of(laboratory.study.config.controls)],
    "train": list(zip(dataset.train.queries, dataset.train.labels)),
    "measured": list(zip(dataset.measured.queries, dataset.measured.labels)),
    "rows": laboratory.measure(seed=3, control="labels_same"),
}))
"""


def steps(section: str) -> list[tuple[str, str, str]]:
    """(file, old text, new text) of every change that a section asks for; no old text: at the end of the file."""
    text = PAGE.split(f"## {section}\n")[1].split("\n## ")[0]
    found = []
    for block in re.findall(r"```diff\n(.*?)```", text, flags=re.DOTALL):
        name, *lines = block.splitlines()
        old, new = ("".join(line[1:] + "\n" for line in lines if line[:1] in (" ", sign)) for sign in "-+")
        found.append((name.removeprefix("+++ "), old, new))
    return found


def follow(section: str, root: Path) -> list[str]:
    """Make the changes of a section below `root`; the files that it touched."""
    changes = steps(section)
    for name, old, new in changes:
        file = root / name
        text = file.read_text(encoding="utf-8")
        assert text.count(old) == 1 or not old, f"{name}: the text to change is not there once"
        file.write_text(text.replace(old, new) if old else text + new, encoding="utf-8")
    return [name for name, _, _ in changes]


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the package with a new task and a new control, and the files that were changed for each."""
    root = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT / "raydual", root / "raydual", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "sweeps", root / "sweeps")
    return root, follow("Adding a task", root), follow("Adding a control", root)


@pytest.mark.long
def test_a_task_and_a_control_are_added_by_the_page_alone(package, inputs):
    root, task, control = package
    assert len(task) == 1
    assert len(control) <= 3
    environment = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PATH": ""}
    command = [sys.executable, "-c", MEASURE, *map(str, inputs)]
    done = subprocess.run(command, cwd=root, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["controls"] == ["none", "labels_same"]
    assert all(query.startswith("Review: ") and query.endswith(" Sentiment:") for query, _ in found["measured"])
    rows = {(row["metric"], row["condition"], row["layer"]): row["value"] for row in found["rows"]}
    assert {metric for metric, _, _ in rows} == set(CATALOGUE)
    assert {row["control"] for row in found["rows"]} == {"labels_same"}
    expected = by_hand(found)
    for key in (("simaou_raw", "icl-ft", -1), ("lambda", "icl", -1), ("accuracy", "icl", -1), ("accuracy", "ft", -1)):
        assert rows[key] == pytest.approx(expected[key], abs=1e-4), key


def by_hand(found: dict) -> dict:
    """The plain measurement of the same examples with one label, in the model of the fixture `inputs`."""
    train = [tuple(example) for example in found["train"]]
    chosen = [train[i] for i in demonstration_indices(3, len(train), 5)]
    assert len({label for _, label in chosen}) > 1
    return plain.measure_demonstrations(
        tiny_model(), tiny_tokenizer(), [(text, chosen[0][1]) for text, _ in chosen],
        [tuple(example) for example in found["measured"]],
        TaskSettings(template="{text}", label_words=LABELS), FinetuneSettings(learning_rate=0.2),
    )  # fmt: skip


def test_a_step_that_no_longer_fits_the_code_is_noticed(tmp_path):
    for name, _, _ in steps("Adding a control"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("other = 1\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="is not there once"):
        follow("Adding a control", tmp_path)


def test_every_way_to_add_something_is_short():
    for thing in ("task", "control", "metric", "model family"):
        section = PAGE.split(f"## Adding a {thing}\n")[1].split("\n## ")[0]
        prose = re.sub(r"```diff.*?```", "", section, flags=re.DOTALL)
        assert len([line for line in prose.splitlines() if line.strip()]) <= 12, thing
