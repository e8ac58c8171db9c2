"""``sctag.pp.build_graph``: scanpy's layout and numbers, any representation, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse

import sctag_tools as sctag

KEY = "sctag_neighbors"
LOWERED = "n_neighbors=.* exceeds the .* cells"


@pytest.fixture
def points() -> AnnData:
    rng = np.random.default_rng(3)
    adata = AnnData(sparse.csr_matrix(rng.poisson(2.0, (90, 20)), dtype=np.float32))
    adata.obsm["X_rep"] = rng.normal(size=(90, 8)).astype(np.float32)
    return adata


def _check_layout(adata: AnnData, n_neighbors: int, key: str = KEY) -> None:
    n = adata.n_obs
    distances, weights = adata.obsp[f"{key}_distances"], adata.obsp[f"{key}_connectivities"]
    for matrix in (distances, weights):
        assert isinstance(matrix, sparse.csr_matrix)
        assert matrix.shape == (n, n)
        assert matrix.dtype == np.float32
    np.testing.assert_array_equal(np.diff(distances.indptr), n_neighbors - 1)
    rows = np.repeat(np.arange(n), n_neighbors - 1)
    assert (distances.indices != rows).all(), "a cell is listed as its own neighbour"
    assert len(set(zip(rows, distances.indices, strict=True))) == len(rows), "a neighbour is listed twice"
    assert (distances.data >= 0).all()
    assert (weights != weights.T).nnz == 0
    assert weights.diagonal().sum() == 0
    assert ((weights.data > 0) & (weights.data <= 1)).all()


def test_layout_is_that_of_scanpy(points):
    assert sctag.pp.build_graph(points, 10, use_rep="X_rep") is None
    _check_layout(points, 10)
    entry = points.uns[KEY]
    assert set(entry) == {"connectivities_key", "distances_key", "params"}
    assert entry["connectivities_key"] == f"{KEY}_connectivities"
    assert entry["distances_key"] == f"{KEY}_distances"
    expected = {"n_neighbors": 10, "method": "umap", "metric": "euclidean", "random_state": 0, "use_rep": "X_rep"}
    assert expected.items() <= entry["params"].items()
    assert "neighbors" not in points.uns
    assert set(points.obsp) == {f"{KEY}_distances", f"{KEY}_connectivities"}
    assert set(points.obsm) == {"X_rep"}


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "correlation", "manhattan"])
@pytest.mark.parametrize("n_neighbors", [2, 15])
def test_equals_scanpys_exact_graph(points, metric, n_neighbors):
    sctag.pp.build_graph(points, n_neighbors, use_rep="X_rep", metric=metric)
    sc.pp.neighbors(points, n_neighbors, use_rep="X_rep", metric=metric, transformer="sklearn")
    _check_layout(points, n_neighbors)
    for name in ("connectivities", "distances"):
        ours, theirs = points.obsp[f"{KEY}_{name}"].toarray(), points.obsp[name].toarray()
        np.testing.assert_array_equal(ours > 0, theirs > 0)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert points.uns[KEY]["params"]["metric"] == metric


def test_distances_are_those_of_the_nearest_others(points):
    sctag.pp.build_graph(points, 6, use_rep="X_rep")
    x = points.obsm["X_rep"].astype(np.float64)
    all_pairs = np.sqrt(((x[:, None] - x[None]) ** 2).sum(axis=2))
    np.fill_diagonal(all_pairs, np.inf)
    ours = np.sort(points.obsp[f"{KEY}_distances"].data.reshape(90, 5), axis=1)
    np.testing.assert_allclose(ours, np.sort(all_pairs, axis=1)[:, :5], rtol=1e-5)


def test_key_added_none_writes_scanpys_own_names(points):
    sctag.pp.build_graph(points, use_rep="X_rep", key_added=None)
    assert set(points.uns["neighbors"]) == {"connectivities_key", "distances_key", "params"}
    assert set(points.obsp) == {"connectivities", "distances"}
    sc.tl.leiden(points, flavor="igraph", n_iterations=2, directed=False)
    assert points.obs["leiden"].nunique() >= 1


def test_own_key_leaves_the_users_graph(points, same):
    sc.pp.neighbors(points, 8, use_rep="X_rep")
    before = points.copy()
    sctag.pp.build_graph(points, use_rep="X_rep")
    sctag.pp.build_graph(points, 5, use_rep="X_rep", key_added="other")
    _check_layout(points, 15)
    _check_layout(points, 5, "other")
    same(before.uns["neighbors"], points.uns["neighbors"])
    for name in ("connectivities", "distances"):
        same(before.obsp[name], points.obsp[name])


def test_again_replaces_the_graph(points):
    sctag.pp.build_graph(points, 12, use_rep="X_rep", metric="cosine")
    sctag.pp.build_graph(points, 7, use_rep="X_rep")
    _check_layout(points, 7)
    assert points.uns[KEY]["params"]["n_neighbors"] == 7
    assert points.uns[KEY]["params"]["metric"] == "euclidean"


def test_scanpys_tools_run_on_it(graphed):
    sc.tl.leiden(graphed, neighbors_key=KEY, flavor="igraph", n_iterations=2, directed=False)
    assert sctag.metrics.ari(graphed.obs["group"], graphed.obs["leiden"]) > 0.9
    sc.tl.umap(graphed, neighbors_key=KEY)
    assert graphed.obsm["X_umap"].shape == (150, 2)
    assert np.isfinite(graphed.obsm["X_umap"]).all()
    sc.tl.diffmap(graphed, neighbors_key=KEY)
    assert graphed.obsm["X_diffmap"].shape[0] == 150
    sc.tl.paga(graphed, groups="group", neighbors_key=KEY)
    assert graphed.uns["paga"]["connectivities"].shape == (3, 3)


def test_missing_pca_is_computed_and_kept(blobs, as_format, unchanged):
    blobs.X = as_format(blobs.X)
    before = blobs.copy()
    sctag.pp.build_graph(blobs)
    assert blobs.obsm["X_pca"].shape == (150, 50)
    assert blobs.varm["PCs"].shape == (120, 50)
    assert len(blobs.uns["pca"]["variance"]) == 50
    assert blobs.uns[KEY]["params"]["use_rep"] == "X_pca"
    assert type(blobs.X) is type(before.X)
    assert blobs.X.dtype == before.X.dtype
    assert abs(blobs.X - before.X).sum() == 0, "X was changed"
    assert list(blobs.obs) == list(before.obs)
    assert list(blobs.var) == list(before.var)
    assert not blobs.layers
    assert "log1p" not in blobs.uns
    _check_layout(blobs, 15)


def test_pca_of_corrected_counts_is_that_of_normalised_data(blobs):
    blobs.X.data *= np.random.default_rng(0).uniform(0.9, 1, blobs.X.nnz).astype(np.float32)
    assert blobs.X.max() > 20
    normalised = blobs.copy()
    sc.pp.normalize_total(normalised, target_sum=1e4)
    sc.pp.log1p(normalised)
    for adata in (blobs, normalised):
        sctag.pp.build_graph(adata)
    np.testing.assert_allclose(np.abs(blobs.obsm["X_pca"]), np.abs(normalised.obsm["X_pca"]), atol=1e-3)


def test_pca_of_counts_is_that_of_normalised_data(blobs):
    work = blobs.copy()
    sc.pp.normalize_total(work, target_sum=1e4)
    sc.pp.log1p(work)
    sc.pp.pca(work, n_comps=50)
    sctag.pp.build_graph(blobs)
    np.testing.assert_allclose(np.abs(blobs.obsm["X_pca"]), np.abs(work.obsm["X_pca"]), rtol=1e-3, atol=1e-3)


def test_pca_of_logged_data_is_not_logged_again(blobs):
    sc.pp.normalize_total(blobs, target_sum=1e4)
    sc.pp.log1p(blobs)
    work = blobs.copy()
    sc.pp.pca(work, n_comps=50)
    sctag.pp.build_graph(blobs)
    np.testing.assert_allclose(np.abs(blobs.obsm["X_pca"]), np.abs(work.obsm["X_pca"]), rtol=1e-3, atol=1e-3)


def test_missing_pca_uses_highly_variable_genes(blobs):
    blobs.var["highly_variable"] = np.arange(120) < 30
    sctag.pp.build_graph(blobs)
    assert blobs.obsm["X_pca"].shape == (150, 29)
    assert (blobs.varm["PCs"][30:] == 0).all()
    assert np.abs(blobs.varm["PCs"][:30]).sum() > 0


def test_missing_pca_is_said(blobs, capsys):
    import sys

    sc.settings.logfile, sc.settings.verbosity = sys.stdout, 3
    sctag.pp.build_graph(blobs)
    said = capsys.readouterr().out
    assert "X_pca" in said
    assert KEY in said
    assert f"{KEY}_connectivities" in said


def test_existing_pca_is_used_and_kept(points, same):
    points.obsm["X_pca"] = points.obsm["X_rep"].copy()
    before = points.copy()
    sctag.pp.build_graph(points)
    same(before.obsm["X_pca"], points.obsm["X_pca"])
    assert "pca" not in points.uns
    sctag.pp.build_graph(points, use_rep="X_rep", key_added="rep")
    same(points.obsp["rep_distances"], points.obsp[f"{KEY}_distances"])


def test_at_most_fifty_components_by_default(points, same):
    rng = np.random.default_rng(0)
    points.obsm["X_pca"] = rng.normal(size=(90, 60)).astype(np.float32)
    points.obsm["X_first"] = points.obsm["X_pca"][:, :50].copy()
    sctag.pp.build_graph(points)
    sctag.pp.build_graph(points, use_rep="X_first", key_added="first")
    same(points.obsp["first_distances"], points.obsp[f"{KEY}_distances"])
    assert points.uns[KEY]["params"]["n_pcs"] == 50


def test_n_pcs_takes_the_first_columns(points, same):
    points.obsm["X_first"] = points.obsm["X_rep"][:, :3].copy()
    sctag.pp.build_graph(points, use_rep="X_rep", n_pcs=3)
    sctag.pp.build_graph(points, use_rep="X_first", key_added="first")
    same(points.obsp["first_distances"], points.obsp[f"{KEY}_distances"])
    assert points.uns[KEY]["params"]["n_pcs"] == 3


@pytest.mark.parametrize("kind", ["csr", "dense"])
def test_use_rep_x(points, kind, same):
    dense = points.X.toarray()
    points.X = dense if kind == "dense" else points.X
    points.obsm["X_copy"] = dense
    sctag.pp.build_graph(points, use_rep="X")
    sctag.pp.build_graph(points, use_rep="X_copy", key_added="copied")
    same(points.obsp["copied_distances"], points.obsp[f"{KEY}_distances"])
    assert points.uns[KEY]["params"]["use_rep"] == "X"
    assert "X_pca" not in points.obsm


def test_copy_leaves_the_input(blobs, unchanged, same):
    with unchanged(blobs):
        changed = sctag.pp.build_graph(blobs, copy=True)
    assert isinstance(changed, AnnData)
    sctag.pp.build_graph(blobs)
    same(blobs, changed)


def test_view_becomes_actual_with_one_warning(blobs, unchanged):
    view = blobs[::2]
    with unchanged(blobs), pytest.warns(UserWarning, match="view") as caught:
        sctag.pp.build_graph(view)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert not view.is_view
    _check_layout(view, 15)


def test_copy_of_a_view_is_silent(blobs):
    view = blobs[::2]
    changed = sctag.pp.build_graph(view, copy=True)
    assert view.is_view
    _check_layout(changed, 15)


def test_same_call_same_graph(blobs, same):
    first, second = (sctag.pp.build_graph(blobs, copy=True) for _ in range(2))
    same(first, second)


def test_integers_of_numpy(points):
    sctag.pp.build_graph(points, np.int64(9), use_rep="X_rep", random_state=np.int32(4))
    _check_layout(points, 9)
    assert points.uns[KEY]["params"]["random_state"] == 4


# --- unusual data ---


def test_more_neighbours_than_cells_are_lowered_with_a_warning(points):
    few = points[:8].copy()
    with pytest.warns(UserWarning, match=LOWERED) as caught:
        sctag.pp.build_graph(few, use_rep="X_rep")
    assert caught[0].filename == __file__
    _check_layout(few, 5)
    assert few.uns[KEY]["params"]["n_neighbors"] == 5


@pytest.mark.parametrize("n_cells", [2, 3])
def test_a_handful_of_cells(blobs, n_cells):
    few = blobs[:n_cells].copy()
    with pytest.warns(UserWarning, match=LOWERED):
        sctag.pp.build_graph(few)
    _check_layout(few, 2)


def test_duplicated_cells(points):
    points.obsm["X_rep"][10:40] = points.obsm["X_rep"][10]
    sctag.pp.build_graph(points, 15, use_rep="X_rep")
    _check_layout(points, 15)
    block = points.obsp[f"{KEY}_distances"][10:40]
    assert block.data.max() == 0
    assert ((block.indices >= 10) & (block.indices < 40)).all()


def test_all_cells_equal(points):
    points.obsm["X_rep"][:] = 1.0
    sctag.pp.build_graph(points, 6, use_rep="X_rep")
    _check_layout(points, 6)


def test_disconnected_graph(points):
    points.obsm["X_rep"][45:] += 1e4
    sctag.pp.build_graph(points, 6, use_rep="X_rep")
    assert sparse.csgraph.connected_components(points.obsp[f"{KEY}_distances"])[0] == 1
    points.obs["part"] = np.where(np.arange(points.n_obs) < 45, "a", "b")
    points.obs["part"] = points.obs["part"].astype("category")
    sc.tl.paga(points, groups="part", neighbors_key=KEY)  # fails without any edge between the groups
    _check_layout(points, 6)


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"n_neighbors": 1}, ValueError, "n_neighbors must be at least 2, got 1"),
        ({"n_neighbors": 15.0}, TypeError, "n_neighbors must be an integer, got 15.0"),
        ({"n_neighbors": "15"}, TypeError, "n_neighbors must be an integer"),
        ({"n_neighbors": True}, TypeError, "n_neighbors must be an integer"),
        ({"metric": "nonsense"}, ValueError, "metric must be one of .*cosine.*euclidean.*, got 'nonsense'"),
        ({"metric": None}, ValueError, "metric must be one of"),
        ({"use_rep": "X_none"}, ValueError, "use_rep='X_none' is not in adata.obsm; there are .*X_rep.*Compute it"),
        ({"n_pcs": 9}, ValueError, "n_pcs=9 exceeds the 8 columns"),
        ({"n_pcs": 0}, ValueError, "n_pcs must be at least 1, got 0"),
        ({"n_pcs": -1}, ValueError, "n_pcs must be at least 1, got -1"),
        ({"n_pcs": 2.5}, TypeError, "n_pcs must be an integer"),
        ({"n_pcs": "3", "use_rep": None}, TypeError, "n_pcs must be an integer"),
        ({"random_state": -1}, ValueError, "random_state must be at least 0"),
        ({"random_state": "0"}, TypeError, "random_state must be an integer"),
        ({"exact": "yes"}, TypeError, "exact must be"),
        ({"key_added": 5}, TypeError, "key_added must be"),
        ({"key_added": ""}, (TypeError, ValueError), "key_added must be"),
        ({"copy": "yes"}, TypeError, "copy must be True or False"),
    ],
)
def test_wrong_options_are_refused_before_writing(points, unchanged, options, error, match):
    with unchanged(points), pytest.raises(error, match=match):
        sctag.pp.build_graph(points, **{"use_rep": "X_rep", **options})


def test_a_seed_that_is_drawn_is_recorded(points):
    for _ in range(2):
        sctag.pp.build_graph(points, use_rep="X_rep", random_state=None)
        assert 0 <= points.uns[KEY]["params"]["random_state"] < 2**32


def test_a_mask_that_is_not_boolean_is_named(blobs, unchanged):
    blobs.var["highly_variable"] = np.array(["True", "False"])[np.arange(blobs.n_vars) % 2]
    with unchanged(blobs), pytest.raises(ValueError, match="gene mask 'highly_variable' must be boolean"):
        sctag.pp.build_graph(blobs)


def test_a_result_is_not_replaced_by_a_graph(clustered, unchanged):
    with unchanged(clustered), pytest.raises(ValueError, match=r"'sctag'.* holds something else than a graph"):
        sctag.pp.build_graph(clustered, key_added="sctag")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_representation(points, unchanged, bad):
    points.obsm["X_rep"][3, 2] = bad
    with unchanged(points), pytest.raises(ValueError, match="'X_rep' holds NaN or infinite values; recompute"):
        sctag.pp.build_graph(points, use_rep="X_rep")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["csr", "dense"])
def test_non_finite_x_without_pca(blobs, unchanged, bad, kind):
    blobs.X.data[3] = bad
    blobs.X = blobs.X.toarray() if kind == "dense" else blobs.X
    with unchanged(blobs), pytest.raises(ValueError, match=r"adata\.X.* holds NaN or infinite"):
        sctag.pp.build_graph(blobs)


def test_one_cell(points, unchanged):
    one = points[:1].copy()
    with unchanged(one), pytest.raises(ValueError, match="at least 2 cells, adata has 1"):
        sctag.pp.build_graph(one, use_rep="X_rep")


def test_one_gene_without_representation(blobs, unchanged):
    one = blobs[:, :1].copy()
    with unchanged(one), pytest.raises(ValueError, match=r"PCA needs at least 2 genes, got 1; .*use_rep="):
        sctag.pp.build_graph(one)


@pytest.mark.filterwarnings("ignore:Transforming to str index")  # anndata 0.11 says it of an empty index
def test_empty_x_without_representation(unchanged):
    adata = AnnData(shape=(20, 0), obsm={"X_rep": np.zeros((20, 3))})
    with unchanged(adata), pytest.raises(ValueError, match=r"adata\.X is empty.*use_rep="):
        sctag.pp.build_graph(adata)


@pytest.mark.parametrize("thing", [np.zeros((5, 5)), None, "adata"])
def test_no_anndata(thing):
    with pytest.raises(TypeError, match=r"sctag\.pp\.build_graph needs an AnnData"):
        sctag.pp.build_graph(thing)


# --- pynndescent, whose first call compiles for half a minute ---


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:numba")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:pynndescent")
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_approximate_search_finds_the_exact_neighbours(metric):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(5000, 20)) + 4 * rng.normal(size=(12, 20))[rng.integers(12, size=5000)]).astype(np.float32)
    x[100:140] = x[100]  # more duplicates than neighbours
    adata = AnnData(obsm={"X_rep": x})
    sctag.pp.build_graph(adata, use_rep="X_rep", metric=metric, exact=True, key_added="exact")
    sctag.pp.build_graph(adata, use_rep="X_rep", metric=metric, exact=False, key_added="approximate")
    _check_layout(adata, 15, "exact")
    _check_layout(adata, 15, "approximate")
    assert adata.uns["approximate"]["params"]["metric"] == metric
    exact, approximate = (adata.obsp[f"{key}_distances"].indices.reshape(5000, 14) for key in ("exact", "approximate"))
    unique = np.setdiff1d(np.arange(5000), np.arange(100, 140))  # which duplicates are listed is arbitrary
    recall = np.mean([len(np.intersect1d(exact[i], approximate[i])) / 14 for i in unique])
    assert recall > 0.95
    duplicates = adata.obsp["approximate_distances"][100:140].data
    np.testing.assert_allclose(duplicates, 0, atol=1e-3)


@pytest.mark.slow
def test_size_does_not_change_the_layout():
    rng = np.random.default_rng(1)
    for n in (1000, 5000):
        adata = AnnData(obsm={"X_rep": rng.normal(size=(n, 10)).astype(np.float32)})
        sctag.pp.build_graph(adata, use_rep="X_rep", metric="cosine")
        _check_layout(adata, 15)
