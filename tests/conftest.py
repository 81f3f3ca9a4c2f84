"""What tests share. They use `OMP_NUM_THREADS` threads, one by default."""

import os
import random
import secrets
import sys
import time
from collections import Counter

os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import torch

from raydual.sweep import main

from .sweeping import make_inputs, own_temporary, tiny_settings, undisturbed
from .tiny import save_tiny

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("raydual", deadline=None)
hypothesis.settings.load_profile("raydual")


def pytest_collection_modifyitems(items):
    """Files that take long come first, so that in the end no process waits for another one's."""
    took = Counter()
    for item in items:
        took[item.path] += 3 * bool(item.get_closest_marker("ray")) + bool(item.get_closest_marker("long"))
    items.sort(key=lambda item: -took[item.path])


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Run a sweep and give its lines of errors, checked to be that alone; Ray can't be loaded meanwhile."""
    monkeypatch.setitem(sys.modules, "ray", None)

    def run(*arguments, command=main) -> list[str]:
        output, start = tmp_path / "output", time.process_time()
        where = ["--output", str(output)] if command is main else []
        assert command([*map(str, arguments), *where]) == 2
        assert time.process_time() - start < 3
        assert not output.exists()
        told = capsys.readouterr()
        lines = told.err.splitlines()
        assert lines
        assert all(line.startswith("error: ") and len(line) < 1000 for line in lines), lines
        return [line.removeprefix("error: ") for line in lines]

    return run


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory):
    """A whole model directory with a few thousand random weights."""
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def _threads():
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """A model directory and a review file, for sweeps in processes of their own."""
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def environment():
    """Folders for temporary files in which nothing may be left."""
    with own_temporary() as environment:
        yield environment


@pytest.fixture(scope="session")
def plain(inputs, tmp_path_factory):
    """The sweep that nothing disturbed, which others are compared with."""
    with own_temporary() as environment:
        return undisturbed(tmp_path_factory.mktemp("plain"), tiny_settings(inputs), environment)


@pytest.fixture
def draw():
    """Random moments; they follow from a seed, which is printed and may be given as RAYDUAL_TEST_SEED."""
    seed = int(os.environ.get("RAYDUAL_TEST_SEED") or secrets.randbelow(10**6))
    print(f"RAYDUAL_TEST_SEED={seed}")
    return random.Random(seed)
