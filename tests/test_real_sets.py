"""The whole scanpy workflow, accuracy and invariance on the eight development sets; all slow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse

import sctag_tools as sctag

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("all_partitions"),
    # umap's spectral layout fails on WormNeuron and it says that it starts at random
    pytest.mark.filterwarnings("ignore:Spectral initialisation failed"),
    # scanpy's t-test divides by zero where a gene is absent from a group
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning:scanpy"),
    pytest.mark.filterwarnings("ignore:divide by zero encountered:RuntimeWarning:scanpy"),
    # scanpy builds its table of marker genes column by column
    pytest.mark.filterwarnings("ignore:DataFrame is highly fragmented"),
]

NAMES = ["Pollen", "Mix_celseq2_5cl", "MouseBladder_2100", "Zheng_sorted2140", "Kang_ifnb2800", "WormNeuron",
         "Young_top2000", "CITE_CBMC_top2000"]  # fmt: skip
FORMATS = {"dense": lambda x: x.toarray(), "csr": sparse.csr_matrix, "csc": sparse.csc_matrix}
SHORT = {"pretrain_epochs": 2, "cluster_epochs": 1}
PEERS_ARI = 0.631  # pca_kmeans_k_given in ../shared/peers/results.csv, the mean over the sets and seeds


def _load(folder: Path, name: str, seed: int = 0) -> tuple[AnnData, pd.Series]:
    """Counts in random order under new names, and the labels, which the method never sees."""
    adata = anndata.read_h5ad(folder / f"{name}.h5ad")
    adata = adata[np.random.default_rng(seed).permutation(adata.n_obs)].copy()
    labels = adata.obs.pop("cell_type").astype(str)
    adata.obs = pd.DataFrame(index=[f"cell{i}" for i in range(adata.n_obs)])
    adata.uns.clear()
    return adata, labels.set_axis(adata.obs_names)


def _cluster_as_scanpy_users_do(adata: AnnData, n_clusters: int | None, **options: Any) -> None:
    adata.layers["counts"] = adata.X.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=2000)
    sctag.pp.build_graph(adata)
    sctag.tl.sctag(adata, n_clusters, progress_bar=False, **options)


def _check(adata: AnnData) -> None:
    n_clusters = adata.obs["sctag"].cat.categories.size
    assert np.isfinite(adata.obsm["X_sctag"]).all()
    assert adata.obsm["sctag_proba"].shape == (adata.n_obs, n_clusters)
    assert adata.uns["sctag"]["params"]["counts"] == "counts"
    assert (np.diff(adata.obs["sctag"].value_counts()[adata.obs["sctag"].cat.categories]) <= 0).all()


def _go_on_with_scanpy(adata: AnnData, folder: Path) -> None:
    """Everything that is to work after our three calls, and the files."""
    sctag.pl.embedding(adata, show=False)
    sc.tl.rank_genes_groups(adata, "sctag")
    sc.tl.paga(adata, groups="sctag", neighbors_key="sctag_neighbors")
    sc.tl.umap(adata, neighbors_key="sctag_neighbors")
    sc.pl.umap(adata, color="sctag", show=False)
    sc.pp.neighbors(adata, use_rep="X_sctag", transformer="sklearn")
    adata.write_h5ad(folder / "a.h5ad")
    adata.write_zarr(folder / "a.zarr")
    for back in (anndata.read_h5ad(folder / "a.h5ad"), anndata.read_zarr(folder / "a.zarr")):
        pd.testing.assert_series_equal(back.obs["sctag"], adata.obs["sctag"])
        for name in ("X_sctag", "sctag_proba", "X_sctag_umap"):
            np.testing.assert_array_equal(back.obsm[name], adata.obsm[name])
        assert back.uns["sctag"]["params"] == adata.uns["sctag"]["params"]
        np.testing.assert_array_equal(back.uns["sctag"]["history"]["loss"], adata.uns["sctag"]["history"]["loss"])
        for name in ("distances", "connectivities"):
            assert (back.obsp[f"sctag_neighbors_{name}"] != adata.obsp[f"sctag_neighbors_{name}"]).nnz == 0


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", NAMES)
def test_workflow_in_every_format_with_k_given(real_sets, tmp_path, name, kind):
    adata, labels = _load(real_sets, name)
    adata.X = FORMATS[kind](adata.X)
    _cluster_as_scanpy_users_do(adata, labels.nunique(), **SHORT)
    _check(adata)
    _go_on_with_scanpy(adata, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_workflow_with_defaults(real_sets, tmp_path, name):
    adata, labels = _load(real_sets, name)
    _cluster_as_scanpy_users_do(adata, None)
    _check(adata)
    _go_on_with_scanpy(adata, tmp_path)
    found = adata.obs["sctag"].cat.categories.size
    assert 2 <= found <= 4 * labels.nunique()
    assert sctag.metrics.ari(labels, adata.obs["sctag"]) > 0.2


def test_accuracy_with_k_given(real_sets, capsys):
    """Mean ARI over eight sets and three seeds, preprocessed as the peers were."""
    scores = {}
    for name in NAMES:
        for seed in range(3):
            adata, labels = _load(real_sets, name, seed=seed)
            sc.pp.filter_genes(adata, min_cells=3)
            _cluster_as_scanpy_users_do(adata, labels.nunique(), random_state=seed)
            scores[name, seed] = sctag.metrics.ari(labels, adata.obs["sctag"])
    table = pd.Series(scores).unstack()
    with capsys.disabled():
        print(f"\n{table.round(3).to_string()}\nmean {table.to_numpy().mean():.4f}")  # noqa: T201
    assert table.to_numpy().mean() >= PEERS_ARI


@pytest.mark.parametrize("name", ["Mix_celseq2_5cl", "Zheng_sorted2140"])
def test_cells_and_genes_in_another_order_give_the_same_clusters(real_sets, name):
    adata, labels = _load(real_sets, name)
    rng = np.random.default_rng(9)
    cells, genes = rng.permutation(adata.n_obs), rng.permutation(adata.n_vars)
    permuted = [adata[cells].copy(), adata[:, genes].copy()]
    for one in (adata, *permuted):
        _cluster_as_scanpy_users_do(one, labels.nunique())
    assert sctag.metrics.ari(adata.obs["sctag"].to_numpy()[cells], permuted[0].obs["sctag"]) >= 0.9
    assert sctag.metrics.ari(adata.obs["sctag"], permuted[1].obs["sctag"]) >= 0.9


def test_same_seed_same_labels(real_sets):
    runs = []
    for _ in range(2):
        adata, labels = _load(real_sets, "Pollen")
        _cluster_as_scanpy_users_do(adata, labels.nunique(), random_state=4)
        runs.append(adata)
    np.testing.assert_array_equal(runs[0].obs["sctag"], runs[1].obs["sctag"])
    np.testing.assert_array_equal(runs[0].obsm["X_sctag"], runs[1].obsm["X_sctag"])
