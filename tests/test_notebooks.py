"""The notebooks run from a fresh kernel, and are committed with the outputs of one."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "notebooks"
if not FOLDER.is_dir():
    pytest.skip("the notebooks are in the repository alone", allow_module_level=True)

every_notebook = pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)


@every_notebook
def test_committed_outputs_are_of_one_fresh_run(path):
    cells = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not any(output["output_type"] == "error" for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not re.search(r"/(home|root|tmp|work|Users)/", json.dumps([o.get("text", o.get("data")) for o in outputs]))


@pytest.mark.slow
@every_notebook
def test_runs_from_a_fresh_kernel(path):
    specification = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    execute = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(execute)
    execute.run(path, timeout=180)
