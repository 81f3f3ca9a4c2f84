"""Imports run one way, and light modules stay light."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

import raydual

ROOT = Path(raydual.__file__).parent
FLOORS = (
    {"errors", "embedded", "process", "console"},
    {"files", "hub", "settings.yaml_text", "catalogue.metric", "catalogue.marks", "model.anatomy"},
    {"settings.base", "settings.task", "run_directory.schemas", "run_directory.storage", "catalogue"},
    {f"run_directory.{name}" for name in ("tables", "lock", "journal", "examples", "measurements")},
    {"settings.measures"},
    {"settings.schema"},
    {"settings"},
    {"metrics", "data", "run_directory"},
    {"statistics"},
    {"model"},
    {"study", "first_sweep"},
    {"plan"},
    {"measure"},
    {"one_seed"},
    {"cells", "report", "interchange"},
    {"loggers"},
    {"cluster"},
    {"pipeline"},
    {"commands"},
    {"sweep", "report.__main__", "__main__"},
)
RAY = {"cluster"}
NO_TORCH = [
    *("files", "hub", "settings.schema", "settings.reading", "settings.yaml_text", "data.files", "data.prompts"),
    *("catalogue.entries", "metrics.similarity", "metrics.noise", "metrics.prediction"),
    *("run_directory.directory", "statistics.over_seeds", "statistics.reduce", "report"),
    *("model.anatomy", "model.checkpoint", "model.source", "study", "plan.cost", "plan.estimate", "plan.layout"),
    *("pipeline", "commands", "sweep", "first_sweep", "model.known", "settings.editor"),
]


def floor_of(module: str) -> int:
    """The floor of the longest prefix that has one."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        for floor, names in enumerate(FLOORS):
            if ".".join(parts[:length]) in names:
                return floor
    raise AssertionError(f"{module} has no floor")


def imports_of(source: str) -> set[str]:
    """Every module of raydual, and ray, that a source imports anywhere, without the `raydual.`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name.removeprefix("raydual.") for name in names if name.split(".")[0] in ("raydual", "ray")}
    return found - {"raydual"}


def violations(module: str, source: str) -> list[str]:
    found = []
    for name in imports_of(source):
        if name.split(".")[0] == "ray":
            if module.split(".")[0] not in RAY:
                found.append(f"{module} imports ray")
        elif floor_of(name) > floor_of(module):
            found.append(f"{module} imports {name}, which is above it")
    return found


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if name != "__init__" and "embedded" not in name:
            yield name, path


def test_imports_run_one_way_and_only_the_cluster_knows_ray():
    found = [line for name, path in modules() for line in violations(name, path.read_text(encoding="utf-8"))]
    assert found == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("metrics.similarity", "from raydual.model.attention import Prefix"),
        ("model.attention", "import raydual.measure.seeds"),
        ("measure.seeds", "import ray"),
        ("data.prompts", "def f():\n    from ray import data"),
    ],
)
def test_the_check_can_fail(module, source):
    assert violations(module, source)


def cycle_among(sources: dict[str, str]) -> list[str]:
    """Modules that import each other in a ring; empty if there are none."""
    imported = {
        name: {known_in(found, sources) for found in imports_of(source)} - {name, None}
        for name, source in sources.items()
    }
    try:
        list(graphlib.TopologicalSorter(imported).static_order())
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def known_in(name: str, modules: Collection[str]) -> str | None:
    """The module that an imported name belongs to."""
    parts = name.split(".")
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in modules), None)


def test_no_file_imports_itself_by_way_of_others():
    assert cycle_among({name: path.read_text(encoding="utf-8") for name, path in modules()}) == []


def test_a_ring_of_imports_is_found():
    ring = {"a": "from raydual.b import x", "b": "def f():\n    import raydual.c.d", "c.d": "from raydual import a"}
    assert sorted(set(cycle_among(ring))) == ["a", "b", "c.d"]


def test_light_modules_load_neither_torch_nor_ray():
    probe = (
        "import importlib, sys\n"
        f"for name in {NO_TORCH!r}:\n"
        "    importlib.import_module('raydual.' + name)\n"
        "    heavy = {'torch', 'ray', 'transformers'} & set(sys.modules)\n"
        "    assert not heavy, (name, heavy)\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_files_are_of_a_size_that_can_be_read():
    long = {name: n for name, path in modules() if (n := len(path.read_text(encoding="utf-8").splitlines())) > 400}
    assert long == {}
