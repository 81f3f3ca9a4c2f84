"""Shapes in signatures are checked while testing; tests use `OMP_NUM_THREADS` threads, one by default."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook

_CHECKED = ("raydual.metrics", "raydual.model", "raydual.measure", "raydual.tasks")
with install_import_hook(_CHECKED, "beartype.beartype"):
    import raydual.measure.dual
    import raydual.measure.interchange
    import raydual.measure.replica
    import raydual.measure.scoring
    import raydual.metrics.kendall
    import raydual.metrics.noise
    import raydual.metrics.prediction
    import raydual.metrics.similarity  # noqa: F401

import pytest
import torch

from .tiny import save_tiny


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory):
    """A whole model directory with a few thousand random weights."""
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def _threads():
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
