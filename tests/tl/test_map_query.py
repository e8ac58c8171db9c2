"""``sctag.tl.map_query``: how a query is read, what is written, and that each cell is placed on its own."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse
from sklearn.metrics import roc_auc_score

import sctag_tools as sctag
from sctag_tools._core import fitted as core

N_NEW = 40
LONGER = {"pretrain_epochs": 60, "cluster_epochs": 15, "progress_bar": False}
SLOTS = [("obs", ""), ("obs", "_confidence"), ("obs", "_novelty"), ("obsm", "_proba")]


@pytest.fixture(scope="module")
def _reference_once(_blobs_once):
    """110 cells with a model that tells their groups apart."""
    adata = _blobs_once[:-N_NEW].copy()
    sctag.pp.build_graph(adata)
    sctag.tl.sctag(adata, 3, **LONGER)
    return adata


@pytest.fixture
def reference(_reference_once):
    return _reference_once.copy()


@pytest.fixture
def query(_blobs_once):
    return _blobs_once[-N_NEW:].copy()


@pytest.fixture(scope="module")
def placed(_blobs_once, _reference_once):
    """The query as it is mapped without any option."""
    return sctag.tl.map_query(_blobs_once[-N_NEW:].copy(), _reference_once, copy=True)


def parts(adata, key="sctag"):
    found = {f"{slot}{end}": getattr(adata, slot)[f"{key}{end}"] for slot, end in SLOTS}
    return found | {"latent": adata.obsm[f"X_{key}"]}


def assert_mapped_alike(a, b, tolerance=1e-4, key="sctag"):
    for (name, ours), theirs in zip(parts(a).items(), parts(b, key).values(), strict=True):
        if name == "obs":
            assert ours.astype(str).tolist() == theirs.astype(str).tolist()
        else:
            np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), tolerance, tolerance, err_msg=name)


def assert_mapped_the_same(a, b, key="sctag"):
    assert_mapped_alike(a, b, 0, key)


# --- what is written ---


def test_writes_what_it_promises(reference, query, same, unchanged):
    before = query.copy()
    with unchanged(reference):
        assert sctag.tl.map_query(query, reference) is None
    latent, proba, labels = query.obsm["X_sctag"], query.obsm["sctag_proba"], query.obs["sctag"]
    assert type(latent) is type(proba) is np.ndarray
    assert latent.dtype == proba.dtype == np.float32
    assert latent.shape == (N_NEW, 15)
    assert proba.shape == (N_NEW, 3)
    assert np.isfinite(latent).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(labels.cat.codes, proba.argmax(axis=1))
    assert list(labels.cat.categories) == list(reference.obs["sctag"].cat.categories)
    assert query.obs["sctag_confidence"].dtype == query.obs["sctag_novelty"].dtype == np.float32
    assert query.obs["sctag_confidence"].between(0, 1).all()
    assert np.isfinite(query.obs["sctag_novelty"]).all()
    record = query.uns["sctag"]
    assert record["params"] == {"counts": "X", "n_genes": 120, "n_clusters": 3}
    assert record["mapped_to"] == reference.uns["sctag"]["params"]
    assert record["missing_genes"] == []
    assert set(record["versions"]) == {"sctag-tools"}
    # and nothing else
    for slot, end in SLOTS:
        part = getattr(query, slot)
        del part[f"sctag{end}"]
    del query.obsm["X_sctag"], query.uns["sctag"]
    same(before, query)


@pytest.mark.filterwarnings("ignore:Writing zarr v2 data will no longer be the default:UserWarning")
@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_a_mapped_query_can_be_written(placed, tmp_path, suffix, same):
    getattr(placed, f"write_{suffix}")(tmp_path / f"query.{suffix}")
    back = getattr(anndata, f"read_{suffix}")(tmp_path / f"query.{suffix}")
    assert_mapped_the_same(placed, back)


def test_clusters_without_a_cell_stay_categories(reference, query):
    one = query[query.obs["group"] == "g0"].copy()
    sctag.tl.map_query(one, reference)
    assert list(one.obs["sctag"].cat.categories) == ["0", "1", "2"]
    assert one.obs["sctag"].nunique() == 1


# --- what it finds ---


def test_cells_of_known_groups_join_them(reference, placed):
    of_group = reference.obs.groupby("group", observed=True)["sctag"].agg(lambda labels: labels.mode()[0])
    assert of_group.nunique() == 3, "the reference itself does not tell the groups apart"
    expected = placed.obs["group"].map(of_group).astype(str)
    assert (expected == placed.obs["sctag"].astype(str)).mean() > 0.95


def test_training_cells_come_out_nearly_where_they_were(reference):
    again = sctag.tl.map_query(reference, reference, key_added="again", copy=True)
    for axis in range(2):
        assert np.corrcoef(again.obsm["X_again"][:, axis], reference.obsm["X_sctag"][:, axis])[0, 1] > 0.97
    assert (again.obs["again"].astype(str) == reference.obs["sctag"].astype(str)).mean() > 0.97
    assert (again.obs["again_novelty"] > 1).mean() < 0.05


@pytest.mark.parametrize("left_out", ["g0", "g1", "g2"])
def test_a_group_that_was_left_out_is_new(blobs, left_out):
    known = np.flatnonzero(blobs.obs["group"] != left_out)
    reference = blobs[known[::2]].copy()
    sctag.pp.build_graph(reference)
    sctag.tl.sctag(reference, 2, **LONGER)
    query = blobs[np.setdiff1d(np.arange(150), known[::2])].copy()
    sctag.tl.map_query(query, reference)
    assert roc_auc_score(query.obs["group"] == left_out, query.obs["sctag_novelty"]) > 0.95


# --- each cell on its own ---


@pytest.mark.parametrize("rows_at_once", [1, 7, 39])
def test_batching_does_not_matter(reference, query, placed, monkeypatch, rows_at_once):
    monkeypatch.setattr(core, "_ROWS_AT_ONCE", rows_at_once)
    sctag.tl.map_query(query, reference)
    assert_mapped_alike(placed, query)


def test_order_does_not_matter(reference, query, placed):
    order = np.random.default_rng(0).permutation(N_NEW)
    shuffled = query[order].copy()
    sctag.tl.map_query(shuffled, reference)
    assert_mapped_alike(placed[order], shuffled)


def test_company_does_not_matter(reference, query, placed):
    one = query[5].copy()
    sctag.tl.map_query(one, reference)
    assert_mapped_alike(placed[5], one)
    twice = anndata.concat([query, query], index_unique="-")
    sctag.tl.map_query(twice, reference)
    assert_mapped_alike(placed, twice[N_NEW:])


# --- which genes ---


def test_genes_in_another_order_and_others_beside_them(reference, query, placed):
    """The others are counts too: the totals stay those of the genes that there were, within what is a usual share."""
    order = np.random.default_rng(0).permutation(120)
    shuffled = query[:, order].copy()
    sctag.tl.map_query(shuffled, reference)
    assert_mapped_alike(placed, shuffled)
    silent = AnnData(sparse.csr_matrix((N_NEW, 30), dtype=np.float32), obs=query.obs[[]])
    silent.var_names = [f"other{i}" for i in range(30)]
    more = anndata.concat([silent, query[:, order]], axis=1, merge="same")
    sctag.tl.map_query(more, reference)
    assert_mapped_alike(placed, more)
    assert more.uns["sctag"]["params"]["n_genes"] == 120


def test_missing_genes_are_listed_with_one_warning(reference, query, placed):
    missing = [f"x{i}" for i in range(0, 120, 12)]
    fewer = query[:, [gene for gene in query.var_names if gene not in missing]].copy()
    with pytest.warns(UserWarning, match="10 of the model's 120 genes are not in the query") as caught:
        sctag.tl.map_query(fewer, reference)
    assert [w.filename for w in caught] == [__file__]
    assert fewer.uns["sctag"]["missing_genes"] == missing
    assert fewer.uns["sctag"]["params"]["n_genes"] == 110
    agree = fewer.obs["sctag"].astype(str).to_numpy() == placed.obs["sctag"].astype(str).to_numpy()
    assert agree.mean() > 0.9
    assert np.abs(fewer.obsm["X_sctag"] - placed.obsm["X_sctag"]).max() > 1e-4
    # each count is taken for the gene of its name
    known = ~query.var_names.isin(missing)
    totals = np.asarray(fewer.X.sum(axis=1), dtype=float).ravel()
    by_hand = sctag.ScTAG.from_anndata(reference).trained.fitted.place(query.X, totals, known, np.full(N_NEW, -1))
    np.testing.assert_allclose(fewer.obsm["X_sctag"], by_hand.latent, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:The genes of the model hold 100% of the query's counts")
def test_half_of_the_genes_are_enough_and_fewer_are_not(reference, query, unchanged):
    half = query[:, ::2].copy()
    with pytest.warns(UserWarning, match="60 of the model's 120 genes"):
        sctag.tl.map_query(half, reference)
    fewer = query[:, 2::2].copy()
    fewer.var_names = [*fewer.var_names[:-1], "x120"]
    match = r"Only 58 of .*Only the model has names like 'x0', only the query 'x120'\. A query keeps"
    with unchanged(fewer), pytest.raises(ValueError, match=match):
        sctag.tl.map_query(fewer, reference)


def test_other_names_are_shown(reference, query, unchanged):
    query.var_names = [f"ENSG{i:05}" for i in range(120)]
    with unchanged(query), pytest.raises(ValueError, match=r"Only 0 .*names like 'x0', only the query 'ENSG00000'"):
        sctag.tl.map_query(query, reference)


def test_names_are_not_compared_where_none_differs(reference, query):
    fewer = query[:, 2::2].copy()
    with pytest.raises(ValueError, match=r"Only 59 of .* to place its cells\. A query keeps all its genes"):
        sctag.tl.map_query(fewer, reference)


def test_genes_in_the_rows_of_the_query_are_seen(reference, query, unchanged):
    turned = query.T.copy()
    with (
        unchanged(turned),
        pytest.raises(ValueError, match=r"rows are named like the model's genes: turn it, `adata\.T`"),
    ):
        sctag.tl.map_query(turned, reference)


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_names_that_occur_twice_are_refused(reference, query, blobs, short, unchanged):
    doubled = query.copy()
    doubled.var_names = ["x1", *query.var_names[1:]]
    with unchanged(doubled), pytest.raises(ValueError, match=r"occur twice; call `adata\.var_names_make_unique"):
        sctag.tl.map_query(doubled, reference)
    blobs.var_names = ["x1", *blobs.var_names[1:]]
    sctag.pp.build_graph(blobs)
    with pytest.warns(UserWarning, match="cannot place new cells"):
        sctag.tl.sctag(blobs, 3, **short)
    with unchanged(query), pytest.raises(ValueError, match="the model was trained on names that occur twice"):
        sctag.tl.map_query(query, blobs)


def test_a_query_that_was_cut_to_the_genes_of_the_model(graphed, blobs, short):
    """Its totals are brought to what they were over all genes; said once."""
    mask = np.arange(120) % 2 == 0
    sctag.tl.sctag(graphed, 3, mask_var=mask, **LONGER)
    whole, cut = blobs.copy(), blobs[:, mask].copy()
    sctag.tl.map_query(whole, graphed)
    with pytest.warns(UserWarning, match=r"hold 100% of the query's counts and \d\d% of the reference's") as caught:
        sctag.tl.map_query(cut, graphed)
    assert [w.filename for w in caught] == [__file__]
    assert (whole.obs["sctag"].astype(str) == cut.obs["sctag"].astype(str)).mean() > 0.97
    for axis in range(2):
        assert np.corrcoef(whole.obsm["X_sctag"][:, axis], cut.obsm["X_sctag"][:, axis])[0, 1] > 0.98
    assert cut.uns["sctag"]["missing_genes"] == []
    with pytest.warns(UserWarning, match="hold 100%"):
        _, read = sctag.ScTAG.from_anndata(graphed).place(cut)
    np.testing.assert_allclose(read.totals.mean(), blobs.X.sum(axis=1).mean(), rtol=0.05)


# --- which counts ---


def test_every_format_gives_the_same(reference, query, placed, as_format):
    query.X = as_format(query.X)
    kept = type(query.X), query.X.dtype
    sctag.tl.map_query(query, reference)
    assert (type(query.X), query.X.dtype) == kept
    assert_mapped_the_same(placed, query)


def test_counts_come_from_the_layer_of_the_same_name(blobs, query, short):
    """Also where X holds counts that are other ones."""
    blobs.layers["raw"], query.layers["raw"] = blobs.X.copy(), query.X.copy()
    sctag.pp.build_graph(blobs)
    sctag.tl.sctag(blobs, 3, layer="raw", **short)
    expected = sctag.tl.map_query(query, blobs, copy=True)
    assert expected.uns["sctag"]["params"]["counts"] == "raw"
    query.X = np.ones(query.shape, dtype=np.float32)
    sctag.tl.map_query(query, blobs)
    assert_mapped_the_same(expected, query)


def test_counts_are_looked_for_where_that_layer_is_missing(reference, query, placed):
    query.layers["counts"] = query.X.copy()
    sc.pp.normalize_total(query)
    sc.pp.log1p(query)
    sctag.tl.map_query(query, reference)
    assert query.uns["sctag"]["params"]["counts"] == "counts"
    assert_mapped_the_same(placed, query)


def test_a_given_layer_comes_first(reference, query, placed, unchanged):
    query.layers["mine"], query.X = query.X.copy(), query.X * 3
    sctag.tl.map_query(query, reference, layer="mine")
    assert query.uns["sctag"]["params"]["counts"] == "mine"
    assert_mapped_the_same(placed, query)
    with unchanged(query), pytest.raises(KeyError, match="layer='none'"):
        sctag.tl.map_query(query, reference, layer="none")


def test_logged_values_are_refused_unless_asked_for(reference, query, unchanged):
    sc.pp.log1p(query)
    with unchanged(query), pytest.raises(ValueError, match="looks log-normalised"):
        sctag.tl.map_query(query, reference)
    sctag.tl.map_query(query, reference, check_values=False)
    assert np.isfinite(query.obsm["X_sctag"]).all()


def test_a_cell_without_counts_in_the_genes_is_refused(reference, query, unchanged):
    x = query.X.toarray()
    x[[7, 9]] = 0
    query.X = sparse.csr_matrix(x)
    with unchanged(query), pytest.raises(ValueError, match=r"2 cells have no counts .*the first is row 7"):
        sctag.tl.map_query(query, reference)


@pytest.mark.filterwarnings("ignore:Transforming to str index")  # anndata 0.11 says it of an empty index
def test_no_cells(reference, query):
    with pytest.raises(ValueError, match="The query holds no cells"):
        sctag.tl.map_query(query[:0].copy(), reference)


# --- which reference ---


def test_anndata_model_and_folder_give_the_same(reference, query, placed, tmp_path):
    model = sctag.ScTAG.from_anndata(reference)
    model.save(tmp_path / "model")
    for given in (model, tmp_path / "model", str(tmp_path / "model"), sctag.ScTAG.load(tmp_path / "model")):
        assert_mapped_the_same(placed, sctag.tl.map_query(query, given, copy=True))


@pytest.mark.filterwarnings("ignore:Writing zarr v2 data will no longer be the default:UserWarning")
@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_a_reference_that_was_written_and_read_gives_the_same(reference, query, placed, tmp_path, suffix):
    getattr(reference, f"write_{suffix}")(tmp_path / f"reference.{suffix}")
    back = getattr(anndata, f"read_{suffix}")(tmp_path / f"reference.{suffix}")
    sctag.tl.map_query(query, back)
    assert_mapped_the_same(placed, query)


def test_a_run_of_the_querys_own_is_kept(reference, query, unchanged):
    sctag.pp.build_graph(query)
    sctag.tl.sctag(query, 2, pretrain_epochs=1, cluster_epochs=1, progress_bar=False)
    for cells in (query, reference):
        with unchanged(cells), pytest.raises(ValueError, match=r"a run of its own under 'sctag'.*key_added="):
            sctag.tl.map_query(cells, reference)
    sctag.tl.map_query(query, reference, key_added="mapped")
    assert "model" in query.uns["sctag"]
    sctag.tl.map_query(query, reference, key_added="mapped")  # what was mapped may be mapped again


def test_what_is_no_reference_is_refused(reference, query, graphed, unchanged, tmp_path):
    without = reference.copy()
    del without.uns["sctag"]["model"]
    mapped = sctag.tl.map_query(query, reference, copy=True)
    cases = [
        (graphed, KeyError, "no scTAG result 'sctag'"),
        (without, KeyError, "made without its model"),
        (mapped, KeyError, "made without its model .*mapped query"),
        (tmp_path, FileNotFoundError, r"it has no model\.json"),
        (3, TypeError, "needs an AnnData"),
    ]
    for given, error, match in cases:
        with unchanged(query), pytest.raises(error, match=match):
            sctag.tl.map_query(query, given)
    with unchanged(query), pytest.raises(KeyError, match="no scTAG result 'other'"):
        sctag.tl.map_query(query, reference, key="other")
    untrained = sctag.ScTAG(graphed, 3)
    with unchanged(query), pytest.raises(RuntimeError, match="not trained"):
        sctag.tl.map_query(query, untrained)


def _damage_shape(model):
    model["arrays"]["reference.latent"] = model["arrays"]["reference.latent"][:-1]


def _damage_nested(model):
    model["record"] = "[" * 100_000


@pytest.mark.parametrize(
    "damage",
    [
        lambda model: model.pop("arrays"),
        lambda model: model.pop("record"),
        lambda model: model.update(record="{}"),
        lambda model: model.update(record="[1]"),
        lambda model: model.update(record="no json"),
        lambda model: model.update(arrays=3),
        lambda model: model["arrays"].update(columns="x"),
        lambda model: model["arrays"].pop("columns"),
        _damage_shape,
        _damage_nested,
    ],
)
def test_a_kept_model_that_was_damaged_is_refused(reference, query, unchanged, damage):
    damage(reference.uns["sctag"]["model"])
    with unchanged(query), pytest.raises(ValueError, match="damaged"):
        sctag.tl.map_query(query, reference)


@pytest.fixture
def on_scvi(blobs, short):
    """A reference whose graph was built on coordinates that are not of its genes."""
    blobs.obsm["X_scVI"] = np.random.default_rng(0).normal(size=(150, 4)).astype(np.float32)
    sctag.pp.build_graph(blobs, use_rep="X_scVI")
    sctag.tl.sctag(blobs, 3, **short)
    return blobs


def test_graph_on_another_representation_is_asked_for_by_name(on_scvi, query, unchanged):
    match = r"built on 'X_scVI', and adata\.obsm has no 'X_scVI': put the query into the same space .*`use_rep=`"
    with unchanged(query), pytest.raises(KeyError, match=match):
        sctag.tl.map_query(query, on_scvi)
    query.obsm["X_scVI"] = on_scvi.obsm["X_scVI"][:N_NEW].astype(np.float64)
    expected = sctag.tl.map_query(query, on_scvi, copy=True)
    query.obsm["X_mine"] = np.hstack([query.obsm.pop("X_scVI"), np.ones((N_NEW, 2))])  # leading columns count
    with unchanged(query), pytest.raises(KeyError, match="has no 'X_other'"):
        sctag.tl.map_query(query, on_scvi, use_rep="X_other")
    sctag.tl.map_query(query, on_scvi, use_rep="X_mine")
    assert_mapped_the_same(expected, query)
    query.obsm["X_mine"] = query.obsm["X_mine"][::-1].copy()
    moved = sctag.tl.map_query(query, on_scvi, use_rep="X_mine", copy=True)
    assert np.abs(moved.obsm["X_sctag"] - expected.obsm["X_sctag"]).max() > 1e-4, "the coordinates are not read"


@pytest.mark.parametrize("wrong", ["narrow", "nan"])
def test_coordinates_that_cannot_be(on_scvi, query, unchanged, wrong):
    x = on_scvi.obsm["X_scVI"][:N_NEW].copy()
    query.obsm["X_scVI"] = x[:, :3] if wrong == "narrow" else np.where(np.arange(4) == 2, np.nan, x)
    with unchanged(query), pytest.raises(ValueError, match=r"must hold 4 columns|holds NaN"):
        sctag.tl.map_query(query, on_scvi)


def test_use_rep_without_need_is_refused(reference, query, unchanged):
    query.obsm["X_pca"] = np.ones((N_NEW, 3))
    with unchanged(query), pytest.raises(ValueError, match="use_rep='X_pca' is not needed"):
        sctag.tl.map_query(query, reference, use_rep="X_pca")


def test_batches_of_the_reference(blobs, short):
    """Known batches are centred on themselves, others and those without a column on all cells."""
    blobs.obs["donor"] = pd.Categorical(np.array(["a", "b"])[np.arange(150) % 2])
    x = blobs.X.toarray()
    x[1::2, :40] *= 3
    blobs.X = sparse.csr_matrix(x)
    first = blobs[:10].copy()
    sctag.pp.build_graph(blobs, batch_key="donor")
    sctag.tl.sctag(blobs, 3, batch_key="donor", **short)
    query = first.copy()
    del query.obs["donor"]
    found = {}
    for name in ("a", "b", "c", None):
        if name is not None:
            query.obs["donor"] = name
        found[name] = sctag.tl.map_query(query[:, ::-1] if name else first[:, ::-1].copy(), blobs, copy=True)
    own = sctag.ScTAG.from_anndata(blobs).get_latent_representation(blobs[:10].copy())
    np.testing.assert_allclose(found[None].obsm["X_sctag"], own, rtol=1e-4, atol=1e-4)
    without = query.copy()
    del without.obs["donor"]
    assert_mapped_the_same(sctag.tl.map_query(without, blobs, copy=True), found["c"])
    for a, b in [("a", "b"), ("a", "c"), ("b", "c")]:
        assert np.abs(found[a].obsm["X_sctag"] - found[b].obsm["X_sctag"]).max() > 1e-3
    mixed = query.copy()
    mixed.obs["donor"] = ["a", "b"] * 5
    sctag.tl.map_query(mixed, blobs)
    np.testing.assert_allclose(mixed.obsm["X_sctag"][::2], found["a"].obsm["X_sctag"][::2], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(mixed.obsm["X_sctag"][1::2], found["b"].obsm["X_sctag"][1::2], rtol=1e-4, atol=1e-4)


def test_graph_with_another_metric(blobs, query, short):
    sctag.pp.build_graph(blobs, 6, metric="cosine")
    sctag.tl.sctag(blobs, 3, **short)
    trained = sctag.ScTAG.from_anndata(blobs).trained.fitted
    assert (trained.metric, trained.n_neighbors) == ("cosine", 5)
    sctag.tl.map_query(query, blobs)
    assert np.isfinite(query.obsm["X_sctag"]).all()


def test_scanpys_own_graph(blobs, query, short):
    sc.pp.normalize_total(blobs)
    sc.pp.log1p(blobs)
    blobs.layers["counts"] = blobs.X.copy()
    blobs.layers["counts"].data[:] = np.round(np.expm1(blobs.X.data))
    sc.pp.pca(blobs, n_comps=10)
    sc.pp.neighbors(blobs, n_neighbors=8)
    sctag.tl.sctag(blobs, 3, neighbors_key="neighbors", **short)
    sctag.tl.map_query(query, blobs)
    assert sctag.ScTAG.from_anndata(blobs).trained.fitted.n_neighbors == 7
    assert np.isfinite(query.obsm["X_sctag"]).all()


# --- names, copies, views ---


def test_copy_leaves_the_query(reference, query, placed, unchanged):
    with unchanged(query), unchanged(reference):
        changed = sctag.tl.map_query(query, reference, copy=True)
    assert_mapped_the_same(placed, changed)


def test_view_becomes_actual_with_one_warning(reference, blobs, placed, unchanged):
    view = blobs[-N_NEW:]
    with unchanged(blobs), pytest.warns(UserWarning, match="view") as caught:
        sctag.tl.map_query(view, reference)
    assert [w.filename for w in caught] == [__file__]
    assert not view.is_view
    assert_mapped_the_same(placed, view)


def test_copy_of_a_view_is_silent(reference, blobs, placed):
    view = blobs[-N_NEW:]
    assert_mapped_the_same(placed, sctag.tl.map_query(view, reference, copy=True))
    assert view.is_view


def test_several_references_side_by_side(reference, query, placed, short, same):
    sctag.tl.sctag(reference, 2, key_added="coarse", **short)
    sctag.tl.map_query(query, reference)
    before = query.copy()
    sctag.tl.map_query(query, reference, key="coarse")
    sctag.tl.map_query(query, reference, key_added="third")
    assert query.obs["coarse"].cat.categories.size == 2
    assert_mapped_the_same(placed, query)
    assert_mapped_the_same(placed, query, key="third")
    for key in ("coarse", "third"):
        for slot, end in SLOTS:
            part = getattr(query, slot)
            del part[f"{key}{end}"]
        del query.obsm[f"X_{key}"], query.uns[key]
    same(before, query)


def test_mapping_again_replaces_and_forgets_the_umap(reference, query, placed):
    sctag.tl.map_query(query, reference)
    query.obsm["X_sctag_umap"], query.uns["sctag_colors"] = np.ones((N_NEW, 2)), ["red"] * 9
    sctag.tl.map_query(query, reference)
    assert "X_sctag_umap" not in query.obsm
    assert "sctag_colors" not in query.uns
    assert_mapped_the_same(placed, query)


@pytest.mark.parametrize("taken", ["neighbors", "group"])
def test_a_name_that_is_something_elses_is_refused(reference, query, unchanged, taken):
    sc.pp.neighbors(query, 5, use_rep="X")
    with unchanged(query), pytest.raises(ValueError, match=f"something else under '{taken}'.*key_added="):
        sctag.tl.map_query(query, reference, key_added=taken)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"key": ""}, TypeError, "key must be a non-empty string"),
        ({"key_added": 3}, TypeError, "key_added must be a non-empty string"),
        ({"copy": 1}, TypeError, "copy must be True or False"),
        ({"check_values": None}, TypeError, "check_values must be True or False"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(reference, query, unchanged, options, error, match):
    with unchanged(query), pytest.raises(error, match=match):
        sctag.tl.map_query(query, reference, **options)


def test_no_anndata(reference):
    with pytest.raises(TypeError, match=r"sctag\.tl\.map_query needs an AnnData"):
        sctag.tl.map_query(reference.X, reference)


def test_an_error_late_leaves_the_query_as_it_was(reference, blobs, unchanged, monkeypatch):
    def fails(*args, **kwargs):
        raise MemoryError

    view = blobs[-N_NEW:]
    monkeypatch.setattr(core.Fitted, "_place", fails)
    with unchanged(view), unchanged(reference), pytest.raises(MemoryError):
        sctag.tl.map_query(view, reference)


def test_the_users_random_states_neither_matter_nor_move(reference, query, placed):
    import random

    import torch

    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    sctag.tl.map_query(query, reference)
    assert random.getstate() == before[0]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])
    assert_mapped_the_same(placed, query)
