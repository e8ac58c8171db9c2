"""``sctag.tl.explain``: parts of genes and neighbors that add up, find known drivers, and are refused when stale."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch
from scipy import sparse
from sklearn.metrics import roc_auc_score

import sctag_tools as sctag
from sctag_tools.nn.tag import hop_features, normalize_adjacency
from sctag_tools.tl import _explain
from sctag_tools.train.preprocessing import log_expression

DRIVERS = [f"x{i}" for i in range(75)]  # 25 genes of each of the three groups of `blobs`


def _run(blobs, n_hops):
    sctag.pp.build_graph(blobs)
    sctag.tl.sctag(blobs, 3, n_hops=n_hops, pretrain_epochs=40, cluster_epochs=10, progress_bar=False)
    return blobs


@pytest.fixture(scope="module", params=[0, 1, 2])
def _run_once(_blobs_once, request):
    return _run(_blobs_once.copy(), request.param)


@pytest.fixture
def any_run(_run_once):
    """Runs that look at the cell alone, at its neighbors, and at theirs."""
    return _run_once.copy()


@pytest.fixture(scope="module")
def _one_hop_once(_blobs_once):
    return _run(_blobs_once.copy(), 1)


@pytest.fixture
def run(_one_hop_once):
    """A run into the three groups."""
    return _one_hop_once.copy()


def hops_of(adata):
    """Hop features of all cells, as the training made them, and the model."""
    model = sctag.ScTAG.from_anndata(adata)
    x = log_expression(sparse.csr_matrix(adata.X), np.asarray(adata.X.sum(axis=1)).ravel())
    x = model.reference.scaler.transform(x)
    graph = normalize_adjacency(adata.obsp["sctag_neighbors_connectivities"])
    return hop_features(x, graph, model.reference.config.n_hops), graph, model.reference


def log_odds(model, hops, one, other):
    with torch.no_grad():
        q = torch.stack([net.assignment(net.encoder(hops)) for net in model.networks]).mean(dim=0).numpy()
    q = q[:, model.centroid_index]
    return np.log(q[np.arange(len(q)), one]) - np.log(q[np.arange(len(q)), other])


# --- what is found ---


def test_parts_add_up_to_the_difference_from_the_runner_ups_average(any_run):
    cells = any_run.obs_names[[3, 70, 141, 8]]
    assert sctag.tl.explain(any_run, cells, n_steps=300) is None
    found, (hops, _, model) = any_run.uns["sctag_explained"], hops_of(any_run)
    table, rows = found["cells"], any_run.obs_names.get_indexer(cells)
    proba = any_run.obsm["sctag_proba"][rows]
    assert table.index.tolist() == cells.tolist()
    assert table["cluster"].tolist() == [str(number) for number in proba.argmax(axis=1)]
    assert table["versus"].tolist() == [str(number) for number in proba.argsort(axis=1)[:, -2]]
    one, other = (table[name].astype(int).to_numpy() for name in ("cluster", "versus"))
    labels = any_run.obsm["sctag_proba"].argmax(axis=1)
    baselines = torch.stack([hops[labels == number].mean(dim=0) for number in other])
    own = log_odds(model, hops[rows], one, other)
    np.testing.assert_allclose(table["log_odds"], own, rtol=1e-3)
    difference = own - log_odds(model, baselines, one, other)
    np.testing.assert_allclose(table["own"] + table["graph"], difference, rtol=0.02, atol=0.02)
    np.testing.assert_allclose(found["attributions"].sum(axis=1), difference, rtol=0.02, atol=0.02)
    genes = found["genes"]
    np.testing.assert_allclose(genes["attribution"], found["attributions"].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(genes["own"] + genes["graph"], genes["attribution"], atol=1e-5)
    np.testing.assert_allclose(genes["own"].sum(), table["own"].mean(), rtol=1e-4)
    assert genes["attribution"].is_monotonic_decreasing
    assert set(genes.index) == set(any_run.var_names)
    at = any_run.var_names.get_indexer(genes.index)
    expected = (hops[rows, 0] - baselines[:, 0]).mean(dim=0).numpy()[at]
    np.testing.assert_allclose(genes["difference"], expected, atol=1e-4)
    assert (table["graph"] == 0).all() == (model.config.n_hops == 0)


def test_neighbors_share_what_the_graph_gives(any_run, monkeypatch):
    monkeypatch.setattr(_explain, "_N_NEIGHBORS_KEPT", 150)
    sctag.tl.explain(any_run, any_run.obs_names[:5])
    found, (_, graph, model) = any_run.uns["sctag_explained"], hops_of(any_run)
    through = found["neighbors"]
    sums = through.groupby("cell")["attribution"].sum().reindex(found["cells"].index, fill_value=0.0)
    np.testing.assert_allclose(sums, found["cells"]["graph"], rtol=1e-3, atol=1e-3)
    clusters = any_run.obs["sctag"].astype(str)
    assert through["cluster"].tolist() == clusters[through["neighbor"]].tolist()
    if model.config.n_hops == 1:
        edges = {(any_run.obs_names[i], any_run.obs_names[j]) for i, j in zip(*graph[:5].nonzero(), strict=True)}
        assert set(zip(through["cell"], through["neighbor"], strict=True)) == edges
    assert all(part["attribution"].is_monotonic_decreasing for _, part in through.groupby("cell"))


def test_the_part_of_a_neighbor_is_what_it_adds_along_the_path(run):
    """By differences of log odds in place of gradients."""
    sctag.tl.explain(run, run.obs_names[:1])
    found, (hops, graph, model) = run.uns["sctag_explained"], hops_of(run)
    one, other = (np.array([int(found["cells"][name].iloc[0])]) for name in ("cluster", "versus"))
    labels = run.obsm["sctag_proba"].argmax(axis=1)
    start = hops[labels == other[0]].mean(dim=0)[None]
    for name, part in found["neighbors"].set_index("neighbor")["attribution"].items():
        neighbor, step = run.obs_names.get_loc(name), torch.zeros_like(start)
        step[0, 1] = float(graph[0, neighbor]) * (hops[neighbor, 0] - start[0, 1] / float(graph[0].sum()))
        slopes = []
        for position in (np.arange(200) + 0.5) / 200:
            at = start + float(position) * (hops[:1] - start)
            ends = [log_odds(model, at + sign * 1e-2 * step, one, other)[0] for sign in (1, -1)]
            slopes.append((ends[0] - ends[1]) / 2e-2)
        np.testing.assert_allclose(part, np.mean(slopes), rtol=0.05, atol=0.01)


def test_known_drivers_are_found_better_than_by_the_plain_gradient(run):
    """Each group has 25 genes of its own; those of both groups of a comparison tell it, and no other gene does."""
    group = run.obs.groupby("sctag", observed=True)["group"].agg(lambda values: values.mode()[0])
    integrated, plain = [], []
    for name in run.obs["sctag"].cat.categories:
        sctag.tl.explain(run, (run.obs["sctag"] == name).to_numpy())
        found, (hops, _, model) = run.uns["sctag_explained"], hops_of(run)
        for versus, cells in found["cells"].groupby("versus"):
            numbers = {int(group[each].removeprefix("g")) for each in (name, versus)}
            drivers = {f"x{25 * number + i}" for number in numbers for i in range(25)}
            rows = run.obs_names.get_indexer(cells.index)
            parts = found["attributions"][found["cells"].index.get_indexer(cells.index)].mean(axis=0)
            integrated.append(roc_auc_score(found["genes"].index.isin(drivers), np.abs(parts)))
            x = hops[rows].clone().requires_grad_()
            q = torch.stack([net.assignment(net.encoder(x)) for net in model.networks]).mean(dim=0).log()
            q = q[:, model.centroid_index]
            (q[:, int(name)] - q[:, int(versus)]).sum().backward()
            plain.append(roc_auc_score(run.var_names.isin(drivers), x.grad.sum(dim=1).mean(dim=0).abs().numpy()))
    assert np.mean(integrated) >= 0.95
    assert np.mean(integrated) > np.mean(plain)


# --- what may be asked ---


def test_cells_by_name_mask_or_one_name_are_the_same(run, same):
    first = run.obs_names[7]
    ways = [first, [first], np.arange(run.n_obs) == 7, pd.Series(run.obs_names == first, index=run.obs_names)]
    found = [sctag.tl.explain(run, cells, copy=True).uns["sctag_explained"] for cells in ways]
    assert "sctag_explained" not in run.uns
    for other in found[1:]:
        same(found[0], other)


def test_another_cluster_to_compare_with_and_names_of_the_user(run, unchanged):
    run.obs["sctag"] = run.obs["sctag"].cat.rename_categories(["T", "B", "NK"])
    cells = (run.obs["sctag"] == "T").to_numpy()
    sctag.tl.explain(run, cells, versus="NK", key_added="why")
    assert set(run.uns["why"]["cells"]["cluster"]) == {"T"}
    assert set(run.uns["why"]["cells"]["versus"]) == {"NK"}
    assert run.uns["why"]["params"]["versus"] == "NK"
    with unchanged(run), pytest.raises(ValueError, match="'NK' themselves"):
        sctag.tl.explain(run, run.obs["sctag"] == "NK", versus="NK")
    with unchanged(run), pytest.raises(ValueError, match=r"versus='0' is no cluster.*'NK'"):
        sctag.tl.explain(run, cells, versus="0")


def test_files_keep_it_and_cells_in_another_order_give_the_same(run, tmp_path):
    cells = run.obs_names[:6]
    sctag.tl.explain(run, cells)
    run.write_h5ad(tmp_path / "run.h5ad")
    run.write_zarr(tmp_path / "run.zarr")
    for adata in (sc.read_h5ad(tmp_path / "run.h5ad"), anndata.read_zarr(tmp_path / "run.zarr")):
        pd.testing.assert_frame_equal(
            adata.uns["sctag_explained"]["genes"], run.uns["sctag_explained"]["genes"], check_names=False
        )
    other = sc.read_h5ad(tmp_path / "run.h5ad")[::-1].copy()
    sctag.tl.explain(other, cells)
    before, after = (adata.uns["sctag_explained"]["cells"] for adata in (run, other))
    pd.testing.assert_frame_equal(before, after, check_exact=False, rtol=1e-3, check_names=False)


@pytest.mark.parametrize("where", ["csc", "layer", "backed"])
def test_counts_wherever_they_are(run, tmp_path, where):
    sctag.tl.explain(run, run.obs_names[:4])
    adata, expected = run.copy(), run.uns["sctag_explained"]["attributions"]
    if where == "csc":
        adata.X = sparse.csc_matrix(adata.X)
    elif where == "layer":
        adata.layers["counts"] = adata.X.copy()
        adata.X = np.log1p(adata.X.toarray())
    else:
        adata.write_h5ad(tmp_path / "run.h5ad")
        adata = sc.read_h5ad(tmp_path / "run.h5ad", backed="r+")
    sctag.tl.explain(adata, adata.obs_names[:4])
    np.testing.assert_allclose(adata.uns["sctag_explained"]["attributions"], expected, atol=1e-5)


# --- what is refused ---


@pytest.mark.parametrize(("change", "error", "match"), [
    ({"cells": ["nobody"]}, KeyError, "'nobody' is no name"),
    ({"cells": []}, ValueError, "1 to 2000 cells, got 0"),
    ({"cells": np.ones(3, dtype=bool)}, ValueError, "shape"),
    ({"key": "leiden"}, KeyError, "leiden"),
    ({"n_steps": 0}, ValueError, "n_steps must be at least 1"),
    ({"key_added": "sctag"}, ValueError, "holds something else"),
])  # fmt: skip
def test_bad_input_is_refused_before_anything_is_changed(run, unchanged, change, error, match):
    with unchanged(run), pytest.raises(error, match=match):
        sctag.tl.explain(run, **{"cells": run.obs_names[:2], **change})


def test_cells_counts_or_a_graph_of_later_are_refused(run, unchanged):
    part = run[:100].copy()
    with unchanged(part), pytest.raises(ValueError, match="does not hold the cells of the run"):
        sctag.tl.explain(part, part.obs_names[:2])
    genes = run[:, :50].copy()
    with unchanged(genes), pytest.raises(KeyError, match="Genes of the run"):
        sctag.tl.explain(genes, genes.obs_names[:2])
    other = run.copy()
    other.X = sparse.csr_matrix(other.X[::-1])
    with unchanged(other), pytest.raises(ValueError, match="have changed since the run"):
        sctag.tl.explain(other, other.obs_names[:20])


def test_one_cluster_no_model_and_no_captum(run, short, monkeypatch, unchanged):
    sctag.tl.sctag(run, 1, key_added="one", **short)
    with unchanged(run), pytest.raises(ValueError, match="one cluster only"):
        sctag.tl.explain(run, run.obs_names[:2], key="one")
    sctag.tl.sctag(run, 2, key_added="bare", store_model=False, **short)
    with unchanged(run), pytest.raises(KeyError, match="model"):
        sctag.tl.explain(run, run.obs_names[:2], key="bare")
    monkeypatch.setattr(_explain, "find_spec", lambda name: None)
    with unchanged(run), pytest.raises(ImportError, match=r"sctag-tools\[explain\]"):
        sctag.tl.explain(run, run.obs_names[:2])


@pytest.mark.parametrize("change", ["logged", "fewer counts", "other graph"])
def test_what_has_changed_since_the_run_is_named(run, unchanged, change):
    if change == "logged":
        run.X = np.log1p(run.X)
    elif change == "fewer counts":
        run.X.data[::10] = 0
    else:
        sctag.pp.build_graph(run, 30)
    what = "graph" if change == "other graph" else "counts"
    with unchanged(run), pytest.raises(ValueError, match=rf"The {what} of adata have changed since the run"):
        sctag.tl.explain(run, run.obs_names[:2])
