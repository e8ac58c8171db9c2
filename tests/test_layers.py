"""The numerics know neither AnnData nor the layers above them, at the top of a module or anywhere in it."""

import ast
from pathlib import Path

import pytest

import sctag_tools

PACKAGE = Path(sctag_tools.__file__).parent
ROOMS = ("nn", "train", "cluster", "mapping", "neighbors", "published")
EDGE = {"published/recipe.py", "published/preset.py"}  # where the published method meets AnnData
ABOVE = {"_anndata", "_keys", "_options", "_logging", "_model", "io", "pp", "tl", "get", "pl", "cli"}
FORBIDDEN = {"anndata", "scanpy", "sctag_tools.ScTAG", *(f"sctag_tools.{name}" for name in ABOVE)}
ALLOWED = {}  # file -> modules, with the reason

CORE = {path.relative_to(PACKAGE).as_posix(): path for room in ROOMS for path in sorted((PACKAGE / room).rglob("*.py"))}


def imported(source, file):
    """Full names of all that a file of the package (by its path in it) imports, in functions and for typing too."""
    package = ("sctag_tools", *Path(file).parent.parts)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (argument.value for argument in node.args if isinstance(argument, ast.Constant))


def forbidden(source, file):
    return {
        name
        for name in imported(source, file)
        if name in {"sctag_tools", "sctag_tools.*"}  # with everything in it
        or any(f"{name}.".startswith(f"{layer}.") for layer in FORBIDDEN - set(ALLOWED.get(file, ())))
    }


@pytest.mark.parametrize("file", sorted(CORE.keys() - EDGE))
def test_numerics_import_no_layer_above_them(file):
    assert not forbidden(CORE[file].read_text("utf-8"), file)


def test_all_rooms_are_looked_at():
    assert {file.split("/")[0] for file in CORE} == set(ROOMS)
    assert CORE.keys() >= EDGE
    assert all((PACKAGE / name).exists() or (PACKAGE / f"{name}.py").exists() for name in ABOVE)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from .._anndata.access import x", "sctag_tools._anndata.access.x"),
        ("from .. import _keys", "sctag_tools._keys"),
        ("from ..io import model_folder as m", "sctag_tools.io.model_folder"),
        ("from sctag_tools._model import ScTAG", "sctag_tools._model.ScTAG"),
        ("from sctag_tools import ScTAG", "sctag_tools.ScTAG"),
        ("import sctag_tools.tl._sctag", "sctag_tools.tl._sctag"),
        ("import sctag_tools as sctag", "sctag_tools"),
        ("from .. import *", "sctag_tools.*"),
        ("def f():\n    import scanpy as sc", "scanpy"),
        ("class A:\n    async def f(self):\n        from anndata.io import read_h5ad", "anndata.io.read_h5ad"),
        ("if TYPE_CHECKING:\n    from anndata import AnnData", "anndata.AnnData"),
        ("try:\n    import numpy, anndata\nexcept ImportError:\n    pass", "anndata"),
        ("importlib.import_module('scanpy.pp')", "scanpy.pp"),
    ],
)
def test_the_guard_sees_what_is_planted(source, found):
    assert forbidden(source, "nn/losses.py") == {found}


@pytest.mark.parametrize(
    "source",
    [
        "from . import io, _keys",  # of this room
        "from .io import read",
        "from .._checks import check_flag",
        "from ..train.config import Config",
        "import scanpyish, anndata2",
        "from ..iota import x",
        "text = 'import scanpy'",
    ],
)
def test_the_guard_lets_pass_what_is_allowed(source):
    assert not forbidden(source, "nn/losses.py")
