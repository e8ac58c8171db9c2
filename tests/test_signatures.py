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


# --- what is written, and where it comes from ---


@computing
def test_every_slot_has_type_dtype_and_shape(function):
    entries = re.findall(
        r"^`adata\.[^\n]*` : ([^\n]*)\n((?:    [^\n]*\n?)+)", _sections(function)["Returns"], flags=re.MULTILINE
    )
    assert len(entries) >= 2
    for kind, text in entries:
        assert kind.startswith(":class:`")
        if "dict" not in kind:
            assert re.search(r" \((float32|bool|categorical of strings)\)$", kind), kind
            assert re.search(r"\(n_(obs|vars)(, \w+)?,?\)", text), text


@pytest.mark.parametrize("name", [*COMPUTING, *(name for name in FUNCTIONS if ".metrics." in name)])
def test_the_source_of_a_computation_is_named(name):
    text = inspect.cleandoc(FUNCTIONS[name].__doc__)
    assert re.search(r"[A-Z]\w+ (et al\.|& \w+),? (AAAI )?(19|20)\d\d|the published code|\bSee Also\n", text)


# --- the class ---

METHODS = {
    name: getattr(sctag.ScTAG, name)
    for name, value in vars(sctag.ScTAG).items()
    if not name.startswith("_") and not isinstance(value, property)
}
PROPERTIES = {name: value for name, value in vars(sctag.ScTAG).items() if isinstance(value, property)}

methods = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def _named(text: str) -> list[str]:
    entries = [line for line in text.splitlines() if line and not line.startswith(" ")]
    return [name.strip().lstrip("*") for line in entries for name in line.split(",")]


def _parameters(function: Any) -> dict[str, inspect.Parameter]:
    return {name: p for name, p in inspect.signature(function).parameters.items() if name != "self"}


def test_the_methods_are_those_that_are_promised():
    promised = {"train", "predict", "predict_proba", "get_latent_representation", "save", "load", "from_anndata"}
    assert promised <= METHODS.keys()
    assert PROPERTIES.keys() >= {"is_trained_", "history_", "params_"}
    assert not any(isinstance(vars(sctag)[name], type) for name in sctag.__all__ if name != "ScTAG")


def test_the_class_is_documented_with_every_option_and_attribute():
    sections = _sections(sctag.ScTAG)
    titles = [title for title in sections if title in {"Parameters", "Attributes", "Raises", "Examples"}]
    assert titles == ["Parameters", "Attributes", "Raises", "Examples"]
    assert ">>> " in sections["Examples"]
    assert set(_named(sections["Parameters"])) == set(_parameters(sctag.ScTAG.__init__))
    attributes = set(_named(sections["Attributes"]))
    assert "adata" in attributes
    assert attributes - PROPERTIES.keys() == {"adata"}, "properties carry their own docstrings"


def test_options_of_the_class_and_of_the_function_agree():
    """They say that they mean the same: by name, default and type; and no option of the function is left out."""
    function = _parameters(sctag.tl.sctag)
    both = {**_parameters(sctag.ScTAG.__init__), **_parameters(sctag.ScTAG.train)}
    for name, parameter in both.items():
        assert (parameter.default, parameter.annotation) == (function[name].default, function[name].annotation), name
        assert parameter.kind is function[name].kind
    assert function.keys() - both.keys() == {"preset", "n_top_genes", "key_added", "save", "store_model", "copy"}


def test_options_of_placing_are_those_of_mapping():
    mapping, placing = (_parameters(function) for function in (sctag.tl.map_query, sctag.ScTAG.place))
    for name in ("layer", "use_rep", "check_values"):
        assert (placing[name].default, placing[name].annotation) == (mapping[name].default, mapping[name].annotation)


@methods
def test_a_method_is_annotated_with_named_booleans(method):
    assert inspect.signature(method).return_annotation is not inspect.Signature.empty
    for parameter in _parameters(method).values():
        assert parameter.annotation is not inspect.Parameter.empty
        assert not isinstance(parameter.default, bool) or parameter.kind is parameter.KEYWORD_ONLY


@methods
def test_a_method_says_what_it_gives_and_when_it_fails(method):
    import builtins

    sections = _sections(method)
    assert sections[""].split("\n\n")[0].rstrip().endswith(".")
    if "Parameters" in sections:
        assert _named(sections["Parameters"]) == list(_parameters(method))
    for name in _named(sections.get("Raises", "")):
        assert issubclass(getattr(builtins, name), Exception)
    if inspect.signature(method).return_annotation.startswith(("NDArray", "pd.DataFrame")):
        assert re.match(r"\(n_obs,( n_\w+)?\) ", sections[""])


@pytest.mark.parametrize("name", ["train", "save", "load", "from_anndata"])
def test_methods_that_touch_data_or_files_name_their_errors(name):
    assert _named(_sections(METHODS[name])["Raises"])


@pytest.mark.parametrize("name", PROPERTIES)
def test_a_property_is_documented_and_annotated(name):
    getter = PROPERTIES[name].fget
    assert inspect.cleandoc(getter.__doc__).endswith(".")
    assert inspect.signature(getter).return_annotation is not inspect.Signature.empty
    assert PROPERTIES[name].fset is None
