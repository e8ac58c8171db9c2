"""Every public function has the shape that scanpy's users expect, and a numpydoc docstring that is true of it."""

from __future__ import annotations

import builtins
import inspect
import re
from importlib.metadata import version
from typing import Any, Literal, get_origin

import pytest
from numpydoc.docscrape import get_doc_object
from numpydoc.validate import ERROR_MSGS, validate

import sctag_tools as sctag
from sctag_tools import _types

MODULES = {name: getattr(sctag, name) for name in ("pp", "tl", "get", "pl", "metrics", "datasets")}
COMPUTING = [f"{module}.{name}" for module in ("pp", "tl") for name in MODULES[module].__all__]
METHODS = [f"ScTAG.{name}" for name, value in vars(sctag.ScTAG).items() if name[0] != "_" and name != "history_"]
CALLABLE = [name for name in METHODS if not isinstance(vars(sctag.ScTAG)[name[6:]], property)]
FUNCTIONS = ["read", *(
    f"{module}.{name}" for module, holder in MODULES.items() for name, value in vars(holder).items()
    if inspect.isfunction(value) and name[0] != "_"
)]  # fmt: skip
ON_ANNDATA = [name for name in FUNCTIONS if name[:3] in {"pp.", "tl.", "get", "pl."}] + ["metrics.score"]

# What numpydoc would find and we do otherwise, for a reason.
IGNORED = {
    "ES01": "a short function needs no more than its summary",
    "PR04": "types stand in the signature alone",
    "RT02": "Returns is prose, and names the slots that are written",
    "RT03": "Returns is prose",
    "SA01": "what belongs together is linked where it is named",
    "SA03": "a description in See Also goes on after a colon",
}
IGNORED_OF_METHODS = IGNORED | {
    "EX01": "the class has an example of all of them",
    "RT01": "what a short method gives is its summary",
}
ORDER_OF_CLASS = {"PR03": "options that mean the same as in tl.sctag share one line"}


def get(name: str) -> Any:
    found: Any = sctag
    for part in name.split("."):
        found = getattr(found, part)
    return found


def doc(name: str) -> Any:
    return get_doc_object(get(name))


def faults(name: str, ignored: dict[str, str]) -> list[tuple[str, str]]:
    return [(code, text) for code, text in validate(f"sctag_tools.{name}")["errors"] if code not in ignored]


# --- names ---


def test_what_is_public_is_listed():
    assert dir(sctag) == ["ScTAG", "__version__", "datasets", "get", "metrics", "pl", "pp", "read", "tl"]
    assert sctag.__version__ == version("sctag-tools")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sctag.nothing
    for module in (sctag.pp, sctag.tl, sctag.get, sctag.pl):
        assert [name for name in dir(module) if name[0] != "_"] == sorted(module.__all__)
    assert COMPUTING == [
        "pp.build_graph", "pp.recipe_published", "tl.cut", "tl.denoise", "tl.explain", "tl.map_query",
        "tl.rank_genes_splits", "tl.sctag", "tl.subcluster", "tl.umap",
    ]  # fmt: skip
    assert {"read", "pl.embedding", "pl.history", "metrics.ari", "datasets.pbmc68k_reduced"} <= set(FUNCTIONS)
    of_scvi_tools = {"train", "predict", "predict_proba", "get_latent_representation", "save", "load", "history"}
    assert {f"ScTAG.{name}" for name in of_scvi_tools} <= set(METHODS)


# --- signatures ---


@pytest.mark.parametrize("name", ON_ANNDATA)
def test_adata_comes_first_and_most_arguments_are_named(name):
    parameters = list(inspect.signature(get(name)).parameters.values())
    assert (parameters[0].name, parameters[0].default) == ("adata", inspect.Parameter.empty)
    assert sum(one.kind is one.POSITIONAL_OR_KEYWORD for one in parameters) <= 3
    assert not any(one.kind is one.POSITIONAL_ONLY for one in parameters)


@pytest.mark.parametrize("name", COMPUTING)
def test_copy_is_named_and_last(name):
    signature = inspect.signature(get(name))
    copy = list(signature.parameters.values())[-1]
    assert (copy.name, copy.kind, copy.default) == ("copy", copy.KEYWORD_ONLY, False)
    assert signature.return_annotation == "AnnData | None"


@pytest.mark.parametrize("name", [*FUNCTIONS, "ScTAG", *CALLABLE])
def test_choices_can_be_read_in_the_signature(name):
    aliases = [alias for alias, value in vars(_types).items() if get_origin(value) is Literal]
    assert len(aliases) == 5
    assert not re.search(rf"\b({'|'.join(aliases)})\b", str(inspect.signature(get(name))))


def test_options_stand_in_the_signature():
    for name in ("tl.sctag", "ScTAG", "ScTAG.train"):
        assert "options" not in inspect.signature(get(name)).parameters
    assert "metric: Literal['euclidean', 'cosine'," in str(inspect.signature(sctag.pp.build_graph))
    assert "likelihood: Literal['multinomial', 'zinb'] = 'multinomial'" in str(inspect.signature(sctag.ScTAG))
    assert "precision: Literal['32-true', 'bf16-mixed']" in str(inspect.signature(sctag.ScTAG.train))


# --- docstrings ---


def test_what_is_ignored_exists():
    assert (IGNORED_OF_METHODS | ORDER_OF_CLASS).keys() <= ERROR_MSGS.keys()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstring_of_a_function(name):
    assert faults(name, IGNORED) == []
    assert doc(name)["Raises"]


def test_docstring_of_the_class():
    assert faults("ScTAG", IGNORED | ORDER_OF_CLASS) == []
    assert doc("ScTAG")["Raises"]


@pytest.mark.parametrize("name", METHODS)
def test_docstring_of_a_method(name):
    in_prose = {} if doc(name)["Parameters"] else {"PR01": "a short method explains its arguments in prose"}
    assert faults(name, IGNORED_OF_METHODS | in_prose) == []
    if name in {"ScTAG.train", "ScTAG.save", "ScTAG.load", "ScTAG.from_anndata"}:
        assert doc(name)["Raises"]


@pytest.mark.parametrize("name", [*FUNCTIONS, "ScTAG", *METHODS])
def test_exceptions_under_raises_exist(name):
    for raised in doc(name)["Raises"]:
        for one in raised.type.split(", "):
            assert issubclass(getattr(builtins, one), Exception)


@pytest.mark.parametrize("name", COMPUTING)
def test_a_function_says_what_it_writes_and_whose_method_it_is(name):
    text = inspect.getdoc(get(name))
    returns = text.split("\nReturns\n")[1].split("\nRaises\n")[0]
    assert "``None``, or the copy if ``copy=True``." in returns
    entries = re.findall(r"^`adata\.[^\n]*` : ([^\n]*)\n((?:    [^\n]*\n?)+)", returns, flags=re.MULTILINE)
    assert entries
    for kind, description in entries:
        assert re.fullmatch(r":class:`(dict`|[\w.]+` \((float32|bool|categorical of strings)\))", kind)
        assert "dict" in kind or re.search(r"\(n_(obs|vars)(, \w+)?,?\)", description)
    assert re.search(r"[A-Z]\w+ (et al\.|& \w+)\s(19|20)\d\d|the published code", text)
