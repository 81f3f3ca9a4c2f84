"""The notebook runs from top to bottom."""

from pathlib import Path

import nbclient
import nbformat
import pytest

pytestmark = pytest.mark.long

NOTEBOOK = Path(__file__).parent.parent / "analysis" / "explore.ipynb"


@pytest.mark.filterwarnings("ignore")
def test_the_notebook_runs(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "outputs are not kept in the repository"
    nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("zero_shot=" in str(output) for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert any("holds no finished run" in str(output) for output in outputs)
