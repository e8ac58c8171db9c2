"""Every public function has the shape that scanpy's users expect."""

from __future__ import annotations

import inspect
import re
from types import ModuleType
from typing import Any, get_args

import pytest

import sctag_tools as sctag
from sctag_tools.pp import _graph

MODULES: list[ModuleType] = [sctag.pp, sctag.tl, sctag.pl, sctag.metrics, sctag.datasets]


def _public(module: ModuleType) -> dict[str, Any]:
    names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    found = {name: getattr(module, name) for name in names}
    return {
        f"{module.__name__}.{name}": function
        for name, function in found.items()
        if inspect.isfunction(function) and function.__module__.startswith("sctag_tools")
    }


FUNCTIONS = {name: function for module in MODULES for name, function in _public(module).items()}
FUNCTIONS["sctag_tools.read"] = sctag.read
ON_ANNDATA = {name: f for name, f in FUNCTIONS.items() if re.match(r"sctag_tools\.(pp|tl|pl)\.|.*\.score$", name)}
COMPUTING = {name: f for name, f in ON_ANNDATA.items() if re.match(r"sctag_tools\.(pp|tl)\.", name)}

every = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
on_anndata = pytest.mark.parametrize("function", ON_ANNDATA.values(), ids=ON_ANNDATA)
computing = pytest.mark.parametrize("function", COMPUTING.values(), ids=COMPUTING)


def _sections(function: Any) -> dict[str, str]:
    """Text of each numpydoc section by its title; the summary under the empty title."""
    parts = re.split(r"^(\w[\w ]*)\n-{3,}\n", inspect.cleandoc(function.__doc__), flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def test_the_public_functions_are_found():
    expected = {"pp.build_graph", "tl.sctag", "pl.embedding", "pl.history", "metrics.score", "metrics.ari", "read"}
    assert {f"sctag_tools.{name}" for name in expected} <= FUNCTIONS.keys()
    computing = ("pp.build_graph", "pp.recipe_published", "tl.sctag", "tl.map_query", "tl.denoise")
    assert set(COMPUTING) == {f"sctag_tools.{name}" for name in computing}


@on_anndata
def test_adata_comes_first_and_most_arguments_are_named(function):
    parameters = list(inspect.signature(function).parameters.values())
    positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert parameters[0].name == "adata"
    assert parameters[0].annotation in ("AnnData", sctag.pp.build_graph.__globals__.get("AnnData"))
    assert parameters[0].default is inspect.Parameter.empty
    assert len(positional) <= 3
    assert not any(p.kind is p.POSITIONAL_ONLY for p in parameters)


@every
def test_everything_is_annotated(function):
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    assert [p.name for p in signature.parameters.values() if p.annotation is inspect.Parameter.empty] == []


@every
def test_booleans_are_named_and_defaults_immutable(function):
    for parameter in inspect.signature(function).parameters.values():
        assert not isinstance(parameter.default, (list, dict, set))
        if isinstance(parameter.default, bool):
            assert parameter.kind is parameter.KEYWORD_ONLY


@computing
def test_copy_is_named_and_near_the_end(function):
    signature = inspect.signature(function)
    copy = signature.parameters["copy"]
    assert copy.kind is copy.KEYWORD_ONLY
    assert copy.default is False
    assert "copy" in list(signature.parameters)[-2:]
    assert signature.return_annotation == "AnnData | None"
    assert "inplace" not in signature.parameters


@every
def test_docstring_is_numpydoc(function):
    sections = _sections(function)
    summary = sections[""].split("\n")[0]
    assert summary.endswith(".")
    wanted = ["Parameters"] if inspect.signature(function).parameters else []
    titles = [title for title in sections if title in {"Parameters", "Returns", "Raises", "Examples"}]
    assert titles == [*wanted, "Returns", "Raises", "Examples"]
    assert all(sections[title].strip() for title in titles)
    assert ">>> " in sections["Examples"]


@every
def test_docstring_names_the_parameters_of_the_signature(function):
    text = _sections(function).get("Parameters", "")
    entries = [line for line in text.splitlines() if line and not line.startswith(" ")]
    named = [name.strip().lstrip("*") for line in entries for name in line.split(",")]
    assert named == list(inspect.signature(function).parameters)
    assert not any(" : " in line for line in entries), "types belong to the signature alone"


@computing
def test_returns_opens_with_copy_and_names_the_slots(function):
    returns = _sections(function)["Returns"]
    assert returns.startswith("``None``, or the copy if ``copy=True``.")
    slots = re.findall(r"^`adata\.\w+\[(.*)\]` : ", returns, flags=re.MULTILINE)
    assert len(slots) >= 2
    if "key_added" in inspect.signature(function).parameters:
        assert sum("key_added" in slot for slot in slots) >= 3


@every
def test_exceptions_under_raises_exist(function):
    import builtins

    entries = [line for line in _sections(function)["Raises"].splitlines() if line and not line.startswith(" ")]
    assert entries
    assert all(issubclass(getattr(builtins, name), Exception) for name in entries)


def test_option_sets_are_literals():
    annotation = inspect.signature(sctag.pp.build_graph).parameters["metric"].annotation
    namespace = {**vars(_graph)}
    exec("from typing import Literal", namespace)  # annotations are strings; Literal may be for type checkers only
    allowed = get_args(eval(annotation, namespace))
    assert set(allowed) == {"euclidean", "cosine", "correlation", "manhattan"}
