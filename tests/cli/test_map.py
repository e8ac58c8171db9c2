"""``sctag map``, ``score`` and ``info`` on the model and the result of a run."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest

import sctag_tools as sctag


@pytest.fixture
def folder(finished, monkeypatch) -> Path:
    """The folder of the finished run as the current one; other files go elsewhere."""
    monkeypatch.chdir(finished[0])
    return finished[0]


def test_map_does_what_map_query_does(folder, tmp_path, command):
    out = command.succeeds(
        "map", "query.h5ad", "--model", "model", "--label_key", "group", "--out", tmp_path / "mapped.h5ad"
    )
    mapped, query = anndata.read_h5ad(tmp_path / "mapped.h5ad"), anndata.read_h5ad("query.h5ad")
    sctag.tl.map_query(query, "model")
    np.testing.assert_array_equal(mapped.obsm["X_sctag"], query.obsm["X_sctag"])
    assert mapped.obs["sctag"].tolist() == query.obs["sctag"].tolist()
    lines = out.splitlines()
    assert lines[0].split() == ["cluster", "cells", "share", "confidence"]
    n_new = int((query.obs["sctag_novelty"] > 1).sum())
    assert f"{n_new} of 30 cells are less like the model's cells than 99 % of these are (sctag_novelty)" in lines
    expected = sctag.metrics.score(query, "group")
    assert lines[-2] == "  ".join(f"{name} {value:.4f}" for name, value in expected.items())
    assert lines[-1] == f"wrote {tmp_path / 'mapped.h5ad'}"


def test_map_of_a_table_with_genes_in_rows(finished, command):
    """It is written into the current folder, under the name of the query."""
    model, query = finished[0] / "model", anndata.read_h5ad(finished[0] / "query.h5ad")
    query.to_df().astype(int).T.to_csv("query.csv")
    said = command.fails("map", "query.csv", "--model", model)
    assert said.endswith("rows are named like the model's genes: transpose a table with `--transpose`.\n")
    assert "wrote query_mapped.h5ad" in command.succeeds(
        "map", "query.csv", "--model", model, "--transpose", "--key", "a_b"
    )
    mapped = anndata.read_h5ad("query_mapped.h5ad")
    sctag.tl.map_query(query, str(model))
    np.testing.assert_array_equal(mapped.obsm["X_a_b"], query.obsm["X_sctag"])


def test_values_that_look_logged_are_mapped_if_wanted(finished, command):
    query = anndata.read_h5ad(finished[0] / "query.h5ad")
    query.X = query.X.multiply(0.5 * 19 / query.X.max()).tocsr()
    query.write_h5ad("low.h5ad")
    assert "`--no-check-values` skips this check" in command.fails("map", "low.h5ad", "--model", finished[0] / "model")
    command.succeeds("map", "low.h5ad", "--model", finished[0] / "model", "--no-check-values")


def test_score_prints_what_run_prints(folder, finished, command):
    assert command.succeeds("score", "results/mine.h5ad", "--label-key", "group", "--key", "mine") in finished[1]


def test_info_prints_the_record(folder, command):
    lines = command.succeeds("info", "model").splitlines()
    assert "3 clusters of 120 cells" in lines[0]
    assert lines[1].startswith("genes     x")
    assert lines[2] == "cells     c0, c1, c2, ..."
    assert lines[3] == "neighbors 7 others of a cell, in the PCA of the genes"
    assert "params    random_state = 4" in lines
    assert any(line.startswith("versions  torch = ") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["map", "query.h5ad", "--model", "nowhere"], "There is no model in nowhere"),
        (["map", "query.h5ad", "--model", "model", "--out", "query.h5ad"], "is the input file"),
        (["map", "query.h5ad", "--model", "model", "--label-key", "no"], "is no column of obs"),
        (["map", "query.h5ad", "--model", "model", "--use-rep", "X_no"], "X_no"),
        (["map", "query.h5ad", "--model", "model", "--layer", "no"], "layer='no' is not in adata.layers"),
        (["score", "query.h5ad", "--label-key", "group"], "sctag"),
        (["info", "nowhere"], "There is no model in nowhere"),
        (["run", "reference.h5ad", "--save", "model"], "is not empty"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_said_in_a_line(folder, command, arguments, said):
    assert said in command.fails(*arguments)
