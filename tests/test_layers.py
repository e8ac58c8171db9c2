"""The layering that the design rests on."""

import ast
from pathlib import Path

import pytest

import sctag_tools

CORE = sorted((Path(sctag_tools.__file__).parent / "_core").glob("*.py"))


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_numerics_know_neither_anndata_nor_scanpy(path):
    assert not {"anndata", "scanpy"} & set(imported(path))
