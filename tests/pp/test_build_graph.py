"""``sctag.pp.build_graph``: scanpy's layout and numbers, any representation, and what it refuses."""

from __future__ import annotations

import io

import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse

import sctag_tools as sctag

KEY = "sctag_neighbors"


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
    assert (distances.indices != rows).all(), "a cell is listed as its own neighbor"
    assert len(set(zip(rows, distances.indices, strict=True))) == len(rows), "a neighbor is listed twice"
    assert (distances.data >= 0).all()
    assert (weights != weights.T).nnz == 0
    assert weights.diagonal().sum() == 0
    assert ((weights.data > 0) & (weights.data <= 1)).all()


def test_layout_is_that_of_scanpy(points):
    assert sctag.pp.build_graph(points, np.int64(10), use_rep="X_rep", random_state=np.int32(4)) is None
    _check_layout(points, 10)
    entry = points.uns[KEY]
    assert set(entry) == {"connectivities_key", "distances_key", "params"}
    assert entry["connectivities_key"] == f"{KEY}_connectivities"
    assert entry["distances_key"] == f"{KEY}_distances"
    expected = {"n_neighbors": 10, "method": "umap", "metric": "euclidean", "random_state": 4, "use_rep": "X_rep"}
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


def test_key_added_none_writes_scanpys_own_names(points):
    sctag.pp.build_graph(points, use_rep="X_rep", key_added=None)
    assert set(points.uns["neighbors"]) == {"connectivities_key", "distances_key", "params"}
    assert set(points.obsp) == {"connectivities", "distances"}
    sc.tl.leiden(points, flavor="igraph", n_iterations=2, directed=False)


def test_only_a_graph_of_the_same_name_is_replaced(points, same):
    sc.pp.neighbors(points, 8, use_rep="X_rep")
    sctag.pp.build_graph(points, 12, use_rep="X_rep", metric="cosine")
    before = points.copy()
    sctag.pp.build_graph(points, 5, use_rep="X_rep", key_added="other")
    sctag.pp.build_graph(points, 7, use_rep="X_rep")
    _check_layout(points, 5, "other")
    _check_layout(points, 7)
    assert points.uns[KEY]["params"]["n_neighbors"] == 7
    assert points.uns[KEY]["params"]["metric"] == "euclidean"
    same(before.uns["neighbors"], points.uns["neighbors"])
    for name in ("connectivities", "distances"):
        same(before.obsp[name], points.obsp[name])


def test_scanpys_tools_run_on_it(graphed):
    sc.tl.leiden(graphed, neighbors_key=KEY, flavor="igraph", n_iterations=2, directed=False)
    assert sctag.metrics.ari(graphed.obs["group"], graphed.obs["leiden"]) > 0.9
    sc.tl.diffmap(graphed, neighbors_key=KEY)
    assert np.isfinite(graphed.obsm["X_diffmap"]).all()
    sc.tl.paga(graphed, groups="group", neighbors_key=KEY)
    assert graphed.uns["paga"]["connectivities"].shape == (3, 3)


# --- the representation ---


def test_missing_pca_is_computed_and_kept(blobs, as_format, same):
    blobs.X = as_format(blobs.X)
    before = blobs.copy()
    sctag.pp.build_graph(blobs)
    assert blobs.obsm["X_pca"].shape == (150, 50)
    assert blobs.varm["PCs"].shape == (120, 50)
    assert len(blobs.uns["pca"]["variance"]) == 50
    assert blobs.uns[KEY]["params"]["use_rep"] == "X_pca"
    assert set(blobs.uns) == {"pca", KEY}
    for part in ("X", "obs", "var"):
        same(getattr(before, part), getattr(blobs, part))
    assert not blobs.layers
    _check_layout(blobs, 15)


@pytest.mark.parametrize("given", ["counts", "corrected", "logged", "logged csr_array"])
def test_pca_is_that_of_data_normalized_and_logged_once(blobs, given):
    if given == "corrected":
        blobs.X.data *= np.random.default_rng(0).uniform(0.9, 1, blobs.X.nnz).astype(np.float32)
        assert blobs.X.max() > 20  # what is smaller may be logged
    blobs.var["highly_variable"] = np.arange(120) % 4 > 0
    expected = blobs.copy()
    sc.pp.normalize_total(expected, target_sum=1e4)
    sc.pp.log1p(expected)
    if given.startswith("logged"):
        blobs = expected.copy()
    if given == "logged csr_array":
        blobs.X = sparse.csr_array(blobs.X)
    sc.pp.pca(expected, n_comps=50)
    sctag.pp.build_graph(blobs)
    np.testing.assert_allclose(np.abs(blobs.obsm["X_pca"]), np.abs(expected.obsm["X_pca"]), rtol=1e-3, atol=1e-3)


def test_missing_pca_uses_highly_variable_genes(blobs):
    blobs.var["highly_variable"] = np.arange(120) % 4 == 1
    sctag.pp.build_graph(blobs)
    assert blobs.obsm["X_pca"].shape == (150, 29)
    np.testing.assert_array_equal(blobs.varm["PCs"].any(axis=1), blobs.var["highly_variable"])


def test_what_is_written_is_logged_and_verbosity_stays(blobs):
    log = io.StringIO()
    sc.settings.logfile, sc.settings.verbosity = log, 3
    sctag.pp.build_graph(blobs)
    for name in ("X_pca", f"'{KEY}'", f"{KEY}_distances", f"{KEY}_connectivities"):
        assert name in log.getvalue()
    assert log.getvalue().count("neighbors_connectivities") == 1  # scanpy's report on its temporary is not shown
    assert sc.settings.verbosity == 3


@pytest.mark.parametrize(
    ("stored", "options", "n_used", "recorded"),
    [
        ({"X_pca": 8}, {}, 8, {"use_rep": "X_pca"}),
        ({"X_pca": 60}, {}, 50, {"use_rep": "X_pca", "n_pcs": 50}),
        ({"X_pca": 60}, {"n_pcs": 55}, 55, {"use_rep": "X_pca", "n_pcs": 55}),
        ({"X_wide": 60}, {"use_rep": "X_wide"}, 60, {"use_rep": "X_wide"}),
        ({"X_wide": 60}, {"use_rep": "X_wide", "n_pcs": 3}, 3, {"use_rep": "X_wide", "n_pcs": 3}),
    ],
)
def test_columns_that_distances_are_measured_in(points, same, stored, options, n_used, recorded):
    (name, width), rng = next(iter(stored.items())), np.random.default_rng(0)
    points.obsm[name] = rng.normal(size=(90, width)).astype(np.float32)
    points.obsm["X_expected"] = points.obsm[name][:, :n_used].copy()
    before = points.copy()
    sctag.pp.build_graph(points, **options)
    same(dict(before.obsm), dict(points.obsm))
    assert set(points.uns) == {KEY}
    params = points.uns[KEY]["params"]
    assert {key: params[key] for key in ("use_rep", "n_pcs") if key in params} == recorded
    sctag.pp.build_graph(points, use_rep="X_expected", key_added="expected")
    same(points.obsp["expected_distances"], points.obsp[f"{KEY}_distances"])


@pytest.mark.parametrize("kind", ["csr", "dense"])
def test_use_rep_x(points, kind, same):
    points.obsm["X_copy"] = points.X.toarray()
    points.X = points.X if kind == "csr" else points.X.toarray()
    sctag.pp.build_graph(points, use_rep="X")
    sctag.pp.build_graph(points, use_rep="X_copy", key_added="copied")
    same(points.obsp["copied_distances"], points.obsp[f"{KEY}_distances"])
    assert points.uns[KEY]["params"]["use_rep"] == "X"
    assert "X_pca" not in points.obsm


# --- where results go ---


def test_copy_leaves_the_input_and_equals_the_result_in_place(blobs, unchanged, same):
    with unchanged(blobs):
        changed = sctag.pp.build_graph(blobs, copy=True)
    sctag.pp.build_graph(blobs)
    same(blobs, changed)


def test_view_becomes_actual_with_one_warning(blobs, unchanged):
    view = blobs[::2]
    with unchanged(blobs), pytest.warns(UserWarning, match="view") as caught:
        sctag.pp.build_graph(view)
    assert [warning.filename for warning in caught] == [__file__]
    assert not view.is_view
    _check_layout(view, 15)


def test_a_pca_left_from_a_larger_object_is_told(blobs):
    sc.pp.pca(blobs)
    part = blobs[blobs.obs["group"] == "g0"].copy()
    with pytest.warns(UserWarning, match=r"X_pca.* was computed before adata was subset.*tl\.subcluster") as caught:
        sctag.pp.build_graph(part)
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("change", ["half of the cells", "own coordinates", "not centered", "named"])
def test_other_pcas_are_not_told(blobs, change):
    sc.pp.pca(blobs, zero_center=change != "not centered")
    if change == "half of the cells":
        blobs = blobs[np.random.default_rng(0).permutation(blobs.n_obs) < 75].copy()
    if change == "own coordinates":  # of another tool, or from a file without scanpy's record
        del blobs.uns["pca"]
        blobs.obsm["X_pca"] += 50
    if change == "named":
        blobs.obsm["X_scvi"] = blobs.obsm["X_pca"] + 50
    sctag.pp.build_graph(blobs, use_rep="X_scvi" if change == "named" else None)


def test_copy_of_a_view_is_silent(blobs):
    view = blobs[::2]
    changed = sctag.pp.build_graph(view, copy=True)
    assert view.is_view
    _check_layout(changed, 15)


def test_a_seed_that_is_drawn_is_recorded(points):
    drawn = set()
    for _ in range(2):
        sctag.pp.build_graph(points, use_rep="X_rep", random_state=None)
        drawn.add(points.uns[KEY]["params"]["random_state"])
    assert len(drawn) == 2
    assert all(0 <= seed < 2**32 for seed in drawn)


# --- unusual data ---


@pytest.mark.parametrize(("n_cells", "lowered"), [(8, 5), (3, 2), (2, 2)])
def test_more_neighbors_than_cells_are_lowered_with_a_warning(blobs, n_cells, lowered):
    few = blobs[:n_cells].copy()
    with pytest.warns(UserWarning, match="n_neighbors=15 exceeds the . cells") as caught:
        sctag.pp.build_graph(few)
    assert caught[0].filename == __file__
    _check_layout(few, lowered)
    assert few.uns[KEY]["params"]["n_neighbors"] == lowered


@pytest.mark.parametrize(("n_equal", "n_neighbors"), [(30, 15), (90, 6)])
def test_duplicated_cells(points, n_equal, n_neighbors):
    points.obsm["X_rep"][:n_equal] = 1.0
    sctag.pp.build_graph(points, n_neighbors, use_rep="X_rep")
    _check_layout(points, n_neighbors)
    block = points.obsp[f"{KEY}_distances"][:n_equal]
    assert block.data.max() == 0
    assert (block.indices < n_equal).all()


def test_separate_groups_are_connected_so_that_paga_runs(points):
    points.obsm["X_rep"][45:] += 1e4
    sctag.pp.build_graph(points, 6, use_rep="X_rep")
    assert sparse.csgraph.connected_components(points.obsp[f"{KEY}_distances"])[0] == 1
    points.obs["part"] = np.where(np.arange(90) < 45, "a", "b")
    points.obs["part"] = points.obs["part"].astype("category")
    sc.tl.paga(points, groups="part", neighbors_key=KEY)  # fails without any edge between the groups
    _check_layout(points, 6)


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"n_neighbors": 1}, ValueError, "n_neighbors must be at least 2, got 1"),
        ({"n_neighbors": 15.0}, TypeError, "n_neighbors must be an integer, got 15.0"),
        ({"n_neighbors": True}, TypeError, "n_neighbors must be an integer"),
        ({"metric": "nonsense"}, ValueError, "metric must be one of .*cosine.*euclidean.*, got 'nonsense'"),
        ({"metric": None}, ValueError, "metric must be one of"),
        ({"use_rep": "X_none"}, ValueError, "use_rep='X_none' is not in adata.obsm; there are .*X_rep.*Compute it"),
        ({"n_pcs": 9}, ValueError, "n_pcs=9 exceeds the 8 columns"),
        ({"n_pcs": 0}, ValueError, "n_pcs must be at least 1, got 0"),
        ({"n_pcs": "3", "use_rep": None}, TypeError, "n_pcs must be an integer"),
        ({"random_state": -1}, ValueError, "random_state must be at least 0"),
        ({"random_state": "0"}, TypeError, "random_state must be an integer"),
        ({"exact": "yes"}, TypeError, "exact must be"),
        ({"key_added": 5}, TypeError, "key_added must be"),
        ({"key_added": ""}, TypeError, "key_added must be"),
        ({"copy": "yes"}, TypeError, "copy must be True or False"),
    ],
)
def test_wrong_options_are_refused_before_writing(points, unchanged, options, error, match):
    with unchanged(points), pytest.raises(error, match=match):
        sctag.pp.build_graph(points, **{"use_rep": "X_rep", **options})


def test_a_result_is_not_replaced_by_a_graph(clustered, unchanged):
    with unchanged(clustered), pytest.raises(ValueError, match=r"'sctag'.* holds something else than a graph"):
        sctag.pp.build_graph(clustered, key_added="sctag")


@pytest.mark.filterwarnings("ignore:Transforming to str index")  # anndata 0.11 says it of an empty index
@pytest.mark.parametrize(
    ("unusable", "match"),
    [
        (
            lambda a: AnnData(obsm={"X_pca": np.full((20, 2), np.nan)}),
            "'X_pca' holds NaN or infinite values; recompute",
        ),
        (
            lambda a: AnnData(obsm={"X_pca": np.full((20, 2), np.inf)}),
            "'X_pca' holds NaN or infinite values; recompute",
        ),
        (lambda a: AnnData(a.X * np.nan), r"adata\.X holds NaN or infinite.*use_rep="),
        (lambda a: AnnData(a.X.toarray() + np.inf), r"adata\.X holds NaN or infinite.*use_rep="),
        (
            lambda a: AnnData(a.X, var={"highly_variable": ["True", "no"] * 60}),
            "mask 'highly_variable' must be boolean",
        ),
        (lambda a: a[:1].copy(), "at least 2 cells, adata has 1"),
        (lambda a: a[:, :1].copy(), r"PCA needs at least 2 genes, got 1; .*use_rep="),
        (lambda a: AnnData(shape=(20, 0)), r"adata\.X is empty.*use_rep="),
    ],
    ids=["nan", "inf", "nan in X", "inf in dense X", "mask of text", "one cell", "one gene", "no X"],
)
def test_unusable_data_are_refused_before_writing(blobs, unchanged, unusable, match):
    adata = unusable(blobs)
    with unchanged(adata), pytest.raises(ValueError, match=match):
        sctag.pp.build_graph(adata)


@pytest.mark.parametrize("thing", [np.zeros((5, 5)), None, "adata"])
def test_no_anndata(thing):
    with pytest.raises(TypeError, match=r"sctag\.pp\.build_graph needs an AnnData"):
        sctag.pp.build_graph(thing)


# --- the approximate search ---


@pytest.mark.parametrize(
    ("exact", "limit", "is_approximate"), [(False, 1000, True), (True, 10, False), (None, 89, True), (None, 90, False)]
)
def test_exact_or_the_number_of_cells_decides_on_the_search(points, monkeypatch, exact, limit, is_approximate):
    from sctag_tools.neighbors import search

    seeds = []
    monkeypatch.setattr(search, "MAX_EXACT_CELLS", limit)
    monkeypatch.setattr(
        search, "_approximate", lambda x, k, metric, seed: seeds.append(seed) or search.nearest(x, x, k, metric)
    )
    sctag.pp.build_graph(points, use_rep="X_rep", exact=exact, random_state=5)
    assert seeds == [5] * is_approximate
    _check_layout(points, 15)
