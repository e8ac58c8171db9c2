"""The list of mutations fits the code: each has one place to go, and tests that exist."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent


def _load():
    spec = importlib.util.spec_from_file_location("sctag_mutations", TESTS / "mutations.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


mutations = _load()
if not (mutations.ROOT / mutations.PACKAGE).is_dir():
    pytest.skip("the code to change is not beside the tests", allow_module_level=True)

every = pytest.mark.parametrize("mutation", mutations.MUTATIONS, ids=lambda m: m.meaning)


@every
def test_a_mutation_has_one_place_and_leaves_python(mutation):
    before = (TESTS.parent / mutations.PACKAGE / mutation.file).read_text("utf-8")
    after = mutations.mutated(mutation, before)
    assert ast.dump(ast.parse(after)) != ast.dump(ast.parse(before))


@every
def test_its_tests_exist(mutation):
    for test in mutation.tests.split():
        file, _, name = test.partition("::")
        functions = {
            node.name
            for node in ast.parse((TESTS / file).read_text("utf-8")).body
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        }
        assert functions
        assert not name or name in functions


def test_the_parts_that_matter_are_all_mutated():
    files = {Path(mutation.file).stem for mutation in mutations.MUTATIONS}
    assert files >= {"losses", "graph", "model", "inputs", "latent", "consensus", "confidence", "train", "fitted"}
    assert files >= {"novelty", "published", "published_losses", "published_net", "published_train"}


@pytest.mark.parametrize("text", ["", "x = 1\nx = 1\n"])
def test_a_place_that_is_gone_or_ambiguous_is_an_error(text):
    with pytest.raises(ValueError, match="times, not once"):
        mutations.mutated(mutations.Mutation("a.py", "", "x = 1", "x = 2", ""), text)


def test_the_verdict_of_a_mutation_that_survives_or_breaks_the_file(monkeypatch, capsys):
    answers = iter([(0, ""), (1, "1 failed"), (0, "1 passed"), (4, "no such test")])
    monkeypatch.setattr(mutations, "attempt", lambda mutation, tests: next(answers))
    monkeypatch.setattr(mutations, "MUTATIONS", mutations.MUTATIONS[:3])
    assert mutations.main([]) == 1
    said = capsys.readouterr().out
    assert [said.count(word) for word in ("caught  ", "SURVIVED", "NO VERDICT")] == [1, 1, 1]
    assert "1 of 3" in said


def test_tests_that_fail_anyway_catch_nothing(monkeypatch, capsys):
    monkeypatch.setattr(mutations, "attempt", lambda mutation, tests: (1, "1 failed"))
    assert mutations.main(["losses"]) == 1
    assert "without any mutation" in capsys.readouterr().out
