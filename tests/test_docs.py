"""The pages say what the code does: tables, figures, links, names, messages and the code that they show."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import shlex
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData

import sctag_tools as sctag

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
if not (DOCS / "conf.py").exists():
    pytest.skip("the pages are in the repository alone", allow_module_level=True)

NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
PAGES = [ROOT / "README.md", *sorted(p for p in DOCS.rglob("*.md") if "generated" not in p.parts)]
GUIDE = sorted((DOCS / "guide").glob("*.md"))
FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"`(?:[A-Z_]+=\S+ )*(?:python|sctag|git) [^`]+`|first command\s+below|Drawn by hand", re.DOTALL)

QUICK = {"n_networks": 1, "pretrain_epochs": 40, "cluster_epochs": 2, "progress_bar": False}
NONE = "\N{EN DASH}"  # of a table: not run

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def _text(page: Path) -> str:
    """The Markdown of a page, or of a notebook's cells."""
    if page.suffix != ".ipynb":
        return page.read_text(encoding="utf-8")
    cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def _prose(text: str) -> str:
    return FENCE.sub("", text)


# Links and names ----------------------------------------------------------------------------------------------------


def _anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, made as on GitHub and by MyST."""
    titles = re.findall(r"^#+ (.+)$", _prose(_text(page)), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_resolve(page):
    prose = re.sub(r"`[^`]*`", "", _prose(_text(page)))
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = page if not path else (page.parent / path).resolve()
        assert found.exists(), target
        if anchor:
            assert anchor in _anchors(found), target


def _public_names() -> set[str]:
    found = set()
    for name in sctag.__all__:
        member = getattr(sctag, name)
        if not isinstance(member, ModuleType):
            found.add(name)
            continue
        members = getattr(member, "__all__", None) or [
            key for key, value in vars(member).items() if inspect.isfunction(value) and not key.startswith("_")
        ]
        found |= {f"{name}.{key}" for key in members}
    return found


def test_api_page_lists_every_public_name():
    listed = re.findall(r"^   ([a-z]\w*(?:\.\w+)?|[A-Z]\w*)$", (DOCS / "api.md").read_text(), flags=re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == _public_names()


def test_landing_page_leads_everywhere_in_two_clicks():
    links = set(re.findall(r"\]\(([^)\s#]+)", _text(DOCS / "index.md")))
    assert links >= {
        "install.md", "guide/own_data.md", "guide/n_clusters.md", "guide/devices.md", "benchmarks.md", "api.md",
    }  # fmt: skip


def test_every_page_is_in_the_contents():
    contents = set(re.findall(r"^([\w/]+)$", _text(DOCS / "index.md"), flags=re.MULTILINE))
    pages = [page for page in [*PAGES[1:], *NOTEBOOKS] if page.name != "index.md"]
    assert contents == {str(page.relative_to(DOCS).with_suffix("")) for page in pages}


# Figures and numbers ------------------------------------------------------------------------------------------------


@every_page
def test_figures_and_printed_blocks_name_their_command(page):
    text = _text(page)
    for figure in re.finditer(r"^(?:!\[[^\n]*|```\{image\}.*?^```)$", text, flags=re.MULTILINE | re.DOTALL):
        caption = text[figure.end() :].strip(":\n ").split("\n\n")[0]
        below_printed_block = text[: figure.start()].rstrip().endswith("```")
        assert COMMAND.search(caption) or below_printed_block, figure[0]
    last = ""
    for language, _ in FENCE.findall(text):
        if language == "text":
            assert last in {"bash", "text"}, "a printed block stands below no command"
        last = language


def _normal(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def _printed_blocks() -> list[tuple[str, str]]:
    """Of the benchmark page: the last command above each printed block that a committed table can be printed by."""
    pairs, command = [], ""
    for language, block in FENCE.findall(_text(DOCS / "benchmarks.md")):
        if language == "bash":
            command = re.sub(r"\\\n\s*", "", block).strip().splitlines()[-1]
        elif language == "text":
            pairs.append((command, block))
    return pairs


def _run_script(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [word for word in shlex.split(command) if "=" not in word]
    path = ROOT / words[1]
    arguments = words[2:]
    if path.stem == "robustness":
        arguments = arguments[:1]  # without a check it sums up what it has
    monkeypatch.syspath_prepend(str(path.parent))
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    script = importlib.import_module(path.stem)
    if path.stem == "published":
        monkeypatch.setattr(script, "_draw", lambda *_: mpl.figure.Figure())
        monkeypatch.setattr(mpl.figure.Figure, "savefig", lambda *_, **__: None)
    script.main()


@pytest.mark.parametrize(("command", "block"), _printed_blocks(), ids=[c for c, _ in _printed_blocks()])
def test_printed_blocks_of_the_benchmark_page_are_what_their_command_prints(command, block, monkeypatch, capsys):
    _run_script(command, monkeypatch)
    assert _normal(capsys.readouterr().out) == _normal(block)


def _short(value: float, digits: int = 3) -> str:
    return f"{np.round(value, digits):.{digits}f}".removeprefix("0")  # as the tables are rounded


def _accuracy(name: str, *, k_given: bool) -> pd.DataFrame:
    """ARI, a row a set and a column a seed, of a configuration of ours."""
    runs = pd.read_csv(DOCS / "benchmarks" / "accuracy.csv")
    runs = runs[(runs["configuration"] == name) & (runs["k_given"] == k_given)]
    return runs.pivot_table(index="set", columns="seed", values="ARI")


def _peers() -> pd.DataFrame:
    runs = pd.read_csv(DOCS / "benchmarks" / "peers.csv")
    return runs.groupby(["dataset", "method"])["ARI"].mean().unstack()


def _with_deviation(by_seed: pd.Series) -> str:
    return _short(by_seed.mean()) if by_seed.std() == 0 else f"{_short(by_seed.mean())} ± {_short(by_seed.std())}"


def _rows(text: str, columns: int) -> dict[str, list[str]]:
    """Rows of the Markdown tables with so many columns, by their first cell, without emphasis."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {row[0]: [cell.replace("**", "") for cell in row[1:]] for row in rows if len(row) == columns}


@pytest.mark.parametrize(
    ("k_given", "columns", "others"),
    [
        (True, 6, ["pca_kmeans_k_given", "scanpy_leiden_k_given", "scvi_leiden_k_given"]),
        (False, 5, ["scanpy_leiden_res1", "scvi_leiden_res1"]),
    ],
    ids=["number given", "number chosen"],
)
def test_readme_shows_the_committed_accuracy(k_given, columns, others):
    ours, peers = _accuracy("default", k_given=k_given), _peers()
    *complete, scvi = others
    seven = peers.index[peers[scvi].notna()]
    assert (len(ours), len(seven)) == (14, 7)
    expected = {
        name: [_with_deviation(ours.loc[name]), *(NONE if np.isnan(x) else _short(x) for x in peers.loc[name, others])]
        for name in ours.index
    }
    expected["mean of fourteen"] = [
        _with_deviation(ours.mean()),
        *(_short(peers[each].mean()) for each in complete),
        NONE,
    ]
    expected["mean of the seven with scVI"] = [
        _with_deviation(ours.loc[seven].mean()), *[NONE] * len(complete), _short(peers.loc[seven, scvi].mean())
    ]  # fmt: skip
    shown = {name: row[1:] for name, row in _rows(_text(ROOT / "README.md"), columns).items()}
    assert {name: shown[name] for name in expected} == expected


SIX_NEW = {
    "BreastLines31_DropSeq", "CellHash_4lines", "MalariaPb10x", "SteuermanFluLung349", "Zeisel550", "ZilionisLungDC",
}  # fmt: skip


def _off_by(runs: pd.DataFrame) -> float:
    """Mean over sets of |log2(found / true number of clusters)|."""
    return float(np.log2(runs["k_found"] / runs["k_true"]).abs().groupby(runs["set"]).mean().mean())


def test_readme_shows_how_far_the_number_is_off():
    runs = pd.read_csv(DOCS / "benchmarks" / "accuracy.csv").query("configuration == 'default' and not k_given")
    peers = pd.read_csv(DOCS / "benchmarks" / "peers.csv").set_index("method")
    names = {"dataset": "set", "k_pred": "k_found"}
    off = [_off_by(peers.loc[name].rename(columns=names)) for name in ("scanpy_leiden_res1", "scvi_leiden_res1")]
    text = _text(ROOT / "README.md").replace("**", "")
    assert f"| {_off_by(runs):.2f} | {off[0]:.2f} | {off[1]:.2f} (of seven) |" in text


def test_bounds_of_the_benchmark_page_follow_from_the_committed_tables():
    given, chosen, peers = _accuracy("default", k_given=True), _accuracy("default", k_given=False), _peers()
    eight = [name for name in given.index if name not in SIX_NEW]
    robust = pd.read_csv(DOCS / "benchmarks" / "robustness.csv").groupby(["name", "set"])["value"].mean()
    mean = robust.groupby(level=0).mean()
    runs = pd.read_csv(DOCS / "benchmarks" / "accuracy.csv").query("configuration == 'default' and not k_given")
    counted = pd.read_csv(DOCS / "benchmarks" / "n_clusters.csv")
    some, one = (counted[counted["kind"] == kind] for kind in ("some classes", "one class"))
    expected = {
        "K not given: mean ARI; over Leiden at resolution 1": [
            _short(chosen.mean(axis=None)),
            "+" + _short(chosen.mean(axis=None) - peers["scanpy_leiden_res1"].mean()),
        ],
        "the same, first eight sets": [_short(chosen.loc[eight].mean(axis=None))],
        "mean log2(found / true); on the six new sets": [
            _short(_off_by(runs), 2), _short(_off_by(runs[runs["set"].isin(SIX_NEW)]), 2),
        ],
        "Spearman of found and true number": [_short(some["sctag"].corr(some["k_true"], method="spearman"), 2)],
        "K given: mean ARI; over Leiden searched to K": [
            _short(given.mean(axis=None)),
            "+" + _short(given.mean(axis=None) - peers["scanpy_leiden_k_given"].mean()),
        ],
        "K given, first eight sets": [_short(given.loc[eight].mean(axis=None))],
        "one class alone gives K = 1": [f"{100 * (one['sctag'] == 1).mean():.0f} %"],
        "agreement of seeds: mean; least": [
            _short(mean["ARI between seeds"], 2), _short(robust["ARI between seeds"].min(), 2)
        ],
        "agreement with 90 % of the cells": [_short(mean["ARI with 90 %"], 2)],
        "calibration error: seeds; 90 %": [
            _short(mean["calibration error, seeds"]), _short(mean["calibration error, 90 %"]),
        ],
        "AUROC of clusters that come back": [_short(mean["AUROC of clusters that come back"], 2)],
    }  # fmt: skip
    text = (DOCS / "benchmarks.md").read_text().replace(r"\|", "")
    shown = _rows(text, 3)
    missing = {name: [part for part in parts if part not in shown[name][1]] for name, parts in expected.items()}
    assert {name: parts for name, parts in missing.items() if parts} == {}


# Code and messages --------------------------------------------------------------------------------------------------


def _calls(text: str) -> list[ast.Call]:
    """Calls of our functions in inline code and in Python blocks."""
    blocks = [block for language, block in FENCE.findall(text) if language == "python"]
    spans = [span for span in re.findall(r"`([^`\n]+)`", _prose(text)) if "sctag." in span]
    found = []
    for code in [*blocks, *spans]:
        try:
            tree = ast.parse(code)
        except SyntaxError:
            assert code in spans, code
            continue
        calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
        found += [call for call in calls if ast.unparse(call.func).startswith("sctag.")]
    return found


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=lambda page: str(page.relative_to(ROOT)))
def test_calls_on_pages_name_functions_and_arguments_that_exist(page):
    for call in _calls(_text(page)):
        function: Any = sctag
        for part in ast.unparse(call.func).split(".")[1:]:
            function = getattr(function, part)
        parameters = inspect.signature(function).parameters
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            continue
        unknown = [keyword.arg for keyword in call.keywords if keyword.arg not in parameters]
        assert not unknown, ast.unparse(call)


@pytest.fixture(scope="module")
def _analysed(_blobs_once) -> AnnData:
    """Cells after the three calls, as most pages of the guide have them."""
    adata = _blobs_once.copy()
    adata.obs["donor"] = pd.Categorical(["a", "b"] * (adata.n_obs // 2))
    adata.layers["counts"] = adata.X.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sctag.pp.build_graph(adata)
    sctag.tl.sctag(adata, **QUICK)
    adata.obsm["X_corrected"] = adata.obsm["X_pca"][:, :10]
    return adata


@pytest.fixture
def shop(_analysed, blobs, tmp_path, monkeypatch) -> dict[str, Any]:
    """A folder with the files, and the names, that the guide's code uses."""
    sc.settings.autoshow = False
    monkeypatch.chdir(tmp_path)
    blobs.obs["donor"] = _analysed.obs["donor"]
    for name in ("my_counts.h5ad", "new_counts.h5ad"):
        blobs.write_h5ad(name)
    monkeypatch.setattr(sctag.tl, "sctag", partial(sctag.tl.sctag, **QUICK))
    return {"sc": sc, "sctag": sctag, "adata": _analysed.copy()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", [*GUIDE, ROOT / "README.md"], ids=lambda page: page.stem)
def test_code_of_the_guide_runs(page, shop):
    for language, block in FENCE.findall(_text(page)):
        if language == "python" and "preset" not in block and "devices" not in block:
            exec(block.replace("n_top_genes=2000", "n_top_genes=60"), shop)


def _messages() -> str:
    """Every string of the package, what is put into it replaced by …"""
    found = []
    for path in (ROOT / "sctag_tools").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_headings_of_the_troubleshooting_page_are_messages_of_the_package():
    text = _text(DOCS / "guide" / "troubleshooting.md")
    headings = re.findall(r"^### (.+)$", text, flags=re.MULTILINE)
    messages = _messages()
    assert len(headings) > 8
    assert [heading for heading in headings if heading not in messages] == []
