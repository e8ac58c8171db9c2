"""With what others make and read: other latents, scanpy's tools, MuData, zarr, and readers that know HDF5 alone."""

from __future__ import annotations

import warnings

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

import sctag_tools as sctag
from sctag_tools._anndata import blocks

N_NEW = 40
SHORT = {"pretrain_epochs": 3, "cluster_epochs": 2, "progress_bar": False}
LONGER = {"n_networks": 2, "pretrain_epochs": 60, "cluster_epochs": 15, "progress_bar": False}


def assert_same_place(a, b):
    for name in ("X_sctag", "sctag_proba"):
        np.testing.assert_array_equal(a.obsm[name], b.obsm[name], err_msg=name)
    for name in ("sctag", "sctag_confidence", "sctag_novelty"):
        assert a.obs[name].tolist() == b.obs[name].tolist(), name


# --- a latent of another method as the place where neighbors are sought ---


class Corrected:
    """Stands for scVI or Harmony: learned from some cells, applied to others, and blind to the donor."""

    def __init__(self, adata):
        x = self._logged(adata)
        self.mean = x.mean(axis=0)
        _, _, axes = np.linalg.svd(x - self.mean, full_matrices=False)
        self.axes = axes[:6].T
        latent = (x - self.mean) @ self.axes
        self.shift = {donor: latent[adata.obs["donor"] == donor].mean(axis=0) for donor in ("a", "b")}

    def __call__(self, adata):
        shift = np.stack([self.shift[donor] for donor in adata.obs["donor"]])
        return ((self._logged(adata) - self.mean) @ self.axes - shift).astype(np.float32)

    @staticmethod
    def _logged(adata):
        x = adata.X.toarray()
        return np.log1p(x / x.sum(axis=1, keepdims=True) * 1e4)


@pytest.fixture(scope="module")
def _donors_once(_blobs_once):
    """(reference, query) of two donors, one of whom has a third of the genes tripled, with a latent that knows it."""
    adata = _blobs_once.copy()
    adata.obs["donor"] = np.resize(["a", "b"], adata.n_obs)
    counts = adata.X.toarray()
    counts[1::2, ::3] *= 3
    adata.X = sparse.csr_matrix(counts)
    reference, query = adata[:-N_NEW].copy(), adata[-N_NEW:].copy()
    model = Corrected(reference)
    for part in (reference, query):
        part.obsm["X_scVI"] = model(part)
    sctag.pp.build_graph(reference, use_rep="X_scVI")
    sctag.tl.sctag(reference, 3, batch_key="donor", **LONGER)
    return reference, query


@pytest.fixture
def donors(_donors_once):
    return tuple(part.copy() for part in _donors_once)


def test_a_latent_of_another_method_end_to_end(donors, tmp_path, unchanged):
    reference, query = donors
    model = sctag.ScTAG.from_anndata(reference)
    np.testing.assert_array_equal(model.reference.cells.representation, reference.obsm["X_scVI"])
    assert adjusted_rand_score(reference.obs["group"], reference.obs["sctag"]) > 0.9
    model.save(tmp_path / "model")
    with unchanged(reference):
        sctag.tl.map_query(query, reference)
    names = pd.crosstab(reference.obs["group"], reference.obs["sctag"]).idxmax(axis=1)
    assert (query.obs["sctag"].astype(str) == query.obs["group"].map(names).astype(str)).mean() > 0.9
    assert (query.obs["sctag_novelty"] > 1).mean() < 0.2
    again = query.copy()
    again.obsm["X_mine"] = again.obsm.pop("X_scVI")
    sctag.tl.map_query(again, tmp_path / "model", use_rep="X_mine")
    assert_same_place(query, again)
    sctag.tl.denoise(query, tmp_path / "model")
    assert np.isfinite(query.layers["sctag_denoised"]).all()
    moved = query.copy()
    moved.obsm["X_scVI"] += 100
    sctag.tl.map_query(moved, reference)  # or the latent would be read for nothing
    assert (moved.obs["sctag_novelty"] > query.obs["sctag_novelty"]).mean() > 0.95
    assert (moved.obs["sctag_novelty"] > 1).all()


def test_scanpys_graph_on_that_latent(donors, short):
    """As after scVI or Harmony: ``sc.pp.neighbors`` on the corrected latent, and no graph of ours."""
    reference, query = donors
    for part in (reference, query):
        part.obsm["X_pca_harmony"] = part.obsm.pop("X_scVI").astype(np.float64)
    sc.pp.neighbors(reference, n_neighbors=9, use_rep="X_pca_harmony")
    sctag.tl.sctag(reference, 3, neighbors_key="neighbors", key_added="h", **short)
    model = sctag.ScTAG.from_anndata(reference, "h")
    assert model.registry.use_rep == "X_pca_harmony"
    assert (model.reference.n_neighbors, model.reference.pca_loadings) == (8, None)
    sctag.tl.map_query(query, reference, key="h")
    moved = query.copy()
    moved.obsm["X_pca_harmony"] = moved.obsm["X_pca_harmony"][::-1].copy()
    sctag.tl.map_query(moved, reference, key="h")
    assert np.abs(moved.obsm["X_h"] - query.obsm["X_h"]).max() > 1e-3
    del query.obsm["X_pca_harmony"]
    with pytest.raises(KeyError, match="built on 'X_pca_harmony'"):
        sctag.tl.map_query(query, reference, key="h")


# --- scanpy goes on from there ---


def test_scanpys_tools_go_on_from_the_results(clustered):
    clustered.layers["counts"] = clustered.X.copy()
    sc.pp.normalize_total(clustered)
    sc.pp.log1p(clustered)
    sizes = clustered.obs["sctag"].value_counts()
    tested = sorted(sizes.index[sizes > 1])  # a run as short as this may leave a cell alone, which scanpy refuses
    sc.tl.rank_genes_groups(clustered, "sctag", groups=tested, method="t-test")
    assert set(clustered.uns["rank_genes_groups"]["names"].dtype.names) == set(tested)
    sc.pp.neighbors(clustered, use_rep="X_sctag")
    assert clustered.uns["neighbors"]["params"]["use_rep"] == "X_sctag"
    sc.tl.dendrogram(clustered, "sctag", use_rep="X_sctag")
    sctag.tl.sctag(clustered, 3, neighbors_key="neighbors", key_added="on_own", pretrain_epochs=1, cluster_epochs=1)
    assert np.isfinite(clustered.obsm["X_on_own"]).all()


def test_reference_and_query_are_joined_as_any_two(clustered, blobs):
    query = blobs[:30].copy()
    query.obs_names = [f"new {name}" for name in query.obs_names]
    sctag.tl.map_query(query, clustered)
    both = anndata.concat({"reference": clustered, "query": query}, label="part")
    assert both.obs["sctag"].cat.categories.tolist() == clustered.obs["sctag"].cat.categories.tolist()
    assert both.obs["part"].value_counts().to_dict() == {"reference": 150, "query": 30}
    assert both.obsm["X_sctag"].shape == (180, 15)
    assert both.obsm["sctag_proba"].shape == (180, 3)
    assert both.obs["sctag_confidence"].notna().all()


# --- MuData ---


@pytest.fixture
def mudata():
    module = pytest.importorskip("mudata")
    module.set_options(pull_on_update=False)  # its behavior of tomorrow, without the warning of today
    return module


@pytest.fixture
def multimodal(mudata, blobs):
    prot = AnnData(np.ones((150, 6), np.float32), obs=blobs.obs[[]])
    prot.var_names = [f"p{i}" for i in range(6)]
    return mudata.MuData({"rna": blobs, "prot": prot})


@pytest.mark.filterwarnings("ignore::pandas.errors.SettingWithCopyWarning")  # of mudata's pull_obs
def test_a_modality_is_clustered_in_place(mudata, multimodal, clustered, short, tmp_path):
    sctag.pp.build_graph(multimodal["rna"])
    sctag.tl.sctag(multimodal["rna"], 3, **short)
    np.testing.assert_array_equal(multimodal.mod["rna"].obsm["X_sctag"], clustered.obsm["X_sctag"])
    assert "sctag" not in multimodal["prot"].obs
    multimodal.update()
    multimodal.pull_obs("sctag", mods="rna")
    assert multimodal.obs["rna:sctag"].astype(str).tolist() == clustered.obs["sctag"].astype(str).tolist()
    multimodal.write(tmp_path / "cells.h5mu")
    back = mudata.read(tmp_path / "cells.h5mu")
    query = AnnData(multimodal["rna"].X[:20], var=multimodal["rna"].var[[]])
    mapped = [sctag.tl.map_query(query, reference, copy=True) for reference in (back["rna"], clustered)]
    assert_same_place(*mapped)
    sctag.tl.denoise(back["rna"])
    assert np.isfinite(back["rna"].layers["sctag_denoised"]).all()


def test_a_mudata_is_refused_with_the_way_to_its_modality(multimodal, clustered, unchanged):
    calls = {
        "pp.build_graph": lambda: sctag.pp.build_graph(multimodal),
        "tl.sctag": lambda: sctag.tl.sctag(multimodal, 3),
        "tl.map_query": lambda: sctag.tl.map_query(multimodal, clustered),
        "ScTAG.from_anndata": lambda: sctag.tl.map_query(clustered, multimodal, key_added="mapped"),
        "tl.denoise": lambda: sctag.tl.denoise(multimodal),
        "tl.umap": lambda: sctag.tl.umap(multimodal),
        "ScTAG": lambda: sctag.ScTAG(multimodal),
    }
    for name, call in calls.items():
        match = rf"sctag\.{name} needs an AnnData, got MuData; a MuData's modality is `mdata\['rna'\]`"
        with unchanged(clustered), pytest.raises(TypeError, match=match):
            call()


# --- files ---


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.filterwarnings("ignore:zarr v3 autosharding will be the default:UserWarning")  # of anndata 0.12
def test_a_zarr_store_goes_on_where_it_was_written(clustered, blobs, tmp_path, zarr_format, writes_zarr, same):
    pytest.importorskip("zarr")
    query, expected = blobs[:20].copy(), blobs[:20].copy()
    sctag.tl.map_query(expected, clustered)
    with writes_zarr(zarr_format):
        clustered.write_zarr(tmp_path / "reference.zarr")
        query.write_zarr(tmp_path / "query.zarr")
    reference, query = (sctag.read(tmp_path / f"{name}.zarr") for name in ("reference", "query"))
    same(clustered.obs, reference.obs)
    for part in ("obsm", "obsp", "layers"):
        ours, theirs = (dict(sorted(getattr(adata, part).items())) for adata in (clustered, reference))
        same(ours, theirs)
    sctag.tl.map_query(query, reference)
    assert_same_place(query, expected)
    sctag.tl.denoise(reference)
    sctag.tl.denoise(clustered)
    np.testing.assert_array_equal(reference.layers["sctag_denoised"], clustered.layers["sctag_denoised"])
    with writes_zarr(zarr_format):
        query.write_zarr(tmp_path / "mapped.zarr")
    assert_same_place(anndata.read_zarr(tmp_path / "mapped.zarr"), expected)


# What anndata 0.8 to 0.11 read as well as later ones; later additions (null, nullable-string-array) are not among them.
STANDARD = {
    "anndata": "0.1.0", "array": "0.2.0", "categorical": "0.2.0", "csr_matrix": "0.1.0", "dataframe": "0.2.0",
    "dict": "0.1.0", "numeric-scalar": "0.2.0", "rec-array": "0.2.0", "string": "0.2.0", "string-array": "0.2.0",
}  # fmt: skip


@pytest.fixture(scope="module")
def everything(_clustered_once, _blobs_once, tmp_path_factory):
    """All that the package writes, in one object, and the file of it."""
    adata, other = _clustered_once.copy(), _blobs_once.copy()
    adata.obs["donor"] = pd.Categorical(np.resize(["a", "b"], 150))
    sctag.pp.build_graph(adata, batch_key="donor", key_added="across")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No split")
        sctag.tl.sctag(
            adata,
            key_added="chosen",
            batch_key="donor",
            neighbors_key="across",
            likelihood="zinb",
            n_networks=2,
            **SHORT,
        )
    other.var_names = [*other.var_names[:-3], "one", "two", "three"]
    sctag.pp.build_graph(other)
    sctag.tl.sctag(other, 3, n_networks=1, **SHORT)
    sctag.tl.map_query(adata, sctag.ScTAG.from_anndata(adata), key_added="mapped")
    with pytest.warns(UserWarning, match="3 of the model's 120 genes are not in the query"):
        sctag.tl.map_query(adata, other, key_added="others")
    sctag.tl.denoise(adata, key="chosen", dropout=True, genes=["x3", "x4"])
    sctag.tl.umap(adata)
    sctag.tl.cut(adata, 2)
    sctag.tl.subcluster(adata, "0", 2, **SHORT)
    sctag.tl.rank_genes_splits(adata)
    sctag.tl.explain(adata, adata.obs_names[:3])
    sctag.pp.recipe_published(adata, n_top_genes=100)
    sctag.pp.build_graph(adata, use_rep="X_pca_published", key_added="published")
    published = {"preset": "reference", "neighbors_key": "published", "n_top_genes": 100, "key_added": "reference"}
    sctag.tl.sctag(adata, 3, **published, **SHORT)
    path = tmp_path_factory.mktemp("everything") / "everything.h5ad"
    adata.write_h5ad(path)
    return adata, path


def test_files_hold_only_what_older_readers_know(everything):
    found = {}
    with h5py.File(everything[1]) as file:
        found["/"] = dict(file.attrs), None
        file.visititems(lambda name, item: found.update({name: (dict(item.attrs), getattr(item, "dtype", None))}))
    assert {"uns/sctag_sub/params", "uns/sctag_splits/scores", "uns/sctag_explained/genes"} <= found.keys()
    assert {"uns/sctag/model", "uns/others/missing_genes", "layers/chosen_denoised_dropout"} <= found.keys()
    parts = {name for name, (of, _) in found.items() if of.get("encoding-type") in {"categorical", "csr_matrix"}}
    for name, (attributes, dtype) in found.items():
        if name.startswith("uns/pca/"):  # scanpy's, with a null in it
            continue
        kind, encoding = attributes.get("encoding-type"), attributes.get("encoding-version")
        if name.rpartition("/")[0] in parts:  # members of a categorical or sparse matrix
            assert kind in {None, "array", "string-array"}, name
        else:
            assert kind in STANDARD, f"{name}: {kind}"
        assert kind is None or encoding == STANDARD[kind], f"{name}: {kind} {encoding}"
        if dtype is not None:
            assert dtype.kind in "biuf" or h5py.check_string_dtype(dtype) or dtype.kind == "V", name
            is_table = kind == "rec-array"  # as scanpy's rankings are
            assert dtype.kind != "V" or is_table or h5py.check_enum_dtype(dtype), f"{name}: opaque or compound"


def test_the_results_are_read_without_anndata(everything):
    adata, path = everything
    with h5py.File(path) as file:
        labels = file["obs/chosen"]
        categories = labels["categories"].asstr()[:]
        np.testing.assert_array_equal(categories[labels["codes"][:]], adata.obs["chosen"].astype(str))
        assert categories.tolist() == [str(i) for i in range(len(categories))]
        np.testing.assert_array_equal(file["obsm/X_sctag"][:], adata.obsm["X_sctag"])
        np.testing.assert_array_equal(file["obs/mapped_novelty"][:], adata.obs["mapped_novelty"])
        np.testing.assert_array_equal(file["uns/sctag/history/loss"][:], adata.uns["sctag"]["history"]["loss"])
        assert file["uns/others/missing_genes"].asstr()[:].tolist() == ["one", "two", "three"]
        assert isinstance(file["uns/sctag/model/record"].asstr()[()], str)


# --- data that is not in memory: read by blocks of rows, nothing else is different ---


def _away(adata, kind, folder):
    """The same cells with their counts on disk, or in dask."""
    adata, counts = adata.copy(), adata.X
    where, layout = kind.split()
    if where == "backed":
        adata.X = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": np.asarray}[layout](
            counts.toarray() if layout == "dense" else counts
        )
        adata.write_h5ad(folder / "away.h5ad")
        return anndata.read_h5ad(folder / "away.h5ad", backed="r")
    array = pytest.importorskip("dask.array").from_array
    lazy = array(counts.toarray(), chunks=(40, 50)) if layout == "dense" else array(counts, chunks=(40, -1))
    if layout == "layer":
        adata.layers["counts"] = lazy
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
    else:
        adata.X = lazy
    return adata


def _analyze(cells, query):
    """Cells with a graph and a short run, and some of them mapped to it and denoised."""
    sctag.pp.build_graph(cells)
    sctag.tl.sctag(cells, 3, **SHORT)
    sctag.tl.map_query(query, cells, key_added="mapped")
    sctag.tl.denoise(query, cells, key="sctag")
    return cells, query


@pytest.fixture(scope="module")
def in_memory(_blobs_once):
    cells = _blobs_once.copy()
    cells.var["highly_variable"] = np.arange(cells.n_vars) % 3 > 0
    return _analyze(cells, cells[:20].copy())


@pytest.mark.parametrize("kind", ["backed csr", "backed csc", "backed dense", "dask csr", "dask dense", "dask layer"])
def test_counts_that_are_not_in_memory(blobs, in_memory, tmp_path, monkeypatch, kind):
    blobs.var["highly_variable"] = in_memory[0].var["highly_variable"]
    monkeypatch.setattr(blocks, "_MAX_BLOCK_ENTRIES", 40 * blobs.n_vars)
    layer = "counts" if kind == "dask layer" else None
    away = _away(blobs, kind, tmp_path)
    columns, x = np.array([7, 2]), blobs.X.toarray()
    chosen, totals = blocks.columns_and_totals(away.layers[layer] if layer else away.X, columns)
    np.testing.assert_array_equal(chosen.toarray(), x[:, columns])
    np.testing.assert_array_equal(totals, x.sum(axis=1))
    away, query = _analyze(away, _away(blobs[:20].copy(), "dask layer" if layer else "dask csr", tmp_path))
    expected, expected_query = in_memory
    np.testing.assert_allclose(np.abs(away.obsm["X_pca"]), np.abs(expected.obsm["X_pca"]), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(away.obsm["X_sctag"], expected.obsm["X_sctag"], rtol=1e-3, atol=1e-4)
    assert away.uns["sctag"]["params"]["counts"] == (layer or "X")
    np.testing.assert_allclose(query.obsm["X_mapped"], expected_query.obsm["X_mapped"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(query.layers["sctag_denoised"], expected_query.layers["sctag_denoised"], rtol=1e-3)
    if away.isbacked:
        away.write_h5ad(tmp_path / "result.h5ad")
        away.file.close()
        written = anndata.read_h5ad(tmp_path / "result.h5ad")
        assert (written.X != blobs.X).sum() == 0
        assert written.obs["sctag"].tolist() == expected.obs["sctag"].tolist()


@pytest.mark.parametrize(
    ("where", "bad", "match"),
    [
        (-1, np.nan, "holds NaN or infinite values"),
        (-1, -1, "holds negative values"),
        (slice(None), 0.5, "looks log-normalized"),
    ],
    ids=str,
)
def test_each_block_is_checked(graphed, tmp_path, monkeypatch, where, bad, match):
    x = graphed.X.toarray()
    x[where] = bad
    graphed.X = sparse.csr_matrix(x)
    away = _away(graphed, "backed csr", tmp_path)
    monkeypatch.setattr(blocks, "_MAX_BLOCK_ENTRIES", 40 * graphed.n_vars)
    with pytest.raises(ValueError, match=match):
        sctag.tl.sctag(away, 3)
    assert "sctag" not in away.obs
    away.file.close()


@pytest.mark.parametrize("row", [0, 75, 149])
@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [("finite", np.nan, False), ("least", -1, -1), ("whole", 0.5, False), ("largest", 100, 100)],
    ids=str,
)
def test_one_value_tells_in_whatever_block_it_lies(tmp_path, monkeypatch, row, name, value, expected):
    x = np.ones((150, 3), dtype=np.float32)
    x[row, 1] = value
    monkeypatch.setattr(blocks, "_MAX_BLOCK_ENTRIES", 40 * 3)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        found = blocks.Values.from_matrix(file.create_dataset("x", data=x))
    assert getattr(found, name) == expected


def test_the_representation_itself_on_disk(blobs, tmp_path):
    away = _away(blobs, "backed csr", tmp_path)
    for adata in (blobs, away):
        sctag.pp.build_graph(adata, use_rep="X")
    assert (away.obsp["sctag_neighbors_distances"] != blobs.obsp["sctag_neighbors_distances"]).nnz == 0
    away.file.close()


def test_what_anndata_cannot_do_with_backed_data(graphed, tmp_path):
    away = _away(graphed, "backed csr", tmp_path)

    def map_query(adata, **options):
        sctag.tl.map_query(adata, graphed, **options)

    for call in (sctag.pp.build_graph, sctag.tl.sctag, map_query, sctag.tl.denoise, sctag.tl.umap):
        with pytest.raises(NotImplementedError, match=r"A copy of a backed AnnData .*`adata = adata\.to_memory\(\)`"):
            call(away, copy=True)
        with pytest.raises(NotImplementedError, match=r"A view of a backed AnnData .*to_memory"):
            call(away[:20])
    with pytest.raises(NotImplementedError, match=r"preset='paper' reads all cells in memory.*to_memory"):
        sctag.tl.sctag(away, 3, preset="paper")
    with pytest.raises(NotImplementedError, match=r"recipe_published reads all cells in memory.*to_memory"):
        sctag.pp.recipe_published(away)
    away.file.close()
