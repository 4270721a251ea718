"""The tutorial notebook: it runs, and what it shows is what comes out."""

import re

import numpy as np
import pytest
from conftest import ROOT

NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"


def _numbers(notebook):
    """Every number that the cells print, in order."""
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", ())]
    text = " ".join(out.text for out in outputs if out.get("name") == "stdout")
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", text)]


def _pictures(notebook):
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", ())]
    return sum("image/png" in out.get("data", {}) for out in outputs)


@pytest.mark.slow
def test_the_tutorial_runs_and_prints_what_it_shows():
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    shown = nbformat.read(NOTEBOOK, as_version=4)
    run = nbformat.read(NOTEBOOK, as_version=4)
    where = {"metadata": {"path": str(ROOT)}}
    nbclient.NotebookClient(run, timeout=300, kernel_name="python3", resources=where).execute()
    assert len(_numbers(shown)) > 30
    # Rounding differs between machines, and 100 epochs of Adam make more of it.
    np.testing.assert_allclose(_numbers(run), _numbers(shown), rtol=0.02, atol=0.1)
    assert _pictures(run) == _pictures(shown) == 1
    assert '"stderr"' not in NOTEBOOK.read_text()
